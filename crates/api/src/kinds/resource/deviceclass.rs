//! `resource.k8s.io/v1 DeviceClass`.

use serde_json::Value;

use super::requests;
use super::syntax::{at_most, configuration};
use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, list};
use crate::kinds::builder::Builder;
use crate::kinds::pods::resources::is_native;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, Path, names};

pub fn kind() -> Kind {
    Builder::new("resource.k8s.io", "v1", "DeviceClass", "deviceclasses").columns(COLUMNS).strategy(DeviceClass).build()
}

const COLUMNS: &[Cell] = &[NAME, AGE];

struct DeviceClass;

impl Strategy for DeviceClass {
    fn validate(&self, object: &Value, errors: &mut Errors) {
        let (spec, path) = (at(object, "spec"), Path::new("spec"));
        requests::selectors(spec, &path, errors);
        let (configs, all) = (list(spec, "config"), path.child("config"));
        if at_most(configs, requests::MOST, &all, errors) {
            for (index, config) in configs.iter().enumerate() {
                configuration(config, &all.index(index), errors);
            }
        }
        if let Some(name) = at(spec, "extendedResourceName").as_str().filter(|name| !is_extended(name)) {
            errors.invalid(path.child("extendedResourceName"), name, "must be a valid extended resource name");
        }
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}

/// Whether a resource is somebody's own, and can be asked for and counted in a quota.
fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_empty()
}
