//! Exec, attach and port-forward: streams between a caller and a process in a container.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use crate::cri::{
    AttachRequest, BoxDuplex, BoxRead, BoxWrite, Code, CriError, ExecRequest, ExecSession, ExecSyncResponse,
    NamespaceMode, Result, TerminalSize,
};
use crate::runtime::{Runtime, unblock};
use crate::sandbox::namespaces::in_network;
use crate::shim::protocol::{Exec, Request};
use crate::shim::sys;
use crate::shim_client::ShimClient;
use std::os::fd::AsFd;
use std::sync::Arc;

/// The most output of an `exec_sync` that is kept, as upstream's runtimes have it.
const SYNC_OUTPUT_MAX: u64 = 16 << 20;

/// How long the output of a command that ended is waited for, where something it started keeps it open.
const DRAIN: Duration = Duration::from_secs(1);

/// A terminal's master, or a pipe. A terminal says EIO when its last user is gone: that is the end.
struct Output(pipe::Receiver);

impl AsyncRead for Output {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.0).poll_read(cx, buffer) {
            Poll::Ready(Err(error)) if error.raw_os_error() == Some(libc::EIO) => Poll::Ready(Ok(())),
            other => other,
        }
    }
}

fn reader(fd: OwnedFd) -> Result<BoxRead> {
    sys::set_nonblocking(&fd).map_err(io::Error::from)?;
    Ok(Box::pin(Output(pipe::Receiver::from_owned_fd_unchecked(fd)?)))
}

fn writer(fd: OwnedFd) -> Result<BoxWrite> {
    sys::set_nonblocking(&fd).map_err(io::Error::from)?;
    Ok(Box::pin(pipe::Sender::from_owned_fd_unchecked(fd)?))
}

/// A pipe that we read; the other end is given.
fn output_pipe() -> Result<(BoxRead, OwnedFd)> {
    let (sender, receiver) = pipe::pipe()?;
    Ok((Box::pin(Output(receiver)), sender.into_blocking_fd()?))
}

impl Runtime {
    pub(crate) async fn open_exec(&self, request: ExecRequest) -> Result<(ExecSession, Arc<ShimClient>, u64)> {
        let container = self.container(&request.container_id)?;
        if !container.is_running() {
            let message = format!("container {:?} is not running", request.container_id);
            return Err(CriError::precondition(message));
        }
        if request.cmd.is_empty() {
            return Err(CriError::invalid("no command specified"));
        }
        let shim = self.shim(&container.record.sandbox_id)?;
        let (number, exited) = shim.expect_exec();
        let exec = Exec { container: request.container_id, exec: number, args: request.cmd, tty: request.tty };
        let (resize, sizes) = mpsc::channel(4);
        let call = async {
            if request.tty {
                let (_, master) = shim.call(Request::Exec(exec), &[]).await?;
                let master = master.ok_or_else(|| CriError::internal("the shim gave no terminal"))?;
                let copy = || master.try_clone();
                let stdin = request.stdin.then(|| writer(copy()?)).transpose()?;
                let stdout = Some(reader(copy()?)?);
                tokio::spawn(follow_size(master, sizes));
                return Ok((stdin, stdout, None));
            }
            let (stdin, input) = if request.stdin {
                let (sender, receiver) = pipe::pipe()?;
                (Some(Box::pin(sender) as BoxWrite), receiver.into_blocking_fd()?)
            } else {
                (None, std::fs::File::open("/dev/null")?.into())
            };
            let (stdout, stdout_end) = output_pipe()?;
            let (stderr, stderr_end) = output_pipe()?;
            shim.call(Request::Exec(exec), &[input, stdout_end, stderr_end]).await?;
            Ok::<_, CriError>((stdin, Some(stdout), Some(stderr)))
        };
        let (stdin, stdout, stderr) = match call.await {
            Ok(streams) => streams,
            Err(error) => {
                shim.forget_exec(number);
                return Err(error);
            }
        };
        let exit = Box::pin(async move {
            exited.await.map_err(|_| CriError::new(Code::Unavailable, "the sandbox ended before the command"))
        });
        Ok((ExecSession { stdin, stdout, stderr, resize, exit }, shim, number))
    }

    pub(crate) async fn run_exec(&self, id: &str, cmd: Vec<String>, timeout: Duration) -> Result<ExecSyncResponse> {
        let shown = cmd.join(" ");
        let request =
            ExecRequest { container_id: id.to_owned(), cmd, stdout: true, stderr: true, ..ExecRequest::default() };
        let (mut session, shim, number) = self.open_exec(request).await?;
        let collect = |stream: Option<BoxRead>| async move {
            let mut text = Vec::new();
            if let Some(stream) = stream {
                let mut limited = stream.take(SYNC_OUTPUT_MAX);
                let _ = limited.read_to_end(&mut text).await;
                // The rest is read too, or the command would hang.
                let _ = tokio::io::copy(limited.get_mut(), &mut tokio::io::sink()).await;
            }
            text
        };
        let stdout = tokio::spawn(collect(session.stdout.take()));
        let stderr = tokio::spawn(collect(session.stderr.take()));
        let limit = if timeout.is_zero() { Duration::from_secs(u64::from(u32::MAX)) } else { timeout };
        let exit_code = match tokio::time::timeout(limit, session.exit).await {
            Ok(code) => code?,
            Err(_) => {
                let _ = shim.call(Request::SignalExec { exec: number, signal: libc::SIGKILL }, &[]).await;
                let message = format!("command {shown:?} timed out");
                return Err(CriError::new(Code::DeadlineExceeded, message));
            }
        };
        let output = async { (stdout.await.unwrap_or_default(), stderr.await.unwrap_or_default()) };
        let (stdout, stderr) = tokio::time::timeout(DRAIN, output).await.unwrap_or_default();
        Ok(ExecSyncResponse { stdout, stderr, exit_code })
    }

    pub(crate) async fn open_attach(&self, request: AttachRequest) -> Result<ExecSession> {
        let container = self.container(&request.container_id)?;
        if !container.is_running() {
            let message = format!("container {:?} is not running", request.container_id);
            return Err(CriError::precondition(message));
        }
        let shim = self.shim(&container.record.sandbox_id)?;
        let tty = container.record.config.tty;
        let (stdout, stdout_end) = pipe_for(request.stdout || request.stderr && !tty)?;
        let (stderr, stderr_end) = pipe_for(request.stderr && !tty)?;
        let fds: Vec<OwnedFd> = stdout_end.into_iter().chain(stderr_end).collect();
        for fd in &fds {
            sys::set_nonblocking(fd).map_err(io::Error::from)?;
        }
        let call = Request::Attach { container: request.container_id.clone(), stdin: request.stdin };
        let (_, input) = shim.call(call, &fds).await?;
        drop(fds);
        let stdin = input.map(writer).transpose()?;
        let (resize, mut sizes) = mpsc::channel::<TerminalSize>(4);
        let id = request.container_id;
        tokio::spawn(async move {
            while let Some(TerminalSize { width, height }) = sizes.recv().await {
                let _ = shim.call(Request::Resize { container: id.clone(), width, height }, &[]).await;
            }
        });
        let mut info = container.info.subscribe();
        let exit = Box::pin(async move {
            let ended = info.wait_for(|info| info.phase == crate::shim::protocol::Phase::Exited).await;
            Ok(ended.map_or(0, |_| 0))
        });
        Ok(ExecSession { stdin, stdout, stderr, resize, exit })
    }

    pub(crate) async fn open_port(&self, sandbox_id: &str, port: u16) -> Result<BoxDuplex> {
        let sandbox = self.sandbox(sandbox_id)?;
        if sandbox.state() != crate::cri::PodSandboxState::Ready {
            return Err(CriError::precondition(format!("sandbox {sandbox_id:?} is not running")));
        }
        let mode = sandbox.record.lock().config.linux.security_context.namespace_options.network;
        let namespace = match mode {
            NamespaceMode::Node => "/proc/self/ns/net".into(),
            _ => self.paths.namespace(sandbox_id, "net"),
        };
        let stream = unblock(move || {
            let addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), (Ipv6Addr::LOCALHOST, port).into()];
            let stream = in_network(&namespace, move || std::net::TcpStream::connect(&addresses[..]));
            stream.map_err(|error| CriError::new(Code::Unknown, format!("dial port {port} in the pod: {error}")))
        })
        .await?;
        stream.set_nonblocking(true)?;
        Ok(Box::pin(tokio::net::TcpStream::from_std(stream)?))
    }
}

fn pipe_for(wanted: bool) -> Result<(Option<BoxRead>, Option<OwnedFd>)> {
    if !wanted {
        return Ok((None, None));
    }
    let (read, write) = output_pipe()?;
    Ok((Some(read), Some(write)))
}

async fn follow_size(terminal: OwnedFd, mut sizes: mpsc::Receiver<TerminalSize>) {
    while let Some(TerminalSize { width, height }) = sizes.recv().await {
        let _ = sys::set_window_size(terminal.as_fd(), width, height);
    }
}
