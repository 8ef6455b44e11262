//! `events.k8s.io/v1 Event`, stored as `v1 Event`.

use serde_json::{Map, Value};

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, entries, has, number, text};
use crate::kinds::builder::Builder;
use crate::kinds::core::event;
use crate::validation::{Errors, IMMUTABLE};

pub fn kind() -> Kind {
    Builder::new("events.k8s.io", "v1", "Event", "events")
        .namespaced()
        .short(&["ev"])
        .stored_as("v1")
        .selectable(&[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "type",
        ])
        .columns(event::COLUMNS)
        .strategy(Event)
        .build()
}

/// This version's fields and the stored version's.
const FIELDS: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

fn rename(object: &mut Value, api_version: &str, fields: impl Iterator<Item = (&'static str, &'static str)>) {
    let Some(map) = object.as_object_mut() else { return };
    map.insert("apiVersion".to_owned(), api_version.into());
    let renamed: Map<String, Value> =
        fields.filter_map(|(from, to)| map.remove(from).map(|value| (to.to_owned(), value))).collect();
    map.extend(renamed);
}

fn stored(object: &Value) -> Value {
    let mut object = object.clone();
    Event.to_storage(&mut object);
    object
}

/// Errors of a series of events of one kind.
fn series(event: &Value, errors: &mut Errors) {
    if !has(event, "series") {
        return;
    }
    if number(event, "series.count") < 2 {
        errors.invalid("series.count", "", "should be at least 2");
    }
    if !has(event, "series.lastObservedTime") {
        errors.required("series.lastObservedTime", "");
    }
}

struct Event;

impl Strategy for Event {
    fn validate(&self, object: &Value, errors: &mut Errors) {
        event::Event.validate(&stored(object), errors);
    }

    fn validate_new(&self, object: &Value, errors: &mut Errors) {
        series(object, errors);
        if !has(object, "eventTime") {
            errors.required("eventTime", "");
        }
        let kind = text(object, "type");
        if !matches!(kind, "Normal" | "Warning") {
            errors.invalid("type", "", format!("has invalid value: {kind}"));
        }
        let old = [
            ("firstTimestamp", has(object, "deprecatedFirstTimestamp")),
            ("lastTimestamp", has(object, "deprecatedLastTimestamp")),
            ("count", number(object, "deprecatedCount") != 0),
            ("source", entries(object, "deprecatedSource").any(|(_, value)| value != "")),
        ];
        for (field, _) in old.into_iter().filter(|(_, given)| *given) {
            errors.invalid(field, "", "needs to be unset");
        }
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        if at(old, "series") != at(new, "series") {
            series(new, errors);
        }
        const FIXED: &[&str] = &[
            "involvedObject",
            "reason",
            "message",
            "source",
            "firstTimestamp",
            "lastTimestamp",
            "count",
            "type",
            "eventTime",
            "action",
            "related",
            "reportingComponent",
            "reportingInstance",
        ];
        let (old, new) = (stored(old), stored(new));
        for field in FIXED {
            if old.get(field) != new.get(field) {
                let shown = if *field == "reportingComponent" { "reportingController" } else { field };
                errors.invalid(shown, at(&new, field), IMMUTABLE);
            }
        }
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn from_storage(&self, object: &mut Value) {
        rename(object, "events.k8s.io/v1", FIELDS.iter().map(|(own, stored)| (*stored, *own)));
    }

    fn to_storage(&self, object: &mut Value) {
        rename(object, "v1", FIELDS.iter().copied());
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        event::Event.cells(&stored(object), now)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_the_same_after_it_was_stored() {
        let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "note": "n", "regarding": {"name": "x"},
            "reportingController": "c", "deprecatedCount": 2});
        let mut object = event.clone();
        Event.to_storage(&mut object);
        assert_eq!(
            object,
            json!({"apiVersion": "v1", "kind": "Event", "message": "n", "involvedObject": {"name": "x"},
            "reportingComponent": "c", "count": 2})
        );
        Event.from_storage(&mut object);
        assert_eq!(object, event);
    }
}
