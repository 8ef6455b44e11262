//! GET of one object: its stored bytes with the resourceVersion spliced in.

use api::Status;
use http::StatusCode;

use super::options::{fresh_enough, revision};
use super::{Call, output};
use crate::wire::Response;

/// Answers with the object, at least as new as a `resourceVersion` that was given.
pub async fn get(call: &Call) -> Result<Response, Status> {
    fresh_enough(call, revision(call)?).await?;
    output::entry(call, StatusCode::OK, &*call.entry()?)
}
