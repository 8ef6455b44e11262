//! Pods are spread over the domains of a node label: no domain may have many more of them than another.
//!
//! Replicas of one ReplicaSet, ReplicationController or StatefulSet that state nothing are spread softly over zones and
//! nodes, as upstream's defaults do. Where upstream looks for pods that the owner's selector matches, here the owner's pods
//! are counted.

use std::collections::HashMap;

use super::{Event, MAX_SCORE, Plugin, node_affinity, taint_toleration};
use crate::{
    node::Node,
    pod::{Pod, SpreadConstraint},
    snapshot::{Slot, Snapshot},
    verdict::{Reason, Rejection},
};

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";
/// The soft constraints of replicas that state none: label and greatest skew.
const DEFAULTS: [(&str, i64); 2] = [(ZONE, 5), (HOSTNAME, 3)];

impl SpreadConstraint {
    /// Whether the constraint counts this pod for `of`.
    fn counts(&self, pod: &Pod, of: &Pod) -> bool {
        pod.item.namespace() == of.item.namespace()
            && self.selector.as_ref().is_some_and(|selector| selector.matches(|key| pod.labels().get(key)))
    }

    /// Whether the constraint looks at this node at all.
    fn includes(&self, pod: &Pod, node: &Node) -> bool {
        (!self.honor_affinity || node_affinity::fits(&pod.needs, node))
            && (!self.honor_taints || taint_toleration::fits(&pod.needs, node))
    }

    fn count_on(&self, pod: &Pod, snapshot: &Snapshot, slot: Slot) -> i64 {
        let matching = |other: &Pod| !other.item.deleting && self.counts(other, pod);
        i64::try_from(snapshot.pods_on(slot).iter().filter(|other| matching(other)).count()).unwrap_or(i64::MAX)
    }
}

/// The nodes that a pod's constraints look at: those that have all labels.
fn nodes<'a>(snapshot: &'a Snapshot, constraints: &[&'a SpreadConstraint]) -> impl Iterator<Item = (Slot, &'a Node)> {
    let all_labels = |node: &Node| constraints.iter().all(|it| node.labels.get(&it.topology_key).is_some());
    let nodes = snapshot.order().iter().filter_map(|&slot| Some((slot, &**snapshot.node(slot)?)));
    nodes.filter(move |(_, node)| all_labels(node))
}

/// What a pod's hard constraints demand, worked out once a decision.
pub(crate) struct Hard<'a>(Vec<Demand<'a>>);

struct Demand<'a> {
    constraint: &'a SpreadConstraint,
    /// The number of matching pods in each domain.
    domains: HashMap<&'a str, i64>,
    fewest: i64,
    /// Whether the pod itself counts.
    own: i64,
}

impl<'a> Hard<'a> {
    pub fn prepare(pod: &'a Pod, snapshot: &'a Snapshot) -> Option<Self> {
        let constraints: Vec<_> = pod.needs.spread.iter().filter(|constraint| constraint.hard).collect();
        if constraints.is_empty() {
            return None;
        }
        let demand = |constraint: &&'a SpreadConstraint| {
            let mut domains = HashMap::new();
            for (slot, node) in nodes(snapshot, &constraints).filter(|(_, node)| constraint.includes(pod, node)) {
                let domain = node.labels.get(&constraint.topology_key).unwrap_or_default();
                *domains.entry(domain).or_default() += constraint.count_on(pod, snapshot, slot);
            }
            let few = i64::try_from(domains.len()).is_ok_and(|domains| domains < constraint.min_domains);
            let fewest = if few { 0 } else { domains.values().copied().min().unwrap_or(0) };
            Demand { constraint, domains, fewest, own: constraint.counts(pod, pod).into() }
        };
        Some(Self(constraints.iter().map(demand).collect()))
    }

    pub fn filter(&self, node: &Node) -> Option<Rejection> {
        self.0.iter().find_map(|Demand { constraint, domains, fewest, own }| {
            let Some(domain) = node.labels.get(&constraint.topology_key) else {
                return Some(Rejection::hopeless(Plugin::PodTopologySpread, Reason::SPREAD_LABEL));
            };
            let skew = domains.get(domain).copied().unwrap_or(0) + own - fewest;
            (skew > constraint.max_skew).then(|| Rejection::resolvable(Plugin::PodTopologySpread, Reason::SPREAD))
        })
    }
}

/// The scores of the feasible nodes, when the pod has soft constraints.
pub(crate) fn score(pod: &Pod, snapshot: &Snapshot, feasible: &[Slot]) -> Option<Vec<i64>> {
    if pod.needs.spread.is_empty() {
        return score_by_owner(pod, snapshot, feasible);
    }
    let constraints: Vec<_> = pod.needs.spread.iter().filter(|constraint| !constraint.hard).collect();
    if constraints.is_empty() {
        return None;
    }
    let label = |slot: Slot, constraint: &SpreadConstraint| snapshot.node(slot)?.labels.get(&constraint.topology_key);
    let scored: Vec<bool> =
        feasible.iter().map(|&slot| constraints.iter().all(|it| label(slot, it).is_some())).collect();
    let candidates = || feasible.iter().zip(&scored).filter(|(_, scored)| **scored).map(|(slot, _)| *slot);
    let mut raw = vec![0.0; feasible.len()];
    for constraint in &constraints {
        // Only the domains of feasible nodes matter.
        let mut domains: HashMap<&str, i64> =
            candidates().map(|slot| (label(slot, constraint).unwrap_or_default(), 0)).collect();
        for (slot, node) in nodes(snapshot, &constraints).filter(|(_, node)| constraint.includes(pod, node)) {
            if let Some(count) = domains.get_mut(node.labels.get(&constraint.topology_key).unwrap_or_default()) {
                *count += constraint.count_on(pod, snapshot, slot);
            }
        }
        let weight = weight(domains.len());
        for (raw, &slot) in raw.iter_mut().zip(feasible) {
            let count = label(slot, constraint).and_then(|domain| domains.get(domain)).copied().unwrap_or(0);
            *raw += cost(count, constraint.max_skew, weight);
        }
    }
    Some(invert(&raw, &scored))
}

/// The soft default: replicas of one owner over zones and nodes.
fn score_by_owner(pod: &Pod, snapshot: &Snapshot, feasible: &[Slot]) -> Option<Vec<i64>> {
    let counts = snapshot.of_owner(pod.owner.as_deref()?)?;
    let zone = |slot: Slot| snapshot.node(slot)?.labels.get(ZONE);
    let mut zones: HashMap<&str, i64> = feasible.iter().filter_map(|&slot| Some((zone(slot)?, 0))).collect();
    for (&slot, &count) in counts {
        if let Some(total) = zone(slot).and_then(|zone| zones.get_mut(zone)) {
            *total += i64::from(count);
        }
    }
    let weights = [weight(zones.len()), weight(feasible.len())];
    let raw = feasible.iter().map(|slot| {
        let by_zone = zone(*slot).map(|zone| zones.get(zone).copied().unwrap_or(0));
        let on_node = Some(counts.get(slot).map_or(0, |count| i64::from(*count)));
        let costs = [by_zone, on_node].into_iter().zip(DEFAULTS).zip(weights);
        costs.filter_map(|((count, (_, skew)), weight)| Some(cost(count?, skew, weight))).sum()
    });
    Some(invert(&raw.collect::<Vec<f64>>(), &vec![true; feasible.len()]))
}

/// A domain of many kinds weighs more, so that few large ones do not drown it.
#[expect(clippy::cast_precision_loss, reason = "a number of nodes is exact in a float")]
fn weight(domains: usize) -> f64 {
    ((domains + 2) as f64).ln()
}

#[expect(clippy::cast_precision_loss, reason = "a number of pods is exact in a float")]
fn cost(count: i64, max_skew: i64, weight: f64) -> f64 {
    count as f64 * weight + (max_skew - 1) as f64
}

/// The fewer pods the better; nodes without the labels get nothing.
#[expect(clippy::cast_possible_truncation, reason = "costs are small")]
fn invert(raw: &[f64], scored: &[bool]) -> Vec<i64> {
    let costs: Vec<Option<i64>> =
        raw.iter().zip(scored).map(|(raw, scored)| scored.then(|| raw.round() as i64)).collect();
    let min = costs.iter().flatten().min().copied().unwrap_or(0);
    let max = costs.iter().flatten().max().copied().unwrap_or(0);
    let score = |cost: Option<i64>| match cost {
        None => 0,
        Some(_) if max == 0 => MAX_SCORE,
        Some(cost) => MAX_SCORE * (max + min - cost) / max,
    };
    costs.into_iter().map(score).collect()
}

pub(crate) fn helps(pod: &Pod, event: Event<'_>) -> bool {
    let hard = || pod.needs.spread.iter().filter(|constraint| constraint.hard);
    match event {
        Event::Placed(other) | Event::Gone(other) => hard().any(|constraint| constraint.counts(other, pod)),
        Event::Object { .. } => false,
        Event::Node { old, new } => {
            let domains = |node: &Node| hard().map(|it| node.labels.get(&it.topology_key).map(str::to_owned)).collect();
            let now: Vec<Option<String>> = domains(new);
            old.map_or(now.iter().all(Option::is_some), |old| domains(old) != now)
        }
    }
}
