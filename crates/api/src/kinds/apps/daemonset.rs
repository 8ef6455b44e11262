//! `apps/v1 DaemonSet`.

use serde_json::Value;

use crate::kind::{Context, Kind, Strategy, clear_status, keep};
use crate::kinds::access::{at, fill, fill_text, has, section, text};
use crate::kinds::builder::Builder;
use crate::kinds::pods::{cells, template};
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, Path, percent_or_number};

pub fn kind() -> Kind {
    Builder::new("apps", "v1", "DaemonSet", "daemonsets")
        .namespaced()
        .short(&["ds"])
        .category("all")
        .status()
        .columns(COLUMNS)
        .strategy(DaemonSet)
        .build()
}

const COLUMNS: &[Cell] = &[
    NAME,
    Cell::number("Desired", "status.desiredNumberScheduled"),
    Cell::number("Current", "status.currentNumberScheduled"),
    Cell::number("Ready", "status.numberReady"),
    Cell::number("Up-to-date", "status.updatedNumberScheduled"),
    Cell::number("Available", "status.numberAvailable"),
    Cell::made("Node Selector", |o| print::labels(at(o, "spec.template.spec.nodeSelector")).into()),
    AGE,
    Cell::made("Containers", |o| cells::container_field(o, "spec.template.spec", "name")).wide(),
    Cell::made("Images", |o| cells::container_field(o, "spec.template.spec", "image")).wide(),
    Cell::made("Selector", |o| cells::selector(at(o, "spec.selector"))).wide(),
];

/// Counts the changes of the template, for clients of long ago.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

struct DaemonSet;

impl Strategy for DaemonSet {
    fn default(&self, object: &mut Value) {
        template::defaults(object, "spec.template");
        let Some(spec) = object.get_mut("spec") else { return };
        fill(spec, "revisionHistoryLimit", 10);
        section(spec, "updateStrategy");
        fill_text(&mut spec["updateStrategy"], "type", "RollingUpdate");
        if text(spec, "updateStrategy.type") == "RollingUpdate" {
            section(spec, "updateStrategy.rollingUpdate");
            let rolling = &mut spec["updateStrategy"]["rollingUpdate"];
            fill(rolling, "maxUnavailable", 1);
            fill(rolling, "maxSurge", 0);
        }
    }

    fn prepare_create(&self, object: &mut Value, _context: &Context) {
        clear_status(object);
        set_generation(object, 1);
    }

    fn prepare_update(&self, old: &Value, new: &mut Value, _context: &Context) {
        keep(old, new, "status");
        let changed = at(old, "spec.template") != at(new, "spec.template");
        set_generation(new, generation(old) + i64::from(changed));
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let (spec, path) = (at(object, "spec"), Path::new("spec"));
        template::workload(object, "daemonset", errors);
        for field in ["minReadySeconds", "revisionHistoryLimit"] {
            errors.not_negative(path.child(field), at(spec, field));
        }
        let strategy = path.child("updateStrategy");
        match text(spec, "updateStrategy.type") {
            "OnDelete" => {}
            "RollingUpdate" if !has(spec, "updateStrategy.rollingUpdate") => {
                errors.required(strategy.child("rollingUpdate"), "");
            }
            "RollingUpdate" => {
                let rolling = at(spec, "updateStrategy.rollingUpdate");
                let path = strategy.child("rollingUpdate");
                let value = |field: &str| at(rolling, field);
                let unavailable = percent_or_number(value("maxUnavailable"), &path.child("maxUnavailable"), errors);
                let surge = percent_or_number(value("maxSurge"), &path.child("maxSurge"), errors);
                if unavailable.unwrap_or(0) > 0 && surge.unwrap_or(0) > 0 {
                    let why = "may not be set when maxUnavailable is non-zero";
                    errors.invalid(path.child("maxSurge"), value("maxSurge"), why);
                } else if unavailable == Some(0) && surge == Some(0) {
                    let why = "cannot be 0 when maxSurge is 0";
                    errors.invalid(path.child("maxUnavailable"), value("maxUnavailable"), why);
                }
            }
            other => errors.not_supported(strategy.child("type"), other, &["OnDelete", "RollingUpdate"]),
        }
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        errors.immutable(old, new, "spec.selector");
    }

    fn validate_subresource_update(&self, _subresource: &str, _old: &Value, new: &Value, errors: &mut Errors) {
        for (field, count) in at(new, "status").as_object().into_iter().flatten() {
            if field.to_lowercase().contains("number") {
                errors.not_negative(Path::new("status").child(field), count);
            }
        }
    }

    fn warnings(&self, _old: Option<&Value>, new: &Value) -> Vec<String> {
        template::warnings(new, "spec.template")
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}

fn generation(object: &Value) -> i64 {
    let text = at(object, "metadata.annotations").get(TEMPLATE_GENERATION).and_then(Value::as_str);
    text.and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn set_generation(object: &mut Value, generation: i64) {
    if let Some(annotations) = section(object, "metadata.annotations") {
        annotations.insert(TEMPLATE_GENERATION.to_owned(), generation.to_string().into());
    }
}
