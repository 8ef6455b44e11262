//! How an object is to be deleted: the body's `DeleteOptions`, or the query's.

use api::codec;
use api::schema::{self, StructRef};
use api::validation::Errors;
use api::{Map, Status, Value};
use http::HeaderMap;

use super::metadata::text;
use super::{Call, write_options};
use crate::wire::{Format, Query, accept};

/// The options, understood.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    pub grace_period: Option<i64>,
    /// `Orphan`, `Foreground`, `Background`, or nothing.
    pub propagation: Option<String>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub dry_run: bool,
    /// `orphanDependents: false` was sent, the old way to ask for the background.
    pub cascades: bool,
}

impl DeleteOptions {
    /// Reads the body where there is one, the query else.
    pub fn read(call: &Call) -> Result<Self, Status> {
        let value = match call.body.iter().all(u8::is_ascii_whitespace) {
            true => from_query(&call.query)?,
            false => decode(&call.headers, &call.body)?,
        };
        Self::from_value(&value)
    }

    /// From a `DeleteOptions` object, or null, that fits its schema.
    pub fn from_value(value: &Value) -> Result<Self, Status> {
        let orphan = value["orphanDependents"].as_bool();
        let policy = value["propagationPolicy"].as_str();
        let mut errors = Errors::default();
        if let (Some(_), Some(policy)) = (orphan, policy) {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            errors.invalid("propagationPolicy", policy, why);
        }
        if let Some(policy) = policy
            && !matches!(policy, "Orphan" | "Foreground" | "Background")
        {
            errors.not_supported("propagationPolicy", policy, &["Foreground", "Background", "Orphan", "nil"]);
        }
        let dry: Vec<&str> = value["dryRun"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        write_options::dry_run(&dry, &mut errors);
        errors.into_result("meta.k8s.io", "DeleteOptions", "")?;
        let propagation = match (policy, orphan) {
            (Some(policy), _) => Some(policy),
            (None, Some(true)) => Some("Orphan"),
            (None, Some(false)) => Some("Background"),
            (None, None) => None,
        };
        let precondition = |field: &str| value["preconditions"][field].as_str().map(str::to_owned);
        Ok(DeleteOptions {
            grace_period: value["gracePeriodSeconds"].as_i64(),
            propagation: propagation.map(str::to_owned),
            uid: precondition("uid"),
            resource_version: precondition("resourceVersion"),
            dry_run: !dry.is_empty(),
            cascades: orphan == Some(false),
        })
    }

    /// Whether the object is the one that is meant.
    pub fn check(&self, call: &Call, object: &Value, revision: u64) -> Result<(), Status> {
        let (uid, own) = (self.uid.as_deref(), text(object, "uid"));
        let conflict =
            |why: String| Err(Status::conflict(&call.kind.group, &call.kind.plural, text(object, "name"), &why));
        if let Some(uid) = uid.filter(|uid| *uid != own) {
            return conflict(format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {own}"));
        }
        let revision = revision.to_string();
        if let Some(asked) = self.resource_version.as_deref().filter(|asked| *asked != revision) {
            return conflict(format!(
                "Precondition failed: ResourceVersion in precondition: {asked}, ResourceVersion in object meta: {revision}"
            ));
        }
        Ok(())
    }
}

fn from_query(query: &Query) -> Result<Value, Status> {
    let mut value = Map::new();
    if let Some(seconds) = query.integer("gracePeriodSeconds")? {
        value.insert("gracePeriodSeconds".to_owned(), seconds.into());
    }
    if let Some(policy) = query.get("propagationPolicy") {
        value.insert("propagationPolicy".to_owned(), policy.into());
    }
    if query.has("orphanDependents") {
        value.insert("orphanDependents".to_owned(), query.flag("orphanDependents").into());
    }
    if query.has("dryRun") {
        value.insert("dryRun".to_owned(), query.all("dryRun").collect());
    }
    Ok(Value::Object(value))
}

/// Decodes the body. Every group has the kind as well as its own; what is unknown in it is passed over, what is mistyped is an error,
/// since it might have been a dry run.
fn decode(headers: &HeaderMap, body: &[u8]) -> Result<Value, Status> {
    let own = api::table::get("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions")
        .ok_or_else(|| Status::internal("DeleteOptions have no schema"))?;
    let unreadable = |error: codec::DecodeError| Status::bad_request(error.to_string());
    let mut value = match accept::content_format(headers)? {
        Format::Json => codec::json::decode(body).map_err(unreadable)?.value,
        Format::Yaml => codec::yaml::decode(body).map_err(unreadable)?.value,
        Format::Protobuf => {
            codec::protobuf::decode(body, |version, kind| api::table::by_kind(version, kind).map(StructRef::Static))
                .map_err(unreadable)?
        }
    };
    let text = |field: &str| value[field].as_str().unwrap_or("").to_owned();
    let (version, kind) = (text("apiVersion"), text("kind"));
    let unnamed = version.is_empty() || kind.is_empty();
    match api::table::by_kind(&version, &kind) {
        _ if unnamed && (kind.is_empty() || kind == "DeleteOptions") => {}
        Some(found) if std::ptr::eq(found, own) => {}
        // They belong to every group, also to one that is not built in.
        _ if kind == "DeleteOptions" => {}
        Some(_) => return Err(Status::bad_request("decoded object cannot be converted to DeleteOptions")),
        None => {
            return Err(Status::bad_request(format!(
                "no kind {kind:?} is registered for version {version:?} in scheme \"k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme/register.go:36\""
            )));
        }
    }
    schema::check(&mut value, own).map_err(|status| {
        let why = status.message.split_once(" cannot be handled as a ").and_then(|(_, rest)| rest.split_once(": "));
        Status::bad_request(why.map_or(status.message.clone(), |(_, why)| why.to_owned()))
    })?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<DeleteOptions, String> {
        let value = decode(&HeaderMap::new(), body.as_bytes()).map_err(|status| status.message)?;
        DeleteOptions::from_value(&value).map_err(|status| status.message)
    }

    #[test]
    fn what_is_mistyped_in_the_options_is_refused_and_never_dropped() {
        let table = [
            (
                r#"{"dryRun":"All"}"#,
                "json: cannot unmarshal string into Go struct field DeleteOptions.dryRun of type []string",
            ),
            (
                r#"{"gracePeriodSeconds":"1"}"#,
                "json: cannot unmarshal string into Go struct field DeleteOptions.gracePeriodSeconds of type int64",
            ),
            (r#"{"kind":"Pod","apiVersion":"v1"}"#, "decoded object cannot be converted to DeleteOptions"),
            (
                r#"{"dryRun":["Some"]}"#,
                r#"DeleteOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value: ["Some"]: supported values: "All""#,
            ),
            (
                r#"{"orphanDependents":true,"propagationPolicy":"Orphan"}"#,
                r#"DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: Invalid value: "Orphan": orphanDependents and deletionPropagation cannot be both set"#,
            ),
            (
                r#"{"propagationPolicy":"No"}"#,
                r#"DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: Unsupported value: "No": supported values: "Foreground", "Background", "Orphan", "nil""#,
            ),
        ];
        for (body, expected) in table {
            assert_eq!(read(body).err().as_deref(), Some(expected), "{body}");
        }
        assert!(
            read(r#"{"kind":"Nothing","apiVersion":"v9"}"#).is_err_and(|why| why.starts_with("no kind \"Nothing\""))
        );
        for (body, dry) in [
            (r#"{"kind":"DeleteOptions","apiVersion":"v1","dryRun":["All"],"unknown":1}"#, true),
            (r#"{"kind":"DeleteOptions","apiVersion":"apps/v1"}"#, false),
            (r#"{"kind":"DeleteOptions","apiVersion":"meta.k8s.io/v1","dryRun":null}"#, false),
            ("{}", false),
        ] {
            assert_eq!(read(body).map(|options| options.dry_run), Ok(dry), "{body}");
        }
    }
}
