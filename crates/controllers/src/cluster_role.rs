//! ClusterRoles that are made of others.

use client::{Cache, Key};
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
        let Some(rule) = &role.aggregation_rule else { return Ok(None) };
        let selectors: Vec<Selector> = rule.cluster_role_selectors.iter().flatten().filter_map(Selector::new).collect();
        let mut rules: Vec<PolicyRule> = Vec::new();
        for item in roles.list().iter().filter(|item| item.key != key) {
            if selectors.iter().any(|selector| selector.matches(&item.labels)) {
                let part = roles.parse(item).and_then(|role| role.rules).unwrap_or_default();
                let fresh: Vec<PolicyRule> = part.into_iter().filter(|rule| !rules.contains(rule)).collect();
                rules.extend(fresh);
            }
        }
        if role.rules.clone().unwrap_or_default() != rules {
            let patch = json!({"metadata": {"resourceVersion": role.metadata.resource_version}, "rules": rules});
            env.patch::<ClusterRole>("", &key.name, "", &patch).await?;
        }
        Ok(None)
    };
    work.run(&env, 1, sync).await;
}
