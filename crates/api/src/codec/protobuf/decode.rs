//! From protobuf to a tree.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use super::super::{MAX_DEPTH, json};
use super::{API_VERSION, CONTENT_TYPE, KIND, RAW, TYPE_META};
use crate::schema::{Any, Struct, StructRef, Type, Wire, format_micro, format_seconds, is_absent};
use crate::{Map, Value, table};

type Result<T> = std::result::Result<T, String>;

/// A field's content by its wire type.
enum Content<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

/// Reads a message's fields one by one.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or("unexpected EOF")?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("proto: integer overflow".to_owned())
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8]> {
        let length = usize::try_from(length).ok().filter(|l| *l <= self.0.len()).ok_or("unexpected EOF")?;
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        Ok(taken)
    }

    fn next(&mut self) -> Result<Option<(u32, Content<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number =
            u32::try_from(tag >> 3).ok().filter(|n| *n > 0).ok_or_else(|| format!("proto: illegal tag {tag}"))?;
        let content = match tag & 7 {
            0 => Content::Varint(self.varint()?),
            1 => Content::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().map_err(|_| "unexpected EOF")?)),
            2 => {
                let length = self.varint()?;
                Content::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Content::Fixed32)?,
            other => return Err(format!("proto: illegal wireType {other}")),
        };
        Ok(Some((number, content)))
    }
}

impl<'a> Content<'a> {
    fn number(&self) -> Result<i64> {
        match self {
            Content::Varint(value) => Ok(*value as i64),
            _ => Err("proto: wrong wireType for a number".to_owned()),
        }
    }

    fn bytes(&self) -> Result<&'a [u8]> {
        match self {
            Content::Bytes(bytes) => Ok(bytes),
            _ => Err("proto: wrong wireType for bytes".to_owned()),
        }
    }

    fn text(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(self.bytes()?).into_owned())
    }
}

/// The object in a `runtime.Unknown`.
pub fn envelope(bytes: &[u8], lookup: impl Fn(&str, &str) -> Option<StructRef>) -> Result<Value> {
    let mut reader = Reader(bytes);
    let (mut api_version, mut kind, mut raw, mut media) = (String::new(), String::new(), &[][..], String::new());
    while let Some((number, content)) = reader.next()? {
        match number {
            TYPE_META => {
                let mut meta = Reader(content.bytes()?);
                while let Some((number, content)) = meta.next()? {
                    match number {
                        API_VERSION => api_version = content.text()?,
                        KIND => kind = content.text()?,
                        _ => {}
                    }
                }
            }
            RAW => raw = content.bytes()?,
            CONTENT_TYPE => media = content.text()?,
            _ => {}
        }
    }
    if media == "application/json" {
        return json::decode(raw).map(|decoded| decoded.value).map_err(|error| error.0);
    }
    let schema = lookup(&api_version, &kind)
        .ok_or_else(|| format!("no kind {kind:?} is registered for version {api_version:?}"))?;
    let mut map = Map::new();
    message(raw, &schema, &mut map, 0)?;
    for (key, text) in [("apiVersion", api_version), ("kind", kind)] {
        if !text.is_empty() && schema.field(key).is_some_and(|f| f.number == 0) {
            map.insert(key.to_owned(), Value::String(text));
        }
    }
    Ok(Value::Object(map))
}

fn deeper(depth: usize) -> Result<usize> {
    if depth < MAX_DEPTH { Ok(depth + 1) } else { Err("exceeded max depth".to_owned()) }
}

/// Adds a message's fields to the map; those of embedded messages too.
fn message(bytes: &[u8], schema: &Struct, map: &mut Map<String, Value>, depth: usize) -> Result<()> {
    let depth = deeper(depth)?;
    let mut reader = Reader(bytes);
    while let Some((number, content)) = reader.next()? {
        let Ok(place) = schema.wire.binary_search_by_key(&number, Wire::number) else { continue };
        let index = match schema.wire[place] {
            Wire::Embedded { of, .. } => {
                message(content.bytes()?, of, map, depth)?;
                continue;
            }
            Wire::Field { index, .. } | Wire::Wrapped { index, .. } => usize::from(index),
        };
        let field = &schema.fields[index];
        let name = || field.name.to_string();
        match (&field.ty, &schema.wire[place]) {
            (_, Wire::Wrapped { .. }) => {
                map.insert(name(), Value::Array(items(content.bytes()?)?));
            }
            (Type::List(inner, _), _) => {
                let list = map.entry(name()).or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(list) = list {
                    element(&content, inner, list, depth)?;
                }
            }
            (Type::Map(inner, _), _) => {
                let (key, entry) = entry(content.bytes()?, inner, depth)?;
                let entries = map.entry(name()).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(entries) = entries {
                    entries.insert(key, entry);
                }
            }
            (ty, _) => {
                let value = value(&content, ty, depth)?;
                if value.is_null() || is_absent(&value, field) {
                    map.remove(field.name.as_ref());
                } else {
                    map.insert(name(), value);
                }
            }
        }
    }
    Ok(())
}

/// One item of a list, or many numbers that came packed.
fn element(content: &Content, ty: &Type, list: &mut Vec<Value>, depth: usize) -> Result<()> {
    match (content, ty) {
        (Content::Bytes(packed), Type::Int32 | Type::Int64 | Type::Bool) => {
            let mut reader = Reader(packed);
            while !reader.0.is_empty() {
                list.push(value(&Content::Varint(reader.varint()?), ty, depth)?);
            }
        }
        _ => list.push(value(content, ty, depth)?),
    }
    Ok(())
}

/// One entry of a map.
fn entry(bytes: &[u8], ty: &Type, depth: usize) -> Result<(String, Value)> {
    let mut reader = Reader(bytes);
    let (mut key, mut found) = (String::new(), None);
    while let Some((number, content)) = reader.next()? {
        match number {
            1 => key = content.text()?,
            2 => found = Some(value(&content, ty, depth)?),
            _ => {}
        }
    }
    let found = match found {
        Some(found) => found,
        None => value(&Content::Bytes(&[]), ty, depth).or_else(|_| value(&Content::Varint(0), ty, depth))?,
    };
    Ok((key, found))
}

/// The strings of a list that is a message of its own.
fn items(bytes: &[u8]) -> Result<Vec<Value>> {
    let mut reader = Reader(bytes);
    let mut list = Vec::new();
    while let Some((number, content)) = reader.next()? {
        if number == 1 {
            list.push(Value::String(content.text()?));
        }
    }
    Ok(list)
}

fn value(content: &Content, ty: &Type, depth: usize) -> Result<Value> {
    Ok(match ty {
        Type::Bool => Value::Bool(content.number()? != 0),
        Type::Int32 => Value::from(content.number()? as i32),
        Type::Int64 => Value::from(content.number()?),
        Type::Double => match content {
            Content::Fixed64(bits) => Value::from(f64::from_bits(*bits)),
            _ => return Err("proto: wrong wireType for a double".to_owned()),
        },
        Type::String => Value::String(content.text()?),
        Type::Bytes => Value::String(STANDARD.encode(content.bytes()?)),
        Type::Time => time(content.bytes()?, format_seconds)?,
        Type::MicroTime => time(content.bytes()?, format_micro)?,
        Type::Quantity => {
            let (text, ..) = parts(content.bytes()?, 1)?;
            Value::String(if text.is_empty() { "0".to_owned() } else { text })
        }
        Type::IntOrString => {
            let (text, kind, number) = parts(content.bytes()?, 3)?;
            if kind == 1 { Value::String(text) } else { Value::from(number as i32) }
        }
        Type::Any(kind) => any(content.bytes()?, *kind, depth)?,
        Type::Object(schema) => {
            let mut map = Map::new();
            message(content.bytes()?, schema, &mut map, depth)?;
            Value::Object(map)
        }
        Type::List(..) => Value::Array(items(content.bytes()?)?),
        Type::Map(..) => return Err("proto: a map inside a map or list".to_owned()),
    })
}

/// The text with that number and the numbers 1 and 2 of a small message.
fn parts(bytes: &[u8], text_number: u32) -> Result<(String, i64, i64)> {
    let mut reader = Reader(bytes);
    let (mut text, mut first, mut second) = (String::new(), 0, 0);
    while let Some((number, content)) = reader.next()? {
        match number {
            _ if number == text_number => text = content.text()?,
            1 => first = content.number()?,
            2 => second = content.number()?,
            _ => {}
        }
    }
    Ok((text, first, second))
}

/// Nothing is the zero time, which JSON writes as null.
fn time(bytes: &[u8], format: fn(Timestamp) -> String) -> Result<Value> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (_, seconds, nanos) = parts(bytes, 0)?;
    let nanos = i32::try_from(nanos).unwrap_or_default();
    let time = Timestamp::new(seconds, nanos).map_err(|_| format!("proto: time out of range: {seconds}"))?;
    Ok(Value::String(format(time)))
}

fn any(bytes: &[u8], kind: Any, depth: usize) -> Result<Value> {
    let schema = table::get("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps");
    let props = |bytes: &[u8]| -> Result<Value> {
        let mut map = Map::new();
        schema.map_or(Ok(()), |schema| message(bytes, schema, &mut map, depth))?;
        Ok(Value::Object(map))
    };
    let mut reader = Reader(bytes);
    let (mut one, mut list) = (None, Vec::new());
    while let Some((number, content)) = reader.next()? {
        match (kind, number) {
            (Any::Raw | Any::Fields | Any::Json, 1) => {
                let raw = content.bytes()?;
                let decoded = json::decode(raw).map(|decoded| decoded.value).map_err(|error| error.0);
                one = if raw.is_empty() { None } else { Some(decoded?) };
            }
            (Any::SchemaOrBool, 1) if one.is_none() => one = Some(Value::Bool(content.number()? != 0)),
            (Any::SchemaOrBool, 2) | (Any::SchemaOrArray | Any::SchemaOrStrings, 1) => {
                one = Some(props(content.bytes()?)?)
            }
            (Any::SchemaOrArray, 2) => list.push(props(content.bytes()?)?),
            (Any::SchemaOrStrings, 2) => list.push(Value::String(content.text()?)),
            _ => {}
        }
    }
    Ok(one.unwrap_or(if list.is_empty() { Value::Null } else { Value::Array(list) }))
}
