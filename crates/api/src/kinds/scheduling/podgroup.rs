//! `scheduling.k8s.io/v1alpha2 PodGroup`: pods that are scheduled together (KEP-4671).

use serde_json::Value;

use super::policy;
use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, text};
use crate::kinds::builder::Builder;
use crate::validation::{Errors, Path, names};

pub fn kind() -> Kind {
    Builder::new("scheduling.k8s.io", "v1alpha2", "PodGroup", "podgroups")
        .namespaced()
        .status()
        .strategy(PodGroup)
        .build()
}

struct PodGroup;

impl Strategy for PodGroup {
    fn validate(&self, object: &Value, errors: &mut Errors) {
        let (spec, path) = (at(object, "spec"), Path::new("spec"));
        policy::validate(spec, &path, errors);
        let (template, path) = (at(spec, "podGroupTemplateRef"), path.child("podGroupTemplateRef"));
        if template.is_null() {
            return;
        }
        let (workload, path) = (at(template, "workload"), path.child("workload"));
        if workload.is_null() {
            return errors.required(path, "");
        }
        match text(workload, "workloadName") {
            "" => errors.required(path.child("workloadName"), ""),
            name => errors.all_invalid(path.child("workloadName"), name, names::dns1123_subdomain(name)),
        }
        match text(workload, "podGroupTemplateName") {
            "" => errors.required(path.child("podGroupTemplateName"), ""),
            name => errors.all_invalid(path.child("podGroupTemplateName"), name, names::dns1123_label(name)),
        }
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        for field in [
            "podGroupTemplateRef",
            "schedulingPolicy",
            "schedulingConstraints",
            "resourceClaims",
            "disruptionMode",
            "priorityClassName",
            "priority",
        ] {
            errors.immutable(old, new, &format!("spec.{field}"));
        }
    }

    fn has_generation(&self) -> bool {
        true
    }
}
