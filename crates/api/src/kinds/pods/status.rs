//! The status that a new pod begins with, and what its updates may not touch.

use serde_json::{Map, Value, json};

use super::resources::qos_class;
use crate::kind::keep;
use crate::kinds::access::{at, fill, keep_at, list, remove, text};

/// A new pod waits to be scheduled.
pub fn initial(pod: &mut Value) {
    let spec = at(pod, "spec");
    let mut status = Map::new();
    status.insert("phase".to_owned(), "Pending".into());
    status.insert("qosClass".to_owned(), qos_class(spec).into());
    if !list(spec, "schedulingGates").is_empty() {
        status.insert(
            "conditions".to_owned(),
            json!([{
                "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
            }]),
        );
    }
    if let Some(map) = pod.as_object_mut() {
        map.insert("status".to_owned(), Value::Object(status));
    }
}

/// Before a status is updated: the spec stays, and what old kubelets corrupt.
pub fn prepare_update(old: &Value, new: &mut Value) {
    keep(old, new, "spec");
    keep_at(old, new, "metadata.ownerReferences");
    keep_at(old, new, "metadata.deletionTimestamp");
    let class = text(old, "status.qosClass");
    if !class.is_empty()
        && let Some(status) = new.get_mut("status")
    {
        fill(status, "qosClass", class);
    }
}

/// Before the list of ephemeral containers, or the resources, are updated: nothing else changes.
pub fn keep_all_but(old: &Value, new: &mut Value, copy: impl FnOnce(&Value, &mut Value)) {
    let mut kept = old.clone();
    if let Some(version) = new["metadata"].get("resourceVersion") {
        kept["metadata"]["resourceVersion"] = version.clone();
    }
    if let Some(fields) = new["metadata"].get("managedFields") {
        kept["metadata"]["managedFields"] = fields.clone();
    } else {
        remove(&mut kept, "metadata.managedFields");
    }
    copy(new, &mut kept);
    *new = kept;
}
