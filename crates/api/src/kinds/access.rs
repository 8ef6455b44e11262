//! Reading and filling in parts of an object. Paths are dotted: `spec.template.metadata`; what is absent reads as null, as an
//! empty text or as an empty list.

use serde_json::{Map, Value};

/// The value at the path, or null.
pub fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(value, |value, key| value.get(key).unwrap_or(&Value::Null))
}

/// The text at the path, or the empty text.
pub fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    at(value, path).as_str().unwrap_or_default()
}

/// The whole number at the path, or 0.
pub fn number(value: &Value, path: &str) -> i64 {
    at(value, path).as_i64().unwrap_or_default()
}

/// The list at the path, or an empty one.
pub fn list<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    at(value, path).as_array().map_or(&[], Vec::as_slice)
}

/// Whether the flag at the path is set.
pub fn flag(value: &Value, path: &str) -> bool {
    at(value, path).as_bool().unwrap_or_default()
}

/// The entries of the map at the path, or none.
pub fn entries<'a>(value: &'a Value, path: &str) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
    at(value, path).as_object().into_iter().flatten()
}

/// The names and texts of a map of texts.
pub fn texts<'a>(value: &'a Value, path: &str) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
    entries(value, path).filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
}

/// Whether there is something other than null at the path.
pub fn has(value: &Value, path: &str) -> bool {
    !at(value, path).is_null()
}

/// The value at the path, if it is there, to change it.
pub fn at_mut<'a>(value: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    path.split('.').try_fold(value, |value, key| value.get_mut(key)).filter(|value| !value.is_null())
}

/// The items of the list at the path, to change them.
pub fn each_mut<'a>(value: &'a mut Value, path: &str) -> impl Iterator<Item = &'a mut Value> + use<'a> {
    at_mut(value, path).and_then(Value::as_array_mut).into_iter().flatten()
}

/// The map at the path, made if it is not there. `None` where something else stands in its way.
pub fn section<'a>(value: &'a mut Value, path: &str) -> Option<&'a mut Map<String, Value>> {
    let mut map = value.as_object_mut()?;
    for key in path.split('.') {
        if map.get(key).is_none_or(Value::is_null) {
            map.insert(key.to_owned(), Value::Object(Map::new()));
        }
        map = map.get_mut(key)?.as_object_mut()?;
    }
    Some(map)
}

/// Sets a field that is absent.
pub fn fill(value: &mut Value, key: &str, default: impl Into<Value>) {
    if let Some(map) = value.as_object_mut()
        && map.get(key).is_none_or(Value::is_null)
    {
        map.insert(key.to_owned(), default.into());
    }
}

/// Sets a field that is absent or the empty text, as upstream does where an empty text is no value.
pub fn fill_text(value: &mut Value, key: &str, default: &str) {
    if let Some(map) = value.as_object_mut()
        && map.get(key).is_none_or(|v| v.is_null() || v == "")
    {
        map.insert(key.to_owned(), Value::from(default));
    }
}

/// Removes the field at the path.
pub fn remove(value: &mut Value, path: &str) -> Option<Value> {
    let (parent, key) = match path.rsplit_once('.') {
        Some((parent, key)) => (at_mut(value, parent)?, key),
        None => (value, path),
    };
    parent.as_object_mut()?.remove(key)
}

/// Puts `new`'s field at the path back as it is in `old`.
pub fn keep_at(old: &Value, new: &mut Value, path: &str) {
    match at(old, path) {
        Value::Null => {
            remove(new, path);
        }
        value => {
            let (parent, key) = path.rsplit_once('.').unwrap_or(("", path));
            let map = if parent.is_empty() { new.as_object_mut() } else { section(new, parent) };
            if let Some(map) = map {
                map.insert(key.to_owned(), value.clone());
            }
        }
    }
}
