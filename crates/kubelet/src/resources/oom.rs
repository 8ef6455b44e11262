//! How willingly the kernel kills a container's processes when memory runs out.

use super::{Qos, Rules, requests};
use crate::pods::pod::{Member, Pod, Role};

const GUARANTEED: i64 = -997;
const BEST_EFFORT: i64 = 1000;

/// The more memory a container was promised, the less; what is promised to the pod as a whole is everybody's in equal parts.
pub fn score(pod: &Pod, member: &Member, memory: i64, rules: &Rules) -> i64 {
    if pod.spec().priority_class_name.as_deref() == Some("system-node-critical") {
        return GUARANTEED;
    }
    match Qos::of(pod) {
        Qos::Guaranteed => return GUARANTEED,
        Qos::BestEffort => return BEST_EFFORT,
        Qos::Burstable => {}
    }
    let of = |member: &Member| requests(member.spec.resources.as_ref()).get("memory").copied().unwrap_or(0);
    let promised = |memory: i64| 1000 - 1000 * (memory + common_part(pod)) / rules.memory.max(1);
    let mut score = promised(memory);
    if member.role == Role::Sidecar {
        // It goes no sooner than what it serves.
        let least = pod.with_role(Role::Main).map(of).min().unwrap_or(0);
        score = score.min(promised(least));
    }
    score.clamp(1000 + GUARANTEED, BEST_EFFORT - 1)
}

/// Each container's part of what the pod asks for as a whole and no container for itself.
fn common_part(pod: &Pod) -> i64 {
    let Some(whole) = requests(pod.spec().resources.as_ref()).get("memory").copied() else { return 0 };
    let running = || pod.members.iter().filter(|m| matches!(m.role, Role::Main | Role::Sidecar));
    let own: i64 = running().filter_map(|m| requests(m.spec.resources.as_ref()).get("memory").copied()).sum();
    (whole - own).max(0) / i64::try_from(running().count().max(1)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_is_promised_less_is_killed_first() {
        let asks = |memory: &str| json!({"requests": {"memory": memory}});
        let main = |resources: Value| json!({"name": "main", "resources": resources});
        let sidecar = |resources: Value| json!([{"name": "side", "restartPolicy": "Always", "resources": resources}]);
        for (spec, name, expected) in [
            (json!({"containers": [main(json!({}))]}), "main", 1000),
            (json!({"containers": [main(asks("250"))]}), "main", 750),
            (json!({"containers": [main(asks("1"))]}), "main", 999),
            (json!({"containers": [main(asks("1000"))]}), "main", 3),
            (json!({"priorityClassName": "system-node-critical", "containers": [main(asks("1"))]}), "main", -997),
            (json!({"containers": [main(asks("400"))], "initContainers": sidecar(asks("100"))}), "side", 600),
            (json!({"containers": [main(asks("100"))], "initContainers": sidecar(asks("400"))}), "side", 600),
            (json!({"resources": asks("500"), "containers": [main(asks("100"))]}), "main", 500),
            (
                json!({"resources": asks("500"), "containers": [main(asks("100"))], "initContainers": sidecar(json!({}))}),
                "side",
                700,
            ),
        ] {
            let pod = Pod::new(serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap());
            let member = pod.member(name).unwrap();
            let memory = requests(member.spec.resources.as_ref()).get("memory").copied().unwrap_or(0);
            let rules = Rules { memory: 1000, ..Rules::default() };
            assert_eq!(score(&pod, member, memory, &rules), expected, "{spec}");
        }
    }
}
