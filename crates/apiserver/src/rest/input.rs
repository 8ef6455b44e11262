//! What a client sent, as a value of the kind that the path wants.

use api::codec::{self, Decoded};
use api::kind::Strategy;
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
    /// What the query asks for; whether that is known was checked before.
    pub fn of(call: &Call) -> Self {
        match call.query.get("fieldValidation") {
            Some("Ignore") => FieldValidation::Ignore,
            Some("Strict") => FieldValidation::Strict,
            _ => FieldValidation::Warn,
        }
    }
}

/// An object and what its sender should be warned of.
pub struct Input {
    pub object: Value,
    pub warnings: Vec<String>,
}

/// What an object must be.
pub struct Wanted<'k> {
    /// The versions that are taken; the first is the schema's, and becomes the object's.
    versions: Vec<&'k str>,
    kind: &'k str,
    schema: &'k StructRef,
    strategy: Option<&'k dyn Strategy>,
}

/// Decodes the body as an object of the path's kind, checked against its schema.
pub fn read(call: &Call) -> Result<Input, Status> {
    let kind = &call.kind;
    let Decoded { value, duplicates } = decode(&call.headers, &call.body, &kind.kind, &kind.schema)?;
    check(call, value, duplicates)
}

/// Decodes the body as an object of a built-in type that need not be a kind of its own, of one of the versions given: `Scale`,
/// `Eviction`. What is sent of the first version comes out.
pub fn read_as(call: &Call, versions: &[&str], kind: &str) -> Result<Input, Status> {
    let schema = schema_of(versions, kind)?;
    let Decoded { value, duplicates } = decode(&call.headers, &call.body, kind, &schema)?;
    check_as(call, value, duplicates, versions, kind)
}

fn schema_of(versions: &[&str], kind: &str) -> Result<StructRef, Status> {
    let version = versions.first().copied().unwrap_or_default();
    let found = api::table::by_kind(version, kind).map(StructRef::Static);
    found.ok_or_else(|| Status::internal(format!("{version} {kind} has no schema")))
}

/// Checks type and schema of a value that came from a client.
pub fn check(call: &Call, object: Value, duplicates: Vec<String>) -> Result<Input, Status> {
    let (kind, version) = (&call.kind, call.kind.api_version());
    let wanted =
        Wanted { versions: vec![&version], kind: &kind.kind, schema: &kind.schema, strategy: Some(&*kind.strategy) };
    check_with(call, object, duplicates, &wanted, schema::check)
}

/// The same of a value of another built-in type.
pub fn check_as(
    call: &Call,
    object: Value,
    duplicates: Vec<String>,
    versions: &[&str],
    kind: &str,
) -> Result<Input, Status> {
    let schema = schema_of(versions, kind)?;
    let wanted = Wanted { versions: versions.to_vec(), kind, schema: &schema, strategy: None };
    check_with(call, object, duplicates, &wanted, schema::check)
}

/// The same for what a client applies, where a zero that is written down is an opinion and stays.
pub fn check_config(call: &Call, object: Value, duplicates: Vec<String>) -> Result<Input, Status> {
    let (kind, version) = (&call.kind, call.kind.api_version());
    let wanted =
        Wanted { versions: vec![&version], kind: &kind.kind, schema: &kind.schema, strategy: Some(&*kind.strategy) };
    check_with(call, object, duplicates, &wanted, schema::check_config)
}

type Check = fn(&mut Value, &schema::Struct) -> Result<schema::Check, Status>;

fn check_with(
    call: &Call,
    mut object: Value,
    duplicates: Vec<String>,
    wanted: &Wanted,
    check: Check,
) -> Result<Input, Status> {
    let version = wanted.versions.first().copied().unwrap_or_default();
    let refused = |why: &str| cannot_handle(version, wanted.kind, why);
    if !object.is_object() {
        return Err(refused("json: cannot unmarshal into Go value: an object was expected"));
    }
    check_type(&object, &wanted.versions, wanted.kind)?;
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".to_owned(), Value::from(version));
        map.insert("kind".to_owned(), Value::from(wanted.kind));
    }
    // Upstream says of every decoding error which kind was being read.
    let check = check(&mut object, wanted.schema).map_err(|status| match &status.message {
        message if message.contains("cannot be handled as") => status,
        message => refused(message),
    })?;
    let mut problems = check.unknown;
    problems.extend(duplicates);
    if let Some(strategy) = wanted.strategy {
        let mut hints: Vec<String> = problems.iter().filter_map(|p| strategy.hint(p)).map(str::to_owned).collect();
        hints.dedup();
        problems.extend(hints);
    }
    let warnings = match FieldValidation::of(call) {
        _ if problems.is_empty() => problems,
        FieldValidation::Ignore => Vec::new(),
        FieldValidation::Warn => problems,
        FieldValidation::Strict => {
            return Err(refused(&format!("strict decoding error: {}", problems.join(", "))));
        }
    };
    if metadata::metadata_mut(&mut object).is_none() {
        return Err(refused("metadata is no object"));
    }
    Ok(Input { object, warnings })
}

fn cannot_handle(api_version: &str, kind: &str, why: &str) -> Status {
    let version = api_version.rsplit_once('/').map_or(api_version, |(_, version)| version);
    Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"))
}

/// `apiVersion` and `kind` may be absent, but not others.
fn check_type(object: &Value, versions: &[&str], kind: &str) -> Result<(), Status> {
    let text = |field: &str| object[field].as_str().unwrap_or("");
    let expected = versions.first().copied().unwrap_or_default();
    let named = |field: &str, default| Some(text(field)).filter(|text| !text.is_empty()).unwrap_or(default);
    let (got_version, got_kind) = (named("apiVersion", expected), named("kind", kind));
    if got_kind == kind && versions.contains(&got_version) {
        return Ok(());
    }
    let version = |api_version: &str| api_version.rsplit_once('/').map_or(api_version, |(_, v)| v).to_owned();
    let why = if api::table::by_kind(got_version, got_kind).is_none() {
        format!(
            "no kind {got_kind:?} is registered for version {got_version:?} in scheme \"k8s.io/kubernetes/pkg/api/legacyscheme/scheme.go:30\""
        )
    } else if got_kind != kind {
        let (ours, theirs) = (package(expected), version(got_version));
        format!("converting ({theirs}.{got_kind}) to ({ours}.{kind}): unknown conversion")
    } else {
        return Err(Status::bad_request(format!(
            "the API version in the data ({got_version}) does not match the expected API version ({expected})"
        )));
    };
    let of = version(got_version);
    Err(Status::bad_request(format!("{got_kind} in version {of:?} cannot be handled as a {kind}: {why}")))
}

/// Go's package of a group's internal types.
fn package(api_version: &str) -> &str {
    match api_version.split_once('/') {
        None => "core",
        Some((group, _)) => group.split('.').next().unwrap_or(group),
    }
}

/// The beginning of a body that could not be read, as upstream's errors show it.
fn summary(body: &[u8]) -> String {
    const SHOWN: usize = 30;
    let shown = &body[..body.len().min(SHOWN)];
    let text = match body.first() {
        None => return "<empty>".to_owned(),
        Some(b'{') => String::from_utf8_lossy(shown).into_owned(),
        Some(_) => shown.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    if body.len() > SHOWN { format!("{text} ...") } else { text }
}

/// Decodes a body in the format that its Content-Type names.
fn decode(headers: &HeaderMap, body: &[u8], kind: &str, schema: &StructRef) -> Result<Decoded, Status> {
    let unreadable = |error: codec::DecodeError| {
        let shown = summary(body);
        Status::bad_request(format!("the object provided is unrecognized (must be of type {kind}): {error} ({shown})"))
    };
    match accept::content_format(headers)? {
        Format::Json => codec::json::decode(body)
            .map_err(|error| codec::DecodeError(format!("couldn't get version/kind; json parse error: {}", error.0)))
            .map_err(unreadable),
        Format::Yaml => codec::yaml::decode(body).map_err(unreadable),
        Format::Protobuf => {
            let value = codec::protobuf::decode(body, |_, _| Some(schema.clone())).map_err(unreadable)?;
            Ok(Decoded { value, duplicates: Vec::new() })
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_of_another_type_is_refused_in_the_decoders_words() {
        let table = [
            (json!({}), None),
            (json!({"kind": "Deployment", "apiVersion": "apps/v1"}), None),
            (
                json!({"kind": "Service", "apiVersion": "v1"}),
                Some(
                    "Service in version \"v1\" cannot be handled as a Deployment: converting (v1.Service) to (apps.Deployment): unknown conversion",
                ),
            ),
            (
                json!({"kind": "Nothing", "apiVersion": "v1"}),
                Some(
                    "Nothing in version \"v1\" cannot be handled as a Deployment: no kind \"Nothing\" is registered for version \"v1\" in scheme \"k8s.io/kubernetes/pkg/api/legacyscheme/scheme.go:30\"",
                ),
            ),
        ];
        for (object, expected) in table {
            let got = check_type(&object, &["apps/v1"], "Deployment").err().map(|status| status.message);
            assert_eq!(got.as_deref(), expected, "{object}");
        }
        let other = check_type(&json!({"kind": "Event", "apiVersion": "v1"}), &["events.k8s.io/v1"], "Event");
        assert_eq!(
            other.expect_err("another version").message,
            "the API version in the data (v1) does not match the expected API version (events.k8s.io/v1)"
        );
    }

    #[test]
    fn what_cannot_be_read_is_shown_by_its_beginning() {
        let table = [
            (&b""[..], "<empty>"),
            (b"{\"a\"", "{\"a\""),
            (b"xy", "7879"),
            (b"{\"kind\":\"Deployment\",\"apiVersion\"", "{\"kind\":\"Deployment\",\"apiVersi ..."),
        ];
        for (body, expected) in table {
            assert_eq!(summary(body), expected);
        }
    }
}
