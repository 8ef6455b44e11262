//! `resource.k8s.io/v1 ResourceSlice`.

use serde_json::Value;

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, flag, has, list, number, text};
use crate::kinds::builder::Builder;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, Path, names};

pub fn kind() -> Kind {
    Builder::new("resource.k8s.io", "v1", "ResourceSlice", "resourceslices")
        .selectable(&["spec.driver", "spec.nodeName"])
        .columns(COLUMNS)
        .strategy(ResourceSlice)
        .build()
}

const COLUMNS: &[Cell] = &[
    NAME,
    Cell::made("Node", |o| match text(o, "spec.nodeName") {
        "" => "<unset>".into(),
        node => node.into(),
    }),
    Cell::text("Driver", "spec.driver"),
    Cell::text("Pool", "spec.pool.name"),
    AGE,
];

struct ResourceSlice;

impl Strategy for ResourceSlice {
    fn validate(&self, object: &Value, errors: &mut Errors) {
        let (spec, path) = (at(object, "spec"), Path::new("spec"));
        let driver = text(spec, "driver");
        if driver.is_empty() {
            errors.required(path.child("driver"), "");
        } else {
            errors.all_invalid(path.child("driver"), driver, names::dns1123_subdomain(&driver.to_lowercase()));
        }
        if text(spec, "pool.name").is_empty() {
            errors.required(path.child("pool").child("name"), "");
        }
        if number(spec, "pool.resourceSliceCount") <= 0 {
            let count = number(spec, "pool.resourceSliceCount");
            errors.invalid(path.child("pool").child("resourceSliceCount"), count, "must be greater than zero");
        }
        let places = [
            has(spec, "nodeName"),
            has(spec, "nodeSelector"),
            flag(spec, "allNodes"),
            flag(spec, "perDeviceNodeSelection"),
        ];
        if places.iter().filter(|given| **given).count() != 1 {
            let why = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
            errors.required(path, why);
        }
        let (devices, all) = (list(spec, "devices"), path.child("devices"));
        if devices.len() > 128 {
            errors.too_many(all, devices.len(), 128);
        }
        for (index, device) in devices.iter().enumerate() {
            let name = text(device, "name");
            errors.all_invalid(all.index(index).child("name"), name, names::dns1123_label(name));
        }
        errors.unique(spec, "devices", &path, |device| text(device, "name"));
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        for field in ["driver", "nodeName", "nodeSelector", "allNodes", "pool.name"] {
            errors.immutable(old, new, &format!("spec.{field}"));
        }
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}
