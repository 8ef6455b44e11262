//! The `scale` subresource: replicas seen apart from the rest of their object.

mod ownership;

use api::apply::{self, Ctx};
use api::{Status, Value};
use http::StatusCode;
use serde_json::{Map, json};

use crate::clock;
use crate::dispatch::not_allowed;
use crate::rest::patch::{self, Patch};
use crate::rest::prepare::Shown;
use crate::rest::update::{Made, change};
use crate::rest::{Call, input, metadata, output};
use crate::wire::{Response, answer};

const VERSION: &str = "autoscaling/v1";
const KIND: &str = "Scale";

/// How admission sees a write of a scale.
const SHOWN: Shown = Shown { subresource: "scale", show: scale_of, take };

/// GET, PUT and PATCH of a scale.
pub async fn answer(call: &Call) -> Result<Response, Status> {
    let parent = call.of(call.kind.clone(), &call.info.namespace, &call.info.name);
    let mut warnings = Vec::new();
    let stored = match call.info.verb {
        "get" => parent.parse(&*parent.entry()?)?,
        "update" => {
            let sent = input::read_as(call, &[VERSION], KIND)?;
            call.check_name(&sent.object)?;
            warnings = sent.warnings;
            write(call, &parent, &mut warnings, |_, _| Ok(Scaled::plain(sent.object.clone()))).await?
        }
        "patch" => {
            let patch = patch::read(call)?;
            write(call, &parent, &mut warnings, |scale, context| patched(call, &patch, scale, context)).await?
        }
        _ => return Err(not_allowed()),
    };
    let mut response = output::encode(call, StatusCode::OK, &scale_of(&stored), false)?;
    answer::warn(&mut response, &warnings);
    Ok(response)
}

/// A new scale.
struct Scaled {
    scale: Value,
    /// Its managed fields are made already.
    tracked: bool,
    warnings: Vec<String>,
}

impl Scaled {
    fn plain(scale: Value) -> Self {
        Scaled { scale, tracked: false, warnings: Vec::new() }
    }
}

fn patched(call: &Call, patch: &Patch, scale: &Value, context: &Ctx) -> Result<Scaled, Status> {
    if let Patch::Apply { config, duplicates, force } = patch {
        let checked = input::check_as(call, config.clone(), duplicates.clone(), &[VERSION], KIND)?;
        call.check_name(&checked.object)?;
        // The check drops zeros, which say something in what is applied.
        let scale = apply::apply(Some(scale), config, context, *force)?;
        return Ok(Scaled { scale, tracked: true, warnings: checked.warnings });
    }
    let (object, duplicates) = patch.to(scale, context.schema)?;
    let checked = input::check_as(call, object, duplicates, &[VERSION], KIND)?;
    call.check_name(&checked.object)?;
    Ok(Scaled { scale: checked.object, tracked: false, warnings: checked.warnings })
}

/// Writes the scale's replicas into the object; gives the object.
async fn write(
    call: &Call,
    parent: &Call,
    warnings: &mut Vec<String>,
    make: impl Fn(&Value, &Ctx) -> Result<Scaled, Status>,
) -> Result<Value, Status> {
    let schema = api::table::by_kind(VERSION, KIND).ok_or_else(|| Status::internal("Scale has no schema"))?;
    let (manager, now) = (call.manager(), clock::now());
    let context = Ctx { schema, api_version: VERSION, manager: &manager, subresource: "scale", now: &now };
    let outcome = change(parent, warnings, |old| {
        let old = old.ok_or_else(|| call.not_found())?;
        let mut before = scale_of(old);
        before["metadata"]["managedFields"] = ownership::of_scale(&old["metadata"]["managedFields"]);
        let Scaled { mut scale, tracked, warnings } = make(&before, &context)?;
        if !tracked {
            apply::track_update(Some(&before), &mut scale, &context);
        }
        let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
        if replicas < 0 {
            let mut errors = api::validation::Errors::default();
            errors.invalid("spec.replicas", replicas, "must be greater than or equal to 0");
            errors.into_result("autoscaling", KIND, &call.info.name)?;
        }
        let (uid, own) = (metadata::text(&scale, "uid"), metadata::text(old, "uid"));
        if !uid.is_empty() && uid != own {
            let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {own}");
            let resource = format!("{}/scale", call.kind.plural);
            return Err(Status::conflict(&call.kind.group, &resource, &call.info.name, &why));
        }
        let mut object = old.clone();
        metadata::set(&mut object, "resourceVersion", metadata::text(&scale, "resourceVersion"));
        take(&mut object, &scale);
        let owners = ownership::of_parent(
            &old["metadata"]["managedFields"],
            &scale["metadata"]["managedFields"],
            &parent.kind.api_version(),
        );
        metadata::set(&mut object, "managedFields", owners);
        Ok(Made { object, tracked: true, shown: Some(&SHOWN), warnings })
    })
    .await?;
    parent.parse_at(&outcome.stored.bytes, outcome.stored.revision)
}

/// Puts a scale's replicas into its object.
fn take(object: &mut Value, scale: &Value) {
    object["spec"]["replicas"] = Value::from(scale["spec"]["replicas"].as_i64().unwrap_or(0));
}

fn scale_of(object: &Value) -> Value {
    let mut meta = Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(field) {
            meta.insert(field.to_owned(), value.clone());
        }
    }
    let mut status = json!({"replicas": object["status"]["replicas"].as_i64().unwrap_or(0)});
    let selector = selector_text(&object["spec"]["selector"]);
    if !selector.is_empty() {
        status["selector"] = Value::from(selector);
    }
    let mut spec = json!({});
    if let Some(replicas) = object["spec"]["replicas"].as_i64().filter(|replicas| *replicas != 0) {
        spec["replicas"] = replicas.into();
    }
    json!({"kind": KIND, "apiVersion": VERSION, "metadata": meta, "spec": spec, "status": status})
}

/// A selector object, or the plain map of a ReplicationController, as `a=b,c in (d,e)`.
fn selector_text(selector: &Value) -> String {
    let Some(map) = selector.as_object() else { return String::new() };
    let plain = !map.contains_key("matchLabels") && !map.contains_key("matchExpressions");
    let labels = if plain { Some(map) } else { selector["matchLabels"].as_object() };
    let equal = |(key, value): (&String, &Value)| format!("{key}={}", value.as_str().unwrap_or(""));
    let mut parts: Vec<String> = labels.into_iter().flatten().map(equal).collect();
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = expression["key"].as_str().unwrap_or("");
        let mut values: Vec<&str> =
            expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        parts.push(match expression["operator"].as_str().unwrap_or("") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_is_written_as_text() {
        let selector = json!({"matchLabels": {"a": "b"}, "matchExpressions": [
            {"key": "c", "operator": "In", "values": ["e", "d"]}, {"key": "f", "operator": "DoesNotExist"}]});
        assert_eq!(selector_text(&selector), "a=b,c in (d,e),!f");
        assert_eq!(selector_text(&json!({"app": "x"})), "app=x");
    }
}
