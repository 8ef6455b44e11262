//! PATCH: JSON patch, merge patch, strategic merge patch and server-side apply.

use api::Status;
use api::apply::{self, Ctx};
use api::validation::Errors;
use http::header;

use super::update::{Made, change, respond};
use super::{Call, input};
use crate::clock;
use crate::wire::{Response, accept};

const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// Applies the body to the object.
pub async fn patch(call: &Call) -> Result<Response, Status> {
    let sent = call.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    let media = sent.split(';').next().unwrap_or("").trim();
    let mut warnings = Vec::new();
    let outcome = match media {
        APPLY => apply(call, &mut warnings).await?,
        JSON | MERGE | STRATEGIC if media != STRATEGIC || !call.kind.schema.open => {
            let body = api::codec::json::decode(&call.body).map_err(|e| Status::bad_request(e.to_string()))?;
            let patch = body.value;
            change(call, &mut warnings, |old| {
                let old = old.ok_or_else(|| call.not_found())?;
                let object = match media {
                    JSON => api::patch::json(old, &patch),
                    MERGE => api::patch::merge(old, &patch),
                    _ => api::patch::strategic(old, &patch, &call.kind.schema),
                }?;
                let checked = input::check(call, object, body.duplicates.clone())?;
                Ok(Made { object: checked.object, tracked: false, warnings: checked.warnings })
            })
            .await?
        }
        _ => return Err(accept::unsupported(&[JSON, MERGE, STRATEGIC, APPLY], sent)),
    };
    respond(call, outcome, &warnings)
}

/// Server-side apply. It creates what is not there.
async fn apply(call: &Call, warnings: &mut Vec<String>) -> Result<super::update::Outcome, Status> {
    let manager = call.query.get("fieldManager").unwrap_or("");
    let mut errors = Errors::default();
    if manager.is_empty() {
        errors.required("fieldManager", "is required for apply patch");
    }
    errors.into_result("meta.k8s.io", "PatchOptions", "")?;
    let force = call.query.flag("force");
    let decoded = api::codec::yaml::decode(&call.body).map_err(|e| Status::bad_request(e.to_string()))?;
    for field in ["apiVersion", "kind"] {
        if decoded.value[field].as_str().is_none_or(str::is_empty) {
            return Err(Status::bad_request(format!("{field} must be set in apply patch")));
        }
    }
    if decoded.value["metadata"].get("managedFields").is_some_and(|m| m.as_array().is_none_or(|l| !l.is_empty())) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let checked = input::check_config(call, decoded.value, decoded.duplicates)?;
    warnings.extend(checked.warnings);
    let name = super::metadata::text(&checked.object, "name");
    if !name.is_empty() && name != call.info.name {
        let url = &call.info.name;
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({url})"
        )));
    }
    let now = clock::now();
    let config = checked.object;
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
        Ok(Made { object: apply::apply(live, &config, &context, force)?, tracked: true, warnings: Vec::new() })
    })
    .await
}
