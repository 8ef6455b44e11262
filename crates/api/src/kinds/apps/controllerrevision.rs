//! `apps/v1 ControllerRevision`.

use serde_json::Value;

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, flag, list, text};
use crate::kinds::builder::Builder;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::Errors;

pub fn kind() -> Kind {
    Builder::new("apps", "v1", "ControllerRevision", "controllerrevisions")
        .namespaced()
        .columns(COLUMNS)
        .strategy(ControllerRevision)
        .build()
}

const COLUMNS: &[Cell] = &[NAME, Cell::made("Controller", controller), Cell::text("Revision", "revision"), AGE];

/// `daemonset.apps/name`.
fn controller(object: &Value) -> Value {
    let Some(owner) = list(object, "metadata.ownerReferences").iter().find(|owner| flag(owner, "controller")) else {
        return "<none>".into();
    };
    let kind = text(owner, "kind").to_lowercase();
    match text(owner, "apiVersion").split_once('/') {
        Some((group, _)) => format!("{kind}.{group}/{}", text(owner, "name")).into(),
        None => format!("{kind}/{}", text(owner, "name")).into(),
    }
}

struct ControllerRevision;

impl Strategy for ControllerRevision {
    fn validate(&self, object: &Value, errors: &mut Errors) {
        match at(object, "data") {
            Value::Null => errors.required("data", "data is mandatory"),
            Value::Object(_) => {}
            _ => errors.invalid("data", "<value omitted>", "data must be a valid JSON object"),
        }
        errors.not_negative("revision", at(object, "revision"));
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        errors.immutable(old, new, "data");
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}
