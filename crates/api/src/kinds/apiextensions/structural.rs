//! Whether a schema is structural: every field is declared, once and with its type, outside of what only restricts it.

use std::cmp::Ordering;

use serde_json::{Map, Value, json};

use crate::kinds::access::{at, flag, list, text};
use crate::validation::{Errors, Path};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// The entries of a map of schemas, `properties` above all.
pub fn schemas<'v>(schema: &'v Value, field: &str) -> impl Iterator<Item = (&'v String, &'v Value)> + use<'v> {
    schema.get(field).and_then(Value::as_object).into_iter().flatten()
}

/// A schema inside another, where there is one.
pub fn inner<'v>(schema: &'v Value, field: &str) -> Option<&'v Value> {
    schema.get(field).filter(|value| value.is_object())
}

/// Errors of a schema's structure, in the order of their texts.
pub fn validate(schema: &Value, path: &Path, errors: &mut Errors) {
    let mut found = Errors::default();
    structure(schema, Level::Root, path, &mut found);
    restrictions_are_declared(schema, schema, path, path, &mut found);
    let mut causes = found.causes().to_vec();
    causes.sort_by(|a, b| match a.field.cmp(&b.field) {
        Ordering::Equal => a.message.cmp(&b.message),
        order => order,
    });
    for cause in causes {
        errors.push(&cause.reason, &cause.field, cause.message);
    }
}

fn structure(schema: &Value, level: Level, path: &Path, errors: &mut Errors) {
    let kind = text(schema, "type");
    if kind == "array" && inner(schema, "items").is_none() {
        errors.required(path.child("items"), "must be specified");
    }
    if let Some(items) = inner(schema, "items") {
        structure(items, Level::Item, &path.child("items"), errors);
    }
    let properties = path.child("properties");
    for (name, property) in schemas(schema, "properties") {
        structure(property, Level::Field, &properties.key(name), errors);
    }
    let additional = schema.get("additionalProperties").filter(|value| !value.is_null());
    let at_additional = path.child("additionalProperties");
    if additional.is_some() && level == Level::Root {
        errors.forbidden(at_additional, "must not be used at the root");
    }
    if let Some(values) = additional.filter(|value| value.is_object()) {
        structure(values, Level::Field, &at_additional, errors);
    }
    let embedded = flag(schema, "x-kubernetes-embedded-resource");
    let open = flag(schema, "x-kubernetes-preserve-unknown-fields");
    let either = flag(schema, "x-kubernetes-int-or-string");
    if either && open {
        let why = "must be false if x-kubernetes-int-or-string is true";
        errors.invalid(path.child("x-kubernetes-preserve-unknown-fields"), &Value::Bool(true), why);
    }
    if either && embedded {
        let why = "must be false if x-kubernetes-int-or-string is true";
        errors.invalid(path.child("x-kubernetes-embedded-resource"), &Value::Bool(true), why);
    }
    restrictions(schema, is_either(list(schema, "anyOf")), is_either_of_all(schema), path, errors);
    kind_of(schema, level, path, errors);
    if embedded && additional.is_some() {
        errors.forbidden(at_additional, "must not be used if x-kubernetes-embedded-resource is set");
    }
    metadata(schema, level, path, errors);
    if embedded && !open && schemas(schema, "properties").next().is_none() {
        let why = "must not be empty if x-kubernetes-embedded-resource is true without \
                   x-kubernetes-preserve-unknown-fields";
        errors.required(properties, why);
    }
}

fn kind_of(schema: &Value, level: Level, path: &Path, errors: &mut Errors) {
    let (kind, path) = (text(schema, "type"), path.child("type"));
    let typed_otherwise =
        ["x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields"].iter().any(|mark| flag(schema, mark));
    if flag(schema, "x-kubernetes-embedded-resource") && kind != "object" {
        let why = "must be object if x-kubernetes-embedded-resource is true";
        if kind.is_empty() { errors.required(path, why) } else { errors.invalid(path, kind, why) }
    } else if kind.is_empty() && !typed_otherwise {
        let why = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.required(path, why);
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        errors.invalid(path, kind, "must be object at the root");
    }
}

/// Of an object's own metadata a schema may only restrict the name.
fn metadata(schema: &Value, level: Level, path: &Path, errors: &mut Errors) {
    let of_object = level == Level::Root || flag(schema, "x-kubernetes-embedded-resource");
    let property = |name: &str| inner(schema, "properties").and_then(|properties| properties.get(name));
    let properties = path.child("properties");
    for field in ["kind", "apiVersion"] {
        if let Some(inner) = property(field).filter(|inner| of_object && text(inner, "type") != "string") {
            errors.invalid(properties.key(field).child("type"), text(inner, "type"), "must be string");
        }
    }
    let Some(metadata) = property("metadata") else { return };
    let path = properties.key("metadata");
    if of_object && text(metadata, "type") != "object" {
        errors.invalid(path.child("type"), text(metadata, "type"), "must be object");
    }
    if level != Level::Root {
        return;
    }
    let only_names = schemas(metadata, "properties").all(|(name, _)| name == "name" || name == "generateName");
    let other = metadata.as_object().into_iter().flatten().any(|(field, value)| {
        !matches!(field.as_str(), "type" | "default" | "properties") && !value.is_null() && value != &json!(false)
    });
    if !only_names || other {
        let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.forbidden(path, why);
    }
}

/// `anyOf: [{type: integer}, {type: string}]`, which may stand where types may not.
fn is_either(any: &[Value]) -> bool {
    matches!(any, [integer, string] if *integer == json!({"type": "integer"}) && *string == json!({"type": "string"}))
}

fn is_either_of_all(schema: &Value) -> bool {
    list(schema, "allOf").first().is_some_and(|first| is_either(list(first, "anyOf")))
}

/// What stands under `anyOf`, `allOf`, `oneOf` and `not` may restrict and not declare.
fn restrictions(schema: &Value, skip_any: bool, skip_first_any: bool, path: &Path, errors: &mut Errors) {
    for junctor in ["anyOf", "allOf", "oneOf"] {
        if junctor == "anyOf" && skip_any {
            continue;
        }
        let all = path.child(junctor);
        for (index, nested) in list(schema, junctor).iter().enumerate() {
            let skip = junctor == "allOf" && skip_first_any && index == 0;
            restriction(nested, skip, &all.index(index), errors);
        }
    }
    if let Some(not) = inner(schema, "not") {
        restriction(not, false, &path.child("not"), errors);
    }
}

/// Fields that declare, and what they must be in a restriction.
const DECLARING: &[(&str, &str)] = &[
    ("type", "empty"),
    ("additionalProperties", "undefined"),
    ("default", "undefined"),
    ("title", "empty"),
    ("description", "empty"),
    ("nullable", "false"),
    ("x-kubernetes-preserve-unknown-fields", "false"),
    ("x-kubernetes-embedded-resource", "false"),
    ("x-kubernetes-int-or-string", "false"),
    ("x-kubernetes-list-map-keys", "empty"),
    ("x-kubernetes-list-type", "undefined"),
    ("x-kubernetes-map-type", "undefined"),
    ("x-kubernetes-validations", "empty"),
];

fn restriction(schema: &Value, skip_any: bool, path: &Path, errors: &mut Errors) {
    restrictions(schema, skip_any, false, path, errors);
    if let Some(items) = inner(schema, "items") {
        restriction(items, false, &path.child("items"), errors);
    }
    let properties = path.child("properties");
    for (name, property) in schemas(schema, "properties") {
        restriction(property, false, &properties.key(name), errors);
    }
    for (field, state) in DECLARING {
        let given = match schema.get(field) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Array(items)) => !items.is_empty(),
            Some(_) => true,
        };
        if given {
            errors.forbidden(path.child(field), format!("must be {state} to be structural"));
        }
    }
    if schemas(schema, "properties").any(|(name, _)| name == "metadata") {
        errors.forbidden(properties.key("metadata"), "must not be specified in a nested context");
    }
}

/// What a restriction names must be declared at the same place.
fn restrictions_are_declared(by: &Value, schema: &Value, path: &Path, by_path: &Path, errors: &mut Errors) {
    if let Some(not) = inner(by, "not") {
        is_declared(not, Some(schema), path, &by_path.child("not"), errors);
    }
    for junctor in ["allOf", "anyOf", "oneOf"] {
        let all = by_path.child(junctor);
        for (index, nested) in list(by, junctor).iter().enumerate() {
            is_declared(nested, Some(schema), path, &all.index(index), errors);
        }
    }
}

fn is_declared(by: &Value, schema: Option<&Value>, path: &Path, by_path: &Path, errors: &mut Errors) {
    let Some(schema) = schema else {
        return errors.required(path, format!("because it is defined in {by_path}"));
    };
    restrictions_are_declared(by, schema, path, by_path, errors);
    if let Some(items) = inner(by, "items") {
        is_declared(items, inner(schema, "items"), &path.child("items"), &by_path.child("items"), errors);
    }
    let (properties, by_properties) = (path.child("properties"), by_path.child("properties"));
    for (name, property) in schemas(by, "properties") {
        let declared = inner(schema, "properties").and_then(|properties| properties.get(name));
        is_declared(property, declared, &properties.key(name), &by_properties.key(name), errors);
    }
}

/// A value without what the schema does not declare.
pub fn pruned(value: &Value, schema: &Value) -> Value {
    let open = flag(schema, "x-kubernetes-preserve-unknown-fields");
    match value {
        Value::Array(items) => {
            let empty = json!({"x-kubernetes-preserve-unknown-fields": open});
            let of_items = inner(schema, "items").unwrap_or(&empty);
            items.iter().map(|item| pruned(item, of_items)).collect()
        }
        Value::Object(map) => {
            let embedded = flag(schema, "x-kubernetes-embedded-resource");
            let mut kept = Map::new();
            for (name, value) in map {
                let property = inner(schema, "properties").and_then(|properties| properties.get(name));
                let of_value = property.or_else(|| inner(schema, "additionalProperties"));
                let always = embedded && matches!(name.as_str(), "apiVersion" | "kind" | "metadata");
                let any = at(schema, "additionalProperties") == &json!(true);
                match of_value {
                    Some(of_value) => drop(kept.insert(name.clone(), pruned(value, of_value))),
                    None if open || always || any => drop(kept.insert(name.clone(), value.clone())),
                    None => {}
                }
            }
            Value::Object(kept)
        }
        other => other.clone(),
    }
}
