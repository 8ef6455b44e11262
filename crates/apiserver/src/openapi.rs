//! `/openapi/v2` and `/openapi/v3`.

use api::Status;
use http::HeaderMap;

use crate::dispatch::no_such_path;
use crate::server::Server;
use crate::wire::Response;

pub fn answer(_server: &Server, _headers: &HeaderMap, _path: &str) -> Result<Response, Status> {
    Err(no_such_path())
}
