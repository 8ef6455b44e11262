//! An object's metadata in its tree.

use api::kind::Kind;
use api::{Map, Value};

/// Sets `apiVersion` and `kind`.
pub fn set_type(object: &mut Value, kind: &Kind) {
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".to_owned(), Value::from(kind.api_version()));
        map.insert("kind".to_owned(), Value::from(&*kind.kind));
    }
}

/// The object's metadata, made where it is missing; `None` only for what is no object.
pub fn metadata_mut(object: &mut Value) -> Option<&mut Map<String, Value>> {
    let metadata = object.as_object_mut()?.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if !metadata.is_object() {
        *metadata = Value::Object(Map::new());
    }
    metadata.as_object_mut()
}

/// A text of the metadata; empty where it is absent.
pub fn text<'o>(object: &'o Value, field: &str) -> &'o str {
    object["metadata"][field].as_str().unwrap_or("")
}

/// Sets a field of the metadata, or removes it where the value is null.
pub fn set(object: &mut Value, field: &str, value: impl Into<Value>) {
    let value = value.into();
    if let Some(metadata) = metadata_mut(object) {
        if value.is_null() {
            metadata.remove(field);
        } else {
            metadata.insert(field.to_owned(), value);
        }
    }
}

/// Puts a field of the metadata back as it is in `old`.
pub fn keep(old: &Value, new: &mut Value, field: &str) {
    set(new, field, old["metadata"][field].clone());
}

/// The finalizers.
pub fn finalizers(object: &Value) -> Vec<&str> {
    object["metadata"]["finalizers"]
        .as_array()
        .map(|all| all.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default()
}

/// Whether the object was asked to go.
pub fn is_deleting(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// Whether nothing holds the object any more: it was asked to go, no finalizer is left and its grace is over.
pub fn may_go(kind: &Kind, object: &Value) -> bool {
    is_deleting(object)
        && finalizers(object).is_empty()
        && object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
        && (!is_namespace(kind) || object["spec"]["finalizers"].as_array().is_none_or(Vec::is_empty))
}

/// Whether the kind is Namespace, whose `spec.finalizers` hold it too.
pub fn is_namespace(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.plural == "namespaces"
}
