//! `v1 ReplicationController`.

use serde_json::{Map, Value};

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, fill, has, section};
use crate::kinds::apps::replicaset::replica_status;
use crate::kinds::builder::Builder;
use crate::kinds::pods::{cells, template};
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, Path};

pub fn kind() -> Kind {
    Builder::new("", "v1", "ReplicationController", "replicationcontrollers")
        .namespaced()
        .short(&["rc"])
        .category("all")
        .prefix("controllers")
        .scale()
        .status()
        .selectable(&["status.replicas=0"])
        .columns(COLUMNS)
        .strategy(ReplicationController)
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
    Cell::made("Selector", |o| print::labels(at(o, "spec.selector")).into()).wide(),
];

struct ReplicationController;

impl Strategy for ReplicationController {
    fn default(&self, object: &mut Value) {
        template::defaults(object, "spec.template");
        let labels = at(object, "spec.template.metadata.labels").clone();
        let empty = |value: &Value| value.as_object().is_none_or(Map::is_empty);
        if !empty(&labels) {
            if empty(at(object, "spec.selector"))
                && let Some(spec) = section(object, "spec")
            {
                spec.insert("selector".to_owned(), labels.clone());
            }
            if empty(at(object, "metadata.labels"))
                && let Some(metadata) = section(object, "metadata")
            {
                metadata.insert("labels".to_owned(), labels);
            }
        }
        if let Some(spec) = object.get_mut("spec") {
            fill(spec, "replicas", 1);
        }
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let (spec, path) = (at(object, "spec"), Path::new("spec"));
        errors.not_negative(path.child("minReadySeconds"), at(spec, "minReadySeconds"));
        errors.not_negative(path.child("replicas"), at(spec, "replicas"));
        let selector = at(spec, "selector");
        if selector.as_object().is_none_or(Map::is_empty) {
            errors.required(path.child("selector"), "");
        }
        let at_template = path.child("template");
        if !has(spec, "template") {
            errors.required(at_template, "");
            return;
        }
        let (template, labels) = (at(spec, "template"), at(spec, "template.metadata.labels"));
        if selector.as_object().into_iter().flatten().any(|(key, value)| labels.get(key) != Some(value)) {
            let why = "`selector` does not match template `labels`";
            errors.invalid(at_template.child("metadata.labels"), labels, why);
        }
        template::validate(template, &at_template, errors);
        template::always_restarts(template, &at_template, "replicationcontroller", errors);
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
