//! The `scale` subresource: replicas seen apart from the rest of their object.

use api::apply::{self, Ctx};
use api::{Status, Value};
use http::{StatusCode, header};
use serde_json::{Map, json};

use crate::clock;
use crate::dispatch::not_allowed;
use crate::rest::update::{Made, change};
use crate::rest::{Call, input, metadata, output};
use crate::wire::Response;

/// GET, PUT and PATCH of a scale.
pub async fn answer(call: &Call) -> Result<Response, Status> {
    let parent = call.of(call.kind.clone(), &call.info.namespace, &call.info.name);
    let stored = match call.info.verb {
        "get" => parent.parse(&*parent.entry()?)?,
        "update" => {
            let wanted = input::read_as(call, "autoscaling/v1", "Scale")?;
            write(call, &parent, |_| Ok(wanted.clone())).await?
        }
        "patch" => {
            let body = api::codec::yaml::decode(&call.body).map_err(|e| Status::bad_request(e.to_string()))?.value;
            let media = call.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
            let json_patch = media.starts_with("application/json-patch+json");
            write(call, &parent, |scale| {
                if json_patch { api::patch::json(&scale, &body) } else { api::patch::merge(&scale, &body) }
            })
            .await?
        }
        _ => return Err(not_allowed()),
    };
    output::encode(call, StatusCode::OK, &scale_of(&stored), false)
}

/// Writes the scale's replicas into the object; gives the object.
async fn write(call: &Call, parent: &Call, make: impl Fn(Value) -> Result<Value, Status>) -> Result<Value, Status> {
    let outcome = change(parent, &mut Vec::new(), |old| {
        let old = old.ok_or_else(|| call.not_found())?;
        let scale = make(scale_of(old))?;
        let name = metadata::text(&scale, "name");
        if !name.is_empty() && name != call.info.name {
            let url = &call.info.name;
            return Err(Status::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({url})"
            )));
        }
        let replicas = match &scale["spec"]["replicas"] {
            Value::Null => 0,
            other => other.as_i64().ok_or_else(|| Status::bad_request("spec.replicas must be an integer"))?,
        };
        if replicas < 0 {
            let mut errors = api::validation::Errors::default();
            errors.invalid("spec.replicas", replicas, "must be greater than or equal to 0");
            errors.into_result("autoscaling", "Scale", &call.info.name)?;
        }
        let mut object = old.clone();
        for field in ["resourceVersion", "uid"] {
            if let Some(text) = scale["metadata"][field].as_str().filter(|t| !t.is_empty()) {
                metadata::set(&mut object, field, text);
            }
        }
        object["spec"]["replicas"] = Value::from(replicas);
        // Who scales owns the replicas as a writer of the scale.
        let context = Ctx {
            schema: &parent.kind.schema,
            api_version: &parent.kind.api_version(),
            manager: &call.manager(),
            subresource: "scale",
            now: &clock::now(),
        };
        apply::track_update(Some(old), &mut object, &context);
        Ok(Made { object, tracked: true, warnings: Vec::new() })
    })
    .await?;
    parent.parse_at(&outcome.stored.bytes, outcome.stored.revision)
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
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta,
        "spec": {"replicas": object["spec"]["replicas"].as_i64().unwrap_or(0)}, "status": status,
    })
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
