//! `resource.k8s.io/v1 ResourceClaim`.

use serde_json::Value;

use super::{allocation, requests};
use crate::kind::{ALL_METADATA, Kind, Strategy};
use crate::kinds::access::{at, at_mut, has, list};
use crate::kinds::builder::Builder;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, Path};

pub fn kind() -> Kind {
    Builder::new("resource.k8s.io", "v1", "ResourceClaim", "resourceclaims")
        .namespaced()
        .status()
        .columns(COLUMNS)
        .strategy(ResourceClaim)
        .build()
}

const COLUMNS: &[Cell] = &[NAME, Cell::made("State", state), AGE];

fn state(claim: &Value) -> Value {
    let mut words = Vec::new();
    if has(claim, "metadata.deletionTimestamp") {
        words.push("deleted");
    }
    if !has(claim, "status.allocation") {
        if words.is_empty() {
            words.push("pending");
        }
    } else {
        words.push("allocated");
        if !list(claim, "status.reservedFor").is_empty() {
            words.push("reserved");
        }
    }
    words.join(",").into()
}

struct ResourceClaim;

impl Strategy for ResourceClaim {
    fn kept_by_status(&self) -> &'static [&'static str] {
        ALL_METADATA
    }

    fn default(&self, object: &mut Value) {
        if let Some(spec) = at_mut(object, "spec") {
            requests::defaults(spec);
        }
    }

    /// The spec never changes, so that only a new one is looked at.
    fn validate_new(&self, object: &Value, errors: &mut Errors) {
        requests::validate(at(object, "spec"), &Path::new("spec"), errors);
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        errors.immutable(old, new, "spec");
    }

    fn validate_subresource_update(&self, _subresource: &str, old: &Value, new: &Value, errors: &mut Errors) {
        allocation::validate(old, new, errors);
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}
