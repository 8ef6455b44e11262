//! Binding a pod to a node, by `pods/binding` or by the retired `bindings`.

use api::{Status, Value};
use http::StatusCode;
use serde_json::json;

use crate::admission::{Operation, admit};
use crate::clock;
use crate::rest::{Call, input, metadata, output, update};
use crate::wire::{Response, answer};

/// Sets the pod's node and says that it is scheduled.
pub async fn bind(call: &Call) -> Result<Response, Status> {
    let input::Input { object: mut binding, mut warnings } = input::read_as(call, &["v1"], "Binding")?;
    warnings.extend(admit(call, Operation::Create, &mut binding).await?);
    let name = if call.info.name.is_empty() { metadata::text(&binding, "name") } else { &call.info.name };
    let target = &binding["target"];
    let (kind, node) = (target["kind"].as_str().unwrap_or(""), target["name"].as_str().unwrap_or(""));
    let mut errors = api::validation::Errors::default();
    if !kind.is_empty() && kind != "Node" {
        errors.not_supported("target.kind", kind, &["Node", "<empty>"]);
    }
    if node.is_empty() {
        errors.required("target.name", "");
    }
    errors.into_result("", "Binding", name)?;
    let pods = call.server.catalog.load().get("", "v1", "pods").cloned().ok_or_else(crate::dispatch::no_such_path)?;
    let pod = call.of(pods, &call.info.namespace, name);
    let now = clock::now();
    update::rewrite(&pod, "binding", |pod| {
        let conflict = |why: String| Err(Status::conflict("", "pods/binding", name, &why));
        let (uid, own) = (metadata::text(&binding, "uid"), metadata::text(pod, "uid"));
        if !uid.is_empty() && uid != own {
            return conflict(format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {own}"));
        }
        if metadata::is_deleting(pod) {
            return conflict(format!("pod {name} is being deleted, cannot be assigned to a host"));
        }
        if let Some(node) = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) {
            return conflict(format!("pod {name} is already assigned to node {node:?}"));
        }
        if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
            return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
        }
        pod["spec"]["nodeName"] = Value::from(node);
        for (key, value) in binding["metadata"]["annotations"].as_object().into_iter().flatten() {
            pod["metadata"]["annotations"][key] = value.clone();
        }
        // What the pod says of itself stays.
        for (key, value) in binding["metadata"]["labels"].as_object().into_iter().flatten() {
            if pod["metadata"]["labels"].get(key).is_none() {
                pod["metadata"]["labels"][key] = value.clone();
            }
        }
        // Where it was to go is answered.
        if let Some(status) = pod.get_mut("status").and_then(Value::as_object_mut) {
            status.remove("nominatedNodeName");
        }
        set_condition(
            pod,
            json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now}),
        );
        Ok(())
    })
    .await?;
    let created = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    let mut response = output::encode(call, StatusCode::CREATED, &created, false)?;
    answer::warn(&mut response, &warnings);
    Ok(response)
}

/// Sets a condition of the pod's status by its type.
pub fn set_condition(pod: &mut Value, condition: Value) {
    if !pod["status"].is_object() {
        pod["status"] = json!({});
    }
    if !pod["status"]["conditions"].is_array() {
        pod["status"]["conditions"] = json!([]);
    }
    if let Some(all) = pod["status"].get_mut("conditions").and_then(Value::as_array_mut) {
        match all.iter_mut().find(|c| c["type"] == condition["type"]) {
            Some(old) => *old = condition,
            None => all.push(condition),
        }
    }
}
