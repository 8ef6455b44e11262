//! `/exec` and `/attach`: a container's streams in a WebSocket.

use std::sync::Arc;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{Request, Response};
use hyper::body::Incoming;
use runtime::cri::{AttachRequest, BoxRead, BoxWrite, ExecRequest, ExecSession, RuntimeService};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::channels::{self, Message};
use super::upgrade::{self, Socket};
use super::{Body, Query, Refusal, flag};
use crate::containers::observe;
use crate::context::Context;
use crate::pods::observed::Observed;
use crate::pods::pod::Pod;

const CHUNK: usize = 32 * 1024;
/// Messages on their way to a slow client.
const BACKLOG: usize = 8;

/// Which streams are wanted.
#[derive(Clone, Copy)]
struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Streams {
    /// By the kubelet's names (`input`, `output`, `error`) or the API's.
    fn parse(query: &Query) -> Result<Streams, Refusal> {
        let either = |a, b| flag(query, a) || flag(query, b);
        let tty = flag(query, "tty");
        let streams = Streams {
            stdin: either("input", "stdin"),
            stdout: either("output", "stdout"),
            // A terminal has one output.
            stderr: either("error", "stderr") && !tty,
            tty,
        };
        if !streams.stdin && !streams.stdout && !streams.stderr {
            return Err(Refusal::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
        }
        Ok(streams)
    }
}

async fn running(context: &Context, pod: &Pod, container: &str) -> Result<String, Refusal> {
    let seen = observe::pod(&*context.runtime, &pod.uid, &Observed::default()).await.map_err(Refusal::internal)?;
    let found = seen.newest(container).filter(|c| c.running());
    found.map(|c| c.id.clone()).ok_or_else(|| Refusal::not_found(format!("container not found (\"{container}\")")))
}

pub async fn exec(
    context: &Context,
    pod: &Pod,
    container: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let streams = Streams::parse(query)?;
    let cmd = query.get("command").cloned().unwrap_or_default();
    let id = running(context, pod, container).await?;
    let upgrade = upgrade::websocket(request, &channels::PROTOCOLS)?;
    let runtime = context.runtime.clone();
    let (protocol, socket) = (upgrade.protocol, upgrade.socket);
    tokio::spawn(async move {
        let Ok(socket) = socket.await else { return };
        let Streams { stdin, stdout, stderr, tty } = streams;
        let request = ExecRequest { container_id: id, cmd, tty, stdin, stdout, stderr };
        let session = runtime.exec(request).await;
        bridge(socket, session.map_err(|e| e.message), protocol).await;
    });
    Ok(upgrade.response)
}

pub async fn attach(
    context: &Context,
    pod: &Pod,
    container: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let streams = Streams::parse(query)?;
    let id = running(context, pod, container).await?;
    let spec = pod.member(container).map(|m| &m.spec);
    let tty = spec.and_then(|s| s.tty).unwrap_or(false);
    let stdin = streams.stdin && spec.and_then(|s| s.stdin).unwrap_or(false);
    let upgrade = upgrade::websocket(request, &channels::PROTOCOLS)?;
    let runtime: Arc<dyn RuntimeService> = context.runtime.clone();
    let (protocol, socket) = (upgrade.protocol, upgrade.socket);
    tokio::spawn(async move {
        let Ok(socket) = socket.await else { return };
        let request =
            AttachRequest { container_id: id, stdin, tty, stdout: streams.stdout, stderr: streams.stderr && !tty };
        let session = runtime.attach(request).await;
        bridge(socket, session.map_err(|e| e.message), protocol).await;
    });
    Ok(upgrade.response)
}

/// Carries a session's streams until it ends or the client leaves.
async fn bridge(socket: Socket, session: Result<ExecSession, String>, protocol: &str) {
    let (mut sink, mut source) = socket.split();
    let (sender, mut outgoing) = mpsc::channel::<Bytes>(BACKLOG);
    let write = async move {
        while let Some(message) = outgoing.recv().await {
            sink.send(Frame::Binary(message)).await?;
        }
        // Without a code kubectl takes the end for a broken connection.
        sink.send(Frame::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))).await
    };
    let ended = async move {
        let outcome = match session {
            Err(message) => Err(message),
            Ok(session) => {
                let (stdin, resize) = (session.stdin, session.resize);
                let pumps = futures::future::join(
                    pump(session.stdout, channels::STDOUT, sender.clone()),
                    pump(session.stderr, channels::STDERR, sender.clone()),
                );
                let input = async move {
                    let mut stdin = stdin;
                    while let Some(Ok(frame)) = source.next().await {
                        match frame {
                            Frame::Binary(message) => take(message, &mut stdin, &resize).await,
                            Frame::Text(text) => take(text.into(), &mut stdin, &resize).await,
                            Frame::Close(_) => break,
                            _ => {}
                        }
                    }
                };
                let done = async {
                    pumps.await;
                    session.exit.await.map_err(|e| e.message)
                };
                tokio::select! {
                    outcome = done => outcome,
                    // The client is gone.
                    () = input => return,
                }
            }
        };
        // The oldest protocol says nothing where all went well, and plain words where it did not.
        let told = match (&outcome, protocol) {
            (Ok(0), "channel.k8s.io" | "") => return,
            (outcome, "channel.k8s.io" | "") => {
                channels::status(outcome)["message"].as_str().unwrap_or_default().to_owned()
            }
            (outcome, _) => channels::status(outcome).to_string(),
        };
        let _ = sender.send(channels::encode(channels::ERROR, told.as_bytes())).await;
    };
    let (_, _) = futures::future::join(ended, write).await;
}

/// Sends an output until its end.
async fn pump(output: Option<BoxRead>, channel: u8, sender: mpsc::Sender<Bytes>) {
    let Some(mut output) = output else { return };
    let mut buffer = vec![0; CHUNK];
    while let Ok(count @ 1..) = output.read(&mut buffer).await {
        if sender.send(channels::encode(channel, &buffer[..count])).await.is_err() {
            return;
        }
    }
}

async fn take(message: Bytes, stdin: &mut Option<BoxWrite>, resize: &mpsc::Sender<runtime::cri::TerminalSize>) {
    match channels::decode(message) {
        Message::Stdin(data) => {
            if let Some(open) = stdin
                && (open.write_all(&data).await.is_err() || open.flush().await.is_err())
            {
                *stdin = None;
            }
        }
        Message::CloseStdin => {
            if let Some(mut open) = stdin.take() {
                let _ = open.shutdown().await;
            }
        }
        Message::Resize(size) => {
            let _ = resize.try_send(size);
        }
        Message::Other => {}
    }
}
