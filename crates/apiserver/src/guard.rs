//! The outermost layers: no request may bring the server down, hang it, or go unnamed.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use api::status::Reason;
use futures::FutureExt;

use crate::server::Server;
use crate::stack::Next;
use crate::wire::{Query, Request, RequestInfo, Response, answer};

/// How long a request that is no watch or stream may take, as upstream's `--request-timeout`.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A panic below becomes a 500 and a line in the log.
pub async fn catch_panics(_: Arc<Server>, request: Request, next: Next) -> Response {
    let about = format!("{} {}", request.method(), request.uri().path());
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            tracing::error!(request = about, panic = text.unwrap_or("unknown"), "a request panicked");
            answer::error(&Status::internal("a request panicked"))
        }
    }
}

/// Reads what the request is about and puts [`RequestInfo`] and [`Query`] into its extensions.
pub async fn read_info(_: Arc<Server>, mut request: Request, next: Next) -> Response {
    let query = Query::parse(request.uri().query().unwrap_or(""));
    let info = RequestInfo::new(request.method(), request.uri().path(), &query);
    request.extensions_mut().insert(Arc::new(info));
    request.extensions_mut().insert(Arc::new(query));
    next.run(request).await
}

/// Requests other than watches and streams end within [`TIMEOUT`].
pub async fn limit_time(_: Arc<Server>, request: Request, next: Next) -> Response {
    if info(&request).long_running() {
        return next.run(request).await;
    }
    match tokio::time::timeout(TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => answer::error(&Status::new(
            Reason::Timeout,
            "Timeout: request did not complete within the allotted timeout",
        )),
    }
}

/// What [`read_info`] found.
pub fn info(request: &Request) -> Arc<RequestInfo> {
    request.extensions().get::<Arc<RequestInfo>>().cloned().unwrap_or_default()
}

/// The request's parameters.
pub fn query(request: &Request) -> Arc<Query> {
    request.extensions().get::<Arc<Query>>().cloned().unwrap_or_default()
}
