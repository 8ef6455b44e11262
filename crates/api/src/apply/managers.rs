//! `metadata.managedFields`: who owns which fields.

use std::fmt;

use serde_json::json;

use super::Ctx;
use super::compare::Comparison;
use super::fields::{self, Fields};
use crate::{Map, Value};

/// How many managers that update (not apply) an object keeps apart; the oldest beyond are merged.
const MAX_UPDATERS: usize = 10;

/// Who the merged ones become.
const ANCIENT: &str = "ancient-changes";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

/// One entry of `managedFields`.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub manager: String,
    pub operation: Operation,
    pub api_version: String,
    pub subresource: String,
    pub time: Option<String>,
    pub fields: Fields,
}

impl Entry {
    /// An entry of the writer that owns nothing yet.
    pub fn new(operation: Operation, ctx: &Ctx) -> Entry {
        let manager = if ctx.manager.is_empty() { "unknown" } else { ctx.manager };
        Entry {
            manager: manager.to_owned(),
            operation,
            api_version: ctx.api_version.to_owned(),
            subresource: ctx.subresource.to_owned(),
            time: None,
            fields: Fields::new(),
        }
    }

    /// Whether it is the writer's. Whoever applies is the same manager in every version.
    pub fn is(&self, operation: Operation, ctx: &Ctx) -> bool {
        let manager = if ctx.manager.is_empty() { "unknown" } else { ctx.manager };
        self.operation == operation
            && self.manager == manager
            && self.subresource == ctx.subresource
            && (operation == Operation::Apply || self.api_version == ctx.api_version)
    }

    /// What messages are ordered by.
    pub fn identity(&self) -> (&str, Operation, &str, &str) {
        (&self.manager, self.operation, &self.api_version, &self.subresource)
    }
}

impl fmt::Display for Entry {
    /// As conflicts name it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.manager)?;
        if !self.subresource.is_empty() {
            write!(f, " with subresource {:?}", self.subresource)?;
        }
        if self.operation == Operation::Update {
            write!(f, " using {}", self.api_version)?;
        }
        Ok(())
    }
}

/// The object's entries, as they are.
pub fn of(object: &Map<String, Value>) -> &[Value] {
    let list = object.get("metadata").and_then(|m| m.get("managedFields")).and_then(Value::as_array);
    list.map_or(&[], Vec::as_slice)
}

/// Takes the entries out of the object.
pub fn take(object: &mut Value) -> Vec<Value> {
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    match metadata.and_then(|m| m.remove("managedFields")) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    }
}

/// Whether a client asks for all entries to go: the list `[{}]`.
pub fn is_reset(list: &[Value]) -> bool {
    matches!(list, [Value::Object(entry)] if entry.is_empty())
}

/// Puts entries back unchanged.
pub fn put_back(object: &mut Value, list: Vec<Value>) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("managedFields".to_owned(), Value::Array(list));
    }
}

/// The entries of a list; those that make no sense are dropped.
pub fn decode(list: Vec<Value>) -> Vec<Entry> {
    list.into_iter().filter_map(decode_entry).collect()
}

fn decode_entry(value: Value) -> Option<Entry> {
    let Value::Object(mut map) = value else { return None };
    let mut text = |key: &str| match map.remove(key) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    };
    let operation = match text("operation")?.as_str() {
        "Apply" => Operation::Apply,
        "Update" => Operation::Update,
        _ => return None,
    };
    let (manager, api_version) = (text("manager").unwrap_or_default(), text("apiVersion")?);
    let (subresource, time) = (text("subresource").unwrap_or_default(), text("time"));
    let Some(Value::Object(fields)) = map.remove("fieldsV1") else { return None };
    Some(Entry { manager, operation, api_version, subresource, time, fields })
}

/// Writes the entries into the object, in upstream's order.
pub fn put(object: &mut Value, mut entries: Vec<Entry>) {
    // Times in RFC 3339 and UTC are in order as texts.
    let key =
        |e: &Entry| (e.operation, e.time.clone(), e.manager.clone(), e.api_version.clone(), e.subresource.clone());
    entries.sort_by_cached_key(key);
    if !entries.is_empty() {
        put_back(object, entries.into_iter().map(encode_entry).collect());
    }
}

fn encode_entry(entry: Entry) -> Value {
    let Entry { manager, operation, api_version, subresource, time, fields } = entry;
    let operation = if operation == Operation::Apply { "Apply" } else { "Update" };
    let mut value = json!({
        "manager": manager, "operation": operation, "apiVersion": api_version, "fieldsType": "FieldsV1",
    });
    value["fieldsV1"] = Value::Object(fields);
    if let Some(time) = time {
        value["time"] = Value::String(time);
    }
    if !subresource.is_empty() {
        value["subresource"] = Value::String(subresource);
    }
    value
}

/// Takes from the entries what a write touched; those that own nothing any more go.
pub fn disown(entries: &mut Vec<Entry>, comparison: &Comparison) {
    entries.retain_mut(|entry| {
        fields::subtract(&mut entry.fields, &comparison.changed);
        fields::subtract(&mut entry.fields, &comparison.removed);
        !entry.fields.is_empty()
    });
}

/// Records an update: the writer gains what changed, the others lose it, and all lose what is gone.
pub fn record(entries: &mut Vec<Entry>, comparison: &Comparison, ctx: &Ctx) {
    let own = entries.iter().position(|entry| entry.is(Operation::Update, ctx)).map(|place| entries.remove(place));
    disown(entries, comparison);
    let mut own = own.unwrap_or_else(|| Entry::new(Operation::Update, ctx));
    fields::subtract(&mut own.fields, &comparison.removed);
    if !comparison.changed.is_empty() {
        fields::unite(&mut own.fields, &comparison.changed);
        own.time = Some(ctx.now.to_owned());
    }
    if !own.fields.is_empty() {
        entries.push(own);
    }
    cap(entries);
}

/// Merges the oldest updaters of a version into one where there are too many.
fn cap(entries: &mut Vec<Entry>) {
    let updaters = |entries: &[Entry]| entries.iter().filter(|e| e.operation == Operation::Update).count();
    if updaters(entries) <= MAX_UPDATERS {
        return;
    }
    entries.sort_by_cached_key(|e| (e.time.clone(), e.manager.clone()));
    let mut place = 0;
    while place < entries.len() && updaters(entries) > MAX_UPDATERS {
        let version = entries[place].api_version.clone();
        let older = |e: &Entry| e.operation == Operation::Update && e.api_version == version;
        if entries[place].operation == Operation::Update
            && let Some(first) = entries[..place].iter().position(older)
        {
            let merged = entries.remove(place);
            let bucket = &mut entries[first];
            fields::unite(&mut bucket.fields, &merged.fields);
            bucket.manager = ANCIENT.to_owned();
            bucket.subresource = String::new();
            bucket.time = merged.time;
        } else {
            place += 1;
        }
    }
}
