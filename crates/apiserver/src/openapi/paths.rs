//! The paths of the served kinds with their operations.

use std::sync::Arc;

use api::kind::{Kind, Subresource};
use api::{Map, Value};
use serde_json::json;

use super::Edition;
use super::schemas::reference;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const PATCHES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// `/api/v1` or `/apis/<group>/<version>`.
pub fn base(kind: &Kind) -> String {
    if kind.group.is_empty() {
        format!("/api/{}", kind.version)
    } else {
        format!("/apis/{}/{}", kind.group, kind.version)
    }
}

/// Every path of the kinds.
pub fn of(kinds: &[Arc<Kind>], edition: Edition) -> Map<String, Value> {
    let mut paths = Map::new();
    for kind in kinds {
        let base = base(kind);
        let scoped = if kind.namespaced { format!("{base}/namespaces/{{namespace}}") } else { base.clone() };
        let collection = format!("{scoped}/{}", kind.plural);
        let one = format!("{collection}/{{name}}");
        let make = |verbs: &[&str], one: bool| item(kind, None, verbs, one, edition);
        if let Some(value) = make(&["list", "create", "deletecollection"], false) {
            paths.insert(collection, value);
        }
        if kind.namespaced
            && let Some(value) = make(&["list"], false)
        {
            paths.insert(format!("{base}/{}", kind.plural), value);
        }
        if let Some(value) = make(&["get", "update", "patch", "delete"], true) {
            paths.insert(one.clone(), value);
        }
        for sub in kind.subresources.iter() {
            let verbs: Vec<&str> = sub.verbs.iter().map(|v| &**v).collect();
            if let Some(value) = item(kind, Some(sub), &verbs, true, edition) {
                paths.insert(format!("{one}/{}", sub.name), value);
            }
        }
    }
    paths
}

/// A path with its operations; `None` where it has none.
fn item(kind: &Kind, sub: Option<&Subresource>, verbs: &[&str], one: bool, edition: Edition) -> Option<Value> {
    let mut value = Map::new();
    let served = |verb: &str| sub.is_some() || kind.has_verb(verb);
    for verb in verbs.iter().filter(|verb| served(verb)) {
        value.insert(method(verb).to_owned(), operation(kind, sub, verb, edition));
    }
    if value.is_empty() {
        return None;
    }
    let mut parameters = Vec::new();
    if one {
        parameters.push(parameter("name", "path", "string", edition));
    }
    if kind.namespaced {
        parameters.push(parameter("namespace", "path", "string", edition));
    }
    value.insert("parameters".to_owned(), Value::Array(parameters));
    Some(Value::Object(value))
}

fn method(verb: &str) -> &'static str {
    match verb {
        "create" => "post",
        "update" => "put",
        "patch" => "patch",
        "delete" | "deletecollection" => "delete",
        _ => "get",
    }
}

fn action(verb: &str) -> &str {
    match verb {
        "create" => "post",
        "update" => "put",
        other => other,
    }
}

fn operation(kind: &Kind, sub: Option<&Subresource>, verb: &str, edition: Edition) -> Value {
    let own = sub.is_none_or(|s| s.version.is_empty());
    let (group, version) = match sub {
        Some(sub) if !own => (&sub.group, &sub.version),
        _ => (&kind.group, &kind.version),
    };
    let name = sub.map_or(&kind.kind, |s| &s.kind);
    let schema = if own && *name == kind.kind {
        kind.schema.name.to_string()
    } else {
        let api_version = if group.is_empty() { version.to_string() } else { format!("{group}/{version}") };
        api::table::by_kind(&api_version, name).map(|s| s.name.to_string()).unwrap_or_default()
    };
    let answers = match verb {
        "list" => format!("{schema}List"),
        "delete" | "deletecollection" => format!("{META}Status"),
        _ => schema.clone(),
    };
    let writes = matches!(verb, "create" | "update" | "patch");
    let mut query: Vec<(&str, &str)> = Vec::new();
    match verb {
        "list" | "deletecollection" => query.extend([
            ("allowWatchBookmarks", "boolean"),
            ("continue", "string"),
            ("fieldSelector", "string"),
            ("labelSelector", "string"),
            ("limit", "integer"),
            ("resourceVersion", "string"),
            ("resourceVersionMatch", "string"),
            ("sendInitialEvents", "boolean"),
            ("timeoutSeconds", "integer"),
            ("watch", "boolean"),
        ]),
        "delete" => query.extend([
            ("dryRun", "string"),
            ("gracePeriodSeconds", "integer"),
            ("orphanDependents", "boolean"),
            ("propagationPolicy", "string"),
        ]),
        _ if writes => {
            query.extend([("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")]);
            if verb == "patch" {
                query.push(("force", "boolean"));
            }
        }
        _ => {}
    }
    query.push(("pretty", "string"));
    let mut parameters: Vec<Value> = query.iter().map(|(name, ty)| parameter(name, "query", ty, edition)).collect();
    let body = match verb {
        "create" | "update" => Some(schema.as_str().to_owned()),
        "patch" => Some(format!("{META}Patch")),
        "delete" | "deletecollection" => Some(format!("{META}DeleteOptions")),
        _ => None,
    };
    let described = |name: &str| {
        if name.is_empty() { json!({"type": "string"}) } else { json!({"$ref": reference(name, edition)}) }
    };
    let mut value = json!({
        "operationId": operation_id(kind, sub, verb),
        "tags": [tag(kind)],
        "x-kubernetes-action": action(verb),
        "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": name},
    });
    let content = |media: &[&str], name: &str| -> Map<String, Value> {
        media.iter().map(|m| ((*m).to_owned(), json!({"schema": described(name)}))).collect()
    };
    let json_only: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
    let consumes: &[&str] = if verb == "patch" { &PATCHES } else { &["application/json"] };
    match edition {
        Edition::V2 => {
            if let Some(body) = &body {
                let required = writes;
                parameters.push(json!({"name": "body", "in": "body", "required": required, "schema": described(body)}));
            }
            value["consumes"] = if verb == "patch" { json!(PATCHES) } else { json!(["*/*"]) };
            value["produces"] = json!(json_only);
            value["schemes"] = json!(["https"]);
            value["responses"] = json!({"200": {"description": "OK", "schema": described(&answers)}, "401": {"description": "Unauthorized"}});
        }
        Edition::V3 => {
            if let Some(body) = &body {
                value["requestBody"] = json!({"content": content(consumes, body), "required": writes});
            }
            value["responses"] = json!({
                "200": {"description": "OK", "content": content(json_only, &answers)}, "401": {"description": "Unauthorized"},
            });
        }
    }
    value["parameters"] = Value::Array(parameters);
    value
}

fn parameter(name: &str, place: &str, ty: &str, edition: Edition) -> Value {
    let mut value = json!({"name": name, "in": place, "uniqueItems": true});
    if place == "path" {
        value["required"] = Value::Bool(true);
    }
    match edition {
        Edition::V2 => value["type"] = Value::from(ty),
        Edition::V3 => {
            value["schema"] = json!({"type": ty, "uniqueItems": true});
            if let Some(map) = value.as_object_mut() {
                map.remove("uniqueItems");
            }
        }
    }
    value
}

/// `apps_v1`.
fn tag(kind: &Kind) -> String {
    let group = if kind.group.is_empty() { "core" } else { kind.group.split('.').next().unwrap_or("") };
    format!("{group}_{}", kind.version)
}

/// `readAppsV1NamespacedDeploymentStatus`.
fn operation_id(kind: &Kind, sub: Option<&Subresource>, verb: &str) -> String {
    let capital = |text: &str| -> String {
        let mut chars = text.chars();
        chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
    };
    let verb = match verb {
        "get" => "read",
        "update" => "replace",
        "deletecollection" => "deleteCollection",
        other => other,
    };
    let tag: String = tag(kind).split('_').map(capital).collect();
    let scope = if kind.namespaced { "Namespaced" } else { "" };
    format!("{verb}{tag}{scope}{}{}", kind.kind, sub.map(|s| capital(&s.name)).unwrap_or_default())
}
