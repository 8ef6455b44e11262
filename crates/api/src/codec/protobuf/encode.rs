//! From a tree to protobuf.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::schema::{Any, Field, Struct, Type, Wire, parse_time};
use crate::{Map, Value, table};

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const LENGTH: u32 = 2;

pub fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn tag(out: &mut Vec<u8>, number: u32, wire_type: u32) {
    varint(out, u64::from(number << 3 | wire_type));
}

fn integer(out: &mut Vec<u8>, number: u32, value: i64) {
    tag(out, number, VARINT);
    // Negative numbers are sign extended to ten bytes.
    varint(out, value as u64);
}

pub fn bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    tag(out, number, LENGTH);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

pub fn text(out: &mut Vec<u8>, number: u32, value: &str) {
    bytes(out, number, value.as_bytes());
}

/// A message inside another: written in place, its length put before it.
pub fn nested(out: &mut Vec<u8>, number: u32, content: impl FnOnce(&mut Vec<u8>)) {
    tag(out, number, LENGTH);
    let start = out.len();
    out.push(0);
    content(out);
    let length = out.len() - start - 1;
    if length < 0x80 {
        out[start] = length as u8;
    } else {
        let mut prefix = Vec::with_capacity(5);
        varint(&mut prefix, length as u64);
        out.splice(start..=start, prefix);
    }
}

/// A struct's fields.
pub fn message(out: &mut Vec<u8>, map: &Map<String, Value>, schema: &Struct) {
    for wire in schema.wire {
        match *wire {
            Wire::Field { number, index } => field(out, number, map, &schema.fields[usize::from(index)]),
            Wire::Wrapped { number, index } => {
                if let Some(value) = map.get(schema.fields[usize::from(index)].name.as_ref()) {
                    nested(out, number, |out| items(out, value));
                }
            }
            Wire::Embedded { number, of } => nested(out, number, |out| message(out, map, of)),
        }
    }
}

fn field(out: &mut Vec<u8>, number: u32, map: &Map<String, Value>, field: &Field) {
    match (map.get(field.name.as_ref()), &field.ty) {
        (Some(Value::Array(items)), Type::List(inner, _)) => {
            for item in items {
                value(out, number, item, inner);
            }
        }
        (Some(Value::Object(entries)), Type::Map(inner, _)) => {
            for (key, entry) in entries {
                nested(out, number, |out| {
                    text(out, 1, key);
                    value(out, 2, entry, inner);
                });
            }
        }
        (Some(present), ty) if !present.is_null() => value(out, number, present, ty),
        (_, Type::List(..) | Type::Map(..) | Type::Bytes) => {}
        (_, ty) if !field.pointer => value(out, number, &Value::Null, ty),
        _ => {}
    }
}

/// A value with its tag; null is the type's zero.
fn value(out: &mut Vec<u8>, number: u32, value: &Value, ty: &Type) {
    let as_text = || value.as_str().unwrap_or_default();
    match ty {
        Type::Bool => integer(out, number, i64::from(value.as_bool().unwrap_or_default())),
        Type::Int32 | Type::Int64 => integer(out, number, value.as_i64().unwrap_or_default()),
        Type::Double => {
            tag(out, number, FIXED64);
            out.extend_from_slice(&value.as_f64().unwrap_or_default().to_le_bytes());
        }
        Type::String => text(out, number, as_text()),
        // The schema's check has let only base64 through.
        Type::Bytes => bytes(out, number, &STANDARD.decode(as_text().replace(['\n', '\r'], "")).unwrap_or_default()),
        Type::Time | Type::MicroTime => nested(out, number, |out| time(out, as_text())),
        Type::Quantity => nested(out, number, |out| text(out, 1, if value.is_null() { "0" } else { as_text() })),
        Type::IntOrString => nested(out, number, |out| {
            integer(out, 1, i64::from(value.is_string()));
            integer(out, 2, value.as_i64().unwrap_or_default());
            text(out, 3, as_text());
        }),
        Type::Any(kind) => nested(out, number, |out| any(out, value, *kind)),
        Type::Object(schema) => nested(out, number, |out| match value {
            Value::Object(map) => message(out, map, schema),
            _ => message(out, &Map::new(), schema),
        }),
        // Inside a map or list: a message that has nothing but the list.
        Type::List(..) => nested(out, number, |out| items(out, value)),
        // No built-in type has a map there.
        Type::Map(..) => {}
    }
}

/// The strings of a list that is a message of its own.
fn items(out: &mut Vec<u8>, list: &Value) {
    for item in list.as_array().into_iter().flatten() {
        text(out, 1, item.as_str().unwrap_or_default());
    }
}

fn time(out: &mut Vec<u8>, text: &str) {
    if let Some(time) = parse_time(text) {
        integer(out, 1, time.as_second());
        integer(out, 2, time.subsec_nanosecond().into());
    }
}

fn any(out: &mut Vec<u8>, value: &Value, kind: Any) {
    let schema = || table::get("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps");
    let object = |out: &mut Vec<u8>, number: u32, map: &Map<String, Value>| {
        if let Some(schema) = schema() {
            nested(out, number, |out| message(out, map, schema));
        }
    };
    match (kind, value) {
        (Any::Raw | Any::Fields | Any::Json, Value::Null) => {}
        (Any::Raw | Any::Fields | Any::Json, value) => bytes(out, 1, value.to_string().as_bytes()),
        (Any::SchemaOrBool, Value::Object(map)) => {
            integer(out, 1, 1);
            object(out, 2, map);
        }
        (Any::SchemaOrBool, value) => integer(out, 1, i64::from(value.as_bool().unwrap_or_default())),
        (Any::SchemaOrArray | Any::SchemaOrStrings, Value::Object(map)) => object(out, 1, map),
        (Any::SchemaOrArray, list) => {
            for map in list.as_array().into_iter().flatten().filter_map(Value::as_object) {
                object(out, 2, map);
            }
        }
        (Any::SchemaOrStrings, list) => {
            for item in list.as_array().into_iter().flatten() {
                text(out, 2, item.as_str().unwrap_or_default());
            }
        }
    }
}
