//! Field ownership: managed fields on every write, and server-side apply.
use crate::schema::Struct;
use crate::{Status, Value};

/// Who writes what, and when.
#[derive(Clone, Copy, Debug)]
pub struct Ctx<'a> {
    pub schema: &'a Struct,
    /// The version in which the manager writes: `apps/v1`.
    pub api_version: &'a str,
    pub manager: &'a str,
    /// Empty for the main resource.
    pub subresource: &'a str,
    /// RFC 3339 with seconds.
    pub now: &'a str,
}

/// Records in `new` what a create (`old` is `None`), update or patch changed.
pub fn track_update(_old: Option<&Value>, _new: &mut Value, _ctx: &Ctx) {}

/// Server-side apply: the object that results, with its managed fields. `config` is what the manager sent.
pub fn apply(_live: Option<&Value>, _config: &Value, _ctx: &Ctx, _force: bool) -> Result<Value, Status> {
    Err(Status::internal("apply"))
}
