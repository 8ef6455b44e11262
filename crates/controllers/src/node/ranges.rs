//! The ranges of pods' addresses: each node gets a part of the cluster's range of its own, in `spec.podCIDRs`.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use client::{Cache, Item, events::EventType};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use serde_json::json;

use crate::{
    frame::{Env, Loop, Synced},
    owner::Named,
};

/// Gives ranges of this size to nodes until shutdown.
pub(crate) async fn run(env: Env, cluster: IpNet, prefix: u8) {
    let nodes: Cache<Node> = env.caches.get();
    // How many nodes have gone, and by when no range was free: until another goes, none is.
    let (gone, full_at) = (Arc::new(AtomicU64::new(0)), AtomicU64::new(u64::MAX));
    let waiting = (nodes.clone(), gone.clone());
    let sync = async |key: client::Key| -> Synced {
        let Some(node) = nodes.read("", &key.name).filter(|node| ranges_of(node).is_empty() && !node.is_deleting())
        else {
            return Ok(None);
        };
        let gone = gone.load(Ordering::Acquire);
        let range = || {
            let used = nodes.list();
            free(cluster, prefix, used.iter().flat_map(|item| ranges_on(item)).copied())
        };
        let is_full = full_at.load(Ordering::Relaxed) == gone;
        let Some(range) = (!is_full).then(range).flatten() else {
            full_at.store(gone, Ordering::Relaxed);
            // Events about nodes name them by name in place of uid, as kubelets do.
            let name = node.name().to_owned();
            let about = ObjectReference {
                kind: Some("Node".to_owned()),
                uid: Some(name.clone()),
                name: Some(name.clone()),
                ..ObjectReference::default()
            };
            let message = format!("Node {name} status is now: CIDRNotAvailable");
            env.recorder.record(about, EventType::Normal, "CIDRNotAvailable", message);
            return Ok(None);
        };
        let range = range.to_string();
        let metadata = json!({"uid": node.uid()});
        let patch = json!({"metadata": metadata, "spec": {"podCIDR": range, "podCIDRs": [range]}});
        match env.patch::<Node>("", &key.name, "", &patch).await {
            Ok(written) => {
                // Not before the cache shows it may another node be given one.
                env.shown(&nodes, written.revision()).await;
                Ok(None)
            }
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    };
    // A range that comes free may be what another node waits for.
    let work = Loop::new().on(&nodes, move |change, queue| {
        queue.add(change.key.clone());
        if change.new.is_none() {
            let (nodes, gone) = &waiting;
            gone.fetch_add(1, Ordering::Release);
            nodes.list().iter().for_each(|node| queue.add(node.key.clone()));
        }
    });
    work.run(&env, 1, sync).await;
}

/// As [`ranges_of`], of a cached node, which is read for it once for each version of it.
fn ranges_on(item: &Item) -> &[IpNet] {
    struct Ranges(Vec<IpNet>);
    let read = |item: &Item| item.parse::<Node>().map(|node| Ranges(ranges_of(&node)));
    item.facts(read).map_or(&[], |ranges| &ranges.0)
}

/// The ranges that a node has.
fn ranges_of(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let first = spec.pod_cidr.iter().chain(spec.pod_cidrs.iter().flatten());
    first.filter_map(|text| text.parse().ok()).collect()
}

/// The first part of the cluster's range that overlaps with none that is used.
fn free(cluster: IpNet, prefix: u8, used: impl Iterator<Item = IpNet>) -> Option<IpNet> {
    // What is no larger than a part lies in one of them.
    let (small, large): (Vec<IpNet>, Vec<IpNet>) = used.partition(|used| used.prefix_len() >= prefix);
    let part_of = |used: IpNet| IpNet::new(used.addr(), prefix).map(|part| part.trunc());
    let taken: HashSet<IpNet> = small.into_iter().filter_map(|used| part_of(used).ok()).collect();
    cluster.subnets(prefix).ok()?.find(|part| !taken.contains(part) && !large.iter().any(|used| used.contains(part)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_the_ranges_that_it_says() {
        let cases = [
            (json!({}), ""),
            (json!({"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00::/64"]}), "10.1.0.0/24 fd00::/64"),
            (json!({"podCIDR": "none"}), ""),
        ];
        for (spec, expected) in cases {
            let node = crate::pods::tests::item(json!({"metadata": {"name": "n"}, "spec": spec}));
            for _ in 0..2 {
                let ranges: HashSet<String> = ranges_on(&node).iter().map(IpNet::to_string).collect();
                assert_eq!(ranges, expected.split_whitespace().map(str::to_owned).collect(), "{spec}");
            }
        }
    }

    #[test]
    fn each_node_gets_a_part_that_no_other_has() {
        let cases = [
            ("10.1.0.0/16", 24, "", Some("10.1.0.0/24")),
            ("10.1.0.0/16", 24, "10.1.0.0/24", Some("10.1.1.0/24")),
            ("10.1.0.0/16", 24, "10.1.0.0/24 10.1.2.0/24", Some("10.1.1.0/24")),
            ("10.1.0.0/16", 24, "10.1.0.0/23", Some("10.1.2.0/24")),
            ("10.1.0.0/16", 24, "10.1.0.64/26", Some("10.1.1.0/24")),
            ("10.1.0.0/24", 24, "", Some("10.1.0.0/24")),
            ("10.1.0.0/24", 24, "10.1.0.0/24", None),
            ("fd00::/48", 64, "fd00::/64", Some("fd00:0:0:1::/64")),
        ];
        for (cluster, prefix, used, expected) in cases {
            let ranges = used.split_whitespace().map(|used| used.parse().unwrap());
            let found = free(cluster.parse().unwrap(), prefix, ranges);
            assert_eq!(found.map(|found| found.to_string()).as_deref(), expected, "{cluster} {used:?}");
        }
    }
}
