//! `flowcontrol.apiserver.k8s.io/v1 PriorityLevelConfiguration`.

use serde_json::Value;

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, at_mut, fill, has, section, text};
use crate::kinds::builder::Builder;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, Path};

pub fn kind() -> Kind {
    Builder::new("flowcontrol.apiserver.k8s.io", "v1", "PriorityLevelConfiguration", "prioritylevelconfigurations")
        .status()
        .columns(COLUMNS)
        .strategy(PriorityLevelConfiguration)
        .build()
}

const COLUMNS: &[Cell] = &[
    NAME,
    Cell::text("Type", "spec.type"),
    Cell::made("NominalConcurrencyShares", |o| limited(o, "nominalConcurrencyShares")),
    Cell::made("Queues", |o| limited(o, "limitResponse.queuing.queues")),
    Cell::made("HandSize", |o| limited(o, "limitResponse.queuing.handSize")),
    Cell::made("QueueLengthLimit", |o| limited(o, "limitResponse.queuing.queueLengthLimit")),
    AGE,
];

fn limited(level: &Value, path: &str) -> Value {
    match at(at(level, "spec.limited"), path) {
        Value::Null => "<none>".into(),
        value => value.to_string().into(),
    }
}

struct PriorityLevelConfiguration;

impl Strategy for PriorityLevelConfiguration {
    fn default(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec") else { return };
        if text(spec, "type") == "Exempt" {
            section(spec, "exempt");
        }
        if let Some(exempt) = at_mut(spec, "exempt") {
            fill(exempt, "nominalConcurrencyShares", 0);
            fill(exempt, "lendablePercent", 0);
        }
        if let Some(limited) = at_mut(spec, "limited") {
            fill(limited, "nominalConcurrencyShares", 30);
            fill(limited, "lendablePercent", 0);
            if let Some(queuing) = at_mut(limited, "limitResponse.queuing") {
                fill(queuing, "queues", 64);
                fill(queuing, "handSize", 8);
                fill(queuing, "queueLengthLimit", 50);
            }
        }
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let (spec, path) = (at(object, "spec"), Path::new("spec"));
        match text(spec, "type") {
            "Exempt" => {
                if has(spec, "limited") {
                    let why = "must be nil if the type is not Limited";
                    errors.forbidden(path.child("limited"), why);
                }
            }
            "Limited" => {
                if has(spec, "exempt") {
                    errors.forbidden(path.child("exempt"), "must be nil if the type is Limited");
                }
                let (limited, path) = (at(spec, "limited"), path.child("limited"));
                if limited.is_null() {
                    errors.required(path, "must not be empty when type is Limited");
                    return;
                }
                errors.not_negative(path.child("nominalConcurrencyShares"), at(limited, "nominalConcurrencyShares"));
                let (response, path) = (at(limited, "limitResponse"), path.child("limitResponse"));
                errors.one_of_supported(path.child("type"), at(response, "type"), &["Queue", "Reject"]);
                match (text(response, "type"), has(response, "queuing")) {
                    ("Queue", false) => {
                        errors.required(path.child("queuing"), "must not be empty if limitResponse type is Queue");
                    }
                    ("Reject", true) => {
                        errors.forbidden(
                            path.child("queuing"),
                            "must be nil if limited.limitResponse.type is not Limited",
                        );
                    }
                    _ => {}
                }
                for field in ["queues", "handSize", "queueLengthLimit"] {
                    let value = at(at(response, "queuing"), field);
                    if value.as_i64().is_some_and(|value| value <= 0) {
                        errors.invalid(path.child("queuing").child(field), value, "must be positive");
                    }
                }
            }
            other => errors.not_supported(path.child("type"), other, &["Exempt", "Limited"]),
        }
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}
