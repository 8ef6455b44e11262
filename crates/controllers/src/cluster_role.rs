//! ClusterRoles that are made of others.

use client::{Cache, Key, Labels};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use serde_json::json;

use crate::{
    frame::{Env, Loop, Synced},
    owner::Named,
    selector::Selector,
};

/// Runs the aggregation of ClusterRoles.
pub(crate) async fn run(env: Env) {
    let roles: Cache<ClusterRole> = env.caches.get();
    let all = roles.clone();
    let work = Loop::new().on(&roles, move |_, queue| {
        // Any role may be a part of any that is made of others, of which there are few.
        for item in all.list() {
            if all.parse(&item).is_some_and(|role| role.aggregation_rule.is_some()) {
                queue.add(item.key.clone());
            }
        }
    });
    let sync = async |key: Key| -> Synced {
        let Some(role) = roles.read("", &key.name).filter(|role| !role.is_deleting()) else { return Ok(None) };
        if role.aggregation_rule.is_none() {
            return Ok(None);
        }
        let all: Vec<ClusterRole> = roles.list().iter().filter_map(|item| roles.parse(item)).collect();
        let rules = aggregated(&role, &all);
        if role.rules.clone().unwrap_or_default() != rules {
            let patch = json!({"metadata": {"resourceVersion": role.metadata.resource_version}, "rules": rules});
            env.patch::<ClusterRole>("", &key.name, "", &patch).await?;
        }
        Ok(None)
    };
    work.run(&env, 1, sync).await;
}

/// The rules of all roles that one is made of, each once.
fn aggregated(role: &ClusterRole, all: &[ClusterRole]) -> Vec<PolicyRule> {
    let selectors = role.aggregation_rule.iter().flat_map(|rule| rule.cluster_role_selectors.iter().flatten());
    let selectors: Vec<Selector> = selectors.filter_map(Selector::new).collect();
    let mut rules: Vec<PolicyRule> = Vec::new();
    for part in all.iter().filter(|part| part.name() != role.name()) {
        let labels = part.metadata.labels.iter().flatten();
        let labels: Labels = labels.map(|(key, value)| (key.as_str(), value.as_str())).collect();
        if selectors.iter().any(|selector| selector.matches(&labels)) {
            for rule in part.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_has_the_rules_of_those_that_it_is_made_of() {
        // A role from its name, its label and the resources that it may read.
        let role = |(name, label, resources): (&str, &str, &str)| -> ClusterRole {
            let rules: Vec<_> =
                resources.split_whitespace().map(|r| json!({"verbs": ["get"], "resources": [r]})).collect();
            serde_json::from_value(json!({"metadata": {"name": name, "labels": {"to": label}}, "rules": rules}))
                .unwrap()
        };
        let all: Vec<ClusterRole> = [
            ("a", "edit", "pods jobs"),
            ("b", "edit", "jobs nodes"),
            ("c", "view", "secrets"),
            ("whole", "edit", "old"),
        ]
        .map(role)
        .into();
        let cases = [
            (json!([{"matchLabels": {"to": "edit"}}]), "pods jobs nodes"),
            (json!([{"matchLabels": {"to": "view"}}]), "secrets"),
            (json!([{"matchLabels": {"to": "view"}}, {"matchLabels": {"to": "edit"}}]), "pods jobs nodes secrets"),
            (json!([{"matchLabels": {"to": "nobody"}}]), ""),
            (json!([]), ""),
        ];
        for (selectors, expected) in cases {
            let whole = json!({"metadata": {"name": "whole"}, "aggregationRule": {"clusterRoleSelectors": selectors}});
            let rules = aggregated(&serde_json::from_value(whole).unwrap(), &all);
            let resources: Vec<String> = rules.into_iter().flat_map(|rule| rule.resources.unwrap()).collect();
            assert_eq!(resources.join(" "), expected, "{selectors}");
        }
    }
}
