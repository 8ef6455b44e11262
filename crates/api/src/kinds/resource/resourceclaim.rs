//! `resource.k8s.io/v1 ResourceClaim`.

use serde_json::Value;

use super::requests;
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

    fn validate(&self, object: &Value, errors: &mut Errors) {
        requests::validate(at(object, "spec"), &Path::new("spec"), errors);
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        errors.immutable(old, new, "spec");
    }

    fn validate_subresource_update(&self, _subresource: &str, old: &Value, new: &Value, errors: &mut Errors) {
        let reserved = list(new, "status.reservedFor");
        if reserved.len() > 256 {
            errors.too_many("status.reservedFor", reserved.len(), 256);
        }
        if has(old, "status.allocation") && has(new, "status.allocation") {
            errors.immutable(old, new, "status.allocation");
        }
        if !reserved.is_empty() && !has(new, "status.allocation") {
            errors.forbidden("status.reservedFor", "may not be specified when `allocated` is not set");
        }
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}
