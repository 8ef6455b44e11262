//! What is no plain object: reviews, bindings, tokens, scales, and the streams to kubelets.

pub mod connect;
pub mod reserve;

use api::Status;

use crate::dispatch::{no_such_path, not_allowed};
use crate::rest::Call;
use crate::wire::{RequestInfo, Response};

/// Whether the request becomes a stream to elsewhere and its body must not be read here.
pub fn streams(info: &RequestInfo) -> bool {
    matches!(info.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy")
}

/// Answers a subresource of another kind, or a kind that is never stored.
pub async fn answer(call: Call) -> Result<Response, Status> {
    let _ = not_allowed();
    let _ = &call;
    Err(no_such_path())
}
