//! `networking.k8s.io/v1 IngressClass`.

use serde_json::Value;

use super::ingress;
use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, at_mut, fill, has, text};
use crate::kinds::builder::Builder;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, Path, domains, names};

pub fn kind() -> Kind {
    Builder::new("networking.k8s.io", "v1", "IngressClass", "ingressclasses")
        .columns(COLUMNS)
        .strategy(IngressClass)
        .build()
}

const COLUMNS: &[Cell] = &[
    NAME,
    Cell::text("Controller", "spec.controller"),
    Cell::made("Parameters", |o| {
        if !has(o, "spec.parameters") {
            return "<none>".into();
        }
        let part = |field: &str| text(at(o, "spec.parameters"), field);
        match part("apiGroup") {
            "" => format!("{}/{}", part("kind"), part("name")).into(),
            group => format!("{}.{group}/{}", part("kind"), part("name")).into(),
        }
    }),
    AGE,
];

struct IngressClass;

impl Strategy for IngressClass {
    fn default(&self, object: &mut Value) {
        if let Some(parameters) = at_mut(object, "spec.parameters") {
            fill(parameters, "scope", "Cluster");
        }
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let controller = text(object, "spec.controller");
        let path = Path::new("spec.controller");
        if controller.len() > 250 {
            errors.too_long(path, 250);
        }
        domains::prefixed_path(controller, &path, errors);
        let (parameters, path) = (at(object, "spec.parameters"), Path::new("spec.parameters"));
        if parameters.is_null() {
            return;
        }
        ingress::reference(parameters, &path, errors);
        let namespace = at(parameters, "namespace").as_str();
        let at_namespace = path.child("namespace");
        match (text(parameters, "scope"), namespace) {
            ("Namespace", None) => errors.required(at_namespace, "`parameters.scope` is set to 'Namespace'"),
            ("Namespace", Some(name)) => errors.all_invalid(at_namespace, name, names::dns1123_label(name)),
            ("Cluster", Some(_)) => errors.forbidden(at_namespace, "`parameters.scope` is set to 'Cluster'"),
            ("Cluster", None) => {}
            (scope, _) => errors.not_supported(path.child("scope"), scope, &["Cluster", "Namespace"]),
        }
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        errors.immutable(old, new, "spec.controller");
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}
