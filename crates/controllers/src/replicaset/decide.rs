//! How many pods to make or which to delete, and what the status says. Functions of values.

use std::{collections::HashMap, sync::Arc};

use client::Item;
use k8s_openapi::jiff::Timestamp;

use super::{kinds::Replicated, rank};
use crate::pods::{self, PodView};

/// The most pods made or deleted in one sync.
const BURST: usize = 500;

/// What a set does next.
#[derive(Debug)]
pub(super) enum Plan {
    Nothing,
    Create(usize),
    Delete(Vec<Arc<Item>>),
}

/// Why pods could not be made or deleted.
pub(super) struct Failure {
    pub creating: bool,
    pub message: String,
}

/// A set's pods, counted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub replicas: i32,
    pub fully_labeled: i32,
    pub ready: i32,
    pub available: i32,
    pub terminating: i32,
}

pub(super) fn plan(
    active: &[PodView],
    replicas: i32,
    related: impl FnOnce() -> Vec<Arc<Item>>,
    now: Timestamp,
) -> Plan {
    let wanted = usize::try_from(replicas).unwrap_or(0);
    if active.len() < wanted {
        return Plan::Create((wanted - active.len()).min(BURST));
    }
    let excess = (active.len() - wanted).min(BURST);
    match excess {
        0 => Plan::Nothing,
        // All go, so there is nothing to choose.
        _ if excess == active.len() => Plan::Delete(active.iter().map(|pod| pod.item.clone()).collect()),
        _ => {
            let mut crowds: HashMap<Box<str>, usize> = HashMap::new();
            for pod in related() {
                *crowds.entry(pod.node_name.clone()).or_default() += 1;
            }
            let crowd = |pod: &PodView| crowds.get(&pod.item.node_name).copied().unwrap_or(0);
            let mut pods: Vec<&PodView> = active.iter().collect();
            pods.sort_by(|a, b| rank::deletion_order(a, crowd(a), b, crowd(b), now));
            Plan::Delete(pods[..excess].iter().map(|pod| pod.item.clone()).collect())
        }
    }
}

pub(super) fn count<R: Replicated>(active: &[PodView], terminating: usize, set: &R, now: Timestamp) -> Counts {
    let labels = pods::template_labels(Some(&set.template()));
    let template = crate::selector::Selector::equal(&labels);
    let number = |test: &dyn Fn(&PodView) -> bool| {
        i32::try_from(active.iter().filter(|pod| test(pod)).count()).unwrap_or(i32::MAX)
    };
    Counts {
        replicas: number(&|_| true),
        fully_labeled: number(&|pod| template.matches(&pod.item.labels)),
        ready: number(&PodView::is_ready),
        available: number(&|pod| pod.is_available(set.min_ready_seconds(), now)),
        terminating: i32::try_from(terminating).unwrap_or(i32::MAX),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pods::tests::item;

    fn pod(name: &str, node: &str, ready: bool) -> PodView {
        let status = if ready { "True" } else { "False" };
        PodView::new(item(json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": node},
            "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": status, "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
        })))
        .unwrap()
    }

    fn doomed(pods: &[PodView], replicas: i32) -> Vec<String> {
        let related = || pods.iter().map(|pod| pod.item.clone()).collect();
        match plan(pods, replicas, related, Timestamp::now()) {
            Plan::Delete(items) => items.iter().map(|item| item.name().to_owned()).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_difference_is_made_up_in_bursts() {
        let now = Timestamp::now();
        assert!(matches!(plan(&[], 3, Vec::new, now), Plan::Create(3)));
        assert!(matches!(plan(&[], 3000, Vec::new, now), Plan::Create(500)));
        assert!(matches!(plan(&[pod("a", "n", true)], 1, Vec::new, now), Plan::Nothing));
        assert_eq!(doomed(&[pod("a", "n", true), pod("b", "n", true)], 0), ["a", "b"]);
    }

    #[test]
    fn the_least_useful_pods_go_first() {
        let pods = [pod("ready", "n1", true), pod("unready", "n2", false), pod("unassigned", "", false)];
        assert_eq!(doomed(&pods, 1), ["unassigned", "unready"]);
        let pods = [pod("alone", "n1", true), pod("crowd-1", "n2", true), pod("crowd-2", "n2", true)];
        assert_eq!(doomed(&pods, 2).len(), 1);
        assert!(doomed(&pods, 2)[0].starts_with("crowd"));
    }
}
