//! Block devices: those of the node, and files that are shown as one by a loop device.
#![allow(unsafe_code, reason = "the ioctls of loop devices")]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

const LOOP_SET_FD: libc::c_ulong = 0x4C00;
const LOOP_CLR_FD: libc::c_ulong = 0x4C01;
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
/// The major number of loop devices.
const LOOP_MAJOR: u64 = 7;
/// Others may take a free device between two calls.
const TRIES: usize = 16;

/// The device behind a path. `link` remembers a loop device that was made for it, so that it is found after a restart.
pub fn device(path: &Path, link: &Path, read_only: bool) -> io::Result<PathBuf> {
    let kind = fs::metadata(path)?.file_type();
    if kind.is_block_device() {
        return Ok(path.to_owned());
    }
    if !kind.is_file() {
        return Err(io::Error::other(format!("{} is neither a block device nor a file", path.display())));
    }
    if let Ok(known) = fs::read_link(link) {
        return Ok(known);
    }
    if let Some(parent) = link.parent() {
        fs::create_dir_all(parent)?;
    }
    let device = attach(path, read_only)?;
    symlink(&device, link).inspect_err(|_| _ = detach(&device))?;
    Ok(device)
}

/// Takes back the loop devices that a pod's links name.
pub fn detach_below(pod: &Path) -> io::Result<()> {
    let dir = pod.join("volumeDevices/kubernetes.io~local-volume");
    for entry in fs::read_dir(&dir).into_iter().flatten() {
        let link = entry?.path();
        if let Ok(device) = fs::read_link(&link) {
            detach(&device)?;
        }
        fs::remove_file(link)?;
    }
    Ok(())
}

fn attach(path: &Path, read_only: bool) -> io::Result<PathBuf> {
    let file = OpenOptions::new().read(true).write(!read_only).custom_flags(libc::O_CLOEXEC).open(path)?;
    let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
    for _ in 0..TRIES {
        // SAFETY: the request takes no argument and gives a number.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
        if number < 0 {
            return Err(io::Error::last_os_error());
        }
        let device = PathBuf::from(format!("/dev/loop{number}"));
        let node = open_node(&device, number)?;
        // SAFETY: the request takes a file descriptor, which is open.
        if unsafe { libc::ioctl(node.as_raw_fd(), LOOP_SET_FD as _, file.as_raw_fd()) } == 0 {
            return Ok(device);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EBUSY) {
            return Err(error);
        }
    }
    Err(io::Error::other("no loop device is free"))
}

/// Opens a loop device, whose node a minimal `/dev` may lack.
fn open_node(device: &Path, number: libc::c_int) -> io::Result<File> {
    if !device.exists() {
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o660);
        let id = nix::sys::stat::makedev(LOOP_MAJOR, u64::try_from(number).unwrap_or_default());
        nix::sys::stat::mknod(device, nix::sys::stat::SFlag::S_IFBLK, mode, id)?;
    }
    OpenOptions::new().read(true).write(true).open(device)
}

fn detach(device: &Path) -> io::Result<()> {
    let node = match File::open(device) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        node => node?,
    };
    if nix::sys::stat::major(node.metadata()?.rdev()) != LOOP_MAJOR {
        return Ok(());
    }
    // SAFETY: the request takes no argument.
    if unsafe { libc::ioctl(node.as_raw_fd(), LOOP_CLR_FD as _) } != 0 {
        let error = io::Error::last_os_error();
        // It was detached before.
        if error.raw_os_error() != Some(libc::ENXIO) {
            return Err(error);
        }
    }
    Ok(())
}
