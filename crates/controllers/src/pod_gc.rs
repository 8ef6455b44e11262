//! Pods that nobody will clean up: of nodes that are gone, deleted before they were bound, or too many that have ended.

use std::sync::Arc;

use client::{Cache, Item, Key};
use k8s_openapi::api::core::v1::{Node, NodeStatus, Pod};
use kube::api::DeleteParams;
use serde_json::json;

use crate::{
    frame::{Env, Loop, Synced},
    pods,
};

/// So many ended pods are kept before the oldest go.
const ENDED_KEPT: usize = 12_500;
/// The one key: all pods are looked at together.
const ALL: &str = "pods";
/// Says that a node is down for good, as far as anybody knows, so that its pods may be forgotten.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// How long a node must have been gone, in case it comes back.
const QUARANTINE: std::time::Duration = std::time::Duration::from_secs(40);

/// Runs the pod garbage collector.
pub(crate) async fn run(env: Env) {
    let nodes: Cache<Node> = env.caches.get();
    let all: Cache<Pod> = env.caches.get();
    let (bound_to_nothing, parsed) = (nodes.clone(), nodes.clone());
    let work = Loop::new()
        .on(&nodes, move |change, queue| match &change.new {
            None => queue.add_after(Key::new("", ALL), QUARANTINE),
            Some(item) if parsed.parse(item).is_some_and(|node| is_out_of_service(&node)) => {
                queue.add(Key::new("", ALL))
            }
            Some(_) => {}
        })
        .on(&all, move |change, queue| {
            let Some(pod) = &change.new else { return };
            let is_lost = !pod.node_name.is_empty() && bound_to_nothing.get("", &pod.node_name).is_none();
            let has_ended = pods::is_finished(pod) && change.old.as_ref().is_none_or(|old| !pods::is_finished(old));
            let is_stuck = || bound_to_nothing.read("", &pod.node_name).is_some_and(|node| is_out_of_service(&node));
            if pod.deleting && (pod.node_name.is_empty() || is_stuck()) {
                queue.add(Key::new("", ALL));
            } else if is_lost || has_ended {
                queue.add_after(Key::new("", ALL), QUARANTINE);
            }
        });
    let sync = async |_: Key| -> Synced {
        let pods = all.list();
        let is_lost = |pod: &&Arc<Item>| !pod.node_name.is_empty() && nodes.get("", &pod.node_name).is_none();
        for pod in pods.iter().filter(is_lost) {
            // The cache may lag behind: only the server knows.
            if env.cluster::<Node>().get_opt(&pod.node_name).await?.is_none() {
                end(&env, pod, Some("PodGC: node no longer exists")).await?;
            }
        }
        let out_of_service = nodes.list().into_iter().filter_map(|item| nodes.parse(&item)).filter(is_out_of_service);
        for node in out_of_service {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            for pod in all.on_node(name).iter().filter(|pod| pod.deleting) {
                end(&env, pod, None).await?;
            }
        }
        for pod in pods.iter().filter(|pod| pod.deleting && pod.node_name.is_empty()) {
            end(&env, pod, None).await?;
        }
        let mut ended: Vec<&Arc<Item>> = pods.iter().filter(|pod| pods::is_finished(pod)).collect();
        // The revision of the last change orders by age well enough.
        ended.sort_by_key(|pod| pod.resource_version);
        for pod in &ended[..ended.len().saturating_sub(ENDED_KEPT)] {
            end(&env, pod, None).await?;
        }
        Ok(None)
    };
    work.run(&env, 1, sync).await;
}

/// Whether somebody has said that the node is down for good, and it is.
fn is_out_of_service(node: &Node) -> bool {
    let tainted =
        node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).any(|taint| taint.key == OUT_OF_SERVICE);
    let is_ready = |status: &NodeStatus| crate::condition::is_true(&status.conditions, "Ready");
    tainted && !node.status.as_ref().is_some_and(is_ready)
}

/// Deletes a pod at once, after noting that it has failed, and why if its node was lost: whoever holds it by a finalizer still
/// has to tell how it ended.
async fn end(env: &Env, pod: &Item, why: Option<&str>) -> Result<(), crate::Error> {
    if !pods::is_finished(pod) {
        let patch = failed(pod.parse()?, why);
        match env.patch::<Pod>(pod.namespace(), pod.name(), "status", &patch).await {
            Err(error) if error.is_not_found() => return Ok(()),
            answer => answer?,
        };
    }
    env.delete::<Pod>(pod.namespace(), pod.name(), &pod.uid, DeleteParams::default().grace_period(0)).await
}

/// What makes of a pod one that has failed.
fn failed(pod: Pod, why: Option<&str>) -> serde_json::Value {
    let mut patch = json!({"status": {"phase": "Failed"}});
    if let Some(why) = why {
        let mut conditions = pod.status.and_then(|status| status.conditions);
        let target = crate::condition::condition("DisruptionTarget", "True", "DeletionByPodGC", why);
        crate::condition::set(&mut conditions, target);
        patch["status"]["conditions"] = json!(conditions);
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_node_that_is_down_can_be_out_of_service() {
        let node = |key: &str, ready: &str| -> Node {
            serde_json::from_value(json!({"metadata": {"name": "n"},
                "spec": {"taints": [{"key": key, "effect": "NoExecute"}]},
                "status": {"conditions": [{"type": "Ready", "status": ready}]}}))
            .unwrap()
        };
        assert!(is_out_of_service(&node(OUT_OF_SERVICE, "Unknown")));
        assert!(!is_out_of_service(&node(OUT_OF_SERVICE, "True")));
        assert!(!is_out_of_service(&node("other", "False")));
    }

    #[test]
    fn a_pod_has_failed_before_it_is_deleted_and_says_why_if_its_node_is_lost() {
        let pod = || {
            let ready = json!({"type": "Ready", "status": "True"});
            serde_json::from_value(
                json!({"metadata": {"name": "p"}, "status": {"phase": "Running", "conditions": [ready]}}),
            )
            .unwrap()
        };
        assert_eq!(failed(pod(), None), json!({"status": {"phase": "Failed"}}));
        let status = &failed(pod(), Some("PodGC: node no longer exists"))["status"];
        assert_eq!((&status["phase"], &status["conditions"][0]["type"]), (&json!("Failed"), &json!("Ready")));
        let target = &status["conditions"][1];
        assert_eq!(
            (&target["reason"], &target["message"]),
            (&json!("DeletionByPodGC"), &json!("PodGC: node no longer exists"))
        );
    }
}
