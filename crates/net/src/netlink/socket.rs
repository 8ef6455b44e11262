//! A netlink socket that asks and waits for the kernel's answers.

use super::Message;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket,
    sockopt,
};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const ERROR: u16 = libc::NLMSG_ERROR as u16;
const DONE: u16 = libc::NLMSG_DONE as u16;

/// Which message of a request was refused, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("netlink message {index}: {errno}")]
pub struct Failure {
    pub index: usize,
    pub errno: Errno,
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Failure {
        Failure { index: 0, errno }
    }
}

/// A socket in the network namespace of the thread that made it.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// To links, addresses, routes and neighbours.
    pub fn route() -> nix::Result<Socket> {
        Socket::open(SockProtocol::NetlinkRoute)
    }

    /// Is told of every change of a link.
    pub fn link_changes() -> nix::Result<Socket> {
        let socket = Socket::route()?;
        bind(socket.fd.as_raw_fd(), &NetlinkAddr::new(0, libc::RTMGRP_LINK as u32))?;
        Ok(socket)
    }

    /// Waits until the kernel tells something, or a signal comes; `false` when it did not within `patience`.
    pub fn told(&mut self, patience: Duration) -> nix::Result<bool> {
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => Ok(false),
            Ok(_) => match self.receive() {
                // More was told than the socket holds.
                Ok(_) | Err(Errno::ENOBUFS) => Ok(true),
                Err(errno) => Err(errno),
            },
            Err(Errno::EINTR) => Ok(true),
            Err(errno) => Err(errno),
        }
    }

    /// To nftables and connection tracking.
    pub fn netfilter() -> nix::Result<Socket> {
        Socket::open(SockProtocol::NetlinkNetFilter)
    }

    fn open(protocol: SockProtocol) -> nix::Result<Socket> {
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        Ok(Socket { fd, sequence: 0, buffer: vec![0; 64 << 10] })
    }

    /// Runs the messages in their order, each on its own; what one tolerates is no failure. All are tried, the first
    /// failure is told.
    pub fn run(&mut self, messages: Vec<Message>) -> Result<(), Failure> {
        let mut first = None;
        for (index, message) in messages.into_iter().enumerate() {
            let tolerated = message.tolerated();
            if let Err(errno) = self.get(message, |_| {}) {
                first = first.or((tolerated != Some(errno)).then_some(Failure { index, errno }));
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Hands the payload of each object that the kernel lists to `each`.
    pub fn dump(&mut self, message: Message, each: impl FnMut(&[u8])) -> nix::Result<()> {
        self.ask(message, libc::NLM_F_DUMP, each)
    }

    /// Hands the payload of the one object that is asked for to `each`.
    pub fn get(&mut self, message: Message, each: impl FnMut(&[u8])) -> nix::Result<()> {
        self.ask(message, libc::NLM_F_ACK, each)
    }

    fn ask(&mut self, message: Message, flags: i32, mut each: impl FnMut(&[u8])) -> nix::Result<()> {
        self.sequence += 1;
        self.send(&message.finish(self.sequence, flags))?;
        loop {
            let length = self.receive()?;
            for (kind, sequence, payload) in messages(&self.buffer[..length]) {
                match kind {
                    _ if sequence != self.sequence => {}
                    DONE => return Ok(()),
                    ERROR => return error_code(payload).map_or(Ok(()), Err),
                    _ => each(payload),
                }
            }
        }
    }

    /// One nftables transaction: all of the messages or none.
    pub fn transaction(&mut self, messages: Vec<Message>) -> Result<(), Failure> {
        let Some(last) = messages.len().checked_sub(1) else { return Ok(()) };
        let family = [&[libc::AF_UNSPEC as u8, 0][..], &NFNL_SUBSYS_NFTABLES.to_be_bytes()].concat();
        let begin = self.sequence + 1;
        self.sequence += messages.len() as u32 + 2;
        let mut bytes = Message::new(BATCH_BEGIN, 0, &family).finish(begin, 0);
        for (index, message) in messages.into_iter().enumerate() {
            let flags = if index == last { libc::NLM_F_ACK } else { 0 };
            bytes.extend(message.finish(begin + 1 + index as u32, flags));
        }
        bytes.extend(Message::new(BATCH_END, 0, &family).finish(self.sequence, 0));
        self.room_for(bytes.len())?;
        self.send(&bytes)?;
        self.outcome(begin, last)
    }

    /// Reads until the last message of a batch is answered; a failed commit is told for the batch's first.
    fn outcome(&mut self, begin: u32, last: usize) -> Result<(), Failure> {
        let mut first = None;
        loop {
            let length = self.receive()?;
            for (kind, sequence, payload) in messages(&self.buffer[..length]) {
                if kind != ERROR || sequence < begin {
                    continue;
                }
                let index = (sequence - begin).saturating_sub(1) as usize;
                let failure = error_code(payload).map(|errno| Failure { index, errno });
                first = first.or(failure);
                if sequence == begin || index == last {
                    return first.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// A transaction is one datagram, so the socket's buffer must hold it.
    fn room_for(&self, length: usize) -> nix::Result<()> {
        if length > 64 << 10 {
            setsockopt(&self.fd, sockopt::SndBufForce, &(length * 2))?;
        }
        Ok(())
    }

    fn send(&self, bytes: &[u8]) -> nix::Result<()> {
        send(self.fd.as_raw_fd(), bytes, MsgFlags::empty()).map(drop)
    }

    fn receive(&mut self) -> nix::Result<usize> {
        loop {
            match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                other => return other,
            }
        }
    }
}

/// Type, sequence number and payload of each message of a datagram.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let header: [u8; 16] = bytes.get(..16)?.try_into().ok()?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let sequence = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
        // An error carries the request behind it, which may be longer than what was received.
        let payload = bytes.get(16..length.min(bytes.len()))?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, sequence, payload))
    })
}

fn error_code(payload: &[u8]) -> Option<Errno> {
    let code =
        payload.get(..4).map_or(-libc::EIO, |bytes| i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    (code != 0).then(|| Errno::from_raw(-code))
}
