//! `/containerLogs`: a container's log, whole or followed, as a body or in the frames of a WebSocket.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use jiff::Timestamp;
use k8s_openapi::api::core::v1;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::upgrade::{self, Socket, Upgrade};
use super::{Body, Query, Refusal};
use crate::containers::observe;
use crate::context::Context;
use crate::logs::{Options, stream};
use crate::pods::observed::{Observed, State};
use crate::pods::pod::Pod;

/// Pieces on their way to a slow reader.
const PIECES: usize = 4;

/// The protocols of a WebSocket that is only read from.
const PROTOCOLS: [&str; 3] = ["binary.k8s.io", "base64.binary.k8s.io", ""];

type Pieces = mpsc::Receiver<std::io::Result<Bytes>>;

pub async fn answer(
    context: &Context,
    pod: &Pod,
    container: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let options = Options::parse(query, Timestamp::now()).map_err(Refusal::bad_request)?;
    if pod.member(container).is_none() {
        return Err(Refusal::not_found(format!("container \"{container}\" not found in pod \"{}\"", pod.name)));
    }
    let seen = observe::pod(&*context.runtime, &pod.uid, &Observed::default()).await.map_err(Refusal::internal)?;
    let mut runs = seen.containers.iter().filter(|c| c.name == container && c.state != State::Created);
    let found = if options.previous {
        let told = told_previous(pod, container);
        runs.find(|c| c.state == State::Exited && told.as_ref().map_or(!is_newest(&seen, c), |id| id.ends_with(&c.id)))
    } else {
        runs.next()
    };
    let Some(found) = found else {
        let name = &pod.name;
        return Err(Refusal::bad_request(if options.previous {
            format!("previous terminated container \"{container}\" in pod \"{name}\" not found")
        } else {
            let why = match told(pod, container).and_then(|s| s.state.as_ref()?.waiting.as_ref()?.reason.as_deref()) {
                Some("ErrImagePull") => "image can't be pulled",
                Some("ImagePullBackOff") => "trying and failing to pull image",
                Some(reason) => reason,
                None => "ContainerCreating",
            };
            format!("container \"{container}\" in pod \"{name}\" is waiting to start: {why}")
        }));
    };
    let path = PathBuf::from(&found.log_path);
    if let Err(error) = std::fs::metadata(&path) {
        return Err(Refusal::internal(format!("failed to try resolving symlinks in path {path:?}: {error}")));
    }
    let switched = match upgrade::is_websocket(&request) {
        true => Some(upgrade::websocket(request, &PROTOCOLS)?),
        false => None,
    };
    let (sender, receiver) = mpsc::channel(PIECES);
    tokio::spawn(stream(context.runtime.clone(), found.id.clone(), path, options, sender));
    if let Some(Upgrade { protocol, response, socket }) = switched {
        tokio::spawn(async move {
            if let Ok(socket) = socket.await {
                in_frames(socket, protocol.contains("base64"), receiver).await;
            }
        });
        return Ok(response);
    }
    let pieces = futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece| (piece.map(Frame::data), receiver))
    });
    let mut response = Response::new(BodyExt::boxed_unsync(StreamBody::new(pieces)));
    let kind = http::HeaderValue::from_static("text/plain");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    Ok(response)
}

/// Brings the pieces to a client until they end or it leaves.
async fn in_frames(socket: Socket, textual: bool, mut pieces: Pieces) {
    let (mut sink, mut source) = socket.split();
    let write = async {
        while let Some(Ok(piece)) = pieces.recv().await {
            let frame = if textual { Message::Text(STANDARD.encode(&piece).into()) } else { Message::Binary(piece) };
            if sink.send(frame).await.is_err() {
                return;
            }
        }
        let end = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        let _ = sink.send(Message::Close(Some(end))).await;
    };
    // What the client says is of no interest, but that it leaves is.
    let read = async { while let Some(Ok(_)) = source.next().await {} };
    tokio::select! {
        () = write => {}
        () = read => {}
    }
}

/// Whether it is the last run of its name: then it is no previous one.
fn is_newest(seen: &Observed, container: &crate::pods::observed::Container) -> bool {
    seen.newest(&container.name).is_some_and(|newest| newest.id == container.id)
}

/// The run that the status shows as the last one; while a container waits for its restart that is the newest there is.
fn told_previous(pod: &Pod, container: &str) -> Option<String> {
    told(pod, container)?.last_state.as_ref()?.terminated.as_ref()?.container_id.clone()
}

/// What the API shows of a container.
fn told<'p>(pod: &'p Pod, container: &str) -> Option<&'p v1::ContainerStatus> {
    let status = pod.status()?;
    let lists = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten().find(|s| s.name == container)
}
