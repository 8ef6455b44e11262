//! `storage.k8s.io/v1 CSIStorageCapacity`.

use serde_json::Value;

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, has, text};
use crate::kinds::builder::Builder;
use crate::kinds::pods::resources::{negative, shown};
use crate::print::{self, Cell, NAME};
use crate::validation::{Errors, NOT_NEGATIVE, Path, label_selector, names};

pub fn kind() -> Kind {
    Builder::new("storage.k8s.io", "v1", "CSIStorageCapacity", "csistoragecapacities")
        .namespaced()
        .columns(COLUMNS)
        .strategy(CsiStorageCapacity)
        .build()
}

const COLUMNS: &[Cell] =
    &[NAME, Cell::text("StorageClassName", "storageClassName"), Cell::text("Capacity", "capacity")];

struct CsiStorageCapacity;

impl Strategy for CsiStorageCapacity {
    fn validate(&self, object: &Value, errors: &mut Errors) {
        let class = text(object, "storageClassName");
        errors.all_invalid("storageClassName", class, names::dns1123_subdomain(class));
        if has(object, "nodeTopology") {
            label_selector(at(object, "nodeTopology"), &Path::new("nodeTopology"), errors);
        }
        if negative(at(object, "capacity")) {
            errors.invalid("capacity", shown(at(object, "capacity")).as_str(), NOT_NEGATIVE);
        }
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        errors.immutable(old, new, "nodeTopology");
        errors.immutable(old, new, "storageClassName");
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}
