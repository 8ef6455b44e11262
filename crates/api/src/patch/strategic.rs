//! Strategic merge patch: a merge patch that knows, from the schema, which lists merge and by which key, with directives for what
//! a merge cannot say.
//! (<https://github.com/kubernetes/community/blob/master/contributors/devel/sig-api-machinery/strategic-merge-patch.md>)

use super::order::{Identity, normalize};
use crate::schema::{Patch, Struct, Type};
use crate::{Map, Status, Value};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";

/// Applies a patch, directed by the schema. A patch that contradicts itself or the schema is a `BadRequest`.
pub fn strategic(target: &Value, patch: &Value, schema: &Struct) -> Result<Value, Status> {
    let (Value::Object(target), Value::Object(patch)) = (target, patch) else {
        return Err(Status::bad_request("invalid JSON document: a strategic merge patch must be a JSON object"));
    };
    let mut merged = target.clone();
    merge_map(&mut merged, patch, Shape::Struct(schema)).map_err(Status::bad_request)?;
    Ok(Value::Object(merged))
}

/// What is known of the values in an object.
#[derive(Clone, Copy)]
enum Shape<'a> {
    Struct(&'a Struct),
    /// A map whose values are of that type.
    Map(&'a Type),
    /// Nothing: JSON that the schema leaves open merges as a merge patch does.
    Open,
}

impl<'a> Shape<'a> {
    fn of(ty: &'a Type) -> Shape<'a> {
        match ty {
            Type::Object(schema) => Shape::Struct(schema),
            Type::Map(inner, _) => Shape::Map(inner),
            _ => Shape::Open,
        }
    }

    /// The shape of a field's value, or of its items where it is a list, and what a patch does with the field.
    fn field(self, key: &str) -> (Shape<'a>, Patch) {
        let (ty, patch) = match self {
            Shape::Struct(schema) => match schema.field(key) {
                Some(field) => (&field.ty, field.patch),
                None => return (Shape::Open, Patch::default()),
            },
            Shape::Map(ty) => (ty, Patch::default()),
            Shape::Open => return (Shape::Open, Patch::default()),
        };
        match ty {
            Type::List(item, _) => (Shape::of(item), patch),
            ty => (Shape::of(ty), patch),
        }
    }
}

fn merge_map(original: &mut Map<String, Value>, patch: &Map<String, Value>, shape: Shape) -> Result<(), String> {
    match patch.get(PATCH).map(|directive| directive.as_str().unwrap_or_default()) {
        None => {}
        Some("replace") => {
            *original = patch.iter().filter(|(key, _)| *key != PATCH).map(|(k, v)| (k.clone(), v.clone())).collect();
            return Ok(());
        }
        Some("delete") => {
            original.clear();
            return Ok(());
        }
        Some(_) => return Err(bad_directive(patch)),
    }
    retain_keys(original, patch)?;
    let mut ordered = Vec::new();
    for (directive, order) in patch {
        if let Some(key) = directive.strip_prefix(SET_ORDER) {
            set_order(original, patch, key, order, shape)?;
            ordered.push(key);
        }
    }
    for (key, value) in patch {
        if let Some(key) = key.strip_prefix(DELETE_FROM) {
            delete_from(original, key, value)?;
        } else if key != RETAIN_KEYS && !key.starts_with(SET_ORDER) && !ordered.contains(&key.as_str()) {
            merge_field(original, key, value, shape)?;
        }
    }
    Ok(())
}

fn merge_field(original: &mut Map<String, Value>, key: &str, patch: &Value, shape: Shape) -> Result<(), String> {
    let (inner, how) = shape.field(key);
    match (original.get_mut(key), patch) {
        (_, Value::Null) => {
            original.remove(key);
        }
        (Some(Value::Object(old)), Value::Object(new)) if !how.replace => merge_map(old, new, inner)?,
        (Some(Value::Array(old)), Value::Array(new)) if how.merge => {
            let merged = merge_list(std::mem::take(old), new, inner, how.merge_key)?;
            *old = merged;
        }
        (Some(Value::Array(old)), Value::Array(new)) => *old = new.clone(),
        _ => {
            original.insert(key.to_owned(), plain(patch));
        }
    }
    Ok(())
}

/// `$retainKeys`: only the named fields stay.
fn retain_keys(original: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<(), String> {
    let Some(keep) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let wrong = || "invalid patch format of retainKeys".to_owned();
    let keep: Vec<&str> = keep.as_array().ok_or_else(wrong)?.iter().filter_map(Value::as_str).collect();
    let directive = |key: &str| key == RETAIN_KEYS || key.starts_with(SET_ORDER) || key.starts_with(DELETE_FROM);
    if patch.iter().any(|(key, value)| !value.is_null() && !directive(key) && !keep.contains(&key.as_str())) {
        return Err(wrong());
    }
    original.retain(|key, _| keep.contains(&key.as_str()));
    Ok(())
}

/// `$setElementOrder/key`: merges the list with its patch, if any, and brings it into the named order.
fn set_order(
    original: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    key: &str,
    order: &Value,
    shape: Shape,
) -> Result<(), String> {
    let wrong = || "invalid patch format of setElementOrder list".to_owned();
    let list = |value: &Value| value.as_array().cloned().ok_or_else(wrong);
    let order = list(order)?;
    let (inner, how) = shape.field(key);
    let identity = Identity(how.merge_key);
    let old = original.get(key).map(list).transpose()?;
    let new = match patch.get(key) {
        // A null deletes the list, whatever its order.
        Some(Value::Null) => {
            original.remove(key);
            return Ok(());
        }
        other => other.map(list).transpose()?,
    };
    if !consistent(new.as_deref().unwrap_or_default(), &order, identity) {
        return Err(wrong());
    }
    let server = old.clone().unwrap_or_default();
    let merged = match (old, new) {
        (None, None) => return Ok(()),
        (Some(old), None) => old,
        (None, Some(new)) => plain_list(&new),
        (Some(old), Some(new)) if how.merge => merge_list(old, &new, inner, how.merge_key)?,
        (Some(_), Some(new)) => plain_list(&new),
    };
    original.insert(key.to_owned(), Value::Array(normalize(merged, &order, &server, identity)));
    Ok(())
}

/// Whether the patch's items (those that stay) are all in the order list, in that order.
fn consistent(patch: &[Value], order: &[Value], identity: Identity) -> bool {
    let places = patch.iter().filter(|item| item.get(PATCH).is_none()).map(|item| identity.place(item, order));
    let places: Option<Vec<usize>> = places.collect();
    places.is_some_and(|places| places.is_sorted())
}

/// `$deleteFromPrimitiveList/key`
fn delete_from(original: &mut Map<String, Value>, key: &str, gone: &Value) -> Result<(), String> {
    let gone = gone.as_array().ok_or("invalid patch format of primitive list")?;
    if let Some(Value::Array(items)) = original.get_mut(key) {
        items.retain(|item| !gone.contains(item));
    }
    Ok(())
}

fn merge_list(original: Vec<Value>, patch: &[Value], shape: Shape, key: &str) -> Result<Vec<Value>, String> {
    let maps = original.iter().chain(patch).any(Value::is_object);
    if original.iter().chain(patch).any(Value::is_array) {
        return Err("lists of lists are not supported".to_owned());
    }
    if !maps {
        let mut merged: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
        for item in original.iter().chain(patch) {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        return Ok(normalize(merged, patch, &original, Identity("")));
    }
    if key.is_empty() {
        return Err("cannot merge lists without merge key".to_owned());
    }
    let identity = Identity(key);
    let mut merged = original;
    let mut rest = Vec::new();
    let mut replace = false;
    for item in patch {
        let Value::Object(map) = item else { return Err("list element types are not identical".to_owned()) };
        match map.get(PATCH).map(|directive| directive.as_str().unwrap_or_default()) {
            None => rest.push(item),
            Some("replace") => replace = true,
            Some("delete") if map.contains_key(key) => merged.retain(|other| !identity.same(item, other)),
            Some("delete") => return Err(no_merge_key(map, key)),
            Some("merge") => return Err("merging lists cannot yet be specified in the patch".to_owned()),
            Some(_) => return Err(bad_directive(map)),
        }
    }
    if replace {
        return Ok(rest.into_iter().cloned().collect());
    }
    let server = merged.clone();
    for item in &rest {
        let Value::Object(map) = item else { continue };
        if !map.contains_key(key) {
            return Err(no_merge_key(map, key));
        }
        match merged.iter_mut().find(|other| identity.same(item, other)) {
            Some(Value::Object(old)) => merge_map(old, map, shape)?,
            _ => merged.push(plain(item)),
        }
    }
    let order: Vec<Value> = rest.into_iter().cloned().collect();
    Ok(normalize(merged, &order, &server, identity))
}

/// A patch's value where the object has none: without nulls and directives.
fn plain(patch: &Value) -> Value {
    match patch {
        Value::Object(map) => {
            let directive = |key: &str| {
                key == PATCH || key == RETAIN_KEYS || key.starts_with(SET_ORDER) || key.starts_with(DELETE_FROM)
            };
            let kept = map.iter().filter(|(key, value)| !value.is_null() && !directive(key));
            Value::Object(kept.map(|(key, value)| (key.clone(), plain(value))).collect())
        }
        Value::Array(items) => Value::Array(plain_list(items)),
        other => other.clone(),
    }
}

fn plain_list(items: &[Value]) -> Vec<Value> {
    let only_directive = |item: &Value| item.get(PATCH).is_some_and(|d| d == "delete" || d == "replace");
    items.iter().filter(|item| !only_directive(item)).map(plain).collect()
}

fn bad_directive(map: &Map<String, Value>) -> String {
    format!("unknown patch type: {} in map: {}", map.get(PATCH).unwrap_or(&Value::Null), Value::Object(map.clone()))
}

fn no_merge_key(map: &Map<String, Value>, key: &str) -> String {
    format!("map: {} does not contain declared merge key: {key}", Value::Object(map.clone()))
}

#[cfg(test)]
mod tests;
