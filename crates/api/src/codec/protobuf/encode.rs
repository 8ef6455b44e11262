//! From a tree to protobuf.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::tree::Tree;
use crate::schema::{Any, Field, Struct, Type, Wire, parse_time};
use crate::table;

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

/// What comes before a field of this length.
pub fn length(out: &mut Vec<u8>, number: u32, length: usize) {
    tag(out, number, LENGTH);
    varint(out, length as u64);
}

pub fn bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    length(out, number, value.len());
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

/// A struct's fields. What is no object has none.
pub fn message<T: Tree>(out: &mut Vec<u8>, object: &T, schema: &Struct) {
    for wire in schema.wire {
        match *wire {
            Wire::Field { number, index } => field(out, number, Some(object), &schema.fields[usize::from(index)]),
            Wire::Wrapped { number, index } => {
                if let Some(value) = object.field(schema.fields[usize::from(index)].name.as_ref()) {
                    nested(out, number, |out| items(out, value));
                }
            }
            Wire::Embedded { number, of } => nested(out, number, |out| message(out, object, of)),
        }
    }
}

/// A message of which nothing is said.
fn empty<T: Tree>(out: &mut Vec<u8>, schema: &Struct) {
    for wire in schema.wire {
        match *wire {
            Wire::Field { number, index } => field::<T>(out, number, None, &schema.fields[usize::from(index)]),
            Wire::Wrapped { .. } => {}
            Wire::Embedded { number, of } => nested(out, number, |out| empty::<T>(out, of)),
        }
    }
}

fn field<T: Tree>(out: &mut Vec<u8>, number: u32, object: Option<&T>, field: &Field) {
    let present = object.and_then(|object| object.field(field.name.as_ref())).filter(|value| !value.is_null());
    match (present, &field.ty) {
        (Some(list), Type::List(inner, _)) if list.items().is_some() => {
            for item in list.items().into_iter().flatten() {
                value(out, number, Some(item), inner);
            }
        }
        (Some(map), Type::Map(inner, _)) if map.entries().is_some() => {
            for (key, entry) in map.entries().into_iter().flatten() {
                nested(out, number, |out| {
                    text(out, 1, key);
                    value(out, 2, Some(entry), inner);
                });
            }
        }
        (Some(present), ty) => value(out, number, Some(present), ty),
        (_, Type::List(..) | Type::Map(..) | Type::Bytes) => {}
        (_, ty) if !field.pointer => value::<T>(out, number, None, ty),
        _ => {}
    }
}

/// A value with its tag; nothing is the type's zero.
fn value<T: Tree>(out: &mut Vec<u8>, number: u32, value: Option<&T>, ty: &Type) {
    let value = value.filter(|value| !value.is_null());
    let as_text = || value.and_then(T::text).unwrap_or_default();
    match ty {
        Type::Bool => integer(out, number, i64::from(value.and_then(T::flag).unwrap_or_default())),
        Type::Int32 | Type::Int64 => integer(out, number, value.and_then(T::integer).unwrap_or_default()),
        Type::Double => {
            tag(out, number, FIXED64);
            out.extend_from_slice(&value.and_then(T::double).unwrap_or_default().to_le_bytes());
        }
        Type::String => text(out, number, as_text()),
        // The schema's check has let only base64 through.
        Type::Bytes => bytes(out, number, &STANDARD.decode(as_text().replace(['\n', '\r'], "")).unwrap_or_default()),
        Type::Time | Type::MicroTime => nested(out, number, |out| time(out, as_text())),
        Type::Quantity => nested(out, number, |out| text(out, 1, if value.is_none() { "0" } else { as_text() })),
        Type::IntOrString => nested(out, number, |out| {
            integer(out, 1, i64::from(value.and_then(T::text).is_some()));
            integer(out, 2, value.and_then(T::integer).unwrap_or_default());
            text(out, 3, as_text());
        }),
        Type::Any(kind) => nested(out, number, |out| any(out, value, *kind)),
        Type::Object(schema) => nested(out, number, |out| match value {
            Some(object) => message(out, object, schema),
            None => empty::<T>(out, schema),
        }),
        // Inside a map or list: a message that has nothing but the list.
        Type::List(..) => nested(out, number, |out| value.into_iter().for_each(|list| items(out, list))),
        // No built-in type has a map there.
        Type::Map(..) => {}
    }
}

/// The strings of a list that is a message of its own.
fn items<T: Tree>(out: &mut Vec<u8>, list: &T) {
    for item in list.items().into_iter().flatten() {
        text(out, 1, item.text().unwrap_or_default());
    }
}

fn time(out: &mut Vec<u8>, text: &str) {
    if let Some(time) = parse_time(text) {
        integer(out, 1, time.as_second());
        integer(out, 2, time.subsec_nanosecond().into());
    }
}

fn any<T: Tree>(out: &mut Vec<u8>, value: Option<&T>, kind: Any) {
    let schema = || table::get("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps");
    let object = |out: &mut Vec<u8>, number: u32, object: &T| {
        if let Some(schema) = schema() {
            nested(out, number, |out| message(out, object, schema));
        }
    };
    let Some(value) = value else {
        if matches!(kind, Any::SchemaOrBool) {
            integer(out, 1, 0);
        }
        return;
    };
    let is_object = value.entries().is_some();
    match kind {
        // A tree can always be written as JSON.
        Any::Raw | Any::Fields | Any::Json => bytes(out, 1, &serde_json::to_vec(value).unwrap_or_default()),
        Any::SchemaOrBool if is_object => {
            integer(out, 1, 1);
            object(out, 2, value);
        }
        Any::SchemaOrBool => integer(out, 1, i64::from(value.flag().unwrap_or_default())),
        Any::SchemaOrArray | Any::SchemaOrStrings if is_object => object(out, 1, value),
        Any::SchemaOrArray => {
            for item in value.items().into_iter().flatten().filter(|item| item.entries().is_some()) {
                object(out, 2, item);
            }
        }
        Any::SchemaOrStrings => {
            for item in value.items().into_iter().flatten() {
                text(out, 2, item.text().unwrap_or_default());
            }
        }
    }
}
