//! A further process in a running container.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::create::{join_cgroups, set_oom_score, tell};
use super::launch::{Launch, Status};
use super::sys::{self, Context, Error, Fork, Result};

/// What the child gets.
pub struct Execution {
    pub bundle: PathBuf,
    /// The container's first process.
    pub pid: i32,
    pub args: Vec<String>,
    pub status: OwnedFd,
    /// stdin, stdout and stderr; `None` for a terminal.
    pub streams: Option<Vec<OwnedFd>>,
}

/// Starts the process and tells the shim, in a child that ends with this call.
pub fn run(execution: Execution) -> ! {
    let Execution { bundle, pid, args, status, streams } = execution;
    let tty = streams.is_none();
    let mut fds = vec![status];
    fds.extend(streams.into_iter().flatten());
    let Ok(mut fds) = sys::keep_only(fds) else { sys::exit(1) };
    let streams = fds.split_off(1);
    let status = fds.remove(0);
    let result = Launch::read(&bundle).and_then(|launch| enter(&launch, pid, args, &status, streams, tty));
    if let Err(error) = result {
        tell(&status, &Status::Failed(error.0), None);
        sys::exit(1);
    }
    sys::exit(0)
}

fn enter(
    launch: &Launch,
    pid: i32,
    args: Vec<String>,
    status: &OwnedFd,
    streams: Vec<OwnedFd>,
    tty: bool,
) -> Result<()> {
    // Root of the host until the last step, and unreachable for the container's processes.
    sys::prctl(libc::PR_SET_DUMPABLE, [0; 4]).context("dumpable")?;
    let pidfd = sys::pidfd_open(pid).context("the container's process")?;
    join(&launch.cgroups, pid)?;
    if let Some(score) = launch.oom_score_adj {
        set_oom_score(score);
    }
    let users = if launch.users.is_some() { libc::CLONE_NEWUSER } else { 0 };
    let namespaces = users
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    if let Some(users) = &launch.users {
        streams.iter().for_each(|stream| sys::give_away(stream.as_raw_fd(), users.uid, Some(users.gid)));
    }
    sys::setns(pidfd.as_fd(), namespaces).context("enter the container's namespaces")?;
    if launch.users.is_some() {
        sys::set_ids(0, 0, &[]).context("become the container's root")?;
    }
    match sys::fork(true, 0).context("fork")? {
        Fork::Parent(child) => {
            tell(status, &Status::Pid(child.as_raw()), None);
            Ok(())
        }
        Fork::Child => {
            let error = become_program(launch, args, status, streams, tty).unwrap_or_else(|error| error);
            tell(status, &Status::Failed(error.0), None);
            sys::exit(127)
        }
    }
}

/// A container's group of version 2 takes no process any more when the container gives controllers to groups that it has
/// made below: the group of its first process does.
fn join(cgroups: &[PathBuf], pid: i32) -> Result<()> {
    let Err(refused) = join_cgroups(cgroups) else { return Ok(()) };
    let [own] = cgroups else { return Err(refused) };
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    below(own, &groups).map_or(Err(refused), |group| join_cgroups(&[group]))
}

/// The group that `/proc/PID/cgroup` names, where it is below the container's own.
fn below(own: &Path, groups: &str) -> Option<PathBuf> {
    let id = own.file_name()?.to_str()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    path.split_once(&format!("/{id}/")).map(|(_, rest)| own.join(rest))
}

fn become_program(
    launch: &Launch,
    args: Vec<String>,
    status: &OwnedFd,
    streams: Vec<OwnedFd>,
    tty: bool,
) -> Result<Error> {
    nix::unistd::setsid().context("setsid")?;
    let mut process = launch.process.clone();
    process.args = args;
    let (user, home) = process.resolve_user()?;
    let streams = if tty {
        let pair = nix::pty::openpty(None, None).context("open a terminal")?;
        check_terminal(&pair.slave)?;
        sys::set_controlling_terminal(pair.slave.as_fd()).context("controlling terminal")?;
        tell(status, &Status::Ready(user.clone()), Some(&pair.master));
        if !process.env.iter().any(|entry| entry.starts_with("TERM=")) {
            process.env.push("TERM=xterm".into());
        }
        let copy = || pair.slave.try_clone().context("terminal");
        vec![copy()?, copy()?, copy()?]
    } else {
        streams
    };
    for (target, stream) in streams.into_iter().enumerate() {
        sys::dup_to(&stream, target as i32).context("standard stream")?;
    }
    Ok(process.exec(&user, &home))
}

/// The container's `/dev` is its own: what was opened must be a terminal of a real devpts.
fn check_terminal(slave: &OwnedFd) -> Result<()> {
    let path = format!("/proc/self/fd/{}", slave.as_raw_fd());
    let again = open(path.as_str(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).context("terminal")?;
    let kind = nix::sys::statfs::fstatfs(&again).context("terminal")?.filesystem_type();
    if kind == nix::sys::statfs::FsType(libc::DEVPTS_SUPER_MAGIC) {
        Ok(())
    } else {
        Err(Error("the container's terminal is not one".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_below_the_containers_own_is_found_and_no_other() {
        let own = Path::new("/sys/fs/cgroup/regatta-1/kubepods/podA/c");
        let found = |groups: &str| below(own, groups);
        assert_eq!(found("1:cpu:/x\n0::/regatta-1/kubepods/podA/c/init/a\n"), Some(own.join("init/a")));
        for groups in
            ["0::/regatta-1/kubepods/podA/c\n", "0::/init.scope\n", "3:cpu:/regatta-1/kubepods/podA/c/a\n", ""]
        {
            assert_eq!(found(groups), None, "{groups}");
        }
    }
}
