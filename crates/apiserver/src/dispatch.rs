//! Behind the layers: which handler answers.

use std::sync::Arc;

use api::Status;
use api::kind::Kind;
use api::status::Reason;
use bytes::Bytes;
use http::Method;

use crate::rest::{self, Call};
use crate::server::Server;
use crate::wire::{Accept, Request, RequestInfo, Response, answer, gzip};
use crate::{access, discovery, guard, health, metrics, openapi, special};

/// Answers a request that may be made.
pub async fn dispatch(server: Arc<Server>, request: Request) -> Response {
    let info = guard::info(&request);
    let answered = if info.resource_request {
        resource(server, request, info).await
    } else {
        other(&server, request, &info).await
    };
    answered.unwrap_or_else(|status| answer::error(&status))
}

async fn other(server: &Server, request: Request, info: &RequestInfo) -> Result<Response, Status> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Err(not_allowed());
    }
    let query = guard::query(&request);
    let headers = request.into_parts().0.headers;
    let path = info.path.trim_end_matches('/');
    match path.split('/').nth(1).unwrap_or("") {
        "api" | "apis" => discovery::answer(server, &headers, &query, path),
        "openapi" => openapi::answer(server, &headers, path, &query),
        "healthz" | "livez" | "readyz" => Ok(health::answer(server, path, &query).await),
        "metrics" if path == "/metrics" => Ok(metrics::answer(server).await),
        "version" if path == "/version" => Ok(discovery::version()),
        "openid" | ".well-known" => discovery::issuer(server, path),
        "" => Ok(discovery::root(server)),
        _ => Err(no_such_path()),
    }
}

async fn resource(server: Arc<Server>, mut request: Request, info: Arc<RequestInfo>) -> Result<Response, Status> {
    let served = server.catalog.load().served(&info.group, &info.version, &info.resource).cloned();
    let (kind, stored) = served.ok_or_else(no_such_path)?;
    place(&kind, &info)?;
    let deprecation = kind.strategy.deprecation();
    // A stream goes on with its headers.
    let headers = match special::streams(&info) {
        true => request.headers().clone(),
        false => std::mem::take(request.headers_mut()),
    };
    let call = Call {
        stored,
        query: guard::query(&request),
        user: access::user(&request),
        accept: Accept::JSON,
        headers,
        body: Bytes::new(),
        server,
        kind,
        info,
    };
    let compresses = !call.info.long_running() && gzip::accepted(&call.headers);
    let answered = serve(call, request).await;
    let mut response = answered.unwrap_or_else(|status| answer::error(&status));
    if let Some(text) = deprecation {
        answer::warn(&mut response, &[text.to_owned()]);
    }
    Ok(if compresses { gzip::compress(response) } else { response })
}

/// Whether the path's form is one that the kind has.
fn place(kind: &Kind, info: &RequestInfo) -> Result<(), Status> {
    // An escaped slash must not lead to another key.
    if info.name.contains('/') || info.namespace.contains('/') {
        return Err(no_such_path());
    }
    let of_namespaces = info.group.is_empty() && info.resource == "namespaces";
    let unplaced = matches!(info.verb, "create" | "deletecollection");
    let needs_namespace = kind.namespaced && (!info.name.is_empty() || unplaced);
    if (needs_namespace && info.namespace.is_empty())
        || (!kind.namespaced && !info.namespace.is_empty() && !of_namespaces)
    {
        return Err(if unplaced { not_allowed() } else { no_such_path() });
    }
    if !info.subresource.is_empty() && kind.subresource(&info.subresource).is_none() {
        return Err(no_such_path());
    }
    Ok(())
}

async fn serve(mut call: Call, mut request: Request) -> Result<Response, Status> {
    if special::streams(&call.info) {
        return special::connect::answer(&call, request).await;
    }
    // Reviews, bindings, tokens and the like are no objects of which there is a table.
    let sub = call.kind.subresource(&call.info.subresource);
    let special = sub.is_some_and(|s| s.kind != call.kind.kind) || !call.kind.has_verb("get");
    call.accept = Accept::of(&call.headers, &call.query, !special)?;
    if call.info.verb == "watch" {
        call.accept = call.accept.stream()?;
    }
    call.body = std::mem::replace(request.body_mut(), crate::wire::Body::empty()).read().await?;
    rest::write_options::check(&call)?;
    if special::metrics::serves(&call) {
        return special::metrics::answer(&call).await;
    }
    if special::components::serves(&call) {
        return special::components::answer(&call);
    }
    // A view is the object itself, seen from one side: status, approval, finalize.
    if special {
        return special::answer(call).await;
    }
    let sub = call.kind.subresource(&call.info.subresource);
    if sub.is_some_and(|s| !s.verbs.iter().any(|v| v == call.info.verb)) {
        return Err(not_allowed());
    }
    let status = sub.is_some();
    if !status && !call.kind.has_verb(call.info.verb) {
        return Err(not_allowed());
    }
    match call.info.verb {
        "get" => rest::read::get(&call).await,
        "list" => rest::list::list(&call).await,
        "watch" if !status => watch(call, request).await,
        "create" if !status && call.info.name.is_empty() => rest::create::create(&call).await,
        "update" if !call.info.name.is_empty() => rest::update::update(&call).await,
        "patch" if !call.info.name.is_empty() => rest::patch::patch(&call).await,
        "delete" if !status => rest::delete::delete(&call).await,
        "deletecollection" if !status => rest::delete::delete_collection(&call).await,
        _ => Err(not_allowed()),
    }
}

/// A watch, over a WebSocket where one is asked for.
async fn watch(call: Call, mut request: Request) -> Result<Response, Status> {
    if !rest::socket::asked_for(&call.headers) {
        return rest::watch::watch(call).await;
    }
    let (headers, format) = (call.headers.clone(), call.accept.format);
    let upgrade = hyper::upgrade::on(&mut request);
    rest::socket::serve(&headers, upgrade, rest::watch::watch(call).await?, format)
}

/// The 404 for a path that nobody serves.
pub fn no_such_path() -> Status {
    let mut status = Status::new(Reason::NotFound, "the server could not find the requested resource");
    status.details = Some(Box::default());
    status
}

/// The 405.
pub fn not_allowed() -> Status {
    let mut status =
        Status::new(Reason::MethodNotAllowed, "the server does not allow this method on the requested resource");
    status.details = Some(Box::default());
    status
}
