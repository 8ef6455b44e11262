//! The server's end of the line to a shim.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket, socketpair,
};
use parking_lot::Mutex;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use crate::cri::{CriError, Result};
use crate::shim::protocol::{Call, ContainerInfo, MESSAGE_MAX, Message, Reply, Request, VERSION};
use crate::shim::{SOCKET, sys};

/// What a shim tells without being asked.
#[derive(Debug)]
pub enum News {
    Container(ContainerInfo),
    /// The connection ended: the shim is gone, or has been shut down.
    Gone,
}

type Answer = Result<(Reply, Option<OwnedFd>)>;

/// A connection. It is closed when the last clone of it and its reader are gone.
pub struct ShimClient {
    socket: AsyncFd<OwnedFd>,
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    execs: Mutex<HashMap<u64, oneshot::Sender<i32>>>,
}

fn packet_socket() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?)
}

/// The socket's address by way of its open directory, since an address has little room for a path.
fn address(directory: &File) -> io::Result<UnixAddr> {
    Ok(UnixAddr::new(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()).as_str())?)
}

/// Starts a shim for the sandbox whose directory this is, and connects to it. Gives its pid too.
pub fn spawn(program: &Path, directory: &Path) -> io::Result<(OwnedFd, u32)> {
    let listener = packet_socket()?;
    bind(listener.as_raw_fd(), &address(&File::open(directory)?)?)?;
    listen(&listener, Backlog::new(16)?)?;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    let log = File::options().append(true).create(true).open(directory.join("shim.log"))?;
    let mut child = Command::new(program)
        .arg0("regatta")
        .args(["shim", "run"])
        .env_clear()
        .stdin(Stdio::from(listener))
        .stdout(Stdio::from(theirs))
        .stderr(log)
        .spawn()?;
    let pid = child.id();
    // Whoever started it reaps it, if it is still there then.
    std::thread::Builder::new().name("shim".into()).stack_size(64 << 10).spawn(move || child.wait())?;
    Ok((ours, pid))
}

/// Connects to the running shim of a sandbox.
pub fn reach(directory: &Path) -> io::Result<OwnedFd> {
    let socket = packet_socket()?;
    connect(socket.as_raw_fd(), &address(&File::open(directory)?)?)?;
    Ok(socket)
}

impl ShimClient {
    /// Takes over a connected socket. News go to `news`, in their order.
    pub fn new(socket: OwnedFd, news: mpsc::UnboundedSender<News>) -> Result<Arc<ShimClient>> {
        sys::set_nonblocking(&socket).map_err(io::Error::from)?;
        let client = Arc::new(ShimClient {
            socket: sys::watched(socket)?,
            next: AtomicU64::new(1),
            waiting: Mutex::default(),
            execs: Mutex::default(),
        });
        let reader = client.clone();
        tokio::spawn(async move {
            reader.read(&news).await;
            // Whoever waits would wait for ever.
            reader.waiting.lock().clear();
            reader.execs.lock().clear();
            let _ = news.send(News::Gone);
        });
        Ok(client)
    }

    async fn read(&self, news: &mpsc::UnboundedSender<News>) {
        let mut packet = vec![0; MESSAGE_MAX];
        loop {
            let Ok(mut guard) = self.socket.readable().await else { return };
            let Ok(received) = guard.try_io(|socket| sys::receive(socket.get_ref().as_fd(), &mut packet)) else {
                continue;
            };
            let (length, mut fds) = match received {
                Ok((0, _)) | Err(_) => return,
                Ok(received) => received,
            };
            match serde_json::from_slice(&packet[..length]) {
                Ok(Message::Reply { id, reply }) => self.answer(id, Ok((reply, fds.pop()))),
                Ok(Message::Failed { id, message }) => {
                    self.answer(id, Err(CriError::new(crate::cri::Code::Unknown, message)))
                }
                Ok(Message::Container(info)) => drop(news.send(News::Container(info))),
                Ok(Message::ExecExit { exec, exit_code }) => {
                    if let Some(sender) = self.execs.lock().remove(&exec) {
                        let _ = sender.send(exit_code);
                    }
                }
                // A newer shim may say what this server does not know.
                Err(error) => tracing::debug!(%error, "unknown message of a shim"),
            }
        }
    }

    fn answer(&self, id: u64, answer: Answer) {
        if let Some(sender) = self.waiting.lock().remove(&id) {
            let _ = sender.send(answer);
        }
    }

    /// Asks, and waits for the answer.
    pub async fn call(&self, request: Request, fds: &[OwnedFd]) -> Answer {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().insert(id, sender);
        let text = serde_json::to_vec(&Call { id, request }).map_err(io::Error::other)?;
        let sent = self
            .socket
            .async_io(tokio::io::Interest::WRITABLE, |socket| {
                let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
                sys::send(socket.as_fd(), &text, &fds)
            })
            .await;
        if sent.is_err() {
            self.waiting.lock().remove(&id);
        }
        let gone = || CriError::new(crate::cri::Code::Unavailable, "the sandbox's shim is gone");
        sent.map_err(|_| gone())?;
        receiver.await.map_err(|_| gone())?
    }

    pub async fn hello(&self) -> Result<i32> {
        match self.call(Request::Hello { version: VERSION }, &[]).await?.0 {
            Reply::Hello { pid, .. } => Ok(pid),
            other => Err(CriError::internal(format!("unexpected answer of a shim: {other:?}"))),
        }
    }

    /// A number for an exec, and what will tell its exit code; it fails when the shim goes.
    pub fn expect_exec(&self) -> (u64, oneshot::Receiver<i32>) {
        let (sender, receiver) = oneshot::channel();
        // The shim may know numbers of servers before this one.
        let number = self.next.fetch_add(1, Ordering::Relaxed) | u64::from(std::process::id()) << 32;
        self.execs.lock().insert(number, sender);
        (number, receiver)
    }

    pub fn forget_exec(&self, exec: u64) {
        self.execs.lock().remove(&exec);
    }
}
