//! `/openapi/v2` and `/openapi/v3`, generated from the served kinds and their schemas when asked for: kubectl's validation,
//! `explain` and generators of clients read them.

mod paths;
mod schemas;

use api::{Map, Status, Value};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

use api::kind::Kind;
use api::status::Reason;

use crate::catalog::Catalog;
use crate::dispatch::no_such_path;
use crate::server::Server;
use crate::wire::accept::clauses;
use crate::wire::{Response, answer};

/// Which of the two formats a document is in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Edition {
    V2,
    V3,
}

/// Answers below `/openapi`.
pub fn answer(server: &Server, headers: &HeaderMap, path: &str) -> Result<Response, Status> {
    let catalog = server.catalog.load();
    if path == "/openapi/v2" {
        return v2(&catalog, headers);
    }
    let groups = group_versions(&catalog);
    if path == "/openapi/v3" {
        let list = groups.iter().map(|(path, kinds)| {
            let url = format!("/openapi/v3/{path}?hash={}", hash(kinds));
            (path.clone(), json!({"serverRelativeURL": url}))
        });
        return Ok(answer::json(StatusCode::OK, &json!({"paths": list.collect::<Map<_, _>>()})));
    }
    let wanted = path.strip_prefix("/openapi/v3/").ok_or_else(no_such_path)?;
    let kinds = groups.get(wanted).ok_or_else(no_such_path)?;
    let tag = format!("\"{}\"", hash(kinds));
    if headers.get(header::IF_NONE_MATCH).is_some_and(|v| v.as_bytes() == tag.as_bytes()) {
        return Ok(tagged(answer::bytes(StatusCode::NOT_MODIFIED, "application/json", Vec::new()), &tag));
    }
    let document = json!({
        "openapi": "3.0.0", "info": info(), "paths": paths::of(kinds, Edition::V3),
        "components": {"schemas": schemas::of(&catalog, kinds, Edition::V3), "securitySchemes": security()},
    });
    Ok(tagged(answer::json(StatusCode::OK, &document), &tag))
}

fn v2(catalog: &Catalog, headers: &HeaderMap) -> Result<Response, Status> {
    let clauses = clauses(headers);
    let json_will_do =
        clauses.is_empty() || clauses.iter().any(|m| matches!(m.essence, "application/json" | "*/*" | "application/*"));
    if !json_will_do {
        return Err(Status::new(
            Reason::NotAcceptable,
            "only the following media types are accepted: application/json",
        ));
    }
    let kinds: Vec<Arc<Kind>> = catalog.iter().cloned().collect();
    let tag = format!("\"{}\"", hash(&kinds));
    if headers.get(header::IF_NONE_MATCH).is_some_and(|v| v.as_bytes() == tag.as_bytes()) {
        return Ok(tagged(answer::bytes(StatusCode::NOT_MODIFIED, "application/json", Vec::new()), &tag));
    }
    let document = json!({
        "swagger": "2.0", "info": info(), "paths": paths::of(&kinds, Edition::V2),
        "definitions": schemas::of(catalog, &kinds, Edition::V2), "securityDefinitions": security(),
        "security": [{"BearerToken": []}],
    });
    Ok(tagged(answer::json(StatusCode::OK, &document), &tag))
}

fn tagged(mut response: Response, tag: &str) -> Response {
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, value);
    }
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": "v1.36.0"})
}

fn security() -> Value {
    json!({"BearerToken": {"type": "apiKey", "description": "Bearer Token authentication", "name": "authorization", "in": "header"}})
}

/// `api/v1` or `apis/<group>/<version>`, with its kinds.
fn group_versions(catalog: &Catalog) -> BTreeMap<String, Vec<Arc<Kind>>> {
    let mut groups: BTreeMap<String, Vec<Arc<Kind>>> = BTreeMap::new();
    for kind in catalog.iter() {
        groups.entry(paths::base(kind)[1..].to_owned()).or_default().push(kind.clone());
    }
    groups
}

/// Changes when what the document says may have changed.
fn hash(kinds: &[Arc<Kind>]) -> String {
    let mut digest = Sha256::new();
    digest.update(env!("CARGO_PKG_VERSION"));
    for kind in kinds {
        for text in [&kind.group, &kind.version, &kind.plural, &kind.schema.name] {
            digest.update(text.as_bytes());
            digest.update([0]);
        }
        // A custom resource's schema changes under the same name.
        if kind.schema.name.is_empty() {
            digest.update(format!("{:?}", kind.schema).as_bytes());
        }
    }
    digest.finalize().iter().map(|byte| format!("{byte:02X}")).collect()
}
