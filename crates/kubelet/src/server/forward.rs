//! `/portForward`: connections into a pod's network, tunnelled by SPDY/3.1 inside a WebSocket or by SPDY/3.1 alone, or by the older
//! channels of `v4.channel.k8s.io`.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{Request, Response};
use hyper::body::Incoming;
use runtime::cri::RuntimeService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::spdy::{Frame, Headers, Reader, Writer};
use super::upgrade::{self, Socket};
use super::{Body, Query, Refusal};
use crate::containers::observe;
use crate::context::Context;
use crate::pods::observed::Observed;
use crate::pods::pod::Pod;

const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const PROTOCOL: &str = "portforward.k8s.io";
const CHANNELS: &str = "v4.channel.k8s.io";
const CHUNK: usize = 32 * 1024;
const BACKLOG: usize = 16;

/// Where connections are made to.
#[derive(Clone)]
struct Target {
    runtime: Arc<dyn RuntimeService>,
    sandbox: String,
    pod: String,
}

impl Target {
    async fn connect(&self, port: u16) -> Result<runtime::cri::BoxDuplex, String> {
        let connected = self.runtime.port_forward(&self.sandbox, port).await;
        connected.map_err(|e| format!("error forwarding port {port} to pod {}, uid : {}", self.pod, e.message))
    }
}

pub async fn answer(
    context: &Context,
    pod: &Pod,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let seen = observe::pod(&*context.runtime, &pod.uid, &Observed::default()).await.map_err(Refusal::internal)?;
    let sandbox =
        seen.ready_sandbox().ok_or_else(|| Refusal::not_found(format!("pod \"{}\" is not running", pod.name)))?;
    let ports: Vec<u16> =
        // The kubelet's name of the parameter, and the API's.
        ["port", "ports"]
            .iter()
            .filter_map(|name| query.get(*name))
            .flatten()
            .flat_map(|p| p.split(','))
            .filter_map(|p| p.parse().ok())
            .collect();
    forwarded(context.runtime.clone(), sandbox.id.clone(), &ports, request)
}

/// Forwards to a sandbox. Only the older channels need to know the ports beforehand.
pub fn forwarded(
    runtime: Arc<dyn RuntimeService>,
    sandbox: String,
    ports: &[u16],
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let target = Target { runtime, pod: sandbox.clone(), sandbox };
    let ports = ports.to_vec();
    if upgrade::is_websocket(&request) {
        let upgrade = upgrade::websocket(request, &[TUNNEL, CHANNELS])?;
        if upgrade.protocol == CHANNELS && ports.is_empty() {
            return Err(Refusal::bad_request("query parameter \"port\" is required"));
        }
        let (protocol, socket) = (upgrade.protocol, upgrade.socket);
        tokio::spawn(async move {
            let Ok(socket) = socket.await else { return };
            if protocol == CHANNELS {
                return channels(socket, &target, &ports).await;
            }
            let (near, far) = tokio::io::duplex(2 * CHUNK);
            futures::future::join(tunnel(socket, far), serve(near, target)).await;
        });
        return Ok(upgrade.response);
    }
    let upgrade = upgrade::spdy(request, &[PROTOCOL])?;
    tokio::spawn(async move {
        if let Ok(stream) = upgrade.stream.await {
            serve(stream, target).await;
        }
    });
    Ok(upgrade.response)
}

/// Carries a byte stream in the messages of a WebSocket.
async fn tunnel(socket: Socket, stream: DuplexStream) {
    let (mut sink, mut source) = socket.split();
    let (mut read, mut write) = tokio::io::split(stream);
    let incoming = async move {
        while let Some(Ok(message)) = source.next().await {
            match message {
                Message::Binary(data) if write.write_all(&data).await.is_err() => break,
                Message::Close(_) => break,
                _ => {}
            }
        }
        let _ = write.shutdown().await;
    };
    let outgoing = async move {
        let mut buffer = vec![0; CHUNK];
        while let Ok(count @ 1..) = read.read(&mut buffer).await {
            if sink.send(Message::Binary(Bytes::copy_from_slice(&buffer[..count]))).await.is_err() {
                return;
            }
        }
        let _ = sink.send(Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))).await;
    };
    futures::future::join(incoming, outgoing).await;
}

/// A connection of which so far one or both of its streams have come.
#[derive(Default)]
struct Pair {
    error: Option<u32>,
    data: Option<(u32, u16)>,
}

/// Serves port-forwarding on a SPDY connection until the client leaves.
async fn serve<S: AsyncRead + AsyncWrite + Send + 'static>(stream: S, target: Target) {
    let (read, mut write) = tokio::io::split(stream);
    let (sender, mut frames) = mpsc::channel::<Frame>(BACKLOG);
    let writing = async move {
        let mut writer = Writer::new()?;
        while let Some(frame) = frames.recv().await {
            write.write_all(&writer.encode(&frame)?).await?;
            write.flush().await?;
        }
        write.shutdown().await
    };
    let (_, written): ((), io::Result<()>) =
        futures::future::join(read_frames(Reader::new(read), sender, target), writing).await;
    if let Err(error) = written {
        tracing::debug!(%error, "a port-forward's client left");
    }
}

async fn read_frames<R: AsyncRead + Unpin>(mut reader: Reader<R>, sender: mpsc::Sender<Frame>, target: Target) {
    let mut pairs: HashMap<String, Pair> = HashMap::new();
    let mut inputs: HashMap<u32, mpsc::Sender<Vec<u8>>> = HashMap::new();
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let frame = tokio::select! {
            frame = reader.next() => frame,
            // Reaped as they end.
            Some(_) = connections.join_next() => continue,
        };
        let frame = match frame {
            Ok(Some(Frame::GoAway) | None) => return,
            Ok(Some(frame)) => frame,
            Err(error) => return tracing::debug!(%error, "a port-forward's client is not understood"),
        };
        match frame {
            Frame::SynStream { stream, headers, .. } => {
                let reply = Frame::SynReply { stream, headers: Headers::new() };
                if sender.send(reply).await.is_err() {
                    return;
                }
                let get =
                    |name: &str| headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str());
                let port = get("port").and_then(|p| p.parse::<u16>().ok());
                // Clients of old send no request id: then the streams of one port belong together.
                let request = get("requestid").unwrap_or_else(|| get("port").unwrap_or_default()).to_owned();
                let pair = pairs.entry(request.clone()).or_default();
                match (get("streamtype"), port) {
                    (Some("error"), Some(_)) => pair.error = Some(stream),
                    (Some("data"), Some(port)) => pair.data = Some((stream, port)),
                    _ => {
                        let _ = sender.send(Frame::Reset { stream, status: 1 }).await;
                    }
                }
                if let Pair { error: Some(error), data: Some((data, port)) } = *pair {
                    pairs.remove(&request);
                    let (input, output) = mpsc::channel(BACKLOG);
                    inputs.insert(data, input);
                    connections.spawn(connect(target.clone(), port, data, error, output, sender.clone()));
                }
            }
            Frame::Data { stream, fin, data } => {
                if let Some(input) = inputs.get(&stream)
                    && !data.is_empty()
                {
                    let _ = input.send(data).await;
                }
                if fin {
                    inputs.remove(&stream);
                }
            }
            Frame::Reset { stream, .. } => {
                inputs.remove(&stream);
            }
            Frame::Ping(id) if id % 2 == 1 => {
                let _ = sender.send(Frame::Ping(id)).await;
            }
            _ => {}
        }
    }
}

/// One forwarded connection, from its making to the end of both directions.
async fn connect(
    target: Target,
    port: u16,
    data: u32,
    error: u32,
    mut input: mpsc::Receiver<Vec<u8>>,
    frames: mpsc::Sender<Frame>,
) {
    match target.connect(port).await {
        Err(message) => {
            let told = Frame::Data { stream: error, fin: true, data: message.into_bytes() };
            let _ = frames.send(told).await;
        }
        Ok(connection) => {
            let (mut read, mut write) = tokio::io::split(connection);
            let upward = async move {
                while let Some(data) = input.recv().await {
                    if write.write_all(&data).await.is_err() {
                        break;
                    }
                }
                let _ = write.shutdown().await;
            };
            let downward = async {
                let mut buffer = vec![0; CHUNK];
                while let Ok(count @ 1..) = read.read(&mut buffer).await {
                    let part = Frame::Data { stream: data, fin: false, data: buffer[..count].to_vec() };
                    if frames.send(part).await.is_err() {
                        return;
                    }
                }
                let _ = frames.send(Frame::Data { stream: data, fin: true, data: Vec::new() }).await;
            };
            futures::future::join(upward, downward).await;
            let _ = frames.send(Frame::Data { stream: error, fin: true, data: Vec::new() }).await;
            return;
        }
    }
    let _ = frames.send(Frame::Data { stream: data, fin: true, data: Vec::new() }).await;
}

/// The older form: channel `2n` carries the data of the n-th port, channel `2n+1` its error; each begins with the port.
async fn channels(socket: Socket, target: &Target, ports: &[u16]) {
    let (mut sink, mut source) = socket.split();
    let (sender, mut outgoing) = mpsc::channel::<Bytes>(BACKLOG);
    let mut inputs: Vec<mpsc::Sender<Bytes>> = Vec::new();
    let mut connections = tokio::task::JoinSet::new();
    for (index, port) in ports.iter().copied().enumerate() {
        let channel = u8::try_from(2 * index).unwrap_or(u8::MAX - 1);
        let (input, mut output) = mpsc::channel::<Bytes>(BACKLOG);
        inputs.push(input);
        let (sender, target) = (sender.clone(), target.clone());
        connections.spawn(async move {
            for channel in [channel, channel + 1] {
                let _ = sender.send(super::channels::encode(channel, &port.to_le_bytes())).await;
            }
            let connection = match target.connect(port).await {
                Ok(connection) => connection,
                Err(message) => {
                    let _ = sender.send(super::channels::encode(channel + 1, message.as_bytes())).await;
                    return;
                }
            };
            let (mut read, mut write) = tokio::io::split(connection);
            let upward = async move {
                while let Some(data) = output.recv().await {
                    if write.write_all(&data).await.is_err() {
                        break;
                    }
                }
            };
            let downward = async {
                let mut buffer = vec![0; CHUNK];
                while let Ok(count @ 1..) = read.read(&mut buffer).await {
                    if sender.send(super::channels::encode(channel, &buffer[..count])).await.is_err() {
                        return;
                    }
                }
            };
            let upward = async {
                upward.await;
                std::future::pending::<()>().await;
            };
            // Once the pod has closed the connection nobody reads what the client may still send.
            futures::future::select(std::pin::pin!(downward), std::pin::pin!(upward)).await;
        });
    }
    drop(sender);
    let incoming = async move {
        while let Some(Ok(message)) = source.next().await {
            let Message::Binary(data) = message else { continue };
            let Some((channel, _)) = data.split_first() else { continue };
            if let Some(input) = inputs.get(usize::from(channel / 2)).filter(|_| channel % 2 == 0) {
                let _ = input.send(data.slice(1..)).await;
            }
        }
    };
    let writing = async move {
        while let Some(message) = outgoing.recv().await {
            if sink.send(Message::Binary(message)).await.is_err() {
                return;
            }
        }
        let _ = sink.send(Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))).await;
    };
    tokio::select! {
        () = incoming => {}
        () = writing => {}
    }
}
