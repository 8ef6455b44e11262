//! `resource.k8s.io/v1 DeviceClass`.

use serde_json::Value;

use super::requests;
use crate::kind::{Kind, Strategy};
use crate::kinds::access::at;
use crate::kinds::builder::Builder;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, Path};

pub fn kind() -> Kind {
    Builder::new("resource.k8s.io", "v1", "DeviceClass", "deviceclasses").columns(COLUMNS).strategy(DeviceClass).build()
}

const COLUMNS: &[Cell] = &[NAME, AGE];

struct DeviceClass;

impl Strategy for DeviceClass {
    fn validate(&self, object: &Value, errors: &mut Errors) {
        requests::selectors(at(object, "spec"), &Path::new("spec"), errors);
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}
