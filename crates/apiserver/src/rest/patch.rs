//! PATCH: JSON patch, merge patch, strategic merge patch and server-side apply.

use api::apply::{self, Ctx};
use api::codec::Decoded;
use api::schema::Struct;
use api::{Status, Value};
use http::{HeaderMap, header};

use super::update::{Made, change, respond};
use super::{Call, input};
use crate::clock;
use crate::wire::{Response, accept};

const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// The media type of the body, without its parameters.
pub fn media(headers: &HeaderMap) -> &str {
    let sent = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    sent.split(';').next().unwrap_or("").trim()
}

/// Whether the body is a configuration that is applied.
pub fn is_apply(headers: &HeaderMap) -> bool {
    media(headers) == APPLY
}

/// A patch, read but not yet applied to anything.
pub enum Patch {
    Json(Decoded),
    Merge(Decoded),
    Strategic(Decoded),
    Apply { config: Value, duplicates: Vec<String>, force: bool },
}

/// Reads the body by its media type.
pub fn read(call: &Call) -> Result<Patch, Status> {
    let media = media(&call.headers);
    let json = || api::codec::json::decode(&call.body).map_err(|e| Status::bad_request(e.to_string()));
    match media {
        APPLY => {
            let Decoded { value: config, duplicates } =
                api::codec::yaml::decode(&call.body).map_err(|e| Status::bad_request(e.to_string()))?;
            for field in ["apiVersion", "kind"] {
                if config[field].as_str().is_none_or(str::is_empty) {
                    return Err(Status::bad_request(format!("{field} must be set in apply patch")));
                }
            }
            let owners = config["metadata"].get("managedFields");
            if owners.is_some_and(|m| m.as_array().is_none_or(|l| !l.is_empty())) {
                return Err(Status::bad_request("metadata.managedFields must be nil"));
            }
            Ok(Patch::Apply { config, duplicates, force: call.query.flag("force") })
        }
        JSON => json().map(Patch::Json),
        MERGE => json().map(Patch::Merge),
        STRATEGIC if !call.kind.schema.open => json().map(Patch::Strategic),
        _ if call.kind.schema.open => Err(accept::unsupported(&[JSON, MERGE, APPLY])),
        _ => Err(accept::unsupported(&[JSON, MERGE, STRATEGIC, APPLY])),
    }
}

impl Patch {
    /// The patched object, and which fields the patch names twice. What is applied has an owner, and goes by [`apply::apply`].
    pub fn to(&self, object: &Value, schema: &Struct) -> Result<(Value, Vec<String>), Status> {
        let (patched, patch) = match self {
            Patch::Json(patch) => (api::patch::json(object, &patch.value)?, patch),
            Patch::Merge(patch) => (api::patch::merge(object, &patch.value)?, patch),
            Patch::Strategic(patch) => (api::patch::strategic(object, &patch.value, schema)?, patch),
            Patch::Apply { config, duplicates, .. } => return Ok((config.clone(), duplicates.clone())),
        };
        Ok((patched, patch.duplicates.clone()))
    }
}

/// Applies the body to the object.
pub async fn patch(call: &Call) -> Result<Response, Status> {
    let mut warnings = Vec::new();
    let outcome = match read(call)? {
        Patch::Apply { config, duplicates, force } => apply(call, config, duplicates, force, &mut warnings).await?,
        patch => {
            change(call, &mut warnings, |old| {
                let old = old.ok_or_else(|| call.not_found())?;
                let (object, duplicates) = patch.to(old, &call.kind.schema)?;
                let checked = input::check(call, object, duplicates)?;
                call.check_name(&checked.object)?;
                Ok(Made { warnings: checked.warnings, ..Made::new(checked.object) })
            })
            .await?
        }
    };
    respond(call, outcome, &warnings)
}

/// Server-side apply. It creates what is not there.
async fn apply(
    call: &Call,
    config: Value,
    duplicates: Vec<String>,
    force: bool,
    warnings: &mut Vec<String>,
) -> Result<super::update::Outcome, Status> {
    let checked = input::check_config(call, config, duplicates)?;
    warnings.extend(checked.warnings);
    let config = checked.object;
    // A configuration may leave its name to the path.
    if !super::metadata::text(&config, "name").is_empty() {
        call.check_name(&config)?;
    }
    let manager = call.query.get("fieldManager").unwrap_or("");
    let now = clock::now();
    let api_version = call.kind.api_version();
    change(call, warnings, |live| {
        if live.is_none() && !call.info.subresource.is_empty() {
            return Err(call.not_found());
        }
        let context = Ctx {
            schema: &call.kind.schema,
            api_version: &api_version,
            manager,
            subresource: &call.info.subresource,
            now: &now,
        };
        Ok(Made { tracked: true, ..Made::new(apply::apply(live, &config, &context, force)?) })
    })
    .await
}
