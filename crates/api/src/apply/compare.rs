//! What differs between two states of an object.

use std::collections::BTreeMap;

use super::fields::{self, Fields, leaf};
use super::set::{self, Before, Parts, field_before, parts};
use super::{Ctx, is_reset, is_system};
use crate::kind::Text;
use crate::schema::{ListKind, Struct, Type};
use crate::{Map, Value};

/// The fields that a write touched.
#[derive(Debug, Default, PartialEq)]
pub struct Comparison {
    /// Added or modified.
    pub changed: Fields,
    pub removed: Fields,
}

impl Comparison {
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

/// Compares two states, but for what is never owned.
pub fn objects(old: &Map<String, Value>, new: &Map<String, Value>, ctx: &Ctx) -> Comparison {
    let mut walk = Walk { found: Comparison::default() };
    let skipped = |key: &str| matches!(key, "apiVersion" | "kind") || is_reset(key, ctx);
    let none = Map::new();
    for (key, old, new) in pairs(old, new).filter(|(key, ..)| !skipped(key)) {
        let field = ctx.schema.field(key);
        let here = Path { parent: None, step: Step::Field(key) };
        match (key, field.map(|f| &f.ty)) {
            ("metadata", Some(Type::Object(schema))) => {
                let side = |value: Option<&'_ Value>| value.and_then(Value::as_object).cloned();
                // Cloning is for the rare object without metadata; the usual one is borrowed.
                match (old.and_then(Value::as_object), new.and_then(Value::as_object)) {
                    (Some(old), Some(new)) => walk.structs(old, new, schema, Some(&here), is_system),
                    _ => {
                        let (old, new) = (side(old), side(new));
                        walk.structs(
                            old.as_ref().unwrap_or(&none),
                            new.as_ref().unwrap_or(&none),
                            schema,
                            Some(&here),
                            is_system,
                        );
                    }
                }
            }
            (_, ty) => walk.either(old, new, ty, field_before(field, Before::Zero), &here),
        }
    }
    walk.found
}

/// Two maps' entries side by side, in the keys' order.
fn pairs<'a>(
    old: &'a Map<String, Value>,
    new: &'a Map<String, Value>,
) -> impl Iterator<Item = (&'a str, Option<&'a Value>, Option<&'a Value>)> {
    let (mut left, mut right) = (old.iter().peekable(), new.iter().peekable());
    std::iter::from_fn(move || match (left.peek(), right.peek()) {
        (Some((a, _)), Some((b, _))) if a == b => {
            let (key, old) = left.next()?;
            Some((key.as_str(), Some(old), right.next().map(|(_, new)| new)))
        }
        (Some((a, _)), other) if other.is_none_or(|(b, _)| a < b) => {
            left.next().map(|(k, v)| (k.as_str(), Some(v), None))
        }
        _ => right.next().map(|(k, v)| (k.as_str(), None, Some(v))),
    })
}

/// A place, as a list from the inside out; written down only where something differs.
#[derive(Clone, Copy)]
struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Field(&'a str),
    Item(&'a Value, &'a Type, &'a ListKind),
}

impl Path<'_> {
    fn elements(&self) -> Vec<String> {
        let mut elements = self.parent.map(Path::elements).unwrap_or_default();
        elements.push(match self.step {
            Step::Field(name) => fields::named(name),
            // The item was named before it was stepped into.
            Step::Item(item, ty, kind) => set::element_of(item, ty, kind).unwrap_or_default(),
        });
        elements
    }
}

struct Walk {
    found: Comparison,
}

impl Walk {
    /// One side may lack the value; `before` says what upstream would have there.
    fn either(&mut self, old: Option<&Value>, new: Option<&Value>, ty: Option<&Type>, before: Before, path: &Path) {
        let (target, value) = match (old, new) {
            (Some(old), Some(new)) => return self.values(old, new, ty, path),
            (None, Some(new)) => (&mut self.found.changed, new),
            (Some(old), None) => (&mut self.found.removed, old),
            (None, None) => return,
        };
        // Only configurations are refused.
        if let Ok(Some(node)) = set::of_value(value, ty, before) {
            fields::insert(target, &path.elements(), node);
        }
    }

    fn values(&mut self, old: &Value, new: &Value, ty: Option<&Type>, path: &Path) {
        match (old, new, parts(new, ty)) {
            (Value::Object(old), Value::Object(new), Parts::Struct(schema)) => {
                self.structs(old, new, schema, Some(path), |_| false);
            }
            (Value::Object(old), Value::Object(new), Parts::Map(inner)) => {
                for (key, old, new) in pairs(old, new) {
                    let here = Path { parent: Some(path), step: Step::Field(key) };
                    self.either(old, new, inner, Before::Absent, &here);
                }
            }
            (Value::Array(old), Value::Array(new), Parts::Set) => {
                self.one_sided(new, old, ty, path, true);
                self.one_sided(old, new, ty, path, false);
            }
            (Value::Array(old), Value::Array(new), Parts::Keyed(keys, inner)) => {
                self.keyed(old, new, keys, inner, ty, path);
            }
            _ if old != new => fields::insert(&mut self.found.changed, &path.elements(), leaf()),
            _ => {}
        }
    }

    fn structs(
        &mut self,
        old: &Map<String, Value>,
        new: &Map<String, Value>,
        schema: &Struct,
        path: Option<&Path>,
        skipped: impl Fn(&str) -> bool,
    ) {
        for (key, old, new) in pairs(old, new).filter(|(key, ..)| !skipped(key)) {
            let field = schema.field(key);
            let here = Path { parent: path, step: Step::Field(key) };
            self.either(old, new, field.map(|f| &f.ty), field_before(field, Before::Zero), &here);
        }
    }

    /// Items of a set that one side has and the other lacks.
    fn one_sided(&mut self, has: &[Value], lacks: &[Value], ty: Option<&Type>, path: &Path, added: bool) {
        let Some(Type::List(inner, kind)) = ty else { return };
        for item in has.iter().filter(|item| !lacks.contains(item)) {
            let here = Path { parent: Some(path), step: Step::Item(item, inner, kind) };
            let sides = if added { (None, Some(item)) } else { (Some(item), None) };
            self.either(sides.0, sides.1, Some(inner), Before::Absent, &here);
        }
    }

    fn keyed(&mut self, old: &[Value], new: &[Value], keys: &[Text], inner: &Type, ty: Option<&Type>, path: &Path) {
        let Some(Type::List(_, kind)) = ty else { return };
        let step = |item| Path { parent: Some(path), step: Step::Item(item, inner, kind) };
        // Mostly the items are the same and in place, and their keys need not be written out.
        let same = |(a, b): (&Value, &Value)| keys.iter().all(|key| a.get(key.as_ref()) == b.get(key.as_ref()));
        if old.len() == new.len() && old.iter().zip(new).all(same) {
            for (old, new) in old.iter().zip(new) {
                self.values(old, new, Some(inner), &step(new));
            }
            return;
        }
        let index = |items| -> Option<BTreeMap<String, &Value>> {
            let mut index = BTreeMap::new();
            for item in items {
                if index.insert(set::element_of(item, inner, kind).ok()?, item).is_some() {
                    return None;
                }
            }
            Some(index)
        };
        let (Some(before), Some(after)) = (index(old), index(new)) else {
            // Items that cannot be told apart: the list as a whole.
            if old != new {
                fields::insert(&mut self.found.changed, &path.elements(), leaf());
            }
            return;
        };
        for (element, item) in &after {
            self.either(before.get(element).copied(), Some(item), Some(inner), Before::Absent, &step(item));
        }
        for (_, item) in before.iter().filter(|(element, _)| !after.contains_key(*element)) {
            self.either(Some(item), None, Some(inner), Before::Absent, &step(item));
        }
    }
}
