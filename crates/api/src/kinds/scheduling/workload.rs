//! `scheduling.k8s.io/v1alpha2 Workload`: templates of the groups in which a workload's pods are scheduled (KEP-4671).

use serde_json::Value;

use super::policy;
use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, list, text};
use crate::kinds::builder::Builder;
use crate::validation::{Errors, Path, names};

/// Templates that a workload may have.
const TEMPLATES: usize = 8;

pub fn kind() -> Kind {
    Builder::new("scheduling.k8s.io", "v1alpha2", "Workload", "workloads").namespaced().strategy(Workload).build()
}

struct Workload;

impl Strategy for Workload {
    fn validate(&self, object: &Value, errors: &mut Errors) {
        let spec = Path::new("spec");
        let (templates, all) = (list(object, "spec.podGroupTemplates"), spec.child("podGroupTemplates"));
        if templates.is_empty() {
            errors.required(all, "");
        }
        if templates.len() > TEMPLATES {
            errors.too_many(all, templates.len(), TEMPLATES);
        }
        for (index, template) in templates.iter().enumerate() {
            let path = all.index(index);
            match text(template, "name") {
                "" => errors.required(path.child("name"), ""),
                name => errors.all_invalid(path.child("name"), name, names::dns1123_label(name)),
            }
            policy::validate(template, &path, errors);
        }
        errors.unique(at(object, "spec"), "podGroupTemplates", &spec, |template| text(template, "name"));
        let (controller, path) = (at(object, "spec.controllerRef"), spec.child("controllerRef"));
        if !controller.is_null() {
            for field in ["kind", "name"] {
                if text(controller, field).is_empty() {
                    errors.required(path.child(field), "");
                }
            }
            let group = text(controller, "apiGroup");
            if !group.is_empty() {
                errors.all_invalid(path.child("apiGroup"), group, names::dns1123_subdomain(group));
            }
        }
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        errors.immutable(old, new, "spec.podGroupTemplates");
        if !at(old, "spec.controllerRef").is_null() {
            errors.immutable(old, new, "spec.controllerRef");
        }
    }

    fn has_generation(&self) -> bool {
        true
    }
}
