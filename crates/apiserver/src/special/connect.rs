//! Streams to kubelets.

use std::sync::Arc;

use api::Status;
use api::kind::Kind;

use crate::dispatch::no_such_path;
use crate::server::Server;
use crate::wire::{Request, RequestInfo, Response};

pub async fn answer(
    _server: &Arc<Server>,
    _kind: &Arc<Kind>,
    _info: &RequestInfo,
    _request: Request,
) -> Result<Response, Status> {
    Err(no_such_path())
}
