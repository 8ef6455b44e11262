//! The kinds of `metrics.k8s.io/v1beta1`. They are measured when they are asked for, and never stored.

use std::borrow::Cow;

use serde_json::Value;

use crate::kind::Kind;
use crate::kinds::access::{list, text};
use crate::kinds::builder::Builder;
use crate::print::{Cell, NAME};
use crate::quantity::{Format, Quantity};
use crate::schema::{Struct, StructRef};

const fn open(name: &'static str) -> Struct {
    Struct { name: Cow::Borrowed(name), fields: Cow::Borrowed(&[]), wire: &[], atomic: false, open: true }
}

static NODE: Struct = open("io.k8s.metrics.pkg.apis.metrics.v1beta1.NodeMetrics");
static POD: Struct = open("io.k8s.metrics.pkg.apis.metrics.v1beta1.PodMetrics");

pub(super) fn all() -> Vec<Kind> {
    let kind = |kind, plural, schema| {
        Builder::with_schema("metrics.k8s.io", "v1beta1", kind, plural, StructRef::Static(schema))
            .verbs(&["get", "list"])
            .columns(COLUMNS)
    };
    vec![
        kind("NodeMetrics", "nodes", &NODE).prefix("metrics.k8s.io/nodes").build(),
        kind("PodMetrics", "pods", &POD).prefix("metrics.k8s.io/pods").namespaced().build(),
    ]
}

const COLUMNS: &[Cell] = &[
    NAME,
    Cell::made("CPU", |o| used(o, "cpu")),
    Cell::made("Memory", |o| used(o, "memory")),
    Cell::text("Window", "window"),
];

/// What a node uses of a resource, or the containers of a pod together.
fn used(object: &Value, resource: &str) -> Value {
    let parts = list(object, "containers").iter().chain(std::iter::once(object));
    let amounts = parts.filter_map(|part| Quantity::parse(text(&part["usage"], resource)).ok());
    amounts.reduce(|sum, amount| sum + amount).unwrap_or(Quantity::new(0, Format::DecimalSi)).to_string().into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pods_containers_are_added_up() {
        let pod = json!({"containers": [{"usage": {"cpu": "100m"}}, {"usage": {"cpu": "150m"}}]});
        assert_eq!(used(&pod, "cpu"), "250m");
        assert_eq!(used(&json!({"usage": {"memory": "5Mi"}}), "memory"), "5Mi");
    }
}
