//! One object as an answer: its stored bytes where those will do, else the form that the client asked for.

use api::{Status, Value};
use http::StatusCode;
use serde_json::json;
use store::Entry;

use super::forms::{self, Keep};
use super::{Call, view};
use crate::wire::{Format, Response, View, answer};

/// An object that is stored.
pub fn entry(call: &Call, code: StatusCode, entry: &Entry) -> Result<Response, Status> {
    if is_message(call) {
        let message = forms::message(call, entry, entry.modified, Keep::WithRoom)?;
        let bytes = api::codec::protobuf::envelope(&call.kind.api_version(), &call.kind.kind, &message);
        return Ok(answer::bytes(code, "application/vnd.kubernetes.protobuf", bytes));
    }
    stored(call, code, &entry.value, entry.modified)
}

/// Whether objects are answered as protobuf messages of their own kind.
pub fn is_message(call: &Call) -> bool {
    call.accept.format == Format::Protobuf && call.accept.view == View::Object && !call.kind.schema.open
}

/// An object in its stored form: one that a dry run did not store has its old revision, or 0 for none.
pub fn stored(call: &Call, code: StatusCode, bytes: &[u8], revision: u64) -> Result<Response, Status> {
    let accept = call.accept;
    let plain = accept.format == Format::Json && accept.view == View::Object && !accept.pretty;
    if plain && call.is_stored_version() && revision > 0 {
        return Ok(answer::bytes(code, "application/json", api::codec::stored::splice(bytes, revision)));
    }
    let mut object = call.parse_at(bytes, revision)?;
    if revision == 0
        && let Some(metadata) = super::metadata::metadata_mut(&mut object)
    {
        metadata.remove("resourceVersion");
    }
    value(call, code, object)
}

/// An object of the path's kind and version that is a value already.
pub fn value(call: &Call, code: StatusCode, mut object: Value) -> Result<Response, Status> {
    let object = match call.accept.view {
        View::Object => object,
        View::Metadata => view::metadata(&mut object),
        View::Table => view::table(call, view::single(&object), true, std::iter::once(object))?,
    };
    encode(call, code, &object, call.accept.view == View::Object)
}

/// A value in the client's format. `own` says that it is of the path's kind, whose schema then makes protobuf of it.
pub fn encode(call: &Call, code: StatusCode, value: &Value, own: bool) -> Result<Response, Status> {
    if call.accept.format == Format::Protobuf
        && let Some(bytes) = protobuf(call, value, own)
    {
        return Ok(answer::bytes(code, "application/vnd.kubernetes.protobuf", bytes));
    }
    Ok(answer::value(code, value, &call.accept))
}

/// The protobuf form, where there is a schema to make it by.
pub fn protobuf(call: &Call, value: &Value, own: bool) -> Option<Vec<u8>> {
    if own && call.kind.schema.open {
        return None;
    }
    let found;
    let schema = if own {
        &*call.kind.schema
    } else {
        let text = |field: &str| value[field].as_str().unwrap_or("");
        found = api::table::by_kind(text("apiVersion"), text("kind"))?;
        found
    };
    Some(api::codec::protobuf::encode(value, schema)).filter(|bytes| !bytes.is_empty())
}

/// The `Status` of something that was done and has no object to show.
pub fn success(call: &Call, uid: &str) -> Value {
    let mut details = json!({"name": call.info.name, "kind": call.kind.plural});
    for (field, text) in [("group", &*call.kind.group), ("uid", uid)] {
        if !text.is_empty() {
            details[field] = Value::from(text);
        }
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}
