//! The process that holds the PID namespace of a pod whose containers share one: its first process, which reaps.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::create::{join_cgroups, set_oom_score, tell};
use super::launch::Status;
use super::sys::{self, Context, Fork, Result};

/// Makes it as a sibling of this child, which ends with this call.
pub fn run(status: OwnedFd, cgroups: Vec<PathBuf>, users: Option<PathBuf>) -> ! {
    let Ok(mut fds) = sys::keep_only(vec![status]) else { sys::exit(1) };
    let status = fds.remove(0);
    match make(&cgroups, users.as_deref()) {
        Ok(Fork::Parent(pid)) => tell(&status, &Status::Pid(pid.as_raw()), None),
        Ok(Fork::Child) => {
            if let Err(error) = isolate() {
                tell(&status, &Status::Failed(error.0), None);
                sys::exit(1);
            }
            drop(status);
            reap()
        }
        Err(error) => tell(&status, &Status::Failed(error.0), None),
    }
    sys::exit(0)
}

fn make(cgroups: &[PathBuf], users: Option<&Path>) -> Result<Fork> {
    join_cgroups(cgroups)?;
    set_oom_score(-998);
    users.map(sys::enter_users).transpose()?;
    sys::fork(true, libc::CLONE_NEWPID).context("make a PID namespace")
}

/// Leaves nothing to find for the pod's containers, who see this process: neither files nor privileges.
fn isolate() -> Result<()> {
    sys::prctl(libc::PR_SET_DUMPABLE, [0; 4]).context("dumpable")?;
    sys::prctl(libc::PR_SET_PDEATHSIG, [libc::SIGKILL as u64, 0, 0, 0]).context("pdeathsig")?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC).context("unshare")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("make mounts private")?;
    mount(Some("none"), "/proc", Some("tmpfs"), MsFlags::MS_RDONLY, Some("size=0")).context("mount an empty root")?;
    std::env::set_current_dir("/proc").context("/proc")?;
    nix::unistd::pivot_root(".", ".").context("pivot_root")?;
    umount2(".", MntFlags::MNT_DETACH).context("leave the host's files")?;
    sys::set_ids(65535, 65535, &[]).context("setuid")?;
    sys::prctl(libc::PR_SET_DUMPABLE, [0; 4]).context("dumpable")?;
    sys::prctl(libc::PR_SET_PDEATHSIG, [libc::SIGKILL as u64, 0, 0, 0]).context("pdeathsig")?;
    sys::prctl(libc::PR_SET_NAME, [c"pause".as_ptr() as u64, 0, 0, 0]).context("name").map(drop)
}

fn reap() -> ! {
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    let _ = children.thread_block();
    loop {
        let _ = children.wait();
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive) {}
    }
}
