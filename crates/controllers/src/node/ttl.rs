//! How long kubelets may keep what they have read, by the size of the cluster: the annotation
//! `node.alpha.kubernetes.io/ttl`.

use client::{Cache, Key};
use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use crate::{
    frame::{Env, Loop, Synced},
    owner::Named,
};

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";
/// From how many nodes on, to how many, and the seconds. They overlap, so that a node more or less changes nothing twice.
const STEPS: &[(usize, usize, u32)] =
    &[(0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, usize::MAX, 300)];

/// Runs the TTL controller.
pub(crate) async fn run(env: Env) {
    let nodes: Cache<Node> = env.caches.get();
    let all = nodes.clone();
    let work = Loop::new().on_self(&nodes).on(&nodes, move |change, queue| {
        if change.old.is_none() != change.new.is_none() && is_boundary(all.len()) {
            all.list().iter().for_each(|node| queue.add(node.key.clone()));
        }
    });
    let sync = async |key: Key| -> Synced {
        let Some(node) = nodes.read("", &key.name) else { return Ok(None) };
        let known = node.annotation(ANNOTATION).and_then(|text| text.parse::<u32>().ok());
        let Some(seconds) = change(known, nodes.len()) else { return Ok(None) };
        let patch = json!({"metadata": {"annotations": {ANNOTATION: seconds.to_string()}}});
        match env.patch::<Node>("", &key.name, "", &patch).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(None),
        }
    };
    work.run(&env, 1, sync).await;
}

/// What a node's annotation becomes in a cluster of so many nodes; none if it may stay.
fn change(known: Option<u32>, size: usize) -> Option<u32> {
    let mut fitting =
        STEPS.iter().filter(|(from, to, _)| (*from..=*to).contains(&size)).map(|(_, _, seconds)| *seconds);
    if fitting.clone().any(|seconds| known == Some(seconds)) { None } else { fitting.next() }
}

/// Whether with one node more or less another step would hold.
fn is_boundary(size: usize) -> bool {
    STEPS.iter().any(|(from, to, _)| size == to.saturating_add(1) || size + 1 == *from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_annotation_follows_the_size_with_some_slack() {
        let cases = [
            (None, 1, Some(0)),
            (Some(0), 1, None),
            (Some(0), 100, None),
            (Some(0), 101, Some(15)),
            (Some(15), 95, None),
            (Some(15), 89, Some(0)),
            (None, 5000, Some(300)),
            (Some(300), 10, Some(0)),
        ];
        for (known, size, expected) in cases {
            assert_eq!(change(known, size), expected, "{known:?} {size}");
        }
        assert!(is_boundary(101) && is_boundary(89) && !is_boundary(95));
    }
}
