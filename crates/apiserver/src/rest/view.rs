//! Objects as tables and as bare metadata.

use api::{Map, Status, Value};
use serde_json::json;

use super::Call;
use crate::clock;

/// What a table's rows carry of their objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Include {
    None,
    Metadata,
    Object,
}

impl Include {
    /// The `includeObject` parameter.
    pub fn of(call: &Call) -> Result<Self, Status> {
        match call.query.get("includeObject") {
            None | Some("Metadata") => Ok(Include::Metadata),
            Some("None") => Ok(Include::None),
            Some("Object") => Ok(Include::Object),
            Some(other) => Err(Status::bad_request(format!(
                "unsupported includeObject value {other:?}: expected None, Metadata or Object"
            ))),
        }
    }
}

/// `PartialObjectMetadata`.
pub fn metadata(object: &mut Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"].take()})
}

/// The same of stored bytes, as JSON, without reading them.
pub fn metadata_into(out: &mut Vec<u8>, stored: &[u8], revision: u64) {
    out.extend_from_slice(b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":");
    if !api::codec::stored::splice_metadata_into(out, stored, revision) {
        out.extend_from_slice(b"{}");
    }
    out.push(b'}');
}

/// `PartialObjectMetadataList`.
pub fn metadata_list(meta: Value, objects: impl Iterator<Item = Value>) -> Value {
    let items: Vec<Value> = objects.map(|mut object| metadata(&mut object)).collect();
    json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "items": items})
}

/// A `Table`. Its column definitions may be left out after a watch's first event.
pub fn table(call: &Call, meta: Value, columns: bool, objects: impl Iterator<Item = Value>) -> Result<Value, Status> {
    let include = Include::of(call)?;
    let now = clock::seconds();
    let rows: Vec<Value> = objects
        .map(|mut object| {
            let cells = call.kind.strategy.cells(&object, now);
            let mut row = Map::new();
            row.insert("cells".to_owned(), Value::Array(cells));
            let shown = match include {
                Include::None => Value::Null,
                Include::Metadata => metadata(&mut object),
                Include::Object => object,
            };
            row.insert("object".to_owned(), shown);
            Value::Object(row)
        })
        .collect();
    let definitions = if columns { definitions(call) } else { Value::Null };
    Ok(json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "columnDefinitions": definitions, "rows": rows,
    }))
}

fn definitions(call: &Call) -> Value {
    let columns = call.kind.columns.iter();
    let all = columns.map(|column| {
        json!({
            "name": column.name, "type": column.kind, "format": column.format,
            "description": column.description, "priority": column.priority,
        })
    });
    Value::Array(all.collect())
}

/// The metadata of a table of one object.
pub fn single(object: &Value) -> Value {
    json!({"resourceVersion": object["metadata"]["resourceVersion"]})
}
