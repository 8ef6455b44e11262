//! `v1 ComponentStatus`, made by the server on demand and never stored.

use serde_json::Value;

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{list, text};
use crate::kinds::builder::Builder;
use crate::print::{self, Cell, NAME};

pub fn kind() -> Kind {
    Builder::new("", "v1", "ComponentStatus", "componentstatuses")
        .short(&["cs"])
        .verbs(&["get", "list"])
        .columns(COLUMNS)
        .strategy(ComponentStatus)
        .build()
}

const COLUMNS: &[Cell] = &[
    NAME,
    Cell::made("Status", |o| match text(healthy(o), "status") {
        "True" => "Healthy".into(),
        "False" => "Unhealthy".into(),
        _ => "Unknown".into(),
    }),
    Cell::made("Message", |o| text(healthy(o), "message").into()),
    Cell::made("Error", |o| text(healthy(o), "error").into()),
];

struct ComponentStatus;

impl Strategy for ComponentStatus {
    fn deprecation(&self) -> Option<&'static str> {
        Some("v1 ComponentStatus is deprecated in v1.19+")
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}

fn healthy(object: &Value) -> &Value {
    list(object, "conditions").iter().find(|c| text(c, "type") == "Healthy").unwrap_or(&Value::Null)
}
