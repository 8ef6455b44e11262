//! Compression of answers, where they are large and the client takes it.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, header};

use super::answer::Failure;
use super::{Body, Response};

/// Answers larger than this are compressed, as upstream's 128 KiB.
pub const LARGE: usize = 128 * 1024;

/// Whether the client takes compressed answers.
pub fn accepted(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or("");
    accepted.split(',').any(|coding| coding.split(';').next().unwrap_or("").trim() == "gzip")
}

/// Says that the answer is compressed.
pub fn mark(response: &mut Response) {
    response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
}

/// Compresses a whole answer that is large enough for it to pay and is not compressed yet.
pub fn compress(mut response: Response) -> Response {
    let Body::Full(bytes) = response.body() else { return response };
    // A failure's form is not settled yet.
    if response.extensions().get::<Failure>().is_some() {
        return response;
    }
    if bytes.len() <= LARGE || response.headers().contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let _ = encoder.write_all(bytes);
    let Ok(compressed) = encoder.finish() else { return response };
    *response.body_mut() = Body::from(compressed);
    mark(&mut response);
    response
}
