//! `v1 ComponentStatus`, made by the server on demand and never stored.

use serde_json::Value;

use crate::kind::Kind;
use crate::kinds::access::{list, text};
use crate::kinds::builder::Builder;
use crate::print::{Cell, NAME};

pub fn kind() -> Kind {
    Builder::new("", "v1", "ComponentStatus", "componentstatuses")
        .short(&["cs"])
        .verbs(&["get", "list"])
        .columns(COLUMNS)
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

fn healthy(object: &Value) -> &Value {
    list(object, "conditions").iter().find(|c| text(c, "type") == "Healthy").unwrap_or(&Value::Null)
}
