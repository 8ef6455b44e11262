//! `/checkpoint`: the state of a running container, written to an archive by a runtime that can.

use std::time::Duration;

use http::{Method, Response, StatusCode};
use jiff::Timestamp;
use serde_json::json;

use super::{Body, Query, Refusal, as_json, session};
use crate::context::Context;
use crate::pods::pod::Pod;

pub async fn answer(
    context: &Context,
    pod: &Pod,
    container: &str,
    query: &Query,
    method: &Method,
) -> Result<Response<Body>, Refusal> {
    if *method != Method::POST {
        return Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed".into()));
    }
    if pod.member(container).is_none() {
        return Err(Refusal::not_found(format!("container {container} does not exist")));
    }
    let timeout = query.get("timeout").and_then(|values| values.last()).map(|seconds| seconds.parse::<u64>());
    let timeout = timeout.transpose().map_err(|_| Refusal::not_found("cannot parse value of timeout parameter"))?;
    let failed = |error: &dyn std::fmt::Display| {
        Refusal::internal(format!("checkpointing of {}/{}/{container} failed ({error})", pod.namespace, pod.name))
    };
    let id = session::running(context, pod, container).await?;
    let directory = context.data.join("checkpoints");
    std::fs::create_dir_all(&directory).map_err(|error| failed(&error))?;
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
    let archive = directory.join(format!("checkpoint-{}_{}-{container}-{now}.tar", pod.name, pod.namespace));
    let location = archive.to_string_lossy();
    let work = context.runtime.checkpoint_container(&id, &location);
    let done = match timeout.filter(|seconds| *seconds > 0) {
        Some(seconds) => tokio::time::timeout(Duration::from_secs(seconds), work).await,
        None => Ok(work.await),
    };
    done.map_err(|_| failed(&"context deadline exceeded"))?.map_err(|error| failed(&error))?;
    Ok(as_json(&json!({"items": [location]})))
}
