//! The wire and storage formats.

pub mod json;
pub mod protobuf;
pub mod stored;
pub mod yaml;

use crate::Value;

/// A decoded object.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    pub value: Value,
    /// Keys that a map holds twice, as upstream words it: `duplicate field "spec.replicas"`. The last one counts.
    pub duplicates: Vec<String>,
}

/// Input that cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(pub String);

/// How deep objects may nest: deeper than any real one, and no danger to a thread's stack.
pub const MAX_DEPTH: usize = 256;
