//! GET of a collection: one consistent revision, paged where asked, the stored bytes of each object as they are.

use std::io::Write;
use std::sync::Arc;

use api::status::Reason;
use api::{Status, Value};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderValue, StatusCode, header};
use serde_json::json;
use store::{Entry, Snapshot};

use super::continuation::Continuation;
use super::options::{Options, fresh_enough};
use super::select::Selection;
use super::{Call, output, store_error, view};
use crate::wire::{Body, Format, Response, View, answer};

/// Answers larger than this are streamed, and compressed where the client allows it, as upstream's 128 KiB.
const LARGE: usize = 128 * 1024;
const EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without \
the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the \
provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk \
was returned and now may show up in the list.";

/// What is answered with.
pub struct Listed {
    pub entries: Vec<Arc<Entry>>,
    pub revision: u64,
    /// Where the next page begins.
    pub continuation: Option<String>,
    pub remaining: Option<usize>,
}

impl Listed {
    /// A whole list, of no revision yet.
    pub fn of(entries: Vec<Arc<Entry>>) -> Self {
        Listed { entries, revision: 0, continuation: None, remaining: None }
    }
}

/// Lists the collection.
pub async fn list(call: &Call) -> Result<Response, Status> {
    let selection = Selection::new(call)?;
    let limit = usize::try_from(call.query.integer("limit")?.unwrap_or(0).max(0)).unwrap_or(0);
    let (snapshot, after) = match open(call, &selection, limit).await {
        Ok(opened) => opened,
        Err(Opening::Failed(status)) => return Err(status),
        Err(Opening::Expired(token)) => return Ok(expired(&token)),
    };
    respond(call, &collect(call, &selection, &snapshot, after.as_ref(), limit))
}

enum Opening {
    Failed(Status),
    /// The revision of a continue token is gone; this token goes on without consistency.
    Expired(String),
}

impl From<Status> for Opening {
    fn from(status: Status) -> Self {
        Opening::Failed(status)
    }
}

/// The snapshot to read, and the token of the place at which to begin.
async fn open(call: &Call, selection: &Selection, limit: usize) -> Result<(Snapshot, Option<Continuation>), Opening> {
    let store = &call.server.store;
    let options = Options::of(call, false)?;
    if let Some(token) = call.query.get("continue") {
        if options.revision.is_some_and(|revision| revision != 0) {
            return Err(Status::bad_request("specifying resource version is not allowed when using continue").into());
        }
        let token = Continuation::decode(token)?;
        let at = u64::try_from(token.rv).ok();
        if token.is_old() {
            return Err(Opening::Expired(token.inconsistent().encode()));
        }
        return match store.snapshot(&selection.range, at) {
            Ok(snapshot) => Ok((snapshot, Some(token))),
            Err(store::Error::Compacted { .. }) => Err(Opening::Expired(token.inconsistent().encode())),
            Err(error) => Err(store_error(error).into()),
        };
    }
    fresh_enough(call, options.revision).await?;
    // A page of a given revision is of exactly that one unless something else was asked for.
    let exact = options.exact || (limit > 0 && call.query.get("resourceVersionMatch").is_none());
    let at = options.revision.filter(|revision| exact && *revision > 0);
    Ok((store.snapshot(&selection.range, at).map_err(store_error)?, None))
}

/// The range's keys begin with this.
fn range_prefix(range: &str) -> &str {
    &range[..range.rfind('/').map_or(0, |at| at + 1)]
}

fn collect(
    call: &Call,
    selection: &Selection,
    snapshot: &Snapshot,
    token: Option<&Continuation>,
    limit: usize,
) -> Listed {
    let after = token.map(|token| format!("{}{}", range_prefix(&selection.range), token.start));
    let mut rest = snapshot.iter_after(after.as_deref()).filter(|entry| selection.matches(call, entry));
    let limit = if limit == 0 { usize::MAX } else { limit };
    let entries: Vec<Arc<Entry>> = rest.by_ref().take(limit).cloned().collect();
    // With selectors, what remains is not counted, as upstream.
    let more = entries.len() == limit && rest.next().is_some();
    let remaining = (more && !selection.filters()).then(|| 1 + rest.count());
    let last = entries.last().filter(|_| more);
    let continuation = last.map(|entry| {
        let prefix = range_prefix(&selection.range);
        Continuation::new(snapshot.revision().cast_signed(), &entry.key, prefix, token).encode()
    });
    Listed { revision: snapshot.revision(), entries, continuation, remaining }
}

fn expired(token: &str) -> Response {
    let mut value = Status::new(Reason::Expired, EXPIRED).to_value();
    value["metadata"] = json!({"continue": token});
    answer::json(StatusCode::GONE, &value)
}

/// The answer in the client's form.
pub fn respond(call: &Call, listed: &Listed) -> Result<Response, Status> {
    let mut meta = json!({"resourceVersion": listed.revision.to_string()});
    if let Some(token) = &listed.continuation {
        meta["continue"] = Value::from(token.as_str());
    }
    if let Some(remaining) = listed.remaining {
        meta["remainingItemCount"] = Value::from(remaining);
    }
    let accept = call.accept;
    if accept.view == View::Object && accept.format == Format::Json && call.is_stored_version() {
        return Ok(stream(call, &meta, listed));
    }
    let objects = listed.entries.iter().map(|entry| call.parse(entry)).collect::<Result<Vec<_>, _>>()?.into_iter();
    let value = match accept.view {
        View::Table => view::table(call, meta, true, objects)?,
        View::Metadata => view::metadata_list(meta, objects),
        View::Object => json!({
            "kind": call.kind.list_kind, "apiVersion": call.kind.api_version(), "metadata": meta,
            "items": objects.collect::<Vec<_>>(),
        }),
    };
    let response = output::encode(call, StatusCode::OK, &value, false)?;
    Ok(if gzips(call) { compress(response) } else { response })
}

/// The list's JSON, its items being their stored bytes.
fn stream(call: &Call, meta: &Value, listed: &Listed) -> Response {
    let mut head = format!(
        "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{meta},\"items\":[",
        call.kind.list_kind,
        call.kind.api_version()
    );
    let size: usize = listed.entries.iter().map(|entry| entry.value.len() + 48).sum();
    if size <= LARGE {
        let mut whole = std::mem::take(&mut head).into_bytes();
        whole.reserve(size + 4);
        for (index, entry) in listed.entries.iter().enumerate() {
            item(&mut whole, index, entry);
        }
        whole.extend_from_slice(b"]}\n");
        return answer::bytes(StatusCode::OK, "application/json", whole);
    }
    let gzip = gzips(call);
    let mut sink = Sink { gzip: gzip.then(|| GzEncoder::new(Vec::new(), Compression::fast())) };
    let entries = listed.entries.clone();
    let mut next = 0;
    let mut head = Some(head);
    let mut ended = false;
    let chunks = std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let mut chunk = head.take().map(String::into_bytes).unwrap_or_default();
        chunk.reserve(LARGE * 2);
        while next < entries.len() && chunk.len() < LARGE {
            item(&mut chunk, next, &entries[next]);
            next += 1;
        }
        ended = next == entries.len();
        if ended {
            chunk.extend_from_slice(b"]}\n");
        }
        Some(sink.chunk(chunk, ended))
    });
    let chunks = futures::stream::iter(chunks.filter(|chunk| !chunk.is_empty()));
    let mut response = answer::bytes(StatusCode::OK, "application/json", Body::stream(chunks));
    if gzip {
        mark_gzip(&mut response);
    }
    response
}

fn item(out: &mut Vec<u8>, index: usize, entry: &Entry) {
    if index > 0 {
        out.push(b',');
    }
    api::codec::stored::splice_into(out, &entry.value, entry.modified);
}

/// Chunks as they are, or compressed.
struct Sink {
    gzip: Option<GzEncoder<Vec<u8>>>,
}

impl Sink {
    fn chunk(&mut self, chunk: Vec<u8>, last: bool) -> Bytes {
        let Some(encoder) = &mut self.gzip else { return chunk.into() };
        // Writing into a vector cannot fail.
        let _ = encoder.write_all(&chunk);
        if last {
            let _ = encoder.try_finish();
        }
        std::mem::take(encoder.get_mut()).into()
    }
}

fn gzips(call: &Call) -> bool {
    let accepted = call.headers.get(header::ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or("");
    accepted.split(',').any(|coding| coding.split(';').next().unwrap_or("").trim() == "gzip")
}

fn mark_gzip(response: &mut Response) {
    response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
}

/// Compresses a whole answer that is large enough for it to pay.
fn compress(mut response: Response) -> Response {
    let Body::Full(bytes) = response.body() else { return response };
    if bytes.len() <= LARGE {
        return response;
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let _ = encoder.write_all(bytes);
    let Ok(compressed) = encoder.finish() else { return response };
    *response.body_mut() = Body::from(compressed);
    mark_gzip(&mut response);
    response
}
