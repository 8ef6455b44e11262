//! `/exec` and `/attach`: a container's streams, carried by a WebSocket or by SPDY.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use runtime::cri::{AttachRequest, BoxRead, BoxWrite, ExecRequest, ExecSession, RuntimeService, TerminalSize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::channels::{self, Message};
use super::{Body, Query, Refusal, flag, full, multiplex, socket, upgrade};
use crate::containers::observe;
use crate::context::Context;
use crate::pods::observed::Observed;
use crate::pods::pod::Pod;

const CHUNK: usize = 32 * 1024;
/// Messages on their way to a slow client, or to a slow process.
pub const BACKLOG: usize = 8;

/// What goes to the client.
pub enum Output {
    Data(u8, Bytes),
    /// Nothing more comes on this channel.
    End(u8),
}

/// A client, whatever carries its messages. It has left when `input` ends.
pub struct Line {
    pub input: mpsc::Receiver<Message>,
    pub output: mpsc::Sender<Output>,
}

impl Line {
    /// A line and its other end, for what carries it.
    pub fn new() -> (Line, mpsc::Sender<Message>, mpsc::Receiver<Output>) {
        let ((arrives, input), (output, leaves)) = (mpsc::channel(BACKLOG), mpsc::channel(BACKLOG));
        (Line { input, output }, arrives, leaves)
    }
}

/// A session that begins when the client's streams are there.
type Start = BoxFuture<'static, Result<ExecSession, String>>;

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

    /// The channels that a client makes streams for where each is a stream of its own.
    fn channels(self, resize: bool) -> Vec<u8> {
        let rows = [
            (true, channels::ERROR),
            (self.stdin, channels::STDIN),
            (self.stdout, channels::STDOUT),
            (self.stderr, channels::STDERR),
            (self.tty && resize, channels::RESIZE),
        ];
        rows.into_iter().filter(|(wanted, _)| *wanted).map(|(_, channel)| channel).collect()
    }
}

pub async fn running(context: &Context, pod: &Pod, container: &str) -> Result<String, Refusal> {
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
    let Streams { stdin, stdout, stderr, tty } = streams;
    let wanted = ExecRequest { container_id: id, cmd, tty, stdin, stdout, stderr };
    executed(context.runtime.clone(), wanted, request)
}

pub fn executed(
    runtime: Arc<dyn RuntimeService>,
    wanted: ExecRequest,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let ExecRequest { stdin, stdout, stderr, tty, .. } = wanted;
    let start = async move { runtime.exec(wanted).await.map_err(|e| e.message) };
    answer(request, Streams { stdin, stdout, stderr, tty }, start.boxed())
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
    let runtime: Arc<dyn RuntimeService> = context.runtime.clone();
    let start = async move {
        let request =
            AttachRequest { container_id: id, stdin, tty, stdout: streams.stdout, stderr: streams.stderr && !tty };
        runtime.attach(request).await.map_err(|e| e.message)
    };
    answer(request, streams, start.boxed())
}

pub fn attached(
    runtime: Arc<dyn RuntimeService>,
    wanted: AttachRequest,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let AttachRequest { stdin, stdout, stderr, tty, .. } = wanted;
    let start = async move { runtime.attach(wanted).await.map_err(|e| e.message) };
    answer(request, Streams { stdin, stdout, stderr, tty }, start.boxed())
}

/// `/run`: a command without streams of its own; all that it writes is the answer.
pub async fn run_to_end(
    context: &Context,
    pod: &Pod,
    container: &str,
    query: &Query,
    method: &Method,
) -> Result<Response<Body>, Refusal> {
    if *method != Method::POST {
        return Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed".into()));
    }
    let command = query.get("cmd").and_then(|values| values.first()).map(String::as_str).unwrap_or_default();
    let words: Vec<_> = command.split_whitespace().map(str::to_owned).collect();
    let id = running(context, pod, container).await?;
    let ended = context.runtime.exec_sync(&id, words.clone(), Duration::ZERO).await.map_err(Refusal::internal)?;
    let written = [ended.stdout, ended.stderr].concat();
    if ended.exit_code != 0 {
        return Err(Refusal::internal(format!(
            "command '{}' exited with {}: {}",
            words.join(" "),
            ended.exit_code,
            String::from_utf8_lossy(&written)
        )));
    }
    Ok(Response::new(full(written)))
}

/// Switches to the protocol that the client asks for; the session runs there.
fn answer(request: Request<Incoming>, streams: Streams, start: Start) -> Result<Response<Body>, Refusal> {
    if upgrade::is_websocket(&request) {
        let upgrade = upgrade::websocket(request, &channels::PROTOCOLS)?;
        let (protocol, opening) = (upgrade.protocol, upgrade.socket);
        tokio::spawn(async move {
            if let Ok(opened) = opening.await {
                socket::serve(opened, protocol, |line| run(start, line, protocol)).await;
            }
        });
        return Ok(upgrade.response);
    }
    let upgrade = upgrade::spdy(request, &multiplex::PROTOCOLS)?;
    let (protocol, opening) = (upgrade.protocol, upgrade.stream);
    let wanted = streams.channels(multiplex::resizes(protocol));
    tokio::spawn(async move {
        if let Ok(opened) = opening.await
            && let Err(error) = multiplex::serve(opened, &wanted, |line| run(start, line, protocol)).await
        {
            tracing::debug!(%error, "a client of exec or attach is not understood");
        }
    });
    Ok(upgrade.response)
}

/// Carries a session's streams until it ends or the client leaves.
async fn run(start: Start, line: Line, protocol: &str) {
    let Line { mut input, output } = line;
    let outcome = match start.await {
        Err(message) => Err(message),
        Ok(session) => {
            let (mut stdin, resize) = (session.stdin, session.resize);
            let pumps = futures::future::join(
                pump(session.stdout, channels::STDOUT, output.clone()),
                pump(session.stderr, channels::STDERR, output.clone()),
            );
            let feed = async move {
                while let Some(message) = input.recv().await {
                    take(message, &mut stdin, &resize).await;
                }
            };
            let done = async {
                pumps.await;
                session.exit.await.map_err(|e| e.message)
            };
            tokio::select! {
                outcome = done => outcome,
                // The client is gone.
                () = feed => return,
            }
        }
    };
    if let Some(told) = channels::told(&outcome, protocol) {
        let _ = output.send(Output::Data(channels::ERROR, told.into())).await;
    }
    let _ = output.send(Output::End(channels::ERROR)).await;
}

/// Sends an output until its end.
async fn pump(from: Option<BoxRead>, channel: u8, to: mpsc::Sender<Output>) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; CHUNK];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if to.send(Output::Data(channel, Bytes::copy_from_slice(&buffer[..count]))).await.is_err() {
            return;
        }
    }
    let _ = to.send(Output::End(channel)).await;
}

async fn take(message: Message, stdin: &mut Option<BoxWrite>, resize: &mpsc::Sender<TerminalSize>) {
    match message {
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
