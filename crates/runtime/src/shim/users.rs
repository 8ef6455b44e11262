//! The namespaces of a pod that has users of its own: a user namespace and those that it owns. They are made here, since only
//! a process with one thread may.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2};

use super::protocol::Namespaces;
use super::sys::{self, Context, Error, Fork, Result};
use crate::cri::IDMapping;
use crate::sandbox::namespaces;

/// Makes and pins them, by a child that enters them and ends.
pub fn make(wanted: &Namespaces) -> Result<()> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).context("pipe")?;
    match sys::fork(false, 0).context("fork")? {
        Fork::Child => {
            let Err(error) = make_here(wanted) else { sys::exit(0) };
            let _ = std::fs::File::from(write).write_all(error.0.as_bytes());
            sys::exit(1)
        }
        Fork::Parent(child) => {
            drop(write);
            let mut message = String::new();
            std::fs::File::from(read).read_to_string(&mut message).context("pipe")?;
            match waitpid(child, None).context("wait")? {
                WaitStatus::Exited(_, 0) => Ok(()),
                _ => Err(Error(format!("make the pod's namespaces: {message}"))),
            }
        }
    }
}

fn make_here(wanted: &Namespaces) -> Result<()> {
    let flag = |kind: &str| match kind {
        "net" => CloneFlags::CLONE_NEWNET,
        "uts" => CloneFlags::CLONE_NEWUTS,
        "ipc" => CloneFlags::CLONE_NEWIPC,
        _ => CloneFlags::empty(),
    };
    let owned = wanted.pins.keys().fold(CloneFlags::empty(), |flags, kind| flags | flag(kind));
    let (read, write) = pipe2(OFlag::O_CLOEXEC).context("pipe")?;
    let holder = match sys::fork(false, (owned | CloneFlags::CLONE_NEWUSER).bits()).context("clone")? {
        Fork::Child => {
            // It holds them until they are pinned.
            drop(write);
            let _ = std::fs::File::from(read).read(&mut [0]);
            sys::exit(0)
        }
        Fork::Parent(holder) => holder,
    };
    let done = pin(wanted, holder, owned);
    drop(write);
    waitpid(holder, None).context("wait")?;
    done
}

fn pin(wanted: &Namespaces, holder: Pid, owned: CloneFlags) -> Result<()> {
    let of_holder = |name: &str| PathBuf::from(format!("/proc/{holder}/{name}"));
    write_map(&of_holder("uid_map"), &wanted.uids)?;
    write_map(&of_holder("gid_map"), &wanted.gids)?;
    for (kind, at) in &wanted.pins {
        namespaces::pin(&of_holder("ns").join(kind), at).map_err(|error| Error(error.message))?;
    }
    let holder = sys::pidfd_open(holder.as_raw()).context("pidfd")?;
    sys::setns(holder.as_fd(), owned.bits()).context("enter")?;
    namespaces::furnish(owned, &wanted.hostname, &wanted.sysctls).map_err(|error| Error(error.message))
}

fn write_map(file: &Path, ranges: &[IDMapping]) -> Result<()> {
    let mut text = String::new();
    for range in ranges {
        let _ = writeln!(text, "{} {} {}", range.container_id, range.host_id, range.length);
    }
    std::fs::write(file, text).context(file.display())
}
