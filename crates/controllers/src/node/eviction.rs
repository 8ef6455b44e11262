//! Eviction by taint: pods leave nodes with `NoExecute` taints that they do not tolerate, or no longer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use client::{Cache, Item, Key};
use k8s_openapi::{
    api::core::v1::{Node, Pod, PodCondition, Taint, Toleration},
    jiff::{SignedDuration, Timestamp},
};
use kube::api::DeleteParams;

use crate::{
    condition::{self, Condition},
    frame::{Env, Error, Loop, Synced, between, now, sooner},
    owner::Named,
};

const WORKERS: usize = 8;

/// Runs the taint eviction controller.
pub(crate) async fn run(env: Env) {
    let nodes: Cache<Node> = env.caches.get();
    let pods: Cache<Pod> = env.caches.get();
    let work = Loop::new().on_self(&nodes).on(&pods, |change, queue| {
        let bound = |item: &Arc<Item>| !item.node_name.is_empty() && !item.deleting;
        let is_new = |item: &&Arc<Item>| bound(item) && change.old.as_ref().is_none_or(|old| !bound(old));
        if let Some(pod) = change.new.as_ref().filter(is_new) {
            queue.add(Key::new("", &pod.node_name));
        }
    });
    let first_seen = FirstSeen::default();
    let sync = async |key: Key| -> Synced {
        let Some(node) = nodes.read("", &key.name) else {
            first_seen.keep(&key.name, &[]);
            return Ok(None);
        };
        let taints: Vec<Taint> = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
        let taints: Vec<Taint> = taints.into_iter().filter(|taint| taint.effect == "NoExecute").collect();
        first_seen.keep(&key.name, &taints);
        let mut again = None;
        for item in pods.on_node(&key.name).iter().filter(|item| !taints.is_empty() && !item.deleting) {
            let Some(pod) = pods.parse(item) else { continue };
            let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.clone()).unwrap_or_default();
            match leave_in(&taints, &tolerations, Timestamp::now(), |taint| {
                let there = taint.time_added.as_ref().map_or_else(|| first_seen.of(&key.name, taint), |time| time.0);
                there.max(bound_at(&pod))
            }) {
                None => {}
                Some(Duration::ZERO) => evict(&env, &pod, &WHY).await?,
                wait => again = sooner(again, wait),
            }
        }
        Ok(again)
    };
    work.run(&env, WORKERS, sync).await;
}

/// When each taint of each node was first seen: from then on a toleration's seconds count where the taint does not say since
/// when it is there, as with `kubectl taint`.
#[derive(Default)]
struct FirstSeen(Mutex<HashMap<String, Vec<(Taint, Timestamp)>>>);

impl FirstSeen {
    /// Notes the node's taints of now and forgets those that are gone.
    fn keep(&self, node: &str, taints: &[Taint]) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.remove(node).unwrap_or_default();
        let since = |taint: &Taint| before.iter().find(|(seen, _)| seen == taint).map_or_else(Timestamp::now, |s| s.1);
        let now: Vec<_> = taints.iter().map(|taint| (taint.clone(), since(taint))).collect();
        if !now.is_empty() {
            all.insert(node.to_owned(), now);
        }
    }

    fn of(&self, node: &str, taint: &Taint) -> Timestamp {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = all.get(node).and_then(|taints| taints.iter().find(|(seen, _)| seen == taint));
        seen.map_or_else(Timestamp::now, |seen| seen.1)
    }
}

/// When a pod was bound to its node: no toleration's seconds count before.
fn bound_at(pod: &Pod) -> Timestamp {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let scheduled = conditions.into_iter().flatten().find(|c| c.type_ == "PodScheduled" && c.status == "True");
    let time = scheduled.and_then(|condition| condition.last_transition_time.as_ref());
    time.or(pod.metadata.creation_timestamp.as_ref()).map_or(Timestamp::MIN, |time| time.0)
}

/// How long a pod may still stay, when `since` says from when on a taint counts; none for as long as it likes.
fn leave_in(
    taints: &[Taint],
    tolerations: &[Toleration],
    now: Timestamp,
    since: impl Fn(&Taint) -> Timestamp,
) -> Option<Duration> {
    let mut soonest = None;
    for taint in taints {
        let mut tolerating = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).peekable();
        if tolerating.peek().is_none() {
            return Some(Duration::ZERO);
        }
        let since = since(taint);
        for seconds in tolerating.filter_map(|toleration| toleration.toleration_seconds) {
            let until = since.checked_add(SignedDuration::from_secs(seconds.max(0))).unwrap_or(Timestamp::MAX);
            soonest = sooner(soonest, Some(between(now, until)));
        }
    }
    soonest
}

pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let Toleration { key, operator, value, effect, .. } = toleration;
    matches([key, operator, value, effect], [&taint.key, taint.value.as_deref().unwrap_or_default(), &taint.effect])
}

/// Whether a toleration's key, operator, value and effect fit a taint's key, value and effect; of nodes and of devices alike.
pub(crate) fn matches(toleration: [&Option<String>; 4], taint: [&str; 3]) -> bool {
    let [key, operator, value, effect] = toleration.map(|field| field.as_deref().unwrap_or_default());
    let [taint_key, taint_value, taint_effect] = taint;
    let exists = operator == "Exists";
    (effect.is_empty() || effect == taint_effect)
        && (key == taint_key || (key.is_empty() && exists))
        && (exists || value == taint_value)
}

/// What is said of an eviction.
pub(crate) struct Why {
    pub event: &'static str,
    pub reason: &'static str,
    pub message: &'static str,
}

const WHY: Why = Why {
    event: "TaintManagerEviction",
    reason: "DeletionByTaintManager",
    message: "Taint manager: deleting due to NoExecute taint",
};

/// Marks a pod as disrupted, and deletes it.
pub(crate) async fn evict(env: &Env, pod: &Pod, why: &Why) -> Result<(), Error> {
    let message = format!("Marking for deletion Pod {}/{}", pod.namespace(), pod.name());
    env.recorder.normal(pod, why.event, message);
    let mut marked = pod.clone();
    let target = PodCondition::new("DisruptionTarget", "True", why.reason, why.message, now());
    condition::set(&mut marked.status.get_or_insert_default().conditions, target);
    match env.replace_status(&marked).await {
        Err(error) if error.is_not_found() => return Ok(()),
        answer => answer?,
    };
    env.delete::<Pod>(pod.namespace(), pod.name(), pod.uid(), DeleteParams::default()).await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_stays_as_long_as_it_tolerates() {
        let taint = |key: &str| Taint { key: key.to_owned(), effect: "NoExecute".to_owned(), ..Default::default() };
        let cases = [
            (json!([]), Some(0)),
            (json!([{"operator": "Exists"}]), None),
            (json!([{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]), Some(240)),
            (json!([{"key": "a", "operator": "Exists", "tolerationSeconds": 20}]), Some(0)),
            (json!([{"key": "a", "operator": "Equal", "value": "x"}]), Some(0)),
            (json!([{"key": "b", "operator": "Exists"}]), Some(0)),
        ];
        for (tolerations, expected) in cases {
            let parsed: Vec<Toleration> = serde_json::from_value(tolerations.clone()).unwrap();
            let at = |text: &str| text.parse::<Timestamp>().unwrap();
            for (since, added) in [("2026-01-01T00:00:00Z", 0), ("2026-01-01T00:00:30Z", 30)] {
                let wait = leave_in(&[taint("a")], &parsed, at("2026-01-01T00:01:00Z"), |_| at(since));
                let expected = expected.map(|seconds| if seconds == 0 { 0 } else { seconds + added });
                assert_eq!(wait.map(|wait| wait.as_secs()), expected, "{tolerations} since {since}");
            }
        }
    }

    #[test]
    fn a_taint_counts_from_when_it_was_first_seen_until_it_goes() {
        let taint = |key: &str| Taint { key: key.to_owned(), effect: "NoExecute".to_owned(), ..Default::default() };
        let seen = FirstSeen::default();
        seen.keep("n", &[taint("a")]);
        let first = seen.of("n", &taint("a"));
        seen.keep("n", &[taint("a"), taint("b")]);
        assert_eq!(seen.of("n", &taint("a")), first);
        seen.keep("n", &[taint("b")]);
        seen.keep("n", &[taint("a")]);
        assert!(seen.of("n", &taint("a")) > first);
        seen.keep("n", &[]);
        assert!(seen.0.lock().unwrap().is_empty());
    }
}
