//! Answers that are made whole: values and errors.

use api::{Status, Value};
use http::{HeaderValue, StatusCode, header};

use super::{Accept, Body, Format, Response};

/// An answer with the given body.
pub fn bytes(code: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A value as JSON.
pub fn json(code: StatusCode, value: &Value) -> Response {
    let mut body = value.to_string().into_bytes();
    body.push(b'\n');
    bytes(code, "application/json", body)
}

/// A value in the form that the client chose, where that is one that needs no schema; protobuf falls back to JSON.
pub fn value(code: StatusCode, value: &Value, accept: &Accept) -> Response {
    match accept.format {
        Format::Yaml => bytes(code, "application/yaml", api::codec::yaml::encode(value).into_bytes()),
        _ if accept.pretty => bytes(code, "application/json", serde_json::to_vec_pretty(value).unwrap_or_default()),
        _ => json(code, value),
    }
}

/// Plain text, as the health checks answer.
pub fn text(code: StatusCode, text: impl Into<String>) -> Response {
    bytes(code, "text/plain; charset=utf-8", text.into().into_bytes())
}

/// An error as its `Status` object.
pub fn error(status: &Status) -> Response {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(code, &status.to_value());
    if let Some(seconds) = status.details.as_ref().map(|d| d.retry_after_seconds).filter(|s| *s > 0) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if code == StatusCode::UNAUTHORIZED {
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"kubernetes\""));
    }
    response
}

/// Adds upstream's `Warning: 299` headers.
pub fn warn(response: &mut Response, warnings: &[String]) {
    for warning in warnings {
        let mut text = String::from("299 - \"");
        for c in warning.chars().filter(|c| !c.is_control()) {
            if matches!(c, '"' | '\\') {
                text.push('\\');
            }
            text.push(c);
        }
        text.push('"');
        if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}
