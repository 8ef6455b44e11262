//! Revisions: numbers that tell the versions of a template apart, kept in annotations of the ReplicaSets.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::set::{DESIRED_REPLICAS, Desired, MAX_REPLICAS, Numbers, REVISION, REVISION_HISTORY};
use crate::owner::Named;

/// Annotations that are not copied from a Deployment to its sets.
const OWN: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];
/// How long the list of a set's earlier revisions may grow, in bytes.
const LONGEST_HISTORY: usize = 2000;

/// The revision that the present template has, given the sets of others.
pub(super) fn next_revision(old: &[ReplicaSet]) -> i64 {
    old.iter().map(Numbers::revision).max().unwrap_or(0) + 1
}

/// The annotations in which a set of the present template must change: the Deployment's own, and its revision, which
/// only grows. When an older template is current again its set gets a new revision and remembers the earlier one.
pub(super) fn annotations(deployment: &Deployment, set: &ReplicaSet, revision: i64) -> BTreeMap<String, String> {
    let wanted = deployment.metadata.annotations.iter().flatten();
    let copied = wanted.filter(|(key, value)| !OWN.contains(&key.as_str()) && set.annotation(key) != Some(value));
    let mut changed: BTreeMap<String, String> = copied.map(|(key, value)| (key.clone(), value.clone())).collect();
    let before = set.revision();
    if before < revision {
        changed.insert(REVISION.to_owned(), revision.to_string());
        if before > 0 {
            let mut earlier: Vec<String> = set
                .annotation(REVISION_HISTORY)
                .into_iter()
                .flat_map(|list| list.split(','))
                .map(str::to_owned)
                .collect();
            earlier.push(before.to_string());
            while earlier.join(",").len() > LONGEST_HISTORY {
                earlier.remove(0);
            }
            changed.insert(REVISION_HISTORY.to_owned(), earlier.join(","));
        }
    }
    changed
}

/// The annotations that tell a set of what whole it is a part.
pub(super) fn whole(desired: &Desired) -> BTreeMap<String, String> {
    let pair = |key: &str, number: i32| (key.to_owned(), number.to_string());
    [pair(DESIRED_REPLICAS, desired.replicas), pair(MAX_REPLICAS, desired.max_replicas())].into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_template_that_returns_gets_a_new_revision_and_remembers_the_old() {
        let deployment: Deployment = serde_json::from_value(json!({"metadata": {"annotations": {
            "kubernetes.io/change-cause": "rollback", "deployment.kubernetes.io/revision": "3"}}}))
        .unwrap();
        let set = |annotations| -> ReplicaSet {
            serde_json::from_value(json!({"metadata": {"annotations": annotations}})).unwrap()
        };
        let old = [set(json!({REVISION: "2"})), set(json!({REVISION: "3"}))];
        assert_eq!(next_revision(&old), 4);
        let changed = annotations(&deployment, &set(json!({REVISION: "1"})), 4);
        let expected = [
            ("deployment.kubernetes.io/revision", "4"),
            (REVISION_HISTORY, "1"),
            ("kubernetes.io/change-cause", "rollback"),
        ];
        assert_eq!(changed, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        assert_eq!(
            annotations(&deployment, &set(json!({REVISION: "4", "kubernetes.io/change-cause": "rollback"})), 4).len(),
            0
        );
    }
}
