//! GET of one object: its stored bytes with the resourceVersion spliced in.

use api::Status;
use http::StatusCode;

use super::{Call, output};
use crate::wire::Response;

/// Answers with the object.
pub fn get(call: &Call) -> Result<Response, Status> {
    output::entry(call, StatusCode::OK, &*call.entry()?)
}
