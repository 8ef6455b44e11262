//! `networking.k8s.io/v1 IngressClass`.

use serde_json::Value;

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, at_mut, fill, has, text};
use crate::kinds::builder::Builder;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, names};

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
        if controller.len() > 250 {
            errors.too_long("spec.controller", 250);
        }
        if controller.is_empty() {
            errors.required("spec.controller", "");
        } else {
            match controller.split_once('/') {
                Some((domain, path)) if !path.is_empty() => {
                    errors.all_invalid("spec.controller", controller, names::dns1123_subdomain(domain));
                }
                _ => errors.invalid(
                    "spec.controller",
                    controller,
                    "must be a domain-prefixed path (such as \"acme.io/foo\")",
                ),
            }
        }
        if !has(object, "spec.parameters") {
            return;
        }
        for field in ["kind", "name"] {
            if text(at(object, "spec.parameters"), field).is_empty() {
                errors.required(format!("spec.parameters.{field}"), format!("{field} is required"));
            }
        }
        match (text(object, "spec.parameters.scope"), text(object, "spec.parameters.namespace")) {
            ("Namespace", "") => {
                let why = "`parameters.scope` is set to 'Namespace'";
                errors.required("spec.parameters.namespace", why);
            }
            ("Cluster", namespace) if !namespace.is_empty() => {
                errors.forbidden("spec.parameters.namespace", "`parameters.scope` is set to 'Cluster'");
            }
            ("Cluster" | "Namespace", _) => {}
            (scope, _) => errors.not_supported("spec.parameters.scope", scope, &["Cluster", "Namespace"]),
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
