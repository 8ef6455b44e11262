//! `apps/v1 ReplicaSet`.

use serde_json::Value;

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, fill};
use crate::kinds::builder::Builder;
use crate::kinds::pods::{cells, template};
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, Path};

pub fn kind() -> Kind {
    Builder::new("apps", "v1", "ReplicaSet", "replicasets")
        .namespaced()
        .short(&["rs"])
        .category("all")
        .scale()
        .status()
        .selectable(&["status.replicas=0"])
        .columns(COLUMNS)
        .strategy(ReplicaSet)
        .build()
}

const COLUMNS: &[Cell] = &[
    NAME,
    Cell::number("Desired", "spec.replicas"),
    Cell::number("Current", "status.replicas"),
    Cell::number("Ready", "status.readyReplicas"),
    AGE,
    Cell::made("Containers", |o| cells::container_field(o, "spec.template.spec", "name")).wide(),
    Cell::made("Images", |o| cells::container_field(o, "spec.template.spec", "image")).wide(),
    Cell::made("Selector", |o| cells::selector(at(o, "spec.selector"))).wide(),
];

struct ReplicaSet;

impl Strategy for ReplicaSet {
    fn default(&self, object: &mut Value) {
        template::defaults(object, "spec.template");
        if let Some(spec) = object.get_mut("spec") {
            fill(spec, "replicas", 1);
        }
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let (spec, path) = (at(object, "spec"), Path::new("spec"));
        errors.not_negative(path.child("replicas"), at(spec, "replicas"));
        errors.not_negative(path.child("minReadySeconds"), at(spec, "minReadySeconds"));
        template::workload(object, "deployment", errors);
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        errors.immutable(old, new, "spec.selector");
    }

    fn validate_subresource_update(&self, _subresource: &str, _old: &Value, new: &Value, errors: &mut Errors) {
        replica_status(new, errors);
    }

    fn warnings(&self, old: Option<&Value>, new: &Value) -> Vec<String> {
        let mut warnings = template::hostname(old, new);
        warnings.extend(template::warnings(new, "spec.template"));
        warnings
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}

/// Errors of the counts in the status of a replica set or replication controller.
pub fn replica_status(object: &Value, errors: &mut Errors) {
    let (status, path) = (at(object, "status"), Path::new("status"));
    let count = |field: &str| at(status, field).as_i64().unwrap_or_default();
    for field in ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"] {
        errors.not_negative(path.child(field), at(status, field));
    }
    for field in ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"] {
        if count(field) > count("replicas") {
            errors.invalid(path.child(field), count(field), "cannot be greater than status.replicas");
        }
    }
    if count("availableReplicas") > count("readyReplicas") {
        let why = "cannot be greater than readyReplicas";
        errors.invalid(path.child("availableReplicas"), count("availableReplicas"), why);
    }
}
