//! Claims and volumes that are in use are not removed under their users.

use std::sync::Arc;

use client::{Cache, Item, Key};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use serde_json::json;

use crate::{
    frame::{Env, Loop, Synced},
    pods,
};

const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";

/// Runs the protection of claims, which pods use.
pub(crate) async fn run_claims(env: Env) {
    let claims: Cache<PersistentVolumeClaim> = env.caches.get();
    let all: Cache<Pod> = env.caches.get();
    let leaving = claims.clone();
    let work = Loop::new().on_self(&claims).on(&all, move |change, queue| {
        // Only a pod that ends or goes can free a claim, and only one that is going is of interest.
        let ended = change.new.as_ref().is_none_or(|pod| pods::is_finished(pod));
        if !ended {
            return;
        }
        for name in change.item().iter().flat_map(|item| claims_on(item)) {
            if leaving.get(&change.key.namespace, name).is_some_and(|claim| claim.deleting) {
                queue.add(Key { namespace: change.key.namespace.clone(), name: name.as_str().into() });
            }
        }
    });
    let sync = async |key: Key| -> Synced {
        let Some(claim) = claims.get(&key.namespace, &key.name) else { return Ok(None) };
        match step(&claim, CLAIM_FINALIZER) {
            Step::Nothing => return Ok(None),
            Step::Protect => {
                return add_finalizer::<PersistentVolumeClaim>(&env, &claim, CLAIM_FINALIZER, false).await;
            }
            Step::FreeIfUnused => {}
        }
        let in_use = || {
            let placed = |pod: &Arc<Item>| !pods::is_finished(pod) && !pod.node_name.is_empty();
            let mut pods = all.list_ns(&key.namespace).into_iter().filter(placed);
            pods.any(|pod| claims_on(&pod).iter().any(|name| **name == *key.name))
        };
        if !in_use() && !used_lately(&env, &key).await? {
            remove_finalizer::<PersistentVolumeClaim>(&env, &claim, CLAIM_FINALIZER).await?;
        }
        Ok(None)
    };
    work.run(&env, 1, sync).await;
}

/// Whether the server, not just the cache, has a pod on a node that uses a claim.
async fn used_lately(env: &Env, claim: &Key) -> Result<bool, crate::Error> {
    let params = kube::api::ListParams::default();
    let pods = env.api::<Pod>(&claim.namespace).list(&params).await?;
    let placed = pods.items.iter().filter(|pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        node.is_some_and(|node| !node.is_empty()) && !matches!(phase, Some("Succeeded" | "Failed"))
    });
    Ok(placed.flat_map(claims_of).any(|name| *name == *claim.name))
}

/// Runs the protection of volumes, which claims are bound to.
pub(crate) async fn run_volumes(env: Env) {
    let volumes: Cache<PersistentVolume> = env.caches.get();
    let sync = async |key: Key| -> Synced {
        let Some(volume) = volumes.get("", &key.name) else { return Ok(None) };
        match step(&volume, VOLUME_FINALIZER) {
            Step::Nothing => {}
            Step::Protect => {
                add_finalizer::<PersistentVolume>(&env, &volume, VOLUME_FINALIZER, false).await?;
            }
            Step::FreeIfUnused => {
                let phase = volumes.parse(&volume).and_then(|volume| volume.status?.phase);
                if phase.as_deref() != Some("Bound") {
                    remove_finalizer::<PersistentVolume>(&env, &volume, VOLUME_FINALIZER).await?;
                }
            }
        }
        Ok(None)
    };
    Loop::new().on_self(&volumes).run(&env, 1, sync).await;
}

/// What protection does next for an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Nothing,
    /// It gets the finalizer, as everything that may come into use.
    Protect,
    /// It is going, and the finalizer goes once nobody uses it.
    FreeIfUnused,
}

pub(crate) fn step(item: &Item, finalizer: &str) -> Step {
    match (item.deleting, item.finalizers.iter().any(|name| &**name == finalizer)) {
        (false, false) => Step::Protect,
        (true, true) => Step::FreeIfUnused,
        (false, true) | (true, false) => Step::Nothing,
    }
}

/// As [`claims_of`], of a cached pod, which is read for it once for each version of it.
pub(crate) fn claims_on(item: &Item) -> &[String] {
    struct Claims(Vec<String>);
    let read = |item: &Item| item.parse::<Pod>().map(|pod| Claims(claims_of(&pod)));
    item.facts(read).map_or(&[], |claims| &claims.0)
}

/// The claims that a pod uses, those made for it included.
pub(crate) fn claims_of(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let name = |volume: &k8s_openapi::api::core::v1::Volume| match (&volume.persistent_volume_claim, &volume.ephemeral)
    {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", pod.metadata.name.as_deref().unwrap_or_default(), volume.name)),
        (None, None) => None,
    };
    volumes.filter_map(name).collect()
}

pub(crate) async fn add_finalizer<K: kube::Resource<DynamicType = ()>>(
    env: &Env,
    item: &Item,
    finalizer: &str,
    present: bool,
) -> Synced {
    if !present {
        let finalizers: Vec<&str> = item.finalizers.iter().map(|name| &**name).chain([finalizer]).collect();
        let patch =
            json!({"metadata": {"resourceVersion": item.resource_version.to_string(), "finalizers": finalizers}});
        env.patch::<K>(item.namespace(), item.name(), "", &patch).await?;
    }
    Ok(None)
}

pub(crate) async fn remove_finalizer<K: kube::Resource<DynamicType = ()>>(
    env: &Env,
    item: &Item,
    finalizer: &str,
) -> Result<(), crate::Error> {
    let finalizers: Vec<&str> = item.finalizers.iter().map(|name| &**name).filter(|name| *name != finalizer).collect();
    let patch = json!({"metadata": {"resourceVersion": item.resource_version.to_string(), "finalizers": finalizers}});
    match env.patch::<K>(item.namespace(), item.name(), "", &patch).await {
        Err(error) if error.is_not_found() => Ok(()),
        answer => answer.map(|_| ()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::item;

    #[test]
    fn what_may_be_used_is_protected_and_what_goes_is_freed() {
        let cases = [
            (false, json!([]), Step::Protect),
            (false, json!(["other"]), Step::Protect),
            (false, json!(["mine", "other"]), Step::Nothing),
            (true, json!(["mine"]), Step::FreeIfUnused),
            (true, json!(["other"]), Step::Nothing),
        ];
        for (deleting, finalizers, expected) in cases {
            let mut object = json!({"metadata": {"name": "o", "finalizers": finalizers}});
            if deleting {
                object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            }
            assert_eq!(step(&item(object), "mine"), expected, "{deleting} {finalizers}");
        }
    }

    #[test]
    fn a_pod_uses_the_claims_that_it_names_and_those_that_are_made_for_it() {
        let cases = [
            (json!([]), ""),
            (json!([{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]), "data"),
            (json!([{"name": "v", "ephemeral": {}}, {"name": "w", "emptyDir": {}}]), "p-v"),
            (
                json!([{"name": "v", "persistentVolumeClaim": {"claimName": "a"}}, {"name": "w", "ephemeral": {}}]),
                "a p-w",
            ),
        ];
        for (volumes, expected) in cases {
            let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [], "volumes": volumes}});
            assert_eq!(claims_of(&serde_json::from_value(pod).unwrap()).join(" "), expected, "{volumes}");
        }
    }
}
