//! `application/vnd.kubernetes.protobuf`: messages by the schema's field numbers, in an envelope (`runtime.Unknown`) that says what
//! they are. Bytes are those of upstream's generated code: fields in the order of their numbers, maps in the order of their
//! keys, values that are no pointers written also where they are zero.

mod decode;
mod encode;

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
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(MAGIC);
    let text = |key: &str| value[key].as_str().unwrap_or_default();
    encode::nested(&mut out, TYPE_META, |out| {
        encode::text(out, API_VERSION, text("apiVersion"));
        encode::text(out, KIND, text("kind"));
    });
    encode::nested(&mut out, RAW, |out| {
        if let Value::Object(map) = value {
            encode::message(out, map, schema);
        }
    });
    encode::text(&mut out, CONTENT_ENCODING, "");
    encode::text(&mut out, CONTENT_TYPE, "");
    out
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
