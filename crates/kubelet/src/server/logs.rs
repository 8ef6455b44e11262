//! `/containerLogs`: a container's log, whole or followed.

use std::path::PathBuf;

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::{Body, Query, Refusal};
use crate::containers::observe;
use crate::context::Context;
use crate::logs::{Options, stream};
use crate::pods::observed::{Observed, State};
use crate::pods::pod::Pod;

/// Pieces on their way to a slow reader.
const PIECES: usize = 4;

pub async fn answer(context: &Context, pod: &Pod, container: &str, query: &Query) -> Result<Response<Body>, Refusal> {
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
            format!("container \"{container}\" in pod \"{name}\" is waiting to start: ContainerCreating")
        }));
    };
    let path = PathBuf::from(&found.log_path);
    if let Err(error) = std::fs::metadata(&path) {
        return Err(Refusal::internal(format!("failed to try resolving symlinks in path {path:?}: {error}")));
    }
    let (sender, receiver) = mpsc::channel::<std::io::Result<Bytes>>(PIECES);
    tokio::spawn(stream(context.runtime.clone(), found.id.clone(), path, options, sender));
    let pieces = futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece| (piece.map(Frame::data), receiver))
    });
    let mut response = Response::new(BodyExt::boxed_unsync(StreamBody::new(pieces)));
    let kind = http::HeaderValue::from_static("text/plain");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    Ok(response)
}

/// Whether it is the last run of its name: then it is no previous one.
fn is_newest(seen: &Observed, container: &crate::pods::observed::Container) -> bool {
    seen.newest(&container.name).is_some_and(|newest| newest.id == container.id)
}

/// The run that the status shows as the last one; while a container waits for its restart that is the newest there is.
fn told_previous(pod: &Pod, container: &str) -> Option<String> {
    let status = pod.status()?;
    let lists = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    let told = lists.into_iter().flatten().flatten().find(|s| s.name == container)?;
    told.last_state.as_ref()?.terminated.as_ref()?.container_id.clone()
}
