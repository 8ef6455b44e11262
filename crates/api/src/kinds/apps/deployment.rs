//! `apps/v1 Deployment`.

use serde_json::{Value, json};

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, fill, fill_text, number, section, text};
use crate::kinds::builder::Builder;
use crate::kinds::pods::{cells, template};
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, Path, percent_or_number};

pub fn kind() -> Kind {
    Builder::new("apps", "v1", "Deployment", "deployments")
        .namespaced()
        .short(&["deploy"])
        .category("all")
        .scale()
        .status()
        .columns(COLUMNS)
        .strategy(Deployment)
        .build()
}

const COLUMNS: &[Cell] = &[
    NAME,
    Cell::made("Ready", |o| format!("{}/{}", number(o, "status.readyReplicas"), number(o, "spec.replicas")).into()),
    Cell::number("Up-to-date", "status.updatedReplicas"),
    Cell::number("Available", "status.availableReplicas"),
    AGE,
    Cell::made("Containers", |o| cells::container_field(o, "spec.template.spec", "name")).wide(),
    Cell::made("Images", |o| cells::container_field(o, "spec.template.spec", "image")).wide(),
    Cell::made("Selector", |o| cells::selector(at(o, "spec.selector"))).wide(),
];

struct Deployment;

impl Strategy for Deployment {
    fn default(&self, object: &mut Value) {
        template::defaults(object, "spec.template");
        let Some(spec) = object.get_mut("spec") else { return };
        fill(spec, "replicas", 1);
        fill(spec, "revisionHistoryLimit", 10);
        fill(spec, "progressDeadlineSeconds", 600);
        section(spec, "strategy");
        fill_text(&mut spec["strategy"], "type", "RollingUpdate");
        if text(spec, "strategy.type") == "RollingUpdate" {
            section(spec, "strategy.rollingUpdate");
            fill(&mut spec["strategy"]["rollingUpdate"], "maxUnavailable", "25%");
            fill(&mut spec["strategy"]["rollingUpdate"], "maxSurge", "25%");
        }
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let (spec, path) = (at(object, "spec"), Path::new("spec"));
        errors.not_negative(path.child("replicas"), at(spec, "replicas"));
        template::workload(object, "deployment", errors);
        strategy(at(spec, "strategy"), &path.child("strategy"), errors);
        for field in ["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
            errors.not_negative(path.child(field), at(spec, field));
        }
        let deadline = number(spec, "progressDeadlineSeconds");
        if deadline <= number(spec, "minReadySeconds") {
            errors.invalid(path.child("progressDeadlineSeconds"), deadline, "must be greater than minReadySeconds");
        }
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        errors.immutable(old, new, "spec.selector");
    }

    fn validate_subresource_update(&self, _subresource: &str, _old: &Value, new: &Value, errors: &mut Errors) {
        let status = Path::new("status");
        for field in ["observedGeneration", "replicas", "updatedReplicas", "readyReplicas", "availableReplicas"] {
            errors.not_negative(status.child(field), at(&new["status"], field));
        }
        for field in ["updatedReplicas", "readyReplicas", "availableReplicas"] {
            if number(&new["status"], field) > number(new, "status.replicas") {
                let why = "cannot be greater than status.replicas";
                errors.invalid(status.child(field), number(&new["status"], field), why);
            }
        }
    }

    fn warnings(&self, old: Option<&Value>, new: &Value) -> Vec<String> {
        let mut warnings = template::hostname(old, new);
        warnings.extend(template::warnings(new, "spec.template"));
        warnings
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn annotations_count(&self) -> bool {
        true
    }

    fn kept_by_status(&self) -> &'static [&'static str] {
        &["labels"]
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}

fn strategy(strategy: &Value, path: &Path, errors: &mut Errors) {
    match text(strategy, "type") {
        "Recreate" => {
            if !at(strategy, "rollingUpdate").is_null() {
                let why = "may not be specified when strategy `type` is 'Recreate'";
                errors.forbidden(path.child("rollingUpdate"), why);
            }
        }
        "RollingUpdate" => {
            let (rolling, path) = (at(strategy, "rollingUpdate"), path.child("rollingUpdate"));
            let unavailable = percent_or_number(at(rolling, "maxUnavailable"), &path.child("maxUnavailable"), errors);
            let surge = percent_or_number(at(rolling, "maxSurge"), &path.child("maxSurge"), errors);
            if unavailable == Some(0) && surge == Some(0) {
                let shown = at(rolling, "maxUnavailable");
                errors.invalid(path.child("maxUnavailable"), shown, "may not be 0 when `maxSurge` is 0");
            }
        }
        other => errors.not_supported(path, &json!({"type": other}), &["Recreate", "RollingUpdate"]),
    }
}
