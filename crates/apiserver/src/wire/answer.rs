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

/// A value of a built-in type as a protobuf message; `None` where there is no schema to make it by.
pub fn message(value: &Value) -> Option<Vec<u8>> {
    let text = |field: &str| value[field].as_str().unwrap_or("");
    let (version, kind) = (text("apiVersion"), text("kind"));
    let schema = api::table::by_kind(if version.is_empty() { "v1" } else { version }, kind)?;
    Some(api::codec::protobuf::encode(value, schema)).filter(|bytes| !bytes.is_empty())
}

/// A value in the form that the client chose; what has no protobuf message is JSON.
pub fn value(code: StatusCode, value: &Value, accept: &Accept) -> Response {
    if accept.format == Format::Protobuf
        && let Some(bytes) = message(value)
    {
        return self::bytes(code, accept.content_type(false), bytes);
    }
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

/// What went wrong, for the layer that knows in which form the client wants to be told.
#[derive(Clone)]
pub struct Failure(pub Value);

/// A failure's `Status` object.
pub fn failure(code: StatusCode, status: Value) -> Response {
    let mut response = json(code, &status);
    response.extensions_mut().insert(Failure(status));
    response
}

/// An error as its `Status` object.
pub fn error(status: &Status) -> Response {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = failure(code, status.to_value());
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

/// How many characters all warnings may have together, and each of them where they are too many.
const MOST_WARNED: usize = 4 * 1024;
const LONGEST_WARNING: usize = 256;

/// Adds upstream's `Warning: 299` headers: each text once, and all of them shortened where they are too long together.
pub fn warn(response: &mut Response, warnings: &[String]) {
    let mut all: Vec<&str> = Vec::new();
    for warning in warnings.iter().map(String::as_str).filter(|warning| !warning.is_empty()) {
        if !all.contains(&warning) {
            all.push(warning);
        }
    }
    let long = all.iter().map(|warning| warning.chars().count()).sum::<usize>() > MOST_WARNED;
    let mut written = 0;
    for warning in all {
        if long && written >= MOST_WARNED {
            return;
        }
        let shown: String = warning.chars().take(if long { LONGEST_WARNING } else { usize::MAX }).collect();
        written += shown.chars().count();
        let warning = shown.as_str();
        let mut text = String::from("299 - \"");
        for c in warning.chars().filter(|c| !c.is_control()) {
            if matches!(c, '"' | '\\') {
                text.push('\\');
            }
            text.push(c);
        }
        text.push('"');
        let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) else { continue };
        if !response.headers().get_all(header::WARNING).iter().any(|known| *known == value) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warned(warnings: &[String]) -> Vec<String> {
        let mut response = json(StatusCode::OK, &Value::Null);
        warn(&mut response, warnings);
        let all = response.headers().get_all(header::WARNING).iter();
        all.map(|value| value.to_str().expect("text").to_owned()).collect()
    }

    #[test]
    fn warnings_are_told_once_and_shortened_where_they_are_many() {
        assert_eq!(
            warned(&["a\"b".into(), "c".into(), "a\"b".into(), String::new()]),
            ["299 - \"a\\\"b\"", "299 - \"c\""]
        );
        let many: Vec<String> = (0..100).map(|n| format!("{n:03}{}", "x".repeat(300))).collect();
        let shortened = warned(&many);
        assert_eq!(shortened.len(), MOST_WARNED / LONGEST_WARNING);
        assert!(shortened.iter().all(|text| text.len() == LONGEST_WARNING + "299 - \"\"".len()));
    }
}
