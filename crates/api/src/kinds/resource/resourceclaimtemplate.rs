//! `resource.k8s.io/v1 ResourceClaimTemplate`.

use serde_json::Value;

use super::requests;
use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, at_mut};
use crate::kinds::builder::Builder;
use crate::print::{self, AGE, Cell, NAME};
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

    fn validate(&self, object: &Value, errors: &mut Errors) {
        requests::validate(at(object, "spec.spec"), &Path::new("spec.spec"), errors);
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        errors.immutable(old, new, "spec");
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}
