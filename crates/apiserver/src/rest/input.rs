//! What a client sent, as a value of the kind that the path wants.

use api::codec::{self, Decoded};
use api::kind::Kind;
use api::schema::{self, StructRef};
use api::{Status, Value};
use http::HeaderMap;

use super::{Call, metadata};
use crate::wire::{Format, accept};

/// How strictly unknown and duplicate fields are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

impl FieldValidation {
    pub fn of(call: &Call) -> Result<Self, Status> {
        match call.query.get("fieldValidation") {
            None | Some("Warn") => Ok(FieldValidation::Warn),
            Some("Ignore") => Ok(FieldValidation::Ignore),
            Some("Strict") => Ok(FieldValidation::Strict),
            Some(other) => {
                let mut errors = api::validation::Errors::default();
                errors.push(
                    "FieldValueNotSupported",
                    "fieldValidation",
                    format!("Unsupported value: {other:?}: supported values: \"\", \"Ignore\", \"Strict\", \"Warn\""),
                );
                errors.into_result("meta.k8s.io", "CreateOptions", "")?;
                Ok(FieldValidation::Warn)
            }
        }
    }
}

/// An object and what its sender should be warned of.
pub struct Input {
    pub object: Value,
    pub warnings: Vec<String>,
}

/// Decodes the body as an object of the path's kind, checked against its schema.
pub fn read(call: &Call) -> Result<Input, Status> {
    let schema = call.kind.schema.clone();
    let decoded = decode(&call.headers, &call.body, &call.kind, &schema)?;
    check(call, decoded.value, decoded.duplicates)
}

/// Checks type and schema of a value that came from a client.
pub fn check(call: &Call, object: Value, duplicates: Vec<String>) -> Result<Input, Status> {
    check_with(call, object, duplicates, schema::check)
}

/// The same for what a client applies, where a zero that is written down is an opinion and stays.
pub fn check_config(call: &Call, object: Value, duplicates: Vec<String>) -> Result<Input, Status> {
    check_with(call, object, duplicates, schema::check_config)
}

type Check = fn(&mut Value, &schema::Struct) -> Result<schema::Check, Status>;

fn check_with(call: &Call, mut object: Value, duplicates: Vec<String>, check: Check) -> Result<Input, Status> {
    let kind = &call.kind;
    if !object.is_object() {
        return Err(cannot_handle(kind, "json: cannot unmarshal into Go value: an object was expected"));
    }
    check_type(&object, &kind.api_version(), &kind.kind)?;
    metadata::set_type(&mut object, kind);
    let check = check(&mut object, &kind.schema).map_err(|status| named(kind, status))?;
    let mut problems = check.unknown;
    problems.extend(duplicates);
    let mut hints: Vec<String> = problems.iter().filter_map(|p| kind.strategy.hint(p)).map(str::to_owned).collect();
    hints.dedup();
    problems.extend(hints);
    let warnings = match FieldValidation::of(call)? {
        _ if problems.is_empty() => problems,
        FieldValidation::Ignore => Vec::new(),
        FieldValidation::Warn => problems,
        FieldValidation::Strict => {
            return Err(cannot_handle(kind, &format!("strict decoding error: {}", problems.join(", "))));
        }
    };
    if metadata::metadata_mut(&mut object).is_none() {
        return Err(cannot_handle(kind, "metadata is no object"));
    }
    Ok(Input { object, warnings })
}

fn cannot_handle(kind: &Kind, why: &str) -> Status {
    let Kind { kind, version, .. } = kind;
    Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"))
}

/// Upstream says of every decoding error which kind was being read.
fn named(kind: &Kind, status: Status) -> Status {
    if status.message.contains("cannot be handled as") { status } else { cannot_handle(kind, &status.message) }
}

/// `apiVersion` and `kind` may be absent, but not others.
fn check_type(object: &Value, api_version: &str, kind: &str) -> Result<(), Status> {
    let text = |field: &str| object[field].as_str().unwrap_or("").to_owned();
    let (got_version, got_kind) = (text("apiVersion"), text("kind"));
    if !got_kind.is_empty() && got_kind != kind {
        return Err(Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; got {got_version}, Kind={got_kind}"
        )));
    }
    if !got_version.is_empty() && got_version != api_version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({got_version}) does not match the expected API version ({api_version})"
        )));
    }
    Ok(())
}

/// Decodes a body in the format that its Content-Type names.
pub fn decode(headers: &HeaderMap, body: &[u8], kind: &Kind, schema: &StructRef) -> Result<Decoded, Status> {
    let unreadable = |error: codec::DecodeError| {
        Status::bad_request(format!("the object provided is unrecognized (must be of type {}): {error}", kind.kind))
    };
    if body.is_empty() {
        return Err(cannot_handle(kind, "EOF"));
    }
    match accept::content_format(headers)? {
        Format::Json => codec::json::decode(body).map_err(unreadable),
        Format::Yaml => codec::yaml::decode(body).map_err(unreadable),
        Format::Protobuf => {
            let value = codec::protobuf::decode(body, |_, _| Some(schema.clone())).map_err(unreadable)?;
            Ok(Decoded { value, duplicates: Vec::new() })
        }
    }
}

/// Decodes the body as an object of a built-in type that need not be a kind of its own: `Scale`, `Eviction`.
pub fn read_as(call: &Call, api_version: &str, name: &str) -> Result<Value, Status> {
    let schema = api::table::by_kind(api_version, name)
        .ok_or_else(|| Status::internal(format!("{api_version} {name} has no schema")))?;
    let mut object = decode(&call.headers, &call.body, &call.kind, &StructRef::Static(schema))?.value;
    if !object.is_object() {
        return Err(cannot_handle(&call.kind, "an object was expected"));
    }
    check_type(&object, api_version, name)?;
    schema::check(&mut object, schema)?;
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".to_owned(), Value::from(api_version));
        map.insert("kind".to_owned(), Value::from(name));
    }
    metadata::metadata_mut(&mut object);
    Ok(object)
}

/// An options object (`DeleteOptions`) of a body that may be empty.
pub fn options(headers: &HeaderMap, body: &[u8], name: &str) -> Result<Value, Status> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Null);
    }
    let unreadable = |error: codec::DecodeError| Status::bad_request(format!("{name} cannot be read: {error}"));
    match accept::content_format(headers)? {
        Format::Json => codec::json::decode(body).map(|d| d.value),
        Format::Yaml => codec::yaml::decode(body).map(|d| d.value),
        Format::Protobuf => codec::protobuf::decode(body, |_, _| {
            api::table::get(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}")).map(StructRef::Static)
        }),
    }
    .map_err(unreadable)
}
