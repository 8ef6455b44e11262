//! `componentstatuses`: the cluster's parts as kubectl once listed them, made when they are asked for. They run in the process that
//! answers or wait for it, so that whoever is answered finds them healthy.

use api::selector::{FieldSelector, LabelSelector};
use api::{Status, Value};
use http::StatusCode;
use serde_json::json;

use crate::rest::{Call, list, output};
use crate::wire::Response;

const NAMES: [&str; 3] = ["scheduler", "controller-manager", "etcd-0"];

/// Whether the request is about them.
pub fn serves(call: &Call) -> bool {
    call.kind.group.is_empty() && call.kind.plural == "componentstatuses"
}

/// GET of one or all.
pub fn answer(call: &Call) -> Result<Response, Status> {
    match call.info.verb {
        "get" => {
            let known = NAMES.iter().find(|name| **name == call.info.name).ok_or_else(|| call.not_found())?;
            output::value(call, StatusCode::OK, component(known))
        }
        "list" => {
            let labels = LabelSelector::parse(call.query.get("labelSelector").unwrap_or(""))?;
            let fields = FieldSelector::parse(call.query.get("fieldSelector").unwrap_or(""))?;
            if let Some(term) = fields.terms.iter().find(|term| term.path != "metadata.name") {
                return Err(Status::bad_request(call.kind.strategy.unknown_selector(&term.path)));
            }
            let selected = NAMES.iter().filter(|name| labels.matches(None) && fields.matches_with(|_| name));
            list::values(call, json!({}), selected.map(|name| component(name)).collect())
        }
        _ => Err(crate::dispatch::not_allowed()),
    }
}

fn component(name: &str) -> Value {
    json!({
        "kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name, "creationTimestamp": null},
        "conditions": [{"type": "Healthy", "status": "True", "message": "ok"}],
    })
}
