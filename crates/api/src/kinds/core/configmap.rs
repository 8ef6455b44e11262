//! `v1 ConfigMap`.

use serde_json::Value;

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, entries};
use crate::kinds::builder::Builder;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, Path, frozen, names};

pub fn kind() -> Kind {
    Builder::new("", "v1", "ConfigMap", "configmaps")
        .namespaced()
        .short(&["cm"])
        .columns(COLUMNS)
        .strategy(ConfigMap)
        .build()
}

const COLUMNS: &[Cell] =
    &[NAME, Cell::made("Data", |o| (entries(o, "data").count() + entries(o, "binaryData").count()).into()), AGE];

/// The data of a ConfigMap or Secret may be this large together.
pub const DATA_MAX: usize = 1024 * 1024;

struct ConfigMap;

impl Strategy for ConfigMap {
    fn validate(&self, object: &Value, errors: &mut Errors) {
        let mut size = 0;
        for (name, other) in [("data", "binaryData"), ("binaryData", "data")] {
            let path = Path::new(name);
            for (key, value) in entries(object, name) {
                errors.all_invalid(path.key(key), key, names::config_key(key));
                if at(object, other).get(key).is_some() {
                    errors.invalid(path.key(key), key.as_str(), format!("duplicate of key present in {other}"));
                }
                let length = value.as_str().map_or(0, str::len);
                size += if name == "data" { length } else { length / 4 * 3 };
            }
        }
        if size > DATA_MAX {
            errors.too_long("", DATA_MAX);
        }
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        frozen(old, new, &["data", "binaryData"], errors);
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}
