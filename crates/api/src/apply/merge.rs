//! Merging a configuration into an object, and taking out of it what is no longer applied.

use std::collections::{BTreeMap, VecDeque};

use super::fields::{self, Fields};
use super::set::{self, Before, Parts, element_of, parts};
use crate::schema::{ListKind, Struct, Type};
use crate::{Map, Value};

/// The live object with the configuration's values in it.
pub fn objects(live: &Map<String, Value>, config: &Map<String, Value>, schema: &Struct) -> Map<String, Value> {
    let mut merged = live.clone();
    for (key, value) in config {
        let ty = schema.field(key).map(|f| &f.ty);
        put(&mut merged, key, value, ty);
    }
    merged
}

fn put(merged: &mut Map<String, Value>, key: &str, config: &Value, ty: Option<&Type>) {
    let value = match merged.get(key) {
        Some(live) => values(live, config, ty),
        None => config.clone(),
    };
    merged.insert(key.to_owned(), value);
}

fn values(live: &Value, config: &Value, ty: Option<&Type>) -> Value {
    match (live, config, parts(config, ty)) {
        (Value::Object(live), Value::Object(config), Parts::Struct(schema)) => {
            Value::Object(objects(live, config, schema))
        }
        (Value::Object(live), Value::Object(config), Parts::Map(inner)) => {
            let mut merged = live.clone();
            for (key, value) in config {
                put(&mut merged, key, value, inner);
            }
            Value::Object(merged)
        }
        (Value::Array(live), Value::Array(config), Parts::Set | Parts::Keyed(..)) => lists(live, config, ty),
        _ => config.clone(),
    }
}

/// Items of both, each once: the configuration's in its order, the others where they were, as upstream weaves them.
fn lists(live: &[Value], config: &[Value], ty: Option<&Type>) -> Value {
    let Some(Type::List(inner, kind)) = ty else { return Value::Array(config.to_vec()) };
    let named = |items: &[Value]| items.iter().map(|i| element_of(i, inner, kind)).collect::<Result<Vec<_>, _>>();
    let (Ok(left), Ok(right)) = (named(live), named(config)) else { return Value::Array(config.to_vec()) };
    let mut in_live: BTreeMap<&str, &Value> = BTreeMap::new();
    for (element, item) in left.iter().zip(live) {
        in_live.entry(element).or_insert(item);
    }
    let in_config: BTreeMap<&str, &Value> = right.iter().map(String::as_str).zip(config).collect();
    let mut shared: VecDeque<&str> = right.iter().map(String::as_str).filter(|e| in_live.contains_key(e)).collect();
    let mut done: Vec<&str> = Vec::new();
    let mut out = Vec::with_capacity(live.len().max(config.len()));
    let merged = |element: &str| match (in_live.get(element), in_config.get(element)) {
        (Some(live), Some(config)) => values(live, config, Some(inner)),
        (_, Some(one)) | (Some(one), None) => (*one).clone(),
        (None, None) => Value::Null,
    };
    let (mut l, mut r) = (0, 0);
    while l < left.len() || r < right.len() {
        if l < left.len() && r < right.len() {
            if left[l] == right[r] {
                done.push(&right[r]);
                out.push(merged(&right[r]));
                (l, r) = (l + 1, r + 1);
                shared.pop_front();
                continue;
            }
            if in_config.contains_key(left[l].as_str()) && shared.front().is_some_and(|next| *next != left[l]) {
                // Shared, but not the next one: it comes where the configuration has it.
                l += 1;
                continue;
            }
        }
        if l < left.len() {
            if !in_config.contains_key(left[l].as_str()) {
                out.push(live[l].clone());
                l += 1;
                continue;
            }
            if done.contains(&left[l].as_str()) {
                l += 1;
            }
        }
        if r < right.len() {
            done.push(&right[r]);
            out.push(merged(&right[r]));
            if shared.front() == Some(&right[r].as_str()) {
                shared.pop_front();
            }
            r += 1;
        }
    }
    Value::Array(out)
}

/// Takes out of `merged` what the manager applied last (`last`) and nobody owns now (`owned`: everyone's fields, the manager's new ones
/// among them).
pub fn prune(merged: Map<String, Value>, mut last: Fields, mut owned: Fields, schema: &Struct) -> Map<String, Value> {
    let whole = |object: &Map<String, Value>| {
        let mut fields = Fields::new();
        for (key, value) in object {
            let ty = schema.field(key).map(|f| &f.ty);
            if let Ok(Some(node)) = set::of_value(value, ty, Before::Config) {
                fields.insert(fields::named(key), node);
            }
        }
        name_structs(&mut fields, schema);
        fields
    };
    name_structs(&mut last, schema);
    name_structs(&mut owned, schema);
    let all = whole(&merged);
    // First all of it goes, then what somebody owns comes back, then what only hung on something removed.
    let mut gone = all.clone();
    fields::subtract(&mut gone, &whole(&without(&merged, &last, schema)));
    fields::subtract(&mut gone, &owned);
    let mut dropped = all;
    fields::subtract(&mut dropped, &whole(&without(&merged, &gone, schema)));
    without(&merged, &fields::intersection(&dropped, &last), schema)
}

/// Makes every struct's field that has something below it a member of the set.
fn name_structs(fields: &mut Fields, schema: &Struct) {
    for (element, node) in fields.iter_mut() {
        let field = element.strip_prefix("f:").and_then(|name| schema.field(name));
        if let (Some(field), Value::Object(children)) = (field, node) {
            name_below(children, &field.ty);
            if !children.is_empty() {
                children.insert(".".to_owned(), fields::leaf());
            }
        }
    }
}

fn name_below(children: &mut Fields, ty: &Type) {
    match ty {
        Type::Object(schema) => name_structs(children, schema),
        Type::Map(inner, _) | Type::List(inner, _) => {
            for (element, node) in children.iter_mut() {
                if let (true, Value::Object(below)) = (element != ".", node) {
                    name_below(below, inner);
                }
            }
        }
        _ => {}
    }
}

/// The object without the fields of a set.
fn without(object: &Map<String, Value>, gone: &Fields, schema: &Struct) -> Map<String, Value> {
    keep(object, gone, |key| schema.field(key).map(|f| &f.ty))
}

fn keep<'t>(map: &Map<String, Value>, gone: &Fields, ty: impl Fn(&str) -> Option<&'t Type>) -> Map<String, Value> {
    let kept = map.iter().filter_map(|(key, value)| {
        let element = fields::named(key);
        if fields::has(gone, &element) {
            return None;
        }
        let value = match fields::below(gone, &element) {
            Some(below) => rest(value, below, ty(key))?,
            None => value.clone(),
        };
        Some((key.clone(), value))
    });
    kept.collect()
}

/// A value without the fields of a set below it; nothing where nothing is left.
fn rest(value: &Value, gone: &Fields, ty: Option<&Type>) -> Option<Value> {
    let left = match (parts(value, ty), value) {
        (Parts::Struct(schema), Value::Object(map)) => Value::Object(without(map, gone, schema)),
        (Parts::Map(inner), Value::Object(map)) => Value::Object(keep(map, gone, |_| inner)),
        (Parts::Set | Parts::Keyed(..), Value::Array(items)) => {
            let Some(Type::List(inner, kind)) = ty else { return Some(value.clone()) };
            Value::Array(items.iter().filter_map(|item| item_rest(item, gone, inner, kind)).collect())
        }
        // Taken apart by somebody who had another schema: it stays.
        _ => return Some(value.clone()),
    };
    let empty = left.as_object().is_some_and(Map::is_empty) || left.as_array().is_some_and(Vec::is_empty);
    (!empty).then_some(left)
}

fn item_rest(item: &Value, gone: &Fields, ty: &Type, kind: &ListKind) -> Option<Value> {
    let Ok(element) = element_of(item, ty, kind) else { return Some(item.clone()) };
    if fields::has(gone, &element) {
        return None;
    }
    match fields::below(gone, &element) {
        Some(below) => rest(item, below, Some(ty)),
        None => Some(item.clone()),
    }
}
