//! `storage.k8s.io/v1 VolumeAttributesClass`.

use serde_json::Value;

use super::storageclass;
use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, text};
use crate::kinds::builder::Builder;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, names};

pub fn kind() -> Kind {
    Builder::new("storage.k8s.io", "v1", "VolumeAttributesClass", "volumeattributesclasses")
        .short(&["vac"])
        .columns(COLUMNS)
        .strategy(VolumeAttributesClass)
        .build()
}

const COLUMNS: &[Cell] = &[NAME, Cell::text("DriverName", "driverName"), AGE];

struct VolumeAttributesClass;

impl Strategy for VolumeAttributesClass {
    fn validate(&self, object: &Value, errors: &mut Errors) {
        match text(object, "driverName") {
            "" => errors.required("driverName", ""),
            name => errors.all_invalid("driverName", name, names::qualified_name(&name.to_lowercase())),
        }
        storageclass::parameters(object, errors);
        if at(object, "parameters").as_object().is_none_or(|map| map.is_empty()) {
            errors.required("parameters", "must contain at least one key/value pair");
        }
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        for field in ["driverName", "parameters"] {
            if at(old, field) != at(new, field) {
                errors.forbidden(field, format!("updates to {field} are forbidden."));
            }
        }
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}
