//! Patches.
use crate::schema::Struct;
use crate::{Status, Value};

/// Applies a JSON patch (RFC 6902): a list of operations.
pub fn json(_target: &Value, _patch: &Value) -> Result<Value, Status> {
    Err(Status::internal("JSON patch"))
}

/// Applies a JSON merge patch (RFC 7386).
pub fn merge(_target: &Value, _patch: &Value) -> Result<Value, Status> {
    Err(Status::internal("merge patch"))
}

/// Applies a strategic merge patch, directed by the schema.
pub fn strategic(_target: &Value, _patch: &Value, _schema: &Struct) -> Result<Value, Status> {
    Err(Status::internal("strategic merge patch"))
}
