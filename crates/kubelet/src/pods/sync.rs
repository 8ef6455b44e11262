//! The patch that brings the API's view of a status to the kubelet's.

use serde_json::{Map, Value, json};

use super::conditions::OWN;

/// The fields of a status that the kubelet keeps; all others are left alone.
const OWNED: [&str; 14] = [
    "phase",
    "reason",
    "message",
    "qosClass",
    "startTime",
    "hostIP",
    "hostIPs",
    "podIP",
    "podIPs",
    "observedGeneration",
    "conditions",
    "initContainerStatuses",
    "containerStatuses",
    "ephemeralContainerStatuses",
];

/// A strategic merge patch from `told` to `wanted`, or `None` if they agree.
pub fn patch(uid: &str, told: &Value, wanted: &Value) -> Option<Value> {
    let mut changes = Map::new();
    for field in OWNED {
        let (old, new) = (told.get(field).unwrap_or(&Value::Null), wanted.get(field).unwrap_or(&Value::Null));
        if old == new {
            continue;
        }
        let change = match field {
            "conditions" => conditions(old, new),
            "hostIPs" | "podIPs" if !empty(old) && !empty(new) => replaced(new),
            _ => Some(new.clone()),
        };
        if let Some(change) = change {
            changes.insert(field.to_owned(), change);
        }
    }
    (!changes.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": changes}))
}

/// Whether all that a change says is which generation of the spec the status is about.
pub fn only_generation(told: &Value, wanted: &Value) -> bool {
    let without = |status: &Value| {
        let mut status = status.clone();
        let conditions = status["conditions"].as_array_mut().into_iter().flatten();
        conditions.filter_map(Value::as_object_mut).for_each(|c| drop(c.remove("observedGeneration")));
        status["observedGeneration"] = Value::Null;
        status
    };
    patch("", &without(told), &without(wanted)).is_none()
}

fn empty(list: &Value) -> bool {
    list.as_array().is_none_or(Vec::is_empty)
}

/// The whole list, in place of the old one rather than merged into it.
fn replaced(new: &Value) -> Option<Value> {
    let mut list = vec![json!({"$patch": "replace"})];
    list.extend(new.as_array().into_iter().flatten().cloned());
    Some(Value::Array(list))
}

/// The conditions that changed; what vanished from one is said to be null, and what the kubelet does not say any more goes.
fn conditions(old: &Value, new: &Value) -> Option<Value> {
    let list = |v: &Value| v.as_array().cloned().unwrap_or_default();
    let (old, new) = (list(old), list(new));
    let has = |kind: &Value| new.iter().any(|c| c["type"] == *kind);
    let gone = old.iter().map(|c| &c["type"]).filter(|kind| OWN.iter().any(|own| *kind == own) && !has(kind));
    let gone: Vec<_> = gone.map(|kind| json!({"$patch": "delete", "type": kind})).collect();
    let mut changed: Vec<_> = new
        .into_iter()
        .filter(|c| !old.contains(c))
        .map(|mut condition| {
            let before = old.iter().find(|o| o["type"] == condition["type"]).and_then(Value::as_object);
            for key in before.into_iter().flat_map(Map::keys) {
                if condition.get(key).is_none() {
                    condition[key] = Value::Null;
                }
            }
            condition
        })
        .collect();
    changed.extend(gone);
    (!changed.is_empty()).then_some(Value::Array(changed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_nothing_but_the_generation_is_known() {
        let status = |generation: i64, ready: &str| {
            let condition = json!({"type": "Ready", "status": ready, "observedGeneration": generation});
            json!({"observedGeneration": generation, "conditions": [condition]})
        };
        assert!(only_generation(&status(1, "True"), &status(2, "True")));
        assert!(!only_generation(&status(1, "True"), &status(2, "False")));
    }

    #[test]
    fn only_what_changed_is_sent() {
        let told = json!({"phase": "Pending", "reason": "R", "nominatedNodeName": "n", "podIPs": [{"ip": "a"}],
            "conditions": [{"type": "A", "status": "True"}, {"type": "B", "status": "False", "reason": "X"}]});
        let wanted = json!({"phase": "Running", "podIPs": [{"ip": "b"}],
            "conditions": [{"type": "A", "status": "True"}, {"type": "B", "status": "True"}]});
        assert_eq!(
            patch("u", &told, &wanted),
            Some(json!({"metadata": {"uid": "u"}, "status": {"phase": "Running", "reason": null,
                "podIPs": [{"$patch": "replace"}, {"ip": "b"}],
                "conditions": [{"type": "B", "status": "True", "reason": null}]}}))
        );
        assert_eq!(patch("u", &wanted, &wanted), None);
        let told = json!({"conditions": [{"type": "PodResizePending", "status": "True"}, {"type": "Other", "status": "True"}]});
        assert_eq!(
            patch("u", &told, &json!({"conditions": []})),
            Some(
                json!({"metadata": {"uid": "u"}, "status": {"conditions": [{"$patch": "delete", "type": "PodResizePending"}]}})
            )
        );
    }
}
