//! `scheduling.k8s.io/v1 PriorityClass`.

use serde_json::Value;

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, fill, flag, number, text};
use crate::kinds::builder::Builder;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::Errors;

pub fn kind() -> Kind {
    Builder::new("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses")
        .short(&["pc"])
        .columns(COLUMNS)
        .strategy(PriorityClass)
        .build()
}

const COLUMNS: &[Cell] = &[
    NAME,
    Cell::number("Value", "value"),
    Cell::made("Global-Default", |o| flag(o, "globalDefault").into()).typed("boolean"),
    AGE,
    Cell::text("PreemptionPolicy", "preemptionPolicy"),
];

/// The classes that the system itself makes, and their values.
const SYSTEM: &[(&str, i64)] = &[("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];
const HIGHEST: i64 = 1_000_000_000;

struct PriorityClass;

impl Strategy for PriorityClass {
    fn default(&self, object: &mut Value) {
        fill(object, "preemptionPolicy", "PreemptLowerPriority");
        fill(object, "value", 0);
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let (name, value) = (text(object, "metadata.name"), number(object, "value"));
        if name.starts_with("system-") {
            if !SYSTEM.contains(&(name, value)) {
                let why = "priority class names with 'system-' prefix are reserved for system use only. error: ";
                errors.forbidden("metadata.name", format!("{why}{name} is not a known system priority class"));
            }
        } else if value > HIGHEST {
            errors.forbidden("value", format!("maximum allowed value of a user defined priority is {HIGHEST}"));
        }
        errors.one_of("preemptionPolicy", at(object, "preemptionPolicy"), &["Never", "PreemptLowerPriority"]);
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        if number(old, "value") != number(new, "value") {
            errors.forbidden("value", "may not be changed in an update.");
        }
        errors.immutable(old, new, "preemptionPolicy");
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}
