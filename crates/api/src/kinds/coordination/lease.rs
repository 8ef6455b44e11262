//! `coordination.k8s.io/v1 Lease`.

use serde_json::Value;

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, has, text};
use crate::kinds::builder::Builder;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, Path, names};

pub fn kind() -> Kind {
    Builder::new("coordination.k8s.io", "v1", "Lease", "leases").namespaced().columns(COLUMNS).strategy(Lease).build()
}

const COLUMNS: &[Cell] = &[NAME, Cell::text("Holder", "spec.holderIdentity"), AGE];

struct Lease;

impl Strategy for Lease {
    fn conditional_update(&self) -> bool {
        true
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        if let Some(seconds) = at(object, "spec.leaseDurationSeconds").as_i64()
            && seconds <= 0
        {
            errors.invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0");
        }
        errors.not_negative("spec.leaseTransitions", at(object, "spec.leaseTransitions"));
        let strategy = text(object, "spec.strategy");
        if has(object, "spec.strategy") {
            // Upstream repeats the field's name.
            let path = Path::new("spec.strategy.strategy");
            if strategy.contains('/') {
                errors.all_invalid(path, strategy, names::qualified_name(strategy));
            } else {
                errors.one_of_supported(path, at(object, "spec.strategy"), &["OldestEmulationVersion"]);
            }
        }
        if !text(object, "spec.preferredHolder").is_empty() && strategy.is_empty() {
            errors.forbidden("spec.preferredHolder", "may only be specified if `strategy` is defined");
        }
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}
