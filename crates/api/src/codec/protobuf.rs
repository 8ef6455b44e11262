//! `application/vnd.kubernetes.protobuf`: messages by the schema's field numbers, in an envelope (`runtime.Unknown`) that says what
//! they are. Bytes are those of upstream's generated code: fields in the order of their numbers, maps in the order of their
//! keys, values that are no pointers written also where they are zero.

mod decode;
mod encode;
mod tree;

use self::tree::Node;
use super::DecodeError;
use crate::Value;
use crate::schema::{Struct, StructRef};

/// What every encoded object begins with.
pub const MAGIC: &[u8; 4] = b"k8s\0";

// `runtime.Unknown` and the `TypeMeta` in it.
const TYPE_META: u32 = 1;
const RAW: u32 = 2;
const CONTENT_ENCODING: u32 = 3;
const CONTENT_TYPE: u32 = 4;
const API_VERSION: u32 = 1;
const KIND: u32 = 2;

/// Decodes an object in its envelope. `lookup` gives the struct of an `apiVersion` and `kind`. Fields that the schema does not
/// know are skipped, as upstream does; zeros that stand for absence are left out.
pub fn decode(bytes: &[u8], lookup: impl Fn(&str, &str) -> Option<StructRef>) -> Result<Value, DecodeError> {
    let Some(envelope) = bytes.strip_prefix(MAGIC) else {
        return Err(DecodeError("provided data does not appear to be a protobuf message".to_owned()));
    };
    decode::envelope(envelope, lookup).map_err(DecodeError)
}

/// Encodes an object with its envelope, which takes the object's `apiVersion` and `kind`.
pub fn encode(value: &Value, schema: &Struct) -> Vec<u8> {
    let text = |key: &str| value[key].as_str().unwrap_or_default();
    let mut out = begin(text("apiVersion"), text("kind"));
    encode::nested(&mut out, RAW, |out| {
        if value.is_object() {
            encode::message(out, value, schema);
        }
    });
    end(&mut out);
    out
}

/// The message of a stored object (see [`super::stored`]), without an envelope. No tree of its own is made of it.
pub fn message(stored: &[u8], revision: u64, schema: &Struct) -> Result<Vec<u8>, DecodeError> {
    let mut object = Node::read(stored).map_err(|error| DecodeError(error.to_string()))?;
    if let Some(metadata) = object.field_mut("metadata") {
        metadata.set("resourceVersion", Node::Text(revision.to_string().into()));
    }
    let mut out = Vec::with_capacity(stored.len() / 2);
    encode::message(&mut out, &object, schema);
    Ok(out)
}

/// A message in an envelope.
pub fn envelope(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let mut out = begin(api_version, kind);
    encode::bytes(&mut out, RAW, message);
    end(&mut out);
    out
}

/// The parts of a list of messages, in its envelope.
pub struct ListParts {
    /// All that comes before the items.
    pub head: Vec<u8>,
    /// All that comes after them.
    pub tail: Vec<u8>,
}

impl ListParts {
    /// Of a list whose items have these lengths; `meta` is its `ListMeta`.
    pub fn new(api_version: &str, kind: &str, meta: &Value, lengths: impl Iterator<Item = usize>) -> Self {
        let mut metadata = Vec::new();
        if let Some(schema) = crate::table::get("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta") {
            encode::nested(&mut metadata, 1, |out| encode::message(out, meta, schema));
        }
        let mut head = begin(api_version, kind);
        let mut prefix = Vec::with_capacity(8);
        let items: usize = lengths
            .map(|length| {
                prefix.clear();
                Self::item(&mut prefix, length);
                prefix.len() + length
            })
            .sum();
        encode::length(&mut head, RAW, metadata.len() + items);
        head.extend_from_slice(&metadata);
        let mut tail = Vec::new();
        end(&mut tail);
        ListParts { head, tail }
    }

    /// What comes before an item of this length.
    pub fn item(out: &mut Vec<u8>, length: usize) {
        encode::length(out, 2, length);
    }
}

fn begin(api_version: &str, kind: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(MAGIC);
    encode::nested(&mut out, TYPE_META, |out| {
        encode::text(out, API_VERSION, api_version);
        encode::text(out, KIND, kind);
    });
    out
}

fn end(out: &mut Vec<u8>) {
    encode::text(out, CONTENT_ENCODING, "");
    encode::text(out, CONTENT_TYPE, "");
}

/// One event of a watch, framed by its length: `kind` is `ADDED` or the like, `object` an encoded object with its envelope.
pub fn event(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 4];
    encode::text(&mut out, 1, kind);
    encode::nested(&mut out, 2, |out| encode::bytes(out, 1, object));
    // An object is far smaller than 4 GiB.
    let length = u32::try_from(out.len() - 4).unwrap_or(u32::MAX);
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

#[cfg(test)]
mod tests;
