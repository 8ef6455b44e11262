//! `storage.k8s.io/v1 CSINode`.

use serde_json::Value;

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, list, text};
use crate::kinds::builder::Builder;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, Path};

pub fn kind() -> Kind {
    Builder::new("storage.k8s.io", "v1", "CSINode", "csinodes").columns(COLUMNS).strategy(CsiNode).build()
}

const COLUMNS: &[Cell] = &[NAME, Cell::made("Drivers", |o| list(o, "spec.drivers").len().into()).typed("integer"), AGE];

struct CsiNode;

impl Strategy for CsiNode {
    fn validate(&self, object: &Value, errors: &mut Errors) {
        let (spec, path) = (at(object, "spec"), Path::new("spec"));
        let all = path.child("drivers");
        for (index, driver) in list(spec, "drivers").iter().enumerate() {
            let path = all.index(index);
            for field in ["name", "nodeID"] {
                if text(driver, field).is_empty() {
                    errors.required(path.child(field), "");
                }
            }
            errors.not_negative(path.child("allocatable.count"), at(driver, "allocatable.count"));
        }
        errors.unique(spec, "drivers", &path, |driver| text(driver, "name"));
    }

    fn conditional_update(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}
