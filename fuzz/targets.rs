//! What is fuzzed: everything that reads bytes of strangers. A target panics where a promise is broken.
#![allow(dead_code, reason = "each fuzz binary uses one of them")]

use api::codec::{self, protobuf, stored};
use api::quantity::Quantity;
use api::schema::{self, StructRef};
use api::selector::{FieldSelector, LabelSelector};
use api::{Value, patch, table};

/// A target by the name of its corpus.
pub type Target = (&'static str, fn(&[u8]));

pub const ALL: &[Target] = &[
    ("json", json),
    ("yaml", yaml),
    ("protobuf", protobuf),
    ("selector", selector),
    ("patch", patch),
    ("quantity", quantity),
];

const KINDS: &[(&str, &str)] = &[
    ("v1", "Pod"),
    ("v1", "Service"),
    ("apps/v1", "Deployment"),
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
];

/// What is read from JSON is written and read as the same, whatever form it takes on its way.
pub fn json(data: &[u8]) {
    let Ok(decoded) = codec::json::decode(data) else { return };
    let again = codec::json::decode(decoded.value.to_string().as_bytes()).expect("what was written can be read");
    assert!(same(&again.value, &decoded.value), "{} is not {}", again.value, decoded.value);
    as_kinds(&decoded.value);
}

/// Equal but for the last digits of a broken number.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| same(value, other)))
        }
        (Value::Number(a), Value::Number(b)) => {
            let (x, y) = (a.as_f64().unwrap_or(0.0), b.as_f64().unwrap_or(0.0));
            a == b || (x - y).abs() <= x.abs() * 1e-12
        }
        _ => a == b,
    }
}

fn as_kinds(value: &Value) {
    for (api_version, kind) in KINDS {
        let Some(schema) = table::by_kind(api_version, kind) else { continue };
        let mut object = value.clone();
        if schema::check(&mut object, schema).is_err() || !object.is_object() {
            continue;
        }
        object["apiVersion"] = Value::from(*api_version);
        object["kind"] = Value::from(*kind);
        let bytes = protobuf::encode(&object, schema);
        protobuf::decode(&bytes, |_, _| Some(StructRef::Static(schema))).expect("what was encoded can be decoded");
        if object["metadata"].is_object() {
            object["metadata"]["resourceVersion"] = Value::from("7");
            let kept = stored::encode(&object);
            let message = protobuf::message(&kept, 7, schema).expect("what is stored can be read");
            assert_eq!(protobuf::envelope(api_version, kind, &message), protobuf::encode(&object, schema));
            let mut metadata = Vec::new();
            assert!(stored::splice_metadata_into(&mut metadata, &kept, 7));
            let metadata: Value = serde_json::from_slice(&metadata).expect("metadata is JSON");
            assert_eq!(metadata, object["metadata"]);
        }
    }
}

/// What is read from YAML is written and read as the same.
pub fn yaml(data: &[u8]) {
    let Ok(decoded) = codec::yaml::decode(data) else { return };
    let again =
        codec::yaml::decode(codec::yaml::encode(&decoded.value).as_bytes()).expect("what was written can be read");
    assert!(same(&again.value, &decoded.value), "{} is not {}", again.value, decoded.value);
}

/// Encoding what was decoded reaches a fixed point.
pub fn protobuf(data: &[u8]) {
    for (api_version, kind) in KINDS {
        let Some(schema) = table::by_kind(api_version, kind) else { continue };
        let lookup = |_: &str, _: &str| Some(StructRef::Static(schema));
        let Ok(first) = protobuf::decode(data, lookup) else { continue };
        let bytes = protobuf::encode(&first, schema);
        if let Ok(second) = protobuf::decode(&bytes, lookup) {
            assert_eq!(protobuf::encode(&second, schema), bytes);
        }
    }
}

/// Selectors select or are refused.
pub fn selector(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(labels) = LabelSelector::parse(text) {
        let some = serde_json::json!({"a": "b", "app": "web"});
        labels.matches(some.as_object());
        assert_eq!(labels.is_empty(), labels.requirements().is_empty());
    }
    if let Ok(fields) = FieldSelector::parse(text) {
        fields.matches_with(|_| "a");
    }
}

/// A document and a patch, one behind the other with a zero between them: a patch gives an object or is refused, and a small
/// one makes no huge object.
pub fn patch(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let (Some(document), Some(change)) = (parts.next(), parts.next()) else { return };
    let (Ok(document), Ok(change)) = (codec::json::decode(document), codec::json::decode(change)) else { return };
    let (document, change) = (document.value, change.value);
    let most = 2 * data.len() + (8 << 20);
    let schema = table::by_kind("v1", "Pod").expect("built in");
    let made = [
        patch::json(&document, &change),
        patch::merge(&document, &change),
        patch::strategic(&document, &change, schema),
    ];
    for object in made.into_iter().flatten() {
        assert!(object.to_string().len() <= most);
    }
}

/// Quantities are read or refused, and comparing them holds no surprise.
pub fn quantity(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(quantity) = Quantity::parse(text) else { return };
    let again = Quantity::parse(&quantity.to_string()).expect("what was written can be read");
    assert_eq!(again.value(), quantity.value(), "{text}");
}
