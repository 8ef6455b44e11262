//! `v1 Event`, which is also the stored form of `events.k8s.io/v1 Event`.

use serde_json::Value;

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{has, number, text};
use crate::kinds::builder::Builder;
use crate::print::{self, Cell, NAME, since};
use crate::validation::{Errors, NameRule, names};

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
    /// What an event is about may have any name, and so may the event.
    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let (own, involved) = (text(object, "metadata.namespace"), text(object, "involvedObject.namespace"));
        let mut elsewhere = |when: bool| {
            if when {
                errors.invalid("involvedObject.namespace", involved, "does not match event.namespace");
            }
        };
        // Events about what is in no namespace are in the default one.
        if has(object, "eventTime") {
            elsewhere(involved.is_empty() && !matches!(own, "default" | "kube-system"));
            series_of_today(object, errors);
        } else {
            elsewhere(if involved.is_empty() { !matches!(own, "" | "default") } else { own != involved });
        }
        errors.all_invalid("namespace", own, names::dns1123_subdomain(own));
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}

/// Errors of an event that says when it was, as all of today do.
fn series_of_today(event: &Value, errors: &mut Errors) {
    let controller = text(event, "reportingComponent");
    if controller.is_empty() {
        errors.required("reportingController", "");
    }
    errors.all_invalid("reportingController", controller, names::qualified_name(controller));
    for (field, most) in [("reportingInstance", 128), ("action", 128), ("reason", 128), ("message", 1024)] {
        let length = text(event, field).len();
        if length == 0 && field != "message" {
            errors.required(field, "");
        }
        if length > most {
            errors.invalid(field, "", format!("can have at most {most} characters"));
        }
    }
}
