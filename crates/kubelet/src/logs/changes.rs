//! Waiting for a directory's files to change.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

/// The changes of the files in one directory.
pub struct Changes(AsyncFd<Watch>);

/// The descriptor, as tokio wants to be given it.
struct Watch(Inotify);

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Changes {
    pub fn of(dir: &Path) -> io::Result<Changes> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let (written, named) = (AddWatchFlags::IN_MODIFY, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO);
        inotify.add_watch(dir, written | named | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM)?;
        // SAFETY: the value owns its descriptor, gives the same one for as long as it lives, and closes it only when it is
        // dropped, after the registration.
        Ok(Changes(unsafe { AsyncFd::register(Watch(inotify)) }.map_err(io::Error::from)?))
    }

    /// Waits until something changed since the last time.
    pub async fn next(&self) -> io::Result<()> {
        loop {
            let mut guard = self.0.readable().await?;
            match guard.get_inner().0.read_events() {
                Err(Errno::EAGAIN) => guard.clear_ready(),
                Err(error) => return Err(error.into()),
                Ok(_) => return Ok(()),
            }
        }
    }
}
