//! GET of a collection: one consistent revision, paged where asked, the stored bytes of each object as they are.

use std::io::Write;
use std::sync::Arc;

use api::codec::protobuf::ListParts;
use api::status::Reason;
use api::{Status, Value};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::StatusCode;
use serde_json::json;
use store::{Entry, Snapshot};

use super::continuation::Continuation;
use super::forms::{self, Keep};
use super::options::{Options, fresh_enough};
use super::select::Selection;
use super::{Call, output, store_error, view};
use crate::wire::gzip::{self, LARGE};
use crate::wire::{Body, Format, Response, View, answer};

const EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without \
the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the \
provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk \
was returned and now may show up in the list.";

/// The size of a large list's chunks. The allocator tidies up after each piece of 64 KiB or more that is freed.
const CHUNK: usize = 32 * 1024;

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
    respond(call, collect(call, &selection, &snapshot, after.as_ref(), limit))
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
    answer::failure(StatusCode::GONE, value)
}

/// The answer in the client's form.
pub fn respond(call: &Call, listed: Listed) -> Result<Response, Status> {
    let mut meta = json!({"resourceVersion": listed.revision.to_string()});
    if let Some(token) = &listed.continuation {
        meta["continue"] = Value::from(token.as_str());
    }
    if let Some(remaining) = listed.remaining {
        meta["remainingItemCount"] = Value::from(remaining);
    }
    let accept = call.accept;
    call.server.memory.note(listed.entries.iter().map(|entry| entry.value.len()).sum());
    match (accept.format, accept.view) {
        (Format::Json, _) if accept.pretty => {}
        (Format::Json, View::Object) if call.is_stored_version() => {
            return Ok(stream(call, json_list(call, &meta), listed.entries, splice));
        }
        (Format::Json, View::Object) => {
            let objects =
                listed.entries.iter().map(|entry| forms::converted(call, entry, entry.modified, Keep::WithRoom));
            let objects = objects.collect::<Result<Vec<_>, _>>()?;
            return Ok(stream(call, json_list(call, &meta), objects, |out, index, object| {
                comma(out, index);
                out.extend_from_slice(object);
            }));
        }
        (Format::Json, View::Metadata) => {
            return Ok(stream(call, metadata_list(&meta), listed.entries, splice_metadata));
        }
        (Format::Protobuf, _) if output::is_message(call) => return messages(call, &meta, &listed),
        _ => {}
    }
    let objects = listed.entries.iter().map(|entry| call.parse(entry)).collect::<Result<Vec<_>, _>>()?;
    values(call, meta, objects)
}

/// A list of objects that are values already.
pub fn values(call: &Call, meta: Value, objects: Vec<Value>) -> Result<Response, Status> {
    let objects = objects.into_iter();
    let value = match call.accept.view {
        View::Table => view::table(call, meta, true, objects)?,
        View::Metadata => view::metadata_list(meta, objects),
        View::Object => json!({
            "kind": call.kind.list_kind, "apiVersion": call.kind.api_version(), "metadata": meta,
            "items": objects.collect::<Vec<_>>(),
        }),
    };
    output::encode(call, StatusCode::OK, &value, false)
}

/// What a list is around its items.
struct Frame {
    content_type: &'static str,
    head: Vec<u8>,
    tail: Vec<u8>,
}

fn json_list(call: &Call, meta: &Value) -> Frame {
    json_frame(&call.kind.list_kind, &call.kind.api_version(), meta)
}

fn metadata_list(meta: &Value) -> Frame {
    json_frame("PartialObjectMetadataList", "meta.k8s.io/v1", meta)
}

fn json_frame(kind: &str, api_version: &str, meta: &Value) -> Frame {
    let head = format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{meta},\"items\":[");
    Frame { content_type: "application/json", head: head.into_bytes(), tail: b"]}\n".to_vec() }
}

fn comma(out: &mut Vec<u8>, index: usize) {
    if index > 0 {
        out.push(b',');
    }
}

fn splice(out: &mut Vec<u8>, index: usize, entry: &Arc<Entry>) {
    comma(out, index);
    api::codec::stored::splice_into(out, &entry.value, entry.modified);
}

fn splice_metadata(out: &mut Vec<u8>, index: usize, entry: &Arc<Entry>) {
    comma(out, index);
    view::metadata_into(out, &entry.value, entry.modified);
}

fn messages(call: &Call, meta: &Value, listed: &Listed) -> Result<Response, Status> {
    let messages = listed.entries.iter().map(|entry| forms::message(call, entry, entry.modified, Keep::WithRoom));
    let messages = messages.collect::<Result<Vec<_>, _>>()?;
    let kind = &call.kind;
    let ListParts { head, tail } =
        ListParts::new(&kind.api_version(), &kind.list_kind, meta, messages.iter().map(Bytes::len));
    let frame = Frame { content_type: call.accept.content_type(false), head, tail };
    Ok(stream(call, frame, messages, |out, _, message| {
        ListParts::item(out, message.len());
        out.extend_from_slice(message);
    }))
}

/// The list in chunks that are made as the client takes them, whole where it is small.
fn stream<T, W>(call: &Call, frame: Frame, items: Vec<T>, write: W) -> Response
where
    T: Send + 'static,
    W: Fn(&mut Vec<u8>, usize, &T) + Send + 'static,
{
    let Frame { content_type, head, tail } = frame;
    let mut items = items.into_iter().enumerate();
    let mut chunk = head;
    let mut fill = move |mut chunk: Vec<u8>, size: usize| {
        chunk.reserve(size + size / 8);
        let mut left = true;
        while chunk.len() < size && left {
            match items.next() {
                Some((index, item)) => write(&mut chunk, index, &item),
                None => left = false,
            }
        }
        if !left {
            chunk.extend_from_slice(&tail);
        }
        (chunk, left)
    };
    if items_fit(&mut fill, &mut chunk) {
        chunk.shrink_to_fit();
        return answer::bytes(StatusCode::OK, content_type, chunk);
    }
    let gzip = gzip::accepted(&call.headers);
    let mut sink = Sink { gzip: gzip.then(|| GzEncoder::new(Vec::new(), Compression::fast())) };
    let mut first = Some(chunk);
    let mut left = true;
    let chunks = std::iter::from_fn(move || {
        let (chunk, more) = match first.take() {
            Some(chunk) => (chunk, true),
            None if left => fill(Vec::new(), CHUNK),
            None => return None,
        };
        left = more;
        Some(sink.chunk(chunk, !more))
    });
    let chunks = futures::stream::iter(chunks.filter(|chunk| !chunk.is_empty()));
    let mut response = answer::bytes(StatusCode::OK, content_type, Body::stream(chunks));
    if gzip {
        gzip::mark(&mut response);
    }
    response
}

/// Makes the first chunk; true where it is the whole.
fn items_fit(fill: &mut impl FnMut(Vec<u8>, usize) -> (Vec<u8>, bool), chunk: &mut Vec<u8>) -> bool {
    let (first, left) = fill(std::mem::take(chunk), LARGE);
    *chunk = first;
    !left
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
