//! What is no plain object: reviews, bindings, evictions, tokens, scales, and the streams to kubelets.

pub mod binding;
pub mod components;
pub mod connect;
pub mod eviction;
mod families;
pub mod forward;
pub mod metrics;
pub mod proxy;
pub mod quota;
pub mod repair;
pub mod reserve;
pub mod review;
pub mod rewrite;
pub mod scale;
pub mod services;
pub mod token;

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
    let info = call.info.clone();
    if info.subresource == "scale" {
        return scale::answer(&call).await;
    }
    let path = (info.group.as_str(), info.resource.as_str(), info.subresource.as_str());
    let creates = info.verb == "create" && info.name.is_empty() == info.subresource.is_empty();
    if !creates {
        return Err(not_allowed());
    }
    match path {
        ("", "pods", "binding") | ("", "bindings", "") => binding::bind(&call).await,
        ("", "pods", "eviction") => eviction::evict(&call).await,
        ("", "serviceaccounts", "token") => token::request(&call).await,
        ("authentication.k8s.io", "tokenreviews", "") => review::token(&call).await,
        ("authentication.k8s.io", "selfsubjectreviews", "") => review::oneself(&call).await,
        ("authorization.k8s.io", "selfsubjectrulesreviews", "") => review::rules(&call).await,
        ("authorization.k8s.io", _, "") => review::access(&call).await,
        _ => Err(no_such_path()),
    }
}
