//! What the schema of a custom resource may say.

use serde_json::Value;

use super::paths;
use super::structural::{self, inner, schemas};
use crate::kinds::access::{at, flag, has, list, text};
use crate::validation::{Errors, Path};

/// Fields that may stand at the root beside a status of its own: what they say of the status is not lost.
const AT_ROOT: &[(&str, &str)] = &[
    ("description", "Description"),
    ("type", "Type"),
    ("format", "Format"),
    ("title", "Title"),
    ("maximum", "Maximum"),
    ("exclusiveMaximum", "ExclusiveMaximum"),
    ("minimum", "Minimum"),
    ("exclusiveMinimum", "ExclusiveMinimum"),
    ("maxLength", "MaxLength"),
    ("minLength", "MinLength"),
    ("pattern", "Pattern"),
    ("maxItems", "MaxItems"),
    ("minItems", "MinItems"),
    ("uniqueItems", "UniqueItems"),
    ("multipleOf", "MultipleOf"),
    ("required", "Required"),
    ("items", "Items"),
    ("properties", "Properties"),
    ("externalDocs", "ExternalDocs"),
    ("example", "Example"),
    ("x-kubernetes-preserve-unknown-fields", "XPreserveUnknownFields"),
    ("x-kubernetes-validations", "XValidations"),
];

/// Whether a value is what Go takes for nothing.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// Errors of the schema of a version; `path` is where its `openAPIV3Schema` stands.
pub fn validate(schema: &Value, has_status: bool, path: &Path, errors: &mut Errors) {
    if has_status {
        at_root(schema, path, errors);
    }
    let schema_path = path.child("openAPIV3Schema");
    if flag(schema, "nullable") {
        errors.forbidden(path.child("openAPIV3Schema.nullable"), "nullable cannot be true at the root");
    }
    let mut found = Errors::default();
    structural::validate(schema, &schema_path, &mut found);
    if found.is_empty() {
        defaults(schema, &schema_path, &mut found);
    }
    for cause in found.causes() {
        errors.push(&cause.reason, &cause.field, cause.message.clone());
    }
    walk(schema, Place { root: true, defaults: Ok(()), in_metadata: false }, &schema_path, errors);
}

fn at_root(schema: &Value, path: &Path, errors: &mut Errors) {
    let kind = text(schema, "type");
    if !kind.is_empty() && kind != "object" {
        let why =
            "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        return errors.invalid(path.child("openAPIV3Schema.type"), kind, why);
    }
    let fields = schema.as_object().into_iter().flatten().filter(|(_, value)| !is_nothing(value));
    if fields.into_iter().any(|(field, _)| !AT_ROOT.iter().any(|(name, _)| name == field)) {
        let names: Vec<&str> = AT_ROOT.iter().map(|(_, name)| *name).collect();
        let why = format!(
            "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
            names.join(" ")
        );
        errors.invalid(path.child("openAPIV3Schema"), schema, why);
    }
}

/// Where in the whole a schema stands.
#[derive(Clone, Copy)]
struct Place {
    root: bool,
    /// Why no defaults may be here.
    defaults: Result<(), &'static str>,
    in_metadata: bool,
}

/// What every object has, and why a schema gives no defaults for it.
const METADATA: &[(&str, &str)] =
    &[("apiVersion", "in top-level apiVersion"), ("kind", "in top-level kind"), ("metadata", "in top-level metadata")];

fn walk(schema: &Value, place: Place, path: &Path, errors: &mut Errors) {
    standard(schema, place, path, errors);
    let below = Place { root: false, ..place };
    if flag(schema, "uniqueItems") {
        let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.forbidden(path.child("uniqueItems"), why);
    }
    let additional = at(schema, "additionalProperties");
    let at_additional = path.child("additionalProperties");
    if !additional.is_null() && additional != true && schemas(schema, "properties").next().is_some() {
        errors.forbidden(at_additional, "additionalProperties and properties are mutual exclusive");
    }
    if additional.is_object() {
        let defaults = if place.in_metadata {
            Err("inside additionalProperties applying to object metadata")
        } else {
            place.defaults
        };
        walk(additional, Place { defaults, ..below }, &at_additional, errors);
    }
    let properties = path.child("properties");
    for (name, property) in schemas(schema, "properties") {
        let mut inside = below;
        let whole = place.root || flag(schema, "x-kubernetes-embedded-resource");
        if let Some((_, top)) = METADATA.iter().find(|(field, _)| whole && field == name) {
            inside.in_metadata = true;
            if place.root {
                inside.defaults = Err(*top);
            }
        }
        walk(property, inside, &properties.key(name), errors);
    }
    for junctor in ["allOf", "oneOf", "anyOf"] {
        let all = path.child(junctor);
        for (index, nested) in list(schema, junctor).iter().enumerate() {
            walk(nested, below, &all.index(index), errors);
        }
    }
    if let Some(not) = inner(schema, "not") {
        walk(not, below, &path.child("not"), errors);
    }
    if let Some(items) = inner(schema, "items") {
        walk(items, below, &path.child("items"), errors);
    }
    kubernetes(schema, path, errors);
    rules(schema, path, errors);
}

/// What of the OpenAPI standard is not for custom resources.
fn standard(schema: &Value, place: Place, path: &Path, errors: &mut Errors) {
    const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
    let kind = text(schema, "type");
    if !kind.is_empty() {
        errors.one_of_if_set(path.child("type"), at(schema, "type"), TYPES);
    }
    if let (true, Err(reason)) = (has_default(schema), place.defaults) {
        errors.forbidden(path.child("default"), format!("must not be set {reason}"));
    }
    for field in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        if schema.get(field).is_some_and(|value| !is_nothing(value)) {
            errors.forbidden(path.child(field), format!("{field} is not supported"));
        }
    }
    if kind == "null" {
        errors.forbidden(path.child("type"), "type cannot be set to null, use nullable as an alternative");
    }
    if at(schema, "items").is_array() {
        errors.forbidden(path.child("items"), "items must be a schema object and not an array");
    }
    if place.in_metadata && flag(schema, "x-kubernetes-embedded-resource") {
        errors.forbidden(path.child("x-kubernetes-embedded-resource"), "must not be used inside of resource meta");
    }
}

fn has_default(schema: &Value) -> bool {
    schema.get("default").is_some_and(|value| !value.is_null())
}

/// Upstream's own marks: how lists and maps are merged, and which fields are kept.
fn kubernetes(schema: &Value, path: &Path, errors: &mut Errors) {
    const OPEN: &str = "x-kubernetes-preserve-unknown-fields";
    const MAP: &str = "x-kubernetes-map-type";
    const LIST: &str = "x-kubernetes-list-type";
    if at(schema, OPEN) == false {
        errors.invalid(path.child(OPEN), &Value::Bool(false), "must be true or undefined");
    }
    let kind = text(schema, "type");
    let mut typed = |mark: &str, wanted: &str| {
        let why = format!("must be {wanted} if {mark} is specified");
        match kind {
            _ if !has(schema, mark) || kind == wanted => true,
            "" => {
                errors.required(path.child("type"), why);
                false
            }
            _ => {
                errors.invalid(path.child("type"), kind, why);
                false
            }
        }
    };
    typed(MAP, "object");
    let list_is_array = typed(LIST, "array");
    errors.one_of_if_set(path.child(MAP), at(schema, MAP), &["atomic", "granular"]);
    let merged = at(schema, LIST).as_str();
    let (items, at_items) = (inner(schema, "items"), path.child("items"));
    if let Some(items) = items.filter(|_| list_is_array && merged == Some("set")) {
        let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
        match text(items, "type") {
            "array" if has(items, LIST) && text(items, LIST) != "atomic" => {
                errors.invalid(at_items.child(LIST), at(items, LIST), why);
            }
            "object" if text(items, MAP) != "atomic" => errors.invalid(at_items.child(MAP), at(items, MAP), why),
            _ => {}
        }
    }
    errors.one_of_if_set(path.child(LIST), at(schema, LIST), &["atomic", "set", "map"]);
    keys(schema, merged, path, errors);
    if let Some((items, merged)) = items.zip(merged.filter(|merged| matches!(*merged, "set" | "map")))
        && flag(items, "nullable")
    {
        let why = format!("cannot be nullable when x-kubernetes-list-type is {merged}");
        errors.forbidden(at_items.child("nullable"), why);
    }
}

/// The keys of a list's items.
fn keys(schema: &Value, merged: Option<&str>, path: &Path, errors: &mut Errors) {
    const KEYS: &str = "x-kubernetes-list-map-keys";
    let (keys, at_keys) = (list(schema, KEYS), path.child(KEYS));
    let (items, at_items) = (at(schema, "items"), path.child("items"));
    if !keys.is_empty() {
        let why = "must be map if x-kubernetes-list-map-keys is non-empty";
        let at_type = path.child("x-kubernetes-list-type");
        match merged {
            None => errors.required(at_type, why),
            Some("map") => {}
            Some(other) => errors.invalid(at_type, other, why),
        }
    }
    if merged != Some("map") {
        return;
    }
    if keys.is_empty() {
        errors.required(at_keys, "must not be empty if x-kubernetes-list-type is map");
    }
    match items {
        Value::Null => return errors.required(at_items, "must have a schema if x-kubernetes-list-type is map"),
        Value::Object(_) => {}
        other => {
            return errors.invalid(at_items, other, "must only have a single schema if x-kubernetes-list-type is map");
        }
    }
    let kind = text(items, "type");
    if kind != "object" {
        let why = "must be object if parent array's x-kubernetes-list-type is map";
        return errors.invalid(at_items.child("type"), kind, why);
    }
    let properties = at_items.child("properties");
    for (index, key) in keys.iter().enumerate() {
        let name = key.as_str().unwrap_or_default();
        let property = inner(items, "properties").and_then(|properties| properties.get(name));
        match property.map(|property| text(property, "type")) {
            Some("array" | "object") => {
                let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                errors.invalid(properties.key(name).child("type"), kind, why);
            }
            Some(_) => {}
            None => errors.invalid(at_keys, at(schema, KEYS), "entries must all be names of item properties"),
        }
        if keys[..index].contains(key) {
            errors.invalid(at_keys, at(schema, KEYS), "must not contain duplicate entries");
        }
        let Some(property) = property else { continue };
        let path = properties.key(name);
        if !list(items, "required").contains(key) && !has_default(property) {
            let why =
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.required(path.child("default"), why);
        }
        if flag(property, "nullable") {
            let why = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.forbidden(path.child("nullable"), why);
        }
    }
}

/// The texts of `x-kubernetes-validations`; what the expressions mean is not looked at.
fn rules(schema: &Value, path: &Path, errors: &mut Errors) {
    const REASONS: &[&str] = &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
    let all = path.child("x-kubernetes-validations");
    for (index, rule) in list(schema, "x-kubernetes-validations").iter().enumerate() {
        let path = all.index(index);
        let (expression, message) = (text(rule, "rule").trim(), text(rule, "message"));
        let at_message = path.child("message");
        let broken = |text: &str| text.contains(['\n', '\r']);
        if expression.is_empty() {
            errors.required(path.child("rule"), "rule is not specified");
        } else if !message.is_empty() && message.trim().is_empty() {
            errors.invalid(at_message, message, "message must be non-empty if specified");
        } else if broken(message.trim()) {
            errors.invalid(at_message, message, "message must not contain line breaks");
        } else if broken(expression) && message.is_empty() {
            errors.required(at_message, "message must be specified if rule contains line breaks");
        }
        let made = text(rule, "messageExpression");
        if !made.is_empty() && made.trim().is_empty() {
            errors.required(path.child("messageExpression"), "messageExpression must be non-empty if specified");
        }
        errors.one_of_if_set(path.child("reason"), at(rule, "reason"), REASONS);
        let (field, at_field) = (text(rule, "fieldPath"), path.child("fieldPath"));
        if !field.is_empty() && field.trim().is_empty() {
            errors.invalid(at_field, field, "fieldPath must be non-empty if specified");
        }
        if broken(field) {
            errors.invalid(at_field, field, "fieldPath must not contain line breaks");
        }
        if !field.is_empty() && paths::find(field, schema, true).is_err() {
            errors.invalid(at_field, field, "fieldPath must be a valid path");
        }
    }
}

/// Defaults are values that the schema allows and declares in whole.
fn defaults(schema: &Value, path: &Path, errors: &mut Errors) {
    if let Some(default) = schema.get("default").filter(|default| !default.is_null()) {
        let path = path.child("default");
        if structural::pruned(default, schema) != *default {
            errors.invalid(path, default, "must not have unknown fields");
        } else {
            value(default, schema, &path, errors);
        }
    }
    if let Some(items) = inner(schema, "items") {
        defaults(items, &path.child("items"), errors);
    }
    let properties = path.child("properties");
    for (name, property) in schemas(schema, "properties") {
        defaults(property, &properties.key(name), errors);
    }
    if let Some(values) = inner(schema, "additionalProperties") {
        defaults(values, &path.child("additionalProperties"), errors);
    }
}

/// Whether a value is of its schema's type and one of those that it lists, and has what it requires.
fn value(value: &Value, schema: &Value, path: &Path, errors: &mut Errors) {
    let (kind, is) = (text(schema, "type"), type_of(value));
    let either = flag(schema, "x-kubernetes-int-or-string") && matches!(is, "integer" | "string");
    if value.is_null() && flag(schema, "nullable") || either {
        return;
    }
    if !kind.is_empty() && kind != is && !(kind == "number" && is == "integer") {
        let why = format!("{path} in body must be of type {kind}: {is:?}");
        let message = format!("Invalid value: {is:?}: {why}");
        return errors.push("FieldValueTypeInvalid", &path.to_string(), message);
    }
    let choices = list(schema, "enum");
    if !choices.is_empty() && !choices.contains(value) {
        let shown: Vec<String> =
            choices.iter().map(|c| c.as_str().map_or_else(|| c.to_string(), str::to_owned)).collect();
        let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
        errors.not_supported(path, value, &shown);
    }
    for name in list(schema, "required").iter().filter_map(Value::as_str) {
        if value.is_object() && value.get(name).is_none() {
            errors.required(path.child(name), "");
        }
    }
    for (name, inside) in value.as_object().into_iter().flatten() {
        let property = inner(schema, "properties").and_then(|properties| properties.get(name));
        if let Some(property) = property.or_else(|| inner(schema, "additionalProperties")) {
            self::value(inside, property, &path.child(name), errors);
        }
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        if let Some(items) = inner(schema, "items") {
            self::value(item, items, &path.index(index), errors);
        }
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() && number.as_f64().is_none_or(|n| n.fract() != 0.0) => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
