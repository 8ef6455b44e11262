//! The taints that a node's conditions call for. Functions of values.

use k8s_openapi::{
    api::core::v1::{Node, Taint},
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::condition;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Taints that follow from one status of a condition.
const BY_CONDITION: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

/// Whether a node calls for a taint that drives pods away and has none yet.
pub(super) fn begins_eviction(node: &Node) -> bool {
    let present = |taint: &Taint| [NOT_READY, UNREACHABLE].contains(&taint.key.as_str()) && taint.effect == "NoExecute";
    !node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).any(present)
}

/// The node's taints as they should be; none if they are. Pods are driven off a node that is not ready only with `evict`.
pub(super) fn wanted(node: &Node, evict: bool, now: Time) -> Option<Vec<Taint>> {
    let spec = node.spec.clone().unwrap_or_default();
    let present = spec.taints.unwrap_or_default();
    let conditions = node.status.as_ref().and_then(|status| status.conditions.clone());
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for (kind, status, taint) in BY_CONDITION {
        let actual = condition::find(&conditions, kind).map(|condition| condition.status.as_str());
        // A node that has not said anything yet is unreachable no more than ready.
        let actual = actual.unwrap_or(if kind == "Ready" { "False" } else { "" });
        if actual == status {
            wanted.push((taint, "NoSchedule"));
            if kind == "Ready" && evict {
                wanted.push((taint, "NoExecute"));
            }
        }
    }
    if spec.unschedulable == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let ours = |taint: &Taint| {
        let is_ready_taint = taint.key == NOT_READY || taint.key == UNREACHABLE;
        let by_condition = BY_CONDITION.iter().any(|(.., key)| *key == taint.key) || taint.key == UNSCHEDULABLE;
        (taint.effect == "NoSchedule" && by_condition) || (taint.effect == "NoExecute" && is_ready_taint)
    };
    let is_wanted = |taint: &Taint| wanted.contains(&(taint.key.as_str(), taint.effect.as_str()));
    let mut taints: Vec<Taint> = present.iter().filter(|taint| !ours(taint) || is_wanted(taint)).cloned().collect();
    for (key, effect) in wanted {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            taints.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                time_added: Some(now.clone()),
                value: None,
            });
        }
    }
    (taints != present).then_some(taints)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use serde_json::json;

    use super::*;

    #[test]
    fn taints_follow_conditions_and_leave_others_alone() {
        let run = |ready: &str, pressure: &str, taints: serde_json::Value, evict: bool| {
            let node: Node = serde_json::from_value(json!({"metadata": {"name": "n"},
                "spec": {"taints": taints, "unschedulable": pressure == "cordoned"},
                "status": {"conditions": [{"type": "Ready", "status": ready}, {"type": "DiskPressure", "status": pressure}]}}))
            .unwrap();
            wanted(&node, evict, Time(Timestamp::UNIX_EPOCH)).map(|taints| {
                let text =
                    |taint: &Taint| format!("{}:{}", taint.key.trim_start_matches("node.kubernetes.io/"), taint.effect);
                taints.iter().map(text).collect::<Vec<_>>().join(" ")
            })
        };
        let own = json!([{"key": "gpu", "effect": "NoExecute"}]);
        let unreachable =
            json!([{"key": UNREACHABLE, "effect": "NoExecute"}, {"key": UNREACHABLE, "effect": "NoSchedule"}]);
        let cases = [
            ("True", "False", own.clone(), true, None),
            ("False", "False", json!([]), true, Some("not-ready:NoSchedule not-ready:NoExecute")),
            ("Unknown", "False", own, false, Some("gpu:NoExecute unreachable:NoSchedule")),
            ("Unknown", "False", unreachable.clone(), true, None),
            ("True", "False", unreachable.clone(), true, Some("")),
            (
                "False",
                "True",
                unreachable,
                true,
                Some("not-ready:NoSchedule not-ready:NoExecute disk-pressure:NoSchedule"),
            ),
            ("True", "cordoned", json!([]), true, Some("unschedulable:NoSchedule")),
        ];
        for (ready, pressure, taints, evict, expected) in cases {
            assert_eq!(run(ready, pressure, taints.clone(), evict).as_deref(), expected, "{ready} {pressure} {taints}");
        }
    }
}
