//! What OpenAPI documents say in words, packed: descriptions of types and fields, unions, and the parameters of operations.

use std::io::Write;

use anyhow::{Context, Result};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Map, Value, json};

/// The texts as JSON: `definitions` (type to field to description, the type's own under the empty name), `unions` and `parameters`.
pub fn collect(openapi: &Value) -> Result<Value> {
    let mut definitions = Map::new();
    let mut unions = Map::new();
    for (name, definition) in openapi["definitions"].as_object().context("the document has no definitions")? {
        let own = [(String::new(), &definition["description"])];
        let fields = definition["properties"].as_object().into_iter().flatten();
        let texts: Map<String, Value> = own
            .into_iter()
            .chain(fields.map(|(field, property)| (field.clone(), &property["description"])))
            .filter(|(_, text)| text.is_string())
            .map(|(field, text)| (field, text.clone()))
            .collect();
        definitions.insert(name.clone(), Value::Object(texts));
        if let Some(union) = definition.get("x-kubernetes-unions") {
            unions.insert(name.clone(), union.clone());
        }
    }
    let mut parameters = openapi["parameters"].as_object().context("the document has no parameters")?.clone();
    // Those that the document repeats wherever they are used.
    for name in ["dryRun", "fieldValidation"] {
        let operations = openapi["paths"].as_object().into_iter().flatten().flat_map(|(_, item)| item.as_object());
        let mut all = operations.flatten().flat_map(|(_, operation)| operation["parameters"].as_array()).flatten();
        let found = all.find(|parameter| parameter["name"] == name).with_context(|| format!("nothing has {name}"))?;
        parameters.insert(name.to_owned(), found.clone());
    }
    Ok(json!({"definitions": definitions, "unions": unions, "parameters": parameters}))
}

/// The texts as they are checked in.
pub fn pack(texts: &Value) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(texts.to_string().as_bytes())?;
    Ok(encoder.finish()?)
}
