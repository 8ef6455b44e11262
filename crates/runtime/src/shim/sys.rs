//! The few system calls that need `unsafe`, made safe to call from a process with one thread.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::unistd::Pid;

/// A failure as text: it crosses processes and ends in a pod's status.
#[derive(Debug)]
pub struct Error(pub String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Says what was being done when something failed.
pub trait Context<T> {
    fn context(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Error(format!("{what}: {error}")))
    }
}

impl<T> Context<T> for Option<T> {
    fn context(self, what: impl fmt::Display) -> Result<T> {
        self.ok_or_else(|| Error(what.to_string()))
    }
}

/// An errno in the words of the C library, without Rust's `(os error n)`.
pub fn describe(errno: Errno) -> String {
    let mut text = errno.desc().to_owned();
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    text
}

pub enum Fork {
    Parent(Pid),
    Child,
}

/// Forks; with `sibling` the child's parent is the caller's parent.
pub fn fork(sibling: bool, flags: libc::c_int) -> Result<Fork, Errno> {
    let flags = flags | if sibling { libc::CLONE_PARENT } else { 0 } | libc::SIGCHLD;
    // SAFETY: without CLONE_VM the child gets a copy of everything; callers have one thread, so no lock is held.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags as libc::c_ulong, 0, 0, 0, 0) };
    match Errno::result(pid)? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(Pid::from_raw(pid as i32))),
    }
}

/// Ends the process without running destructors or exit handlers, as a forked child must.
pub fn exit(code: i32) -> ! {
    // SAFETY: always allowed.
    unsafe { libc::_exit(code) }
}

/// Closes every descriptor above those given, which become 3, 4, ... in their order.
pub fn keep_only(fds: Vec<OwnedFd>) -> Result<Vec<OwnedFd>, Errno> {
    // First out of the way, then into place.
    let high: Vec<RawFd> = fds
        .iter()
        .enumerate()
        .map(|(at, fd)| {
            // SAFETY: duplicates an open descriptor.
            Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 100 + at as i32) })
        })
        .collect::<Result<_, _>>()?;
    // The originals are closed below with all others.
    fds.into_iter().for_each(std::mem::forget);
    let mut kept = Vec::new();
    for (at, fd) in high.iter().enumerate() {
        let target = 3 + at as i32;
        // SAFETY: whoever owned the target forgets it: the caller is a fresh child and owns nothing else.
        Errno::result(unsafe { libc::dup3(*fd, target, libc::O_CLOEXEC) })?;
        // SAFETY: just made.
        kept.push(unsafe { OwnedFd::from_raw_fd(target) });
    }
    // SAFETY: as above.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, 3 + kept.len(), libc::c_int::MAX, 0) })?;
    Ok(kept)
}

/// Sends one packet.
pub fn send(socket: BorrowedFd<'_>, data: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights[..] };
    let iov = [io::IoSlice::new(data)];
    sendmsg::<()>(socket.as_raw_fd(), &iov, control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Receives one packet into `buffer`; a length of 0 is the end.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = nix::cmsg_space!([RawFd; 8]);
    let mut iov = [io::IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut iov, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for item in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = item {
            // SAFETY: the kernel just made these descriptors for us.
            fds.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    if message.flags.contains(MsgFlags::MSG_TRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too long"));
    }
    Ok((message.bytes, fds))
}

/// All signals at their defaults and none blocked, as a program expects to be started.
pub fn reset_signals() {
    // SAFETY: sets dispositions to their defaults and the mask to empty; both structures are plain data.
    unsafe {
        for signal in 1..65 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
    }
}

/// Enters the namespaces in `flags` of the process that `pidfd` names.
pub fn setns(fd: BorrowedFd<'_>, flags: libc::c_int) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    Errno::result(unsafe { libc::setns(fd.as_raw_fd(), flags) }).map(drop)
}

/// Becomes root of a user namespace, with all that its root may do. The caller has one thread.
pub fn enter_users(namespace: &std::path::Path) -> Result<()> {
    let file = std::fs::File::open(namespace).context(namespace.display())?;
    setns(file.as_fd(), libc::CLONE_NEWUSER).context("enter the user namespace")?;
    set_ids(0, 0, &[]).context("become root of the user namespace")
}

/// Mounts what is at `source` at `target`, with the owners of its files as a user namespace has them. What is mounted below
/// comes along as it is.
pub fn mount_mapped(source: &std::path::Path, target: &std::path::Path, users: BorrowedFd<'_>) -> Result<()> {
    let path = |path: &std::path::Path| CString::new(path.as_os_str().as_encoded_bytes()).context(path.display());
    let (from, to) = (path(source)?, path(target)?);
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE as libc::c_uint;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: users.as_raw_fd() as u64,
    };
    // SAFETY: the names are NUL-terminated and live for the calls, as does the structure; the descriptor is a new one.
    unsafe {
        let tree = Errno::result(libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, from.as_ptr(), flags))
            .context(source.display())?;
        let tree = OwnedFd::from_raw_fd(tree as RawFd);
        let size = size_of::<libc::mount_attr>();
        let empty = c"".as_ptr();
        let set =
            libc::syscall(libc::SYS_mount_setattr, tree.as_raw_fd(), empty, libc::AT_EMPTY_PATH, &attributes, size);
        Errno::result(set).map_err(|errno| {
            let (shown, why) = (source.display(), describe(errno));
            let hint = "maybe the filesystem used doesn't support idmap mounts on this kernel?";
            Error(format!("failed to set MOUNT_ATTR_IDMAP on {shown}: {why} ({hint})"))
        })?;
        let flags = libc::MOVE_MOUNT_F_EMPTY_PATH;
        let moved = libc::syscall(libc::SYS_move_mount, tree.as_raw_fd(), empty, libc::AT_FDCWD, to.as_ptr(), flags);
        Errno::result(moved).map(drop).context(target.display())
    }
}

pub fn pidfd_open(pid: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: no memory is passed; the result is a new descriptor.
    unsafe {
        let fd = Errno::result(libc::syscall(libc::SYS_pidfd_open, pid, 0))?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

pub fn set_window_size(terminal: BorrowedFd<'_>, width: u16, height: u16) -> Result<(), Errno> {
    let size = libc::winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the structure is what the request reads.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) }).map(drop)
}

/// Makes the terminal the caller's controlling one; the caller must lead a session.
pub fn set_controlling_terminal(terminal: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) }).map(drop)
}

/// Installs a seccomp filter, already compiled, for the calling process.
pub fn seccomp(program: &[u8]) -> Result<(), Errno> {
    let filter: Vec<libc::sock_filter> = program
        .chunks_exact(8)
        .map(|b| libc::sock_filter {
            code: u16::from_ne_bytes([b[0], b[1]]),
            jt: b[2],
            jf: b[3],
            k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        })
        .collect();
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the program lives for the call and the kernel copies and checks it.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &program) };
    Errno::result(result).map(drop)
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// The calling process's effective, permitted and inheritable capabilities.
pub fn capget() -> Result<[u64; 3], Errno> {
    let header = [CAPABILITY_VERSION_3, 0];
    let mut data = [0u32; 6];
    // SAFETY: version 3 has two structures of three words.
    Errno::result(unsafe { libc::syscall(libc::SYS_capget, &header, &mut data) })?;
    Ok([0, 1, 2].map(|at| u64::from(data[at]) | u64::from(data[at + 3]) << 32))
}

pub fn capset([effective, permitted, inheritable]: [u64; 3]) -> Result<(), Errno> {
    let header = [CAPABILITY_VERSION_3, 0];
    let low = [effective, permitted, inheritable].map(|set| set as u32);
    let high = [effective, permitted, inheritable].map(|set| (set >> 32) as u32);
    let data = [low, high];
    // SAFETY: as above.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &header, &data) }).map(drop)
}

/// `prctl(2)` with plain numbers.
pub fn prctl(option: libc::c_int, arguments: [u64; 4]) -> Result<i32, Errno> {
    let [a, b, c, d] = arguments;
    // SAFETY: used with options that take numbers only.
    Errno::result(unsafe { libc::prctl(option, a, b, c, d) })
}

/// Sets who the process is: group ids and user id, real, effective and saved, for this thread alone.
pub fn set_ids(uid: u32, gid: u32, groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: the raw calls, for there is one thread; the list lives for the call.
    unsafe {
        Errno::result(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()))?;
        Errno::result(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        Errno::result(libc::syscall(libc::SYS_setresuid, uid, uid, uid)).map(drop)
    }
}

/// Sets a resource limit; what is refused is done without.
pub fn set_rlimit(resource: u32, limit: &libc::rlimit) {
    // SAFETY: the structure is what the call reads.
    unsafe {
        libc::setrlimit(resource as _, limit);
    }
}

/// Makes a pipe or terminal that is a standard stream the user's own (and the group's, where one is given), so that it can be opened again by its name in
/// `/dev`. Anything else, as `/dev/null`, is left alone.
pub fn give_away(fd: RawFd, uid: u32, gid: Option<u32>) {
    // SAFETY: fstat fills the structure; fchown takes numbers.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        if libc::fstat(fd, &mut stat) == 0 {
            let kind = stat.st_mode & libc::S_IFMT;
            let terminal = kind == libc::S_IFCHR && libc::major(stat.st_rdev) == 136;
            if kind == libc::S_IFIFO || terminal {
                libc::fchown(fd, uid, gid.unwrap_or(u32::MAX));
            }
        }
    }
}

/// Puts a copy of a descriptor in a given place, kept over exec.
pub fn dup_to(fd: &OwnedFd, target: RawFd) -> Result<(), Errno> {
    // SAFETY: only used for the standard streams, which no Rust object of the caller owns.
    Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), target) }).map(drop)
}

pub fn kill(pid: i32, signal: i32) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    Errno::result(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Takes over what `accept4` made.
pub fn accepted(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel just made it for us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

pub fn set_nonblocking(fd: &OwnedFd) -> Result<(), Errno> {
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop)
}

/// What a path leads to: the file, and the mount by which it is reached.
pub fn place(path: &str) -> Option<[u64; 4]> {
    let path = std::ffi::CString::new(path).ok()?;
    // SAFETY: the name is NUL-terminated, and the kernel fills the structure, which is plain data.
    unsafe {
        let mut found: libc::statx = std::mem::zeroed();
        let mask = libc::STATX_INO | libc::STATX_MNT_ID;
        let result = libc::statx(libc::AT_FDCWD, path.as_ptr(), 0, mask, &mut found);
        let device = [u64::from(found.stx_dev_major), u64::from(found.stx_dev_minor)];
        (result == 0).then_some([device[0], device[1], found.stx_ino, found.stx_mnt_id])
    }
}

/// Takes a descriptor out of the standard streams' places, where `/dev/null` takes its place.
pub fn moved(fd: RawFd) -> Result<OwnedFd> {
    let null = std::fs::File::open("/dev/null").context("/dev/null")?;
    // SAFETY: the streams are not used by anything else in a shim.
    unsafe {
        let copy = Errno::result(libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3)).context("standard stream")?;
        Errno::result(libc::dup2(null.as_raw_fd(), fd)).context("standard stream")?;
        Ok(OwnedFd::from_raw_fd(copy))
    }
}

/// What would end a daemon by a terminal's or an operator's doing.
pub fn ignore_signals() {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGPIPE, libc::SIGQUIT] {
        // SAFETY: sets a disposition.
        unsafe {
            libc::signal(signal, libc::SIG_IGN);
        }
    }
}

/// Hands a descriptor to tokio.
pub fn watched(fd: OwnedFd) -> io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor stays open, and the same, for as long as its owner lives.
    unsafe { tokio::io::unix::AsyncFd::register(fd) }.map_err(io::Error::from)
}

/// Gives back the pages of the program's file that are mapped here: each comes again when it is needed. A mapping that has
/// pages of its own, as relocated ones are, stays.
pub fn forget_program() {
    let Ok(text) = std::fs::read_to_string("/proc/self/smaps") else { return };
    let mut range = None;
    for line in text.lines() {
        let mut fields = line.split_ascii_whitespace();
        match (fields.next(), fields.next()) {
            (Some("Anonymous:"), Some("0")) => {
                if let Some((start, end)) = range.take() {
                    // SAFETY: the range maps a file read-only and has no page that differs from it.
                    unsafe {
                        libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED);
                    }
                }
            }
            (Some(addresses), Some("r--p" | "r-xp")) => {
                let (start, end) = addresses.split_once('-').unwrap_or_default();
                let number = |text: &str| usize::from_str_radix(text, 16).ok();
                range = number(start).zip(number(end)).filter(|_| line.contains('/'));
            }
            (Some(_), Some(permissions)) if permissions.len() == 4 && permissions.ends_with('p') => range = None,
            _ => {}
        }
    }
}
