//! The two editions of a document. All is made as version 2 writes it; here it becomes the one or the other.

use std::collections::BTreeMap;

use api::{Map, Value};
use serde_json::json;

use super::texts::Texts;

/// Version 2 of a document's paths: parameters that many operations share are said once. Answers with those.
pub fn share_parameters(paths: &mut Map<String, Value>, texts: &Texts) -> Map<String, Value> {
    let mut known: Vec<(&str, Value)> = Vec::new();
    for id in texts.parameters().filter(|id| id.contains('-')) {
        known.push((id, texts.parameter(id)));
    }
    let mut used = BTreeMap::new();
    for_each_parameters(paths, |parameters| {
        for parameter in parameters {
            if let Some((id, full)) = known.iter().find(|(_, full)| full == parameter) {
                used.insert((*id).to_owned(), full.clone());
                *parameter = json!({"$ref": format!("#/parameters/{id}")});
            }
        }
    });
    used.into_iter().collect()
}

fn for_each_parameters(paths: &mut Map<String, Value>, mut change: impl FnMut(&mut Vec<Value>)) {
    for item in paths.values_mut().filter_map(Value::as_object_mut) {
        for (key, value) in item.iter_mut() {
            let parameters = if key == "parameters" { Some(value) } else { value.get_mut("parameters") };
            if let Some(Value::Array(parameters)) = parameters {
                change(parameters);
            }
        }
    }
}

/// A path's item in version 3.
pub fn item_v3(item: &mut Value) {
    for (key, value) in item.as_object_mut().into_iter().flatten() {
        if key == "parameters" {
            value.as_array_mut().into_iter().flatten().for_each(parameter_v3);
        } else {
            operation_v3(value);
        }
    }
    references_v3(item);
}

fn parameter_v3(parameter: &mut Value) {
    let Some(map) = parameter.as_object_mut() else { return };
    let mut schema = Map::new();
    for field in ["type", "uniqueItems"] {
        schema.extend(map.remove(field).map(|value| (field.to_owned(), value)));
    }
    map.insert("schema".to_owned(), Value::Object(schema));
}

fn operation_v3(operation: &mut Value) {
    let Some(map) = operation.as_object_mut() else { return };
    map.remove("schemes");
    let (consumes, produces) = (map.remove("consumes"), map.remove("produces"));
    let content = |media: &Option<Value>, schema: &Value| -> Value {
        let media = media.as_ref().and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        media.map(|media| (media.to_owned(), json!({"schema": schema}))).collect::<Map<_, _>>().into()
    };
    if let Some(Value::Array(mut parameters)) = map.remove("parameters") {
        if let Some(at) = parameters.iter().position(|parameter| parameter["in"] == "body") {
            let body = parameters.remove(at);
            let mut request = json!({"content": content(&consumes, &body["schema"])});
            if body["required"] == true {
                request["required"] = Value::Bool(true);
            }
            map.insert("requestBody".to_owned(), request);
        }
        parameters.iter_mut().for_each(parameter_v3);
        if !parameters.is_empty() {
            map.insert("parameters".to_owned(), Value::Array(parameters));
        }
    }
    for (_, response) in map.get_mut("responses").and_then(Value::as_object_mut).into_iter().flatten() {
        if let Some(schema) = response.as_object_mut().and_then(|response| response.remove("schema")) {
            response["content"] = content(&produces, &schema);
        }
    }
}

/// Types that are no objects: where nothing is given, there is nothing.
fn is_scalar(reference: &str) -> bool {
    const NAMES: [&str; 8] =
        ["Time", "MicroTime", "Quantity", "IntOrString", "RawExtension", "FieldsV1", "JSON", "Patch"];
    let name = reference.rsplit('.').next().unwrap_or("");
    NAMES.contains(&name) || name.starts_with("JSONSchemaPropsOr")
}

/// A definition in version 3.
pub fn definition_v3(name: &str, definition: &mut Value) {
    match name.rsplit('.').next() {
        Some("Quantity") if name.starts_with("io.k8s.apimachinery") => alternatives(definition, &["string", "number"]),
        Some("IntOrString") if name.starts_with("io.k8s.apimachinery") => {
            alternatives(definition, &["integer", "string"])
        }
        _ => {}
    }
    for (_, property) in definition.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        schema_v3(property);
    }
    references_v3(definition);
}

fn alternatives(definition: &mut Value, types: &[&str]) {
    if let Some(map) = definition.as_object_mut() {
        map.remove("type");
        map.insert("oneOf".to_owned(), types.iter().map(|ty| json!({"type": ty})).collect());
    }
}

/// What stands beside a reference would be ignored, so that the reference moves into `allOf`.
fn schema_v3(schema: &mut Value) {
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(inner) {
            schema_v3(inner);
        }
    }
    let Some(map) = schema.as_object_mut() else { return };
    let Some(reference) = map.get("$ref").and_then(Value::as_str).map(str::to_owned) else { return };
    if is_scalar(&reference) && map.len() == 1 {
        return;
    }
    if !is_scalar(&reference) {
        map.insert("default".to_owned(), json!({}));
    }
    map.remove("$ref");
    map.insert("allOf".to_owned(), json!([{"$ref": reference}]));
}

fn references_v3(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get_mut("$ref") {
                *reference = reference.replace("#/definitions/", "#/components/schemas/");
            }
            map.values_mut().for_each(references_v3);
        }
        Value::Array(items) => items.iter_mut().for_each(references_v3),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_with_a_description_moves_into_all_of() {
        let mut definition = json!({"properties": {
            "a": {"$ref": "#/definitions/x.Pod", "description": "d"},
            "b": {"type": "object", "additionalProperties": {"$ref": "#/definitions/x.Quantity"}},
            "c": {"type": "array", "items": {"$ref": "#/definitions/x.Pod"}},
        }});
        definition_v3("x", &mut definition);
        assert_eq!(
            definition["properties"],
            json!({
                "a": {"allOf": [{"$ref": "#/components/schemas/x.Pod"}], "default": {}, "description": "d"},
                "b": {"type": "object", "additionalProperties": {"$ref": "#/components/schemas/x.Quantity"}},
                "c": {"type": "array", "items": {"allOf": [{"$ref": "#/components/schemas/x.Pod"}], "default": {}}},
            })
        );
    }

    #[test]
    fn a_body_becomes_the_requests_and_types_become_content() {
        let mut item = json!({"post": {
            "consumes": ["*/*"], "produces": ["application/json"], "schemes": ["https"],
            "parameters": [{"in": "body", "name": "body", "required": true, "schema": {"$ref": "#/definitions/x"}},
                {"in": "query", "name": "dryRun", "type": "string", "uniqueItems": true}],
            "responses": {"200": {"description": "OK", "schema": {"$ref": "#/definitions/x"}}},
        }});
        item_v3(&mut item);
        let content = |media: &str| json!({media: {"schema": {"$ref": "#/components/schemas/x"}}});
        assert_eq!(
            item,
            json!({"post": {
                "requestBody": {"required": true, "content": content("*/*")},
                "parameters": [{"in": "query", "name": "dryRun", "schema": {"type": "string", "uniqueItems": true}}],
                "responses": {"200": {"description": "OK", "content": content("application/json")}},
            }})
        );
    }
}
