//! The namespaces that a pod's containers share: made by a thread that lives for that alone, pinned by mounts.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::cri::{CriError, Result};

/// What to make, each by the file that pins it.
pub struct Wanted {
    pub kinds: Vec<(CloneFlags, &'static str, std::path::PathBuf)>,
    pub hostname: String,
    pub sysctls: BTreeMap<String, String>,
}

/// Makes the namespaces and returns when they are pinned.
pub fn make(wanted: Wanted) -> Result<()> {
    // The thread ends with the namespaces that it has entered; no other thread may inherit them.
    let thread = std::thread::Builder::new().name("namespaces".into()).stack_size(256 << 10);
    let handle = thread.spawn(move || make_here(&wanted))?;
    handle.join().map_err(|_| CriError::internal("the thread that makes namespaces panicked"))?
}

fn make_here(wanted: &Wanted) -> Result<()> {
    let flags = wanted.kinds.iter().fold(CloneFlags::empty(), |flags, (flag, ..)| flags | *flag);
    unshare(flags).map_err(|error| CriError::internal(format!("make the pod's namespaces: {error}")))?;
    furnish(flags, &wanted.hostname, &wanted.sysctls)?;
    for (_, name, pin_at) in &wanted.kinds {
        pin(Path::new(&format!("/proc/thread-self/ns/{name}")), pin_at)?;
    }
    Ok(())
}

/// Whether pods can have users of their own: the kernel makes user namespaces, and maps the owners of a tmpfs's files.
pub fn can_map_users() -> bool {
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let most = fs::read_to_string("/proc/sys/user/max_user_namespaces");
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut version = release.split(|c: char| !c.is_ascii_digit()).map_while(number);
    most.is_ok_and(|most| number(&most) > Some(0)) && (version.next(), version.next()) >= (Some(6), Some(3))
}

/// Gives the new namespaces, which the caller is in, what the pod is to find there.
pub fn furnish(new: CloneFlags, hostname: &str, sysctls: &BTreeMap<String, String>) -> Result<()> {
    if new.contains(CloneFlags::CLONE_NEWUTS) && !hostname.is_empty() {
        nix::unistd::sethostname(hostname)
            .map_err(|error| CriError::invalid(format!("set hostname {hostname:?}: {error}")))?;
    }
    if new.contains(CloneFlags::CLONE_NEWNET) {
        loopback_up()?;
    }
    sysctls.iter().try_for_each(|(name, value)| set_sysctl(name, value, new))
}

/// Keeps a namespace alive by mounting its file.
pub fn pin(namespace: &Path, at: &Path) -> Result<()> {
    fs::File::create(at)?;
    mount(Some(namespace), at, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|error| CriError::internal(format!("pin {}: {error}", at.display())))
}

/// Takes a mount away, if there is one.
pub fn unmount(at: &Path) {
    let _ = umount2(at, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
}

/// A kernel parameter belongs to a namespace or to the whole node; the latter is not a pod's to change.
fn set_sysctl(name: &str, value: &str, own: CloneFlags) -> Result<()> {
    let dotted = name.replace('/', ".");
    let needs = if dotted.starts_with("net.") {
        CloneFlags::CLONE_NEWNET
    } else if ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."].iter().any(|p| dotted.starts_with(p)) {
        CloneFlags::CLONE_NEWIPC
    } else if matches!(dotted.as_str(), "kernel.hostname" | "kernel.domainname") {
        CloneFlags::CLONE_NEWUTS
    } else {
        return Err(CriError::invalid(format!("sysctl {name:?} is not in a separate kernel namespace")));
    };
    if !own.contains(needs) {
        return Err(CriError::invalid(format!("sysctl {name:?} is not allowed with the node's namespace")));
    }
    if name.contains("..") {
        return Err(CriError::invalid(format!("invalid sysctl {name:?}")));
    }
    // Where a name has a slash, its dots are part of a name, as of an interface's.
    let path = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    fs::write(Path::new("/proc/sys").join(path), value)
        .map_err(|error| CriError::invalid(format!("failed to set sysctl {name}={value}: {error}")))
}

/// Raises the loopback interface of a network namespace.
pub fn raise_loopback(namespace: &Path) -> io::Result<()> {
    in_network(namespace, loopback_up)
}

fn loopback_up() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: the request is plain data and begins with the interface's name, which is shorter than its room.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
            *to = *from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Runs something on a thread that has entered a network namespace, and gives its result.
pub fn in_network<T: Send + 'static>(
    namespace: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let file = fs::File::open(namespace)?;
    let handle = std::thread::Builder::new().name("netns".into()).stack_size(256 << 10).spawn(move || {
        nix::sched::setns(&file, CloneFlags::CLONE_NEWNET)?;
        work()
    })?;
    handle.join().map_err(|_| io::Error::other("the thread in the network namespace panicked"))?
}
