//! Notices when another program removes the table, as `nft flush ruleset` or a firewall's restart does.

#![allow(unsafe_code)]

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `NFNLGRP_NFTABLES` as a bit.
const CHANGES: u32 = 1 << 6;

/// Hears of every change to the namespace's nftables.
#[derive(Debug)]
pub struct Guard(AsyncFd<OwnedFd>);

impl Guard {
    /// Listens in the calling thread's network namespace.
    pub fn new() -> io::Result<Guard> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, CHANGES))?;
        // SAFETY: the registration owns the descriptor, which stays the same and open for as long as it lives.
        Ok(Guard(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE)? }))
    }

    /// Returns when something has changed, whoever did it. What is said is not looked at: it may be more than was received.
    pub async fn changed(&self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        let read = |fd: &AsyncFd<OwnedFd>, buffer: &mut [u8]| match recv(fd.as_raw_fd(), buffer, MsgFlags::empty()) {
            // More has happened than the socket could hold.
            Ok(_) | Err(Errno::ENOBUFS) => Ok(()),
            Err(errno) => Err(io::Error::from(errno)),
        };
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(first) = ready.try_io(|fd| read(fd, &mut buffer)) {
                first?;
                break;
            }
        }
        // One change is many messages.
        while read(&self.0, &mut buffer).is_ok() {}
        Ok(())
    }
}
