//! The form in which objects are stored: JSON that begins with `apiVersion`, `kind` and `metadata` and has no
//! `metadata.resourceVersion`, which is spliced in without parsing when the bytes go out.

use std::io::Write;

use serde::Serialize;

use super::{DecodeError, json};
use crate::{Map, Value};

const METADATA: &[u8] = b"\"metadata\":{";

/// Encodes an object (a JSON object; anything else gives an empty one). `metadata` is written even where it is absent.
pub fn encode(object: &Value) -> Vec<u8> {
    let none = Map::new();
    let map = object.as_object().unwrap_or(&none);
    let mut out = Vec::with_capacity(1024);
    out.push(b'{');
    for key in ["apiVersion", "kind"] {
        if let Some(value) = map.get(key) {
            field(&mut out, key, value);
        }
    }
    out.extend_from_slice(if out.len() > 1 { b",\"metadata\":{" } else { METADATA });
    for (key, value) in map.get("metadata").and_then(Value::as_object).unwrap_or(&none) {
        if key != "resourceVersion" {
            field(&mut out, key, value);
        }
    }
    out.push(b'}');
    for (key, value) in map {
        if !matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
            field(&mut out, key, value);
        }
    }
    out.push(b'}');
    out
}

/// The stored object with its resourceVersion, as a client sees it. A copy, no parsing.
pub fn splice(stored: &[u8], revision: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(stored.len() + 44);
    splice_into(&mut out, stored, revision);
    out
}

/// Appends what [`splice`] gives.
pub fn splice_into(out: &mut Vec<u8>, stored: &[u8], revision: u64) {
    let Some(at) = metadata(stored) else {
        out.extend_from_slice(stored);
        return;
    };
    out.extend_from_slice(&stored[..at]);
    let comma = if stored.get(at) == Some(&b'}') { "" } else { "," };
    // Writing into a vector cannot fail.
    let _ = write!(out, "\"resourceVersion\":\"{revision}\"{comma}");
    out.extend_from_slice(&stored[at..]);
}

/// Appends the object's `metadata` alone, with its resourceVersion. False where there is none.
pub fn splice_metadata_into(out: &mut Vec<u8>, stored: &[u8], revision: u64) -> bool {
    let Some((begin, end)) = metadata(stored).and_then(|at| Some((at, at + closing(&stored[at..])?))) else {
        return false;
    };
    let comma = if begin == end { "" } else { "," };
    // Writing into a vector cannot fail.
    let _ = write!(out, "{{\"resourceVersion\":\"{revision}\"{comma}");
    out.extend_from_slice(&stored[begin..=end]);
    true
}

/// Where the object closes in whose inside the text begins.
fn closing(text: &[u8]) -> Option<usize> {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        match text[at] {
            b'"' => {
                at += 1;
                while *text.get(at)? != b'"' {
                    at += 1 + usize::from(text[at] == b'\\');
                }
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return Some(at),
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    None
}

/// Where the fields of `metadata` begin. Before it are only `apiVersion` and `kind`, whose texts cannot hold the
/// pattern, since a quote inside a text is escaped.
fn metadata(stored: &[u8]) -> Option<usize> {
    stored.windows(METADATA.len()).position(|w| w == METADATA).map(|at| at + METADATA.len())
}

/// The object tree of stored bytes, with its resourceVersion.
pub fn decode(stored: &[u8], revision: u64) -> Result<Value, DecodeError> {
    let mut value = json::decode(stored)?.value;
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("resourceVersion".to_owned(), Value::String(revision.to_string()));
    }
    Ok(value)
}

/// Writes `"key":value`, after a comma where something is before it.
fn field(out: &mut Vec<u8>, key: &str, value: &Value) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    write(out, key);
    out.push(b':');
    write(out, value);
}

fn write(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    // A tree with string keys always has a JSON form, and writing into a vector cannot fail.
    let _ = serde_json::to_writer(out, value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_stored_comes_back_with_its_revision() {
        for (object, stored) in [
            (
                json!({"spec": {"a": 1}, "kind": "Pod", "apiVersion": "v1", "metadata": {"name": "x", "resourceVersion": "4"}}),
                r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"},"spec":{"a":1}}"#,
            ),
            (json!({"apiVersion": "v1", "kind": "Pod"}), r#"{"apiVersion":"v1","kind":"Pod","metadata":{}}"#),
            (
                json!({"apiVersion": "\"metadata\":{", "data": {"metadata": {}}}),
                r#"{"apiVersion":"\"metadata\":{","metadata":{},"data":{"metadata":{}}}"#,
            ),
        ] {
            let bytes = encode(&object);
            assert_eq!(String::from_utf8_lossy(&bytes), stored);
            let mut expected = object.clone();
            expected["metadata"]["resourceVersion"] = json!("42");
            let spliced: Value = serde_json::from_slice(&splice(&bytes, 42)).expect("still JSON");
            assert_eq!(spliced, expected);
            assert_eq!(decode(&bytes, 42).expect("decodes"), expected);
            let mut alone = Vec::new();
            assert!(splice_metadata_into(&mut alone, &bytes, 42));
            let alone: Value = serde_json::from_slice(&alone).expect("JSON");
            assert_eq!(alone, expected["metadata"]);
        }
    }
}
