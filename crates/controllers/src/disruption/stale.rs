//! Pods that were to be disrupted and were not: the condition `DisruptionTarget` is taken back after a while.

use std::time::Duration;

use client::{Cache, Item, Key};
use k8s_openapi::{
    api::core::v1::{Pod, PodCondition},
    jiff::{SignedDuration, Timestamp},
};
use serde_json::json;

use crate::{
    condition::{self, Condition},
    frame::{Env, Loop, Synced, between},
    owner::Named,
    pods,
};

const DISRUPTION_TARGET: &str = "DisruptionTarget";
/// The kubelet may take as long as it likes.
const BY_KUBELET: &str = "TerminationByKubelet";
/// How long the condition stands without the pod being deleted.
const LIMIT: SignedDuration = SignedDuration::from_mins(2);

/// Takes back conditions until shutdown.
pub(super) async fn run(env: Env) {
    let pods: Cache<Pod> = env.caches.get();
    let work = Loop::new().on(&pods, |change, queue| {
        if change.new.as_ref().is_some_and(|pod| may_be_stale(pod)) {
            queue.add(change.key.clone());
        }
    });
    let sync = async |key: Key| -> Synced {
        let Some(pod) = pods.get(&key.namespace, &key.name).and_then(|item| pods.parse(&item)) else { return Ok(None) };
        match stale_in(&pod, Timestamp::now()) {
            None => return Ok(None),
            Some(wait) if !wait.is_zero() => return Ok(Some(wait)),
            Some(_) => {}
        }
        let mut conditions = pod.status.clone().and_then(|status| status.conditions);
        condition::set(&mut conditions, condition::condition::<PodCondition>(DISRUPTION_TARGET, "False", "", ""));
        let metadata = json!({"uid": pod.uid(), "resourceVersion": pod.metadata.resource_version});
        let patch = json!({"metadata": metadata, "status": {"conditions": conditions}});
        match env.patch::<Pod>(&key.namespace, &key.name, "status", &patch).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(None),
        }
    };
    work.run(&env, 1, sync).await;
}

/// Whether a pod has the condition at all, found without reading the pod.
fn may_be_stale(pod: &Item) -> bool {
    !pod.deleting
        && !pods::is_finished(pod)
        && std::str::from_utf8(&pod.bytes).is_ok_and(|json| json.contains(DISRUPTION_TARGET))
}

/// How long until the condition is to be taken back; none if it stands.
fn stale_in(pod: &Pod, now: Timestamp) -> Option<Duration> {
    let status = pod.status.as_ref()?;
    let target = condition::find(&status.conditions, DISRUPTION_TARGET)?;
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if pod.is_deleting() || ended || target.status() != "True" || target.reason() == BY_KUBELET {
        return None;
    }
    let until = target.since().and_then(|since| since.0.checked_add(LIMIT).ok());
    Some(until.map_or(Duration::ZERO, |until| between(now, until)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::item;

    #[test]
    fn a_disruption_that_did_not_come_is_taken_back_after_two_minutes() {
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().unwrap();
        let cases = [
            ("True", "EvictionByEvictionAPI", "00:09:00", "Running", false, Some(60)),
            ("True", "EvictionByEvictionAPI", "00:08:00", "Running", false, Some(0)),
            ("True", "PreemptionByScheduler", "00:01:00", "Running", false, Some(0)),
            ("True", "TerminationByKubelet", "00:01:00", "Running", false, None),
            ("False", "", "00:01:00", "Running", false, None),
            ("True", "EvictionByEvictionAPI", "00:01:00", "Failed", false, None),
            ("True", "EvictionByEvictionAPI", "00:01:00", "Running", true, None),
        ];
        for (status, reason, since, phase, deleting, expected) in cases {
            let mut pod = json!({"metadata": {"name": "p"}, "status": {"phase": phase, "conditions": [
                {"type": "DisruptionTarget", "status": status, "reason": reason,
                    "lastTransitionTime": format!("2026-01-01T{since}Z")}]}});
            if deleting {
                pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            }
            let cached = item(pod);
            let wait = stale_in(&cached.parse().unwrap(), now);
            assert_eq!(wait, expected.map(Duration::from_secs), "{status} {reason} {since} {phase} {deleting}");
            assert!(may_be_stale(&cached) || wait.is_none());
        }
    }
}
