//! `storage.k8s.io/v1 CSINode`.

use serde_json::Value;

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, list, remove, text};
use crate::kinds::builder::Builder;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, IMMUTABLE, Path, domains, names};

pub fn kind() -> Kind {
    Builder::new("storage.k8s.io", "v1", "CSINode", "csinodes").columns(COLUMNS).strategy(CsiNode).build()
}

const COLUMNS: &[Cell] = &[NAME, Cell::made("Drivers", |o| list(o, "spec.drivers").len().into()).typed("integer"), AGE];

/// A node's name to its driver may be this long.
const LONGEST_ID: usize = 256;

struct CsiNode;

impl Strategy for CsiNode {
    fn validate(&self, object: &Value, errors: &mut Errors) {
        let spec = Path::new("spec");
        let (drivers, all) = (list(object, "spec.drivers"), spec.child("drivers"));
        for (index, driver) in drivers.iter().enumerate() {
            let path = all.index(index);
            let name = text(driver, "name");
            domains::driver(name, &path.child("name"), errors);
            let (node, at_node) = (text(driver, "nodeID"), path.child("nodeID"));
            if node.is_empty() {
                errors.required(at_node, "");
            }
            if node.len() > LONGEST_ID {
                errors.invalid(at_node, node, format!("must be {LONGEST_ID} characters or less"));
            }
            errors.not_negative(path.child("allocatable").child("count"), at(driver, "allocatable.count"));
            if drivers[..index].iter().any(|other| text(other, "name") == name) {
                errors.duplicate(path.child("name"), name);
            }
            let keys = list(driver, "topologyKeys");
            for (index, key) in keys.iter().enumerate() {
                if key == "" {
                    errors.required(path, "");
                }
                if keys[..index].contains(key) {
                    errors.duplicate(path, key);
                }
                let key = key.as_str().unwrap_or_default();
                errors.all_invalid(path, key, names::qualified_name(key));
            }
        }
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        // How many volumes fit may change; what else a driver has said of itself stays.
        let fixed = |driver: &Value| {
            let mut driver = driver.clone();
            remove(&mut driver, "allocatable");
            driver
        };
        for before in list(old, "spec.drivers") {
            let same = |driver: &&Value| text(driver, "name") == text(before, "name");
            for driver in list(new, "spec.drivers").iter().filter(same) {
                if fixed(before) != fixed(driver) {
                    errors.invalid("spec.drivers", &fixed(driver), IMMUTABLE);
                }
            }
        }
    }

    fn conditional_update(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}
