//! `v1 Event`, which is also the stored form of `events.k8s.io/v1 Event`.

use serde_json::Value;

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, has, number, text};
use crate::kinds::builder::Builder;
use crate::print::{self, Cell, NAME, since};
use crate::validation::Errors;

pub fn kind() -> Kind {
    Builder::new("", "v1", "Event", "events")
        .namespaced()
        .short(&["ev"])
        .selectable(&[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "type",
        ])
        .selectable_at("source", "source.component", "")
        .or_at("reportingComponent")
        .columns(COLUMNS)
        .strategy(Event)
        .build()
}

pub const COLUMNS: &[Cell] = &[
    Cell::timed("Last Seen", |o, now| last_seen(o, now).into()),
    Cell::text("Type", "type"),
    Cell::text("Reason", "reason"),
    Cell::made("Object", involved),
    Cell::text("Subobject", "involvedObject.fieldPath").wide(),
    Cell::made("Source", source).wide(),
    Cell::made("Message", |o| text(o, "message").trim().into()),
    Cell::timed("First Seen", |o, now| first_seen(o, now).into()).wide(),
    Cell::made("Count", count).wide(),
    NAME.wide(),
];

fn first_seen(event: &Value, now: i64) -> String {
    match text(event, "firstTimestamp") {
        "" => since(text(event, "eventTime"), now),
        time => since(time, now),
    }
}

fn last_seen(event: &Value, now: i64) -> String {
    match (text(event, "series.lastObservedTime"), text(event, "lastTimestamp")) {
        ("", "") => first_seen(event, now),
        ("", time) | (time, _) => since(time, now),
    }
}

fn count(event: &Value) -> Value {
    let count = if has(event, "series") { number(event, "series.count") } else { number(event, "count") };
    count.max(1).into()
}

fn involved(event: &Value) -> Value {
    let kind = text(event, "involvedObject.kind").to_lowercase();
    match text(event, "involvedObject.name") {
        "" => kind.into(),
        name => format!("{kind}/{name}").into(),
    }
}

fn source(event: &Value) -> Value {
    let first = |own: &str, other: &str| match text(event, own) {
        "" => text(event, other).to_owned(),
        text => text.to_owned(),
    };
    let component = first("source.component", "reportingComponent");
    match first("source.host", "reportingInstance").as_str() {
        "" => component.into(),
        instance => format!("{component}, {instance}").into(),
    }
}

pub struct Event;

impl Strategy for Event {
    fn validate(&self, object: &Value, errors: &mut Errors) {
        let (own, involved) = (text(object, "metadata.namespace"), text(object, "involvedObject.namespace"));
        // Events about what is in no namespace are in the default one.
        if own != involved && !(involved.is_empty() && matches!(own, "default" | "kube-system")) {
            errors.invalid("involvedObject.namespace", involved, "does not match event.namespace");
        }
        if !has(object, "eventTime") {
            return;
        }
        for (field, name) in [
            ("reportingComponent", "reportingController"),
            ("reportingInstance", "reportingInstance"),
            ("action", "action"),
            ("reason", "reason"),
        ] {
            if text(object, field).is_empty() {
                errors.required(name, "");
            } else if text(object, field).len() > 128 {
                errors.invalid(name, at(object, field), "can have at most 128 characters");
            }
        }
        if !matches!(text(object, "type"), "Normal" | "Warning") {
            errors.invalid("type", at(object, "type"), "must be one of: Normal, Warning");
        }
        if text(object, "message").len() > 1024 {
            errors.invalid("message", at(object, "message"), "can have at most 1024 characters");
        }
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}
