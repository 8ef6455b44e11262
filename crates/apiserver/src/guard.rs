//! The outermost layers: no request may bring the server down, hang it, or go unnamed.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use api::status::Reason;
use futures::FutureExt;
use http::header;

use crate::server::Server;
use crate::stack::Next;
use crate::wire::answer::Failure;
use crate::wire::{Accept, Format, Query, Request, RequestInfo, Response, answer};

/// How long a request that is no watch or stream may take, as upstream's `--request-timeout`.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Errors of whichever layer are told in the form that the client accepts.
pub async fn encode_errors(_: Arc<Server>, request: Request, next: Next) -> Response {
    let query = Query::parse(request.uri().query().unwrap_or(""));
    let accept = Accept::of(request.headers(), &query, false).unwrap_or(Accept::JSON);
    let mut response = next.run(request).await;
    let plain = accept.format == Format::Json && !accept.pretty;
    let Some(Failure(status)) = response.extensions_mut().remove::<Failure>().filter(|_| !plain) else {
        return response;
    };
    let encoded = answer::value(response.status(), &status, &accept);
    let (parts, body) = encoded.into_parts();
    *response.body_mut() = body;
    if let Some(content) = parts.headers.get(header::CONTENT_TYPE) {
        response.headers_mut().insert(header::CONTENT_TYPE, content.clone());
    }
    response
}

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
    let timeout = match query(&request).get("timeout").map(duration) {
        None => TIMEOUT,
        Some(Ok(asked)) if asked.is_zero() => TIMEOUT,
        Some(Ok(asked)) => asked.min(TIMEOUT),
        Some(Err(why)) => {
            let message = format!("invalid timeout specified in the request URL - {why}");
            return answer::error(&Status::bad_request(message));
        }
    };
    match tokio::time::timeout(timeout, next.run(request)).await {
        Ok(response) => response,
        Err(_) => answer::error(&Status::new(
            Reason::Timeout,
            "Timeout: request did not complete within the allotted timeout",
        )),
    }
}

/// A time as Go writes it: `1m30s`, `500ms`.
fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: &[(&str, f64)] =
        &[("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let invalid = || format!("time: invalid duration {text:?}");
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() && rest != "0" {
        let (number, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?);
        let (unit, tail) = tail.split_at(tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len()));
        let (_, worth) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(invalid)?;
        seconds += number.parse::<f64>().map_err(|_| invalid())? * worth;
        rest = tail;
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| invalid())
}

/// What [`read_info`] found.
pub fn info(request: &Request) -> Arc<RequestInfo> {
    request.extensions().get::<Arc<RequestInfo>>().cloned().unwrap_or_default()
}

/// The request's parameters.
pub fn query(request: &Request) -> Arc<Query> {
    request.extensions().get::<Arc<Query>>().cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_go_writes_them() {
        let table =
            [("0", Some(0)), ("0s", Some(0)), ("1m30s", Some(90_000)), ("1.5s", Some(1_500)), ("20ms", Some(20))];
        for (text, expected) in table {
            assert_eq!(duration(text).ok().map(|d| d.as_millis()), expected, "{text}");
        }
        for bad in ["invalid", "5", "s", "1x", "1..5s", "-1s"] {
            assert_eq!(duration(bad), Err(format!("time: invalid duration {bad:?}")));
        }
    }
}
