//! Node lifecycle: what is known of nodes that no longer report, the taints that follow from their conditions, and what
//! becomes of their pods.

pub(crate) mod eviction;
pub(crate) mod ranges;
mod taints;
pub(crate) mod ttl;
mod zones;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use client::{Cache, Key, events::EventType};
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Node, NodeCondition, ObjectReference, Pod},
    },
    jiff::Timestamp,
};
use parking_lot::Mutex;
use serde_json::json;

use crate::{
    condition::{self, Condition},
    frame::{Env, Error, Loop, Synced, now, sooner},
    owner::Named,
    pods,
};
use zones::{Evict, Limits, Zone};

const WORKERS: usize = 4;
/// How long until it is asked again whether a zone is well enough to drive pods off its nodes.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// A node that neither renewed its Lease nor reported for so long is not known to live.
const GRACE: Duration = Duration::from_secs(50);
const LEASES: &str = "kube-node-lease";
/// The conditions that a kubelet reports, of which nothing is known when it is silent.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// Runs the node lifecycle controller.
pub(crate) async fn run(env: Env) {
    let controller = std::sync::Arc::new(Controller {
        nodes: env.caches.get(),
        leases: env.caches.get(),
        pods: env.caches.get(),
        seen: Mutex::default(),
        limits: Mutex::default(),
        env: env.clone(),
    });
    let leases = controller.leases.clone();
    let beats = controller.clone();
    let work = Loop::new().on_self(&controller.nodes).needs(&controller.pods).on(&leases, move |change, _| {
        // A beat queues nothing: it only puts off the time at which the node is looked at again.
        if &*change.key.namespace == LEASES
            && let Some(lease) = &change.new
        {
            beats.beat(&change.key.name, lease.resource_version);
        }
    });
    work.run(&env, WORKERS, |key| controller.sync(key)).await;
}

/// When a node last gave a sign of life, by our own clock.
struct Seen {
    at: Instant,
    lease: u64,
    /// The newest heartbeat among its conditions.
    heartbeat: Option<Timestamp>,
    ready: bool,
    zone: String,
}

struct Controller {
    env: Env,
    nodes: Cache<Node>,
    leases: Cache<Lease>,
    pods: Cache<Pod>,
    seen: Mutex<HashMap<String, Seen>>,
    limits: Mutex<Limits>,
}

/// The zone of a node, as upstream names it: its region and its zone.
fn zone(node: &Node) -> String {
    let label = |name: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(name)).cloned();
    let part = |name: &str| label(&format!("topology.kubernetes.io/{name}")).unwrap_or_default();
    format!("{}:{}", part("region"), part("zone"))
}

impl Controller {
    fn beat(&self, node: &str, lease: u64) {
        if let Some(seen) = self.seen.lock().get_mut(node).filter(|seen| seen.lease != lease) {
            (seen.lease, seen.at) = (lease, Instant::now());
        }
    }

    /// For how long a node has been silent.
    fn silence(&self, node: &Node) -> Duration {
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let heartbeat =
            conditions.filter_map(|condition| condition.last_heartbeat_time.as_ref()).map(|time| time.0).max();
        let mut all = self.seen.lock();
        if let Some(seen) = all.get_mut(node.name()) {
            if seen.heartbeat < heartbeat {
                (seen.heartbeat, seen.at) = (heartbeat, Instant::now());
            }
            (seen.ready, seen.zone) = (ready(node) == "True", zone(node));
            return seen.at.elapsed();
        }
        let lease = self.leases.get(LEASES, node.name()).map_or(0, |lease| lease.resource_version);
        let (ready, zone) = (ready(node) == "True", zone(node));
        all.insert(node.name().to_owned(), Seen { at: Instant::now(), lease, heartbeat, ready, zone });
        drop(all);
        let message = format!("Node {0} event: Registered Node {0} in Controller", node.name());
        self.tell(node, EventType::Normal, "RegisteredNode", message);
        Duration::ZERO
    }

    fn tell(&self, node: &Node, kind: EventType, reason: &str, message: String) {
        // Events about nodes name them by name in place of uid, as kubelets do.
        let about = ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(node.name().to_owned()),
            uid: Some(node.name().to_owned()),
            ..ObjectReference::default()
        };
        self.env.recorder.record(about, kind, reason, message);
    }

    async fn sync(&self, key: Key) -> Synced {
        let Some(mut node) = self.nodes.read("", &key.name) else {
            self.seen.lock().remove(&*key.name);
            return Ok(None);
        };
        let silence = self.silence(&node);
        let was_ready = ready(&node) == "True";
        if silence >= GRACE
            && let Some(silent) = silenced(&node)
        {
            node = self.env.replace_status(&silent).await?;
            if was_ready {
                let message = format!("Node {} status is now: NodeNotReady", node.name());
                self.tell(&node, EventType::Normal, "NodeNotReady", message);
            }
        }
        let is_ready = ready(&node) == "True";
        if let Some(seen) = self.seen.lock().get_mut(node.name()) {
            seen.ready = is_ready;
        }
        let evict = if is_ready { Evict::Hold } else { self.may_evict(&node) };
        let wanted = taints::wanted(&node, matches!(evict, Evict::Yes), now());
        if let Some(taints) = wanted {
            let version = &node.metadata.resource_version;
            let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"taints": taints}});
            self.env.patch::<Node>("", node.name(), "", &patch).await?;
        }
        if !is_ready {
            self.mark_pods(&node).await?;
        }
        let silent = (silence < GRACE).then(|| GRACE.saturating_sub(silence).max(Duration::from_secs(1)));
        Ok(sooner(
            silent,
            match evict {
                Evict::Wait(wait) => Some(wait),
                Evict::Hold | Evict::Never if !is_ready => Some(LOOK_AGAIN),
                _ => None,
            },
        ))
    }

    /// Whether pods are to be driven off a node that is not ready.
    fn may_evict(&self, node: &Node) -> Evict {
        let (name, mut counted, mut any_ready) = (zone(node), Zone::default(), false);
        for seen in self.seen.lock().values() {
            any_ready |= seen.ready;
            if seen.zone == name {
                *(if seen.ready { &mut counted.ready } else { &mut counted.not_ready }) += 1;
            }
        }
        if any_ready && !taints::begins_eviction(node) {
            return Evict::Yes;
        }
        self.limits.lock().ask(&name, counted, any_ready, Instant::now())
    }

    /// Pods of a node that is not ready serve nobody.
    async fn mark_pods(&self, node: &Node) -> Result<(), Error> {
        for item in self.pods.on_node(node.name()) {
            let Some(mut pod) = self.pods.parse(&item).filter(|_| pods::is_active(&item)) else { continue };
            let conditions = &mut pod.status.get_or_insert_default().conditions;
            let Some(ready) =
                conditions.iter_mut().flatten().find(|ready| ready.type_ == "Ready" && ready.status == "True")
            else {
                continue;
            };
            ready.status = "False".to_owned();
            ready.last_transition_time = Some(now());
            match self.env.replace_status(&pod).await {
                Err(error) if error.is_not_found() => continue,
                answer => answer?,
            };
            self.env.recorder.warning(&pod, "NodeNotReady", "Node is not ready");
        }
        Ok(())
    }
}

/// The status of a node's `Ready` condition, `Unknown` if it has none.
fn ready(node: &Node) -> &str {
    let conditions = node.status.as_ref().map(|status| &status.conditions);
    conditions.and_then(|conditions| condition::find(conditions, "Ready")).map_or("Unknown", |ready| &ready.status)
}

/// The node with all that its kubelet reports unknown; none if it says so already.
fn silenced(node: &Node) -> Option<Node> {
    let mut node = node.clone();
    let conditions = &mut node.status.get_or_insert_default().conditions;
    let mut changed = false;
    for kind in REPORTED {
        let known = condition::find(conditions, kind).cloned();
        if known.as_ref().is_some_and(|known| known.status == "Unknown") {
            continue;
        }
        let (reason, message) = match known {
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        let mut unknown = NodeCondition::new(kind, "Unknown", reason, message, now());
        unknown.last_heartbeat_time = match known {
            Some(known) => known.last_heartbeat_time,
            None => node.metadata.creation_timestamp.clone(),
        };
        let list = conditions.get_or_insert_default();
        match list.iter_mut().find(|present| present.type_ == kind) {
            Some(present) => *present = unknown,
            None => list.push(unknown),
        }
        changed = true;
    }
    changed.then_some(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_node_is_unknown_in_upstreams_words() {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n"}, "status": {"conditions": [
            {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": "2026-01-01T00:00:00Z"},
            {"type": "NetworkUnavailable", "status": "False"}]}}))
        .unwrap();
        let silent = silenced(&node).unwrap();
        let told: Vec<String> = silent
            .status
            .as_ref()
            .unwrap()
            .conditions
            .iter()
            .flatten()
            .map(|condition| format!("{}={} {}", condition.type_, condition.status, condition.reason()))
            .collect();
        assert_eq!(
            told,
            [
                "Ready=Unknown NodeStatusUnknown",
                "NetworkUnavailable=False ",
                "MemoryPressure=Unknown NodeStatusNeverUpdated",
                "DiskPressure=Unknown NodeStatusNeverUpdated",
                "PIDPressure=Unknown NodeStatusNeverUpdated",
            ]
        );
        assert!(silenced(&silent).is_none());
    }
}
