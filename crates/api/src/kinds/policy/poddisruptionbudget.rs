//! `policy/v1 PodDisruptionBudget`.

use serde_json::Value;

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, has, list};
use crate::kinds::builder::Builder;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, Path, conditions, label_selector, percent_or_number};

pub fn kind() -> Kind {
    Builder::new("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
        .namespaced()
        .short(&["pdb"])
        .status()
        .columns(COLUMNS)
        .strategy(PodDisruptionBudget)
        .build()
}

const COLUMNS: &[Cell] = &[
    NAME,
    Cell::made("Min Available", |o| amount(at(o, "spec.minAvailable"))),
    Cell::made("Max Unavailable", |o| amount(at(o, "spec.maxUnavailable"))),
    Cell::number("Allowed Disruptions", "status.disruptionsAllowed"),
    AGE,
];

fn amount(value: &Value) -> Value {
    match value {
        Value::Null => "N/A".into(),
        Value::String(text) => text.as_str().into(),
        other => other.to_string().into(),
    }
}

struct PodDisruptionBudget;

impl Strategy for PodDisruptionBudget {
    fn validate(&self, object: &Value, errors: &mut Errors) {
        let (spec, path) = (at(object, "spec"), Path::new("spec"));
        if has(spec, "minAvailable") && has(spec, "maxUnavailable") {
            errors.invalid(path, spec, "minAvailable and maxUnavailable cannot be both set");
        }
        for field in ["minAvailable", "maxUnavailable"] {
            percent_or_number(at(spec, field), &path.child(field), errors);
        }
        label_selector(at(spec, "selector"), &path.child("selector"), errors);
        let (field, policies) = ("unhealthyPodEvictionPolicy", ["AlwaysAllow", "IfHealthyBudget"]);
        errors.one_of_if_set(path.child(field), at(spec, field), &policies);
    }

    fn validate_subresource_update(&self, _subresource: &str, _old: &Value, new: &Value, errors: &mut Errors) {
        let status = Path::new("status");
        conditions(list(new, "status.conditions"), &status.child("conditions"), errors);
        for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
            errors.not_negative(status.child(field), at(at(new, "status"), field));
        }
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn conditional_update(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}
