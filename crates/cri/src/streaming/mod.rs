//! The streams of exec, attach and port-forward at the URLs that a remote runtime gives: SPDY/3.1, which every runtime
//! speaks and which, unlike the older WebSocket protocols, tells the end of each stream.

mod connection;

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use runtime::cri::{
    AttachRequest, BoxDuplex, BoxRead, BoxWrite, Code, CriError, ExecRequest, ExecSession, Result, TerminalSize,
};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::sync::{mpsc, oneshot};

use connection::{Connection, Incoming, Outgoing};

const PROTOCOL: &str = "v4.channel.k8s.io";
const FORWARD: &str = "portforward.k8s.io";
const CHUNK: usize = 32 << 10;
/// What may be on its way in a stream that is not read.
const PIPE: usize = 256 << 10;
/// The longest status that is read.
const STATUS_MAX: usize = 64 << 10;

/// Which streams a session has.
#[derive(Clone, Copy, Debug)]
pub struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Streams {
    pub fn of_exec(request: &ExecRequest) -> Streams {
        let ExecRequest { tty, stdin, stdout, stderr, .. } = *request;
        Streams { stdin, stdout, stderr: stderr && !tty, tty }
    }

    pub fn of_attach(request: &AttachRequest) -> Streams {
        let AttachRequest { tty, stdin, stdout, stderr, .. } = *request;
        Streams { stdin, stdout, stderr: stderr && !tty, tty }
    }
}

/// Where what comes on one stream goes.
enum Sink {
    Pipe(DuplexStream),
    /// How it ended, collected.
    Status(Vec<u8>),
}

/// Opens a session at a URL that the runtime gave for it.
pub async fn open(url: &str, streams: Streams) -> Result<ExecSession> {
    let (mut connection, mut incoming) = connection::open(url, PROTOCOL).await?;
    let mut sinks: Vec<(u32, Option<Sink>)> = Vec::new();
    let mut make = |connection: &mut Connection, kind: &str| {
        let id = connection.stream(&[("streamtype", kind)]);
        sinks.push((id, None));
        id
    };
    let error = make(&mut connection, "error");
    let stdin = streams.stdin.then(|| make(&mut connection, "stdin"));
    let stdout = streams.stdout.then(|| make(&mut connection, "stdout"));
    let stderr = streams.stderr.then(|| make(&mut connection, "stderr"));
    let resize = streams.tty.then(|| make(&mut connection, "resize"));
    let mut output = |id: Option<u32>| -> Option<BoxRead> {
        let (near, far) = tokio::io::duplex(PIPE);
        let slot = sinks.iter_mut().find(|(known, _)| Some(*known) == id)?;
        slot.1 = Some(Sink::Pipe(far));
        Some(Box::pin(near))
    };
    let (stdout, stderr) = (output(stdout), output(stderr));
    if let Some(slot) = sinks.iter_mut().find(|(id, _)| *id == error) {
        slot.1 = Some(Sink::Status(Vec::new()));
    }

    let outgoing = connection.outgoing();
    let input = stdin.map(|id| -> BoxWrite {
        let (near, far) = tokio::io::duplex(PIPE);
        tokio::spawn(feed(far, id, outgoing.clone()));
        Box::pin(near)
    });
    let (sizes, mut wanted) = mpsc::channel::<TerminalSize>(4);
    let sizing = outgoing.clone();
    tokio::spawn(async move {
        while let Some(TerminalSize { width, height }) = wanted.recv().await {
            let Some(id) = resize else { continue };
            let text = json!({"Width": width, "Height": height}).to_string();
            if sizing.send(Outgoing::Data(id, text.into_bytes(), false)).await.is_err() {
                return;
            }
        }
    });
    let (mut ended, end) = oneshot::channel();
    tokio::spawn(async move {
        let outcome = tokio::select! {
            outcome = collect(&mut incoming, &mut sinks) => outcome,
            // Nobody waits for the end any more.
            () = ended.closed() => return,
        };
        let _ = ended.send(outcome);
        drop(outgoing);
    });
    let lost = || CriError::new(Code::Unavailable, "the connection to the container runtime ended");
    let exit = Box::pin(async move { end.await.unwrap_or_else(|_| Err(lost())) });
    Ok(ExecSession { stdin: input, stdout, stderr, resize: sizes, exit })
}

/// Sends what is written to a pipe, and its end.
async fn feed(mut from: DuplexStream, id: u32, to: mpsc::Sender<Outgoing>) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if to.send(Outgoing::Data(id, buffer[..count].to_vec(), false)).await.is_err() {
            return;
        }
    }
    let _ = to.send(Outgoing::Data(id, Vec::new(), true)).await;
}

/// Hands on what comes, until every stream that we read has ended; gives how the session ended.
async fn collect(incoming: &mut mpsc::Receiver<Incoming>, sinks: &mut [(u32, Option<Sink>)]) -> Result<i32, CriError> {
    let mut outcome = None;
    while sinks.iter().any(|(_, sink)| sink.is_some()) {
        let Some(Incoming { stream, data, end }) = incoming.recv().await else { break };
        let Some((_, slot)) = sinks.iter_mut().find(|(id, _)| *id == stream) else { continue };
        match slot {
            Some(Sink::Pipe(pipe)) if !data.is_empty() => {
                // Who does not read any more does not hold up the others.
                let _ = pipe.write_all(&data).await;
            }
            Some(Sink::Status(text)) => text.extend(data.into_iter().take(STATUS_MAX - text.len().min(STATUS_MAX))),
            _ => {}
        }
        if end && let Some(Sink::Status(text)) = slot.take() {
            outcome = Some(parse(&text));
        }
    }
    outcome.unwrap_or_else(|| Err(CriError::new(Code::Unavailable, "the connection to the container runtime ended")))
}

/// The exit code, from the status in which the protocol wraps it.
fn parse(text: &[u8]) -> Result<i32> {
    if text.is_empty() {
        return Ok(0);
    }
    let Ok(status) = serde_json::from_slice::<Value>(text) else {
        return Err(CriError::new(Code::Unknown, String::from_utf8_lossy(text)));
    };
    if status["status"] == "Success" {
        return Ok(0);
    }
    let causes = status["details"]["causes"].as_array().into_iter().flatten();
    let code = causes.filter(|cause| cause["reason"] == "ExitCode").find_map(|cause| cause["message"].as_str());
    match code.and_then(|code| code.parse().ok()) {
        Some(code) => Ok(code),
        None => Err(CriError::new(Code::Unknown, status["message"].as_str().unwrap_or("the command failed"))),
    }
}

/// A connection to a port in a sandbox. What the runtime says in place of data is the error of the next read.
pub async fn open_port(url: &str, port: u16) -> Result<BoxDuplex> {
    let (mut connection, mut incoming) = connection::open(url, FORWARD).await?;
    let port = port.to_string();
    let mut make = |kind: &str| connection.stream(&[("streamtype", kind), ("port", &port), ("requestid", "0")]);
    let (error, data) = (make("error"), make("data"));
    let outgoing = connection.outgoing();
    // Nothing is said on it from here.
    let _ = outgoing.send(Outgoing::Data(error, Vec::new(), true)).await;
    let (near, far) = tokio::io::duplex(PIPE);
    let (read, mut write) = tokio::io::split(far);
    let failure: Arc<OnceLock<String>> = Arc::default();
    let told = failure.clone();
    tokio::spawn(async move {
        let mut complaint = Vec::new();
        while let Some(Incoming { stream, data: bytes, end }) = incoming.recv().await {
            if stream == error {
                complaint.extend(bytes);
                if end && !complaint.is_empty() {
                    let _ = told.set(String::from_utf8_lossy(&complaint).into_owned());
                    break;
                }
            } else if stream == data && (write.write_all(&bytes).await.is_err() || end) {
                break;
            }
        }
        let _ = write.shutdown().await;
    });
    tokio::spawn(async move {
        let (mut read, mut buffer) = (read, vec![0; CHUNK]);
        while let Ok(count @ 1..) = read.read(&mut buffer).await {
            if outgoing.send(Outgoing::Data(data, buffer[..count].to_vec(), false)).await.is_err() {
                return;
            }
        }
        let _ = outgoing.send(Outgoing::Data(data, Vec::new(), true)).await;
    });
    Ok(Box::pin(Port { pipe: near, failure }))
}

struct Port {
    pipe: DuplexStream,
    failure: Arc<OnceLock<String>>,
}

impl AsyncRead for Port {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.pipe).poll_read(cx, buffer);
        match (&polled, self.failure.get()) {
            (Poll::Ready(Ok(())), Some(message)) if buffer.filled().len() == before => {
                Poll::Ready(Err(io::Error::other(message.clone())))
            }
            _ => polled,
        }
    }
}

impl AsyncWrite for Port {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_an_exit_code_or_an_error() {
        let failed = json!({"status": "Failure", "reason": "NonZeroExitCode", "message": "command terminated",
                            "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}});
        let broken = json!({"status": "Failure", "message": "no such container"});
        for (status, expected) in [
            (json!({"status": "Success"}).to_string(), Ok(0)),
            (failed.to_string(), Ok(3)),
            (broken.to_string(), Err("no such container")),
            (String::new(), Ok(0)),
            ("plain words".to_owned(), Err("plain words")),
        ] {
            assert_eq!(parse(status.as_bytes()).map_err(|e| e.message), expected.map_err(str::to_owned), "{status}");
        }
    }
}
