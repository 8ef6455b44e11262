//! Pod failure policies and success policies. Functions of values.

use k8s_openapi::api::batch::v1::{PodFailurePolicy, PodFailurePolicyRule, SuccessPolicy};

use super::{
    indexes::Indexes,
    pod::{JobPod, State},
};

/// What a failed pod means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It counts towards the back-off limit.
    Count,
    Ignore,
    /// Its index has failed for good.
    FailIndex,
    /// The Job has failed, for this reason.
    FailJob(String),
}

/// Judges a failed pod. Without a policy, or if no rule matches, it counts.
pub(super) fn judge(policy: Option<&PodFailurePolicy>, pod: &JobPod) -> Verdict {
    if pod.state != State::Failed {
        return Verdict::Count;
    }
    let rules = policy.iter().flat_map(|policy| policy.rules.iter().enumerate());
    let matched = rules.filter_map(|(number, rule)| Some((rule, matches(rule, number, pod)?))).next();
    match matched {
        None => Verdict::Count,
        Some((rule, message)) => match rule.action.as_str() {
            "Ignore" => Verdict::Ignore,
            "FailIndex" => Verdict::FailIndex,
            "FailJob" => Verdict::FailJob(message),
            _ => Verdict::Count,
        },
    }
}

/// What matched, in upstream's words.
fn matches(rule: &PodFailurePolicyRule, number: usize, pod: &JobPod) -> Option<String> {
    let action = &rule.action;
    if let Some(codes) = &rule.on_exit_codes {
        let is_meant = |name: &str, code: i32| {
            let listed = codes.values.contains(&code);
            let hit = if codes.operator == "In" { listed } else { code != 0 && !listed };
            hit && codes.container_name.as_deref().is_none_or(|wanted| wanted == name)
        };
        let (name, code) = pod.exits.iter().find(|(name, code)| is_meant(name, *code))?;
        return Some(format!(
            "Container {name} for pod {} failed with exit code {code} matching {action} rule at index {number}",
            pod.item.key
        ));
    }
    let patterns = rule.on_pod_conditions.iter().flatten();
    let hit = patterns
        .map(|pattern| (&pattern.type_, pattern.status.as_deref().unwrap_or("True")))
        .find(|(kind, status)| pod.conditions.iter().any(|(present, value)| present == *kind && value == status))?;
    Some(format!("Pod {} has condition {} matching {action} rule at index {number}", pod.item.key, hit.0))
}

/// The first rule that the succeeded indexes meet, as upstream words it.
pub(super) fn success(policy: Option<&SuccessPolicy>, completions: i32, succeeded: &Indexes) -> Option<String> {
    let rules = policy?.rules.iter().enumerate();
    let met = rules.filter(|(_, rule)| {
        let wanted = rule.succeeded_indexes.as_ref().map(|text| Indexes::parse(text, completions));
        let have = wanted.as_ref().map_or(succeeded.len(), |wanted| wanted.common(succeeded));
        let need = rule.succeeded_count.or(wanted.map(|wanted| wanted.len()));
        need.is_some_and(|need| have >= need)
    });
    met.map(|(number, _)| format!("Matched rules at index {number}")).next()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pods::tests::item;

    #[test]
    fn a_failed_pod_is_judged_by_the_first_rule_that_matches() {
        let policy: PodFailurePolicy = serde_json::from_value(json!({"rules": [
            {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [42]}},
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [1, 2]}},
        ]}))
        .unwrap();
        let pod = |container: &str, code: i32, condition: &str| {
            JobPod::new(item(json!({"metadata": {"name": "p", "namespace": "n"}, "status": {"phase": "Failed",
                "conditions": [{"type": condition, "status": "True"}],
                "containerStatuses": [{"name": container, "state": {"terminated": {"exitCode": code}}}]}})))
            .unwrap()
        };
        let message = "Container main for pod n/p failed with exit code 42 matching FailJob rule at index 0";
        let cases = [
            (pod("main", 42, "Ready"), Verdict::FailJob(message.to_owned())),
            (pod("side", 1, "DisruptionTarget"), Verdict::Ignore),
            (pod("side", 42, "Ready"), Verdict::FailIndex),
            (pod("main", 1, "Ready"), Verdict::Count),
        ];
        for (pod, expected) in cases {
            assert_eq!(judge(Some(&policy), &pod), expected);
        }
        assert_eq!(judge(None, &pod("main", 42, "Ready")), Verdict::Count);
    }

    #[test]
    fn success_is_met_by_indexes_and_count() {
        let policy = |rule| serde_json::from_value::<SuccessPolicy>(json!({"rules": [rule]})).unwrap();
        let succeeded = Indexes::parse("0,3", 10);
        let cases = [
            (json!({"succeededIndexes": "0,3"}), true),
            (json!({"succeededIndexes": "0-4"}), false),
            (json!({"succeededIndexes": "0-4", "succeededCount": 2}), true),
            (json!({"succeededCount": 3}), false),
        ];
        for (rule, expected) in cases {
            assert_eq!(success(Some(&policy(rule.clone())), 10, &succeeded).is_some(), expected, "{rule}");
        }
    }
}
