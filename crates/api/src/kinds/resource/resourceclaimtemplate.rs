//! `resource.k8s.io/v1 ResourceClaimTemplate`.

use serde_json::Value;

use super::requests;
use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, at_mut};
use crate::kinds::builder::Builder;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::metadata::template_meta;
use crate::validation::{Errors, Path};

pub fn kind() -> Kind {
    Builder::new("resource.k8s.io", "v1", "ResourceClaimTemplate", "resourceclaimtemplates")
        .namespaced()
        .columns(COLUMNS)
        .strategy(ResourceClaimTemplate)
        .build()
}

const COLUMNS: &[Cell] = &[NAME, AGE];

struct ResourceClaimTemplate;

impl Strategy for ResourceClaimTemplate {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = at_mut(object, "spec.spec") {
            requests::defaults(spec);
        }
    }

    /// The spec never changes, so that only a new one is looked at.
    fn validate_new(&self, object: &Value, errors: &mut Errors) {
        let path = Path::new("spec");
        template_meta(at(object, "spec.metadata"), &path.child("metadata"), errors);
        requests::validate(at(object, "spec.spec"), &path.child("spec"), errors);
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        errors.immutable(old, new, "spec");
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}
