//! Exec, attach and port-forward by a runtime's own ids, for who serves a runtime's streams without a kubelet around it.

use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use runtime::cri::{AttachRequest, ExecRequest, RuntimeService};

pub use super::Body;
use super::{Refusal, forward, session, text};

/// What a client was promised at a URL.
pub enum Wanted {
    Exec(ExecRequest),
    Attach(AttachRequest),
    PortForward { sandbox: String, ports: Vec<u16> },
}

/// Switches to the protocol of streams that the client asks for; what is wanted happens there.
pub fn answer(runtime: Arc<dyn RuntimeService>, wanted: Option<Wanted>, request: Request<Incoming>) -> Response<Body> {
    let answer = match wanted {
        None => Err(Refusal::not_found("404 page not found")),
        Some(Wanted::Exec(wanted)) => session::executed(runtime, wanted, request),
        Some(Wanted::Attach(wanted)) => session::attached(runtime, wanted, request),
        Some(Wanted::PortForward { sandbox, ports }) => forward::forwarded(runtime, sandbox, &ports, request),
    };
    answer.unwrap_or_else(|Refusal(status, message)| text(status, message))
}
