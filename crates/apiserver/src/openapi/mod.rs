//! `/openapi/v2` and `/openapi/v3`, generated from the served kinds and their schemas when asked for: kubectl's validation,
//! `explain` and generators of clients read them. Version 3 has a document for each version of a group.

mod edition;
mod operation;
mod paths;
mod schemas;
#[cfg(test)]
mod tests;
mod texts;
mod wire;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use api::kind::Kind;
use api::status::Reason;
use api::{Map, Status, Value};
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::json;
use sha2::{Digest, Sha512};

use crate::catalog::Catalog;
use crate::dispatch::no_such_path;
use crate::server::Server;
use crate::wire::accept::clauses;

use crate::wire::{Query, Response, answer};
use texts::Texts;

const JSON: &str = "application/json";

/// Answers below `/openapi`.
pub fn answer(server: &Server, headers: &HeaderMap, path: &str, query: &Query) -> Result<Response, Status> {
    let catalog = server.catalog.load();
    if path == "/openapi/v2" {
        let protobuf = wants_protobuf(headers)?;
        let kinds: Vec<Arc<Kind>> = catalog.iter().cloned().collect();
        return Ok(if protobuf {
            document(headers, &format!("{}-P", hash(&kinds)), wire::ANSWERED, || wire::encode(&v2(&kinds)))
        } else {
            document(headers, &hash(&kinds), JSON, || v2(&kinds).to_string().into_bytes())
        });
    }
    let parts = parts(&catalog);
    if path == "/openapi/v3" {
        let list = parts.iter().map(|(path, part)| {
            let url = format!("/openapi/v3/{path}?hash={}", hash(part.kinds()));
            (path.clone(), json!({"serverRelativeURL": url}))
        });
        return Ok(answer::json(StatusCode::OK, &json!({"paths": list.collect::<Map<_, _>>()})));
    }
    let wanted = path.strip_prefix("/openapi/v3/").ok_or_else(no_such_path)?;
    let part = parts.get(wanted).ok_or_else(no_such_path)?;
    let now = hash(part.kinds());
    match query.get("hash") {
        Some(asked) if asked != now => Ok(moved(&format!("{path}?hash={now}"))),
        Some(_) => Ok(forever(document(headers, &now, JSON, || v3(part).to_string().into_bytes()))),
        None => Ok(document(headers, &now, JSON, || v3(part).to_string().into_bytes())),
    }
}

/// What one document of version 3 is about.
enum Part {
    Version(Vec<Arc<Kind>>),
    /// Discovery of a group; the core group has the empty name.
    Group(String),
    Groups,
    Server,
}

impl Part {
    fn kinds(&self) -> &[Arc<Kind>] {
        match self {
            Part::Version(kinds) => kinds,
            _ => &[],
        }
    }

    fn paths(&self, texts: &Texts) -> Map<String, Value> {
        let mut all = Map::new();
        match self {
            Part::Version(kinds) => {
                kinds.iter().for_each(|kind| paths::add(kind, texts, &mut all));
                if let Some(kind) = kinds.first() {
                    paths::add_version(&kind.group, &kind.version, &mut all);
                }
            }
            Part::Group(group) => paths::add_group(group, &mut all),
            Part::Groups => paths::add_groups(&mut all),
            Part::Server => paths::add_server(&mut all),
        }
        all
    }
}

/// The documents of version 3 by their paths: `api/v1`, `apis/apps/v1`, `apis/apps`.
fn parts(catalog: &Catalog) -> BTreeMap<String, Part> {
    let mut parts = BTreeMap::from([("apis".to_owned(), Part::Groups), ("version".to_owned(), Part::Server)]);
    for kind in catalog.iter() {
        let version = parts.entry(paths::base(kind)[1..].to_owned()).or_insert_with(|| Part::Version(Vec::new()));
        if let Part::Version(kinds) = version {
            kinds.push(kind.clone());
        }
        let group = if kind.group.is_empty() { "api".to_owned() } else { format!("apis/{}", kind.group) };
        parts.entry(group).or_insert_with(|| Part::Group(kind.group.to_string()));
    }
    parts
}

fn v2(kinds: &[Arc<Kind>]) -> Value {
    let texts = Texts::open();
    let mut all = Map::new();
    for kind in kinds {
        paths::add(kind, &texts, &mut all);
        paths::add_version(&kind.group, &kind.version, &mut all);
        paths::add_group(&kind.group, &mut all);
    }
    paths::add_groups(&mut all);
    paths::add_server(&mut all);
    let parameters = edition::share_parameters(&mut all, &texts);
    let paths = Value::Object(all);
    let roots = json!([paths, parameters]);
    json!({
        "swagger": "2.0", "info": info(), "definitions": schemas::of(kinds, &roots, &texts), "paths": paths,
        "parameters": parameters, "securityDefinitions": security(), "security": [{"BearerToken": []}],
    })
}

fn v3(part: &Part) -> Value {
    let texts = Texts::open();
    let mut paths = Value::Object(part.paths(&texts));
    let mut definitions = schemas::of(part.kinds(), &paths, &texts);
    paths.as_object_mut().into_iter().flatten().for_each(|(_, item)| edition::item_v3(item));
    definitions.iter_mut().for_each(|(name, definition)| edition::definition_v3(name, definition));
    json!({
        "openapi": "3.0.0", "info": info(), "paths": paths,
        "components": {"schemas": definitions, "securitySchemes": security()},
    })
}

/// Whether version 2 is asked for in protobuf, which the client names before JSON if at all.
fn wants_protobuf(headers: &HeaderMap) -> Result<bool, Status> {
    let clauses = clauses(headers);
    let is_json = |essence: &str| matches!(essence, JSON | "*/*" | "application/*");
    let known = clauses.iter().find(|m| is_json(m.essence) || wire::ASKED.contains(&m.essence));
    match known {
        Some(media) => Ok(!is_json(media.essence)),
        None if clauses.is_empty() => Ok(false),
        None => Err(Status::new(
            Reason::NotAcceptable,
            format!("only the following media types are accepted: {JSON}, {}", wire::ANSWERED),
        )),
    }
}

/// The document, unless the client has it; compressed where the client can read that.
fn document(headers: &HeaderMap, hash: &str, media: &'static str, make: impl Fn() -> Vec<u8>) -> Response {
    let tag = format!("\"{hash}\"");
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|v| v.as_bytes() == tag.as_bytes());
    let mut response =
        if known { answer::bytes(StatusCode::NOT_MODIFIED, media, Vec::new()) } else { packed(headers, media, make()) };
    for (name, value) in [(header::ETAG, tag.as_str()), (header::VARY, "Accept-Encoding, Accept")] {
        response.headers_mut().extend(HeaderValue::from_str(value).ok().map(|value| (name, value)));
    }
    response
}

fn packed(headers: &HeaderMap, media: &'static str, content: Vec<u8>) -> Response {
    let accepts =
        headers.get(header::ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains("gzip"));
    if accepts {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        if let Ok(Ok(packed)) = encoder.write_all(&content).map(|()| encoder.finish()) {
            let mut response = answer::bytes(StatusCode::OK, media, packed);
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            return response;
        }
    }
    answer::bytes(StatusCode::OK, media, content)
}

/// A document under its own hash never changes.
fn forever(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    let year = std::time::Duration::from_secs(365 * 24 * 3600);
    let expires = jiff::Timestamp::now() + year;
    if let Ok(value) = HeaderValue::from_str(&expires.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()) {
        headers.insert(header::EXPIRES, value);
    }
    response
}

fn moved(to: &str) -> Response {
    let mut response = answer::bytes(StatusCode::MOVED_PERMANENTLY, "text/plain", Vec::new());
    response.headers_mut().extend(HeaderValue::from_str(to).ok().map(|value| (header::LOCATION, value)));
    response
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": "v1.36.0"})
}

fn security() -> Value {
    json!({"BearerToken": {"type": "apiKey", "description": "Bearer Token authentication", "name": "authorization", "in": "header"}})
}

/// Changes when what the document says may have changed.
fn hash(kinds: &[Arc<Kind>]) -> String {
    let mut digest = Sha512::new();
    digest.update(env!("CARGO_PKG_VERSION"));
    for kind in kinds {
        for text in [&kind.group, &kind.version, &kind.plural, &kind.schema.name] {
            digest.update(text.as_bytes());
            digest.update([0]);
        }
        // A schema that is not built in changes under the same name.
        if matches!(kind.schema, api::schema::StructRef::Shared(_)) {
            digest.update(format!("{:?}", kind.schema).as_bytes());
        }
    }
    digest.finalize().iter().map(|byte| format!("{byte:02X}")).collect()
}
