//! Which fields an object sets.

use super::fields::{self, Fields, leaf, node};
use super::{Ctx, is_reset, is_system};
use crate::kind::Text;
use crate::schema::{Field, ListKind, MapKind, Struct, Type};
use crate::{Map, Value};

/// What the fields of a value are compared with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// There was nothing: containers are set too.
    Absent,
    /// There was the empty struct that upstream always writes.
    Zero,
    /// There was the null or zero that upstream writes for a field that it never omits.
    Null,
    /// Nothing is compared: what a configuration names, where containers are not set by having content.
    Config,
}

/// What holds a struct's or list's parts apart, by its type and value.
pub enum Parts<'t> {
    /// Owned as a whole.
    Whole,
    Struct(&'t Struct),
    /// Entries of that type; none where the schema is silent.
    Map(Option<&'t Type>),
    Set,
    Keyed(&'t [Text], &'t Type),
}

/// How a value of that type is taken apart. What no schema describes is a map where it is an object, and whole where not.
pub fn parts<'t>(value: &Value, ty: Option<&'t Type>) -> Parts<'t> {
    match (value, ty) {
        (Value::Object(_), Some(Type::Object(schema))) if !schema.atomic => Parts::Struct(schema),
        (Value::Object(_), Some(Type::Map(inner, MapKind::Granular))) => Parts::Map(Some(inner)),
        (Value::Object(_), None) => Parts::Map(None),
        (Value::Array(_), Some(Type::List(_, ListKind::Set))) => Parts::Set,
        (Value::Array(_), Some(Type::List(inner, ListKind::Map(keys)))) => Parts::Keyed(keys, inner),
        _ => Parts::Whole,
    }
}

/// What a new object sets, in the eyes of its creator's update.
pub fn created(object: &Map<String, Value>, ctx: &Ctx) -> Fields {
    // Before a creation nothing is invalid: lists that cannot be taken apart are taken whole.
    root(object, ctx, Before::Zero).unwrap_or_default()
}

/// What an applied configuration sets, or why it cannot be said.
pub fn applied(config: &Map<String, Value>, ctx: &Ctx) -> Result<Fields, String> {
    root(config, ctx, Before::Config)
}

fn root(object: &Map<String, Value>, ctx: &Ctx, before: Before) -> Result<Fields, String> {
    let mut fields = Fields::new();
    for (key, value) in object {
        if matches!(key.as_str(), "apiVersion" | "kind") || is_reset(key, ctx) {
            continue;
        }
        let field = ctx.schema.field(key);
        let found = match (key.as_str(), value, field.map(|f| &f.ty)) {
            ("metadata", Value::Object(metadata), Some(Type::Object(schema))) => {
                let owned = metadata.iter().filter(|(key, _)| !is_system(key));
                node(structure(owned, schema, before).map_err(|why| under(key, why))?, false)
            }
            (_, _, ty) => of_value(value, ty, field_before(field, before)).map_err(|why| under(key, why))?,
        };
        if let Some(found) = found {
            fields.insert(fields::named(key), found);
        }
    }
    Ok(fields)
}

/// What a struct's field is compared with, by what the struct is.
pub fn field_before(field: Option<&Field>, before: Before) -> Before {
    match (before, field) {
        (Before::Config, _) => Before::Config,
        (Before::Zero, Some(Field { ty: Type::Object(_), pointer: false, .. })) => Before::Zero,
        (Before::Zero, Some(Field { required: true, .. })) => Before::Null,
        _ => Before::Absent,
    }
}

/// What the parts of a container are compared with, where they are not a struct's fields.
fn part_before(before: Before) -> Before {
    if before == Before::Config { Before::Config } else { Before::Absent }
}

/// The node of a value; nothing where it sets nothing.
pub fn of_value(value: &Value, ty: Option<&Type>, before: Before) -> Result<Option<Value>, String> {
    let children = match (parts(value, ty), value) {
        (Parts::Struct(schema), Value::Object(map)) if !map.is_empty() => structure(map.iter(), schema, before)?,
        (Parts::Map(inner), Value::Object(map)) if !map.is_empty() => {
            let mut children = Fields::new();
            for (key, value) in map {
                if let Some(node) = of_value(value, inner, part_before(before))? {
                    children.insert(fields::named(key), entered(node, before));
                }
            }
            children
        }
        (Parts::Set | Parts::Keyed(..), Value::Array(items)) if !items.is_empty() => match list(items, ty, before) {
            Ok(children) => children,
            Err(_) if before != Before::Config => return Ok(Some(leaf())),
            Err(why) => return Err(why),
        },
        _ => {
            let zero = matches!(before, Before::Zero | Before::Null) && is_zero(value);
            return Ok((!zero).then(leaf));
        }
    };
    Ok(node(children, before == Before::Absent))
}

fn structure<'m>(
    entries: impl Iterator<Item = (&'m String, &'m Value)>,
    schema: &Struct,
    before: Before,
) -> Result<Fields, String> {
    let mut fields = Fields::new();
    for (key, value) in entries {
        let field = schema.field(key);
        if let Some(mut node) =
            of_value(value, field.map(|f| &f.ty), field_before(field, before)).map_err(|w| under(key, w))?
        {
            if field.is_none() {
                node = entered(node, before);
            }
            fields.insert(fields::named(key), node);
        }
    }
    Ok(fields)
}

fn under(key: &str, why: String) -> String {
    format!(".{key}{}{why}", if why.starts_with(['.', '[']) { "" } else { ": " })
}

fn list(items: &[Value], ty: Option<&Type>, before: Before) -> Result<Fields, String> {
    let mut children = Fields::new();
    for (i, item) in items.iter().enumerate() {
        let (element, inner) = match ty {
            Some(Type::List(inner, kind)) => {
                (element_of(item, inner, kind).map_err(|why| format!("element {i}: {why}"))?, inner)
            }
            _ => return Err("not a list".to_owned()),
        };
        let Some(node) = of_value(item, Some(inner), part_before(before))? else { continue };
        if children.insert(element.clone(), entered(node, before)).is_some() {
            return Err(format!("duplicate entries for key {}", fields::show(&element)));
        }
    }
    Ok(children)
}

/// A map's entry or list's item in a configuration is itself set, whatever it holds.
fn entered(node: Value, before: Before) -> Value {
    match node {
        Value::Object(children) if before == Before::Config && !children.is_empty() => {
            fields::node(children, true).unwrap_or_else(leaf)
        }
        other => other,
    }
}

/// The path element of a list's item.
pub fn element_of(item: &Value, ty: &Type, kind: &ListKind) -> Result<String, String> {
    let ListKind::Map(keys) = kind else { return Ok(format!("v:{item}")) };
    let Value::Object(map) = item else {
        return Err("associative list with keys may not have non-map elements".to_owned());
    };
    if let [key] = &keys[..]
        && let Some(value) = map.get(key.as_ref())
    {
        return Ok(format!("k:{{\"{key}\":{value}}}"));
    }
    let mut values = Map::new();
    for key in keys.iter() {
        match map.get(key.as_ref()) {
            Some(value) => {
                values.insert(key.to_string(), value.clone());
            }
            None => {
                let Type::Object(schema) = ty else { continue };
                let default = schema.field(key).map_or("", |f| &f.key_default);
                // A key's default is JSON; an empty text is none.
                if let Ok(value) = serde_json::from_str(default) {
                    values.insert(key.to_string(), value);
                }
            }
        }
    }
    if values.is_empty() {
        let keys: Vec<String> = keys.iter().map(|k| format!("{k:?}")).collect();
        return Err(match &keys[..] {
            [key] => format!(
                "associative list with keys has an element that omits key field {key} (and doesn't have default value)"
            ),
            _ => format!(
                "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
                keys.join(" ")
            ),
        });
    }
    Ok(format!("k:{}", Value::Object(values)))
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}
