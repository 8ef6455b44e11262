//! The decision: which node a pod goes to. A function of the snapshot, the pod and dice.

use rand::Rng;

use crate::{
    class::{Class, Classes},
    plugins::{
        image_locality, inter_pod_affinity, node_ports, node_resources_balanced_allocation, node_resources_fit,
        normalize, pod_topology_spread,
    },
    pod::Pod,
    snapshot::{Slot, Snapshot},
    verdict::{Diagnosis, Rejection},
};

/// In smaller clusters every node is looked at.
const SAMPLED_FROM: usize = 100;
/// The weights of the scores, as upstream's defaults.
const TAINTS: i64 = 3;
const AFFINITY: i64 = 2;
const SPREAD: i64 = 2;
const NEAR: i64 = 2;

/// What is kept between decisions.
#[derive(Default)]
pub(crate) struct Decider {
    classes: Classes,
    /// Where in the order of nodes the next decision begins, so that all get their turn.
    start: usize,
    /// How many feasible nodes are enough, in per cent of all; 0 means as upstream adapts it to the size.
    percentage: usize,
}

/// A pod fits nowhere.
#[derive(Debug)]
pub(crate) struct Unfit {
    pub diagnosis: Diagnosis,
    /// The nodes that would do if pods were gone from them.
    pub resolvable: Vec<Slot>,
}

/// How many feasible nodes are enough to choose from.
fn enough(nodes: usize, percentage: usize) -> usize {
    if nodes < SAMPLED_FROM || percentage >= 100 {
        return nodes;
    }
    let adapted = if percentage == 0 { 50_usize.saturating_sub(nodes / 125).max(5) } else { percentage };
    (nodes * adapted / 100).max(SAMPLED_FROM)
}

impl Decider {
    pub fn new(percentage: usize) -> Self {
        Self { percentage, ..Self::default() }
    }

    /// What speaks against one node.
    pub fn rejection(
        &mut self,
        pod: &Pod,
        snapshot: &mut Snapshot,
        slot: Slot,
        namespaces: inter_pod_affinity::Namespaces<'_>,
    ) -> Option<Rejection> {
        let class = self.classes.get(&pod.needs, snapshot);
        Against::new(pod, snapshot, namespaces).find(class, slot)
    }

    /// The node for a pod.
    pub fn decide(
        &mut self,
        pod: &Pod,
        snapshot: &mut Snapshot,
        namespaces: inter_pod_affinity::Namespaces<'_>,
        dice: &mut impl Rng,
    ) -> Result<Slot, Unfit> {
        let class = self.classes.get(&pod.needs, snapshot);
        let snapshot = &*snapshot;
        let against = Against::new(pod, snapshot, namespaces);
        let order = snapshot.order();
        let enough = enough(order.len(), self.percentage);
        let (mut feasible, mut rejections, mut seen) = (Vec::with_capacity(enough), Vec::new(), 0);
        for at in 0..order.len() {
            let slot = order[(self.start + at) % order.len()];
            seen += 1;
            match against.find(class, slot) {
                Some(rejection) => rejections.push((slot, rejection)),
                None => feasible.push(slot),
            }
            if feasible.len() >= enough {
                break;
            }
        }
        self.start = (self.start + seen) % order.len().max(1);
        match feasible[..] {
            [] => Err(Unfit::new(order.len(), &rejections)),
            [only] => Ok(only),
            _ => {
                let scores = scores(pod, class, snapshot, &feasible, against.near.as_ref());
                Ok(best(&feasible, &scores, dice))
            }
        }
    }
}

/// All rules that filter, with what they know of the pods that are there.
struct Against<'a> {
    snapshot: &'a Snapshot,
    spread: Option<pod_topology_spread::Hard<'a>>,
    near: Option<inter_pod_affinity::Near<'a>>,
}

impl<'a> Against<'a> {
    fn new(pod: &'a Pod, snapshot: &'a Snapshot, namespaces: inter_pod_affinity::Namespaces<'_>) -> Self {
        let spread = pod_topology_spread::Hard::prepare(pod, snapshot);
        let near = inter_pod_affinity::Near::prepare(pod, snapshot, namespaces);
        Self { snapshot, spread, near }
    }

    /// The first rule's rejection of a node.
    fn find(&self, class: &mut Class, slot: Slot) -> Option<Rejection> {
        // The order of nodes has only slots that have one.
        let node = self.snapshot.node(slot)?;
        class
            .row(self.snapshot, slot, node)
            .rejection
            .or_else(|| node_ports::filter(&class.needs, self.snapshot, slot))
            .or_else(|| node_resources_fit::filter(&class.requests, self.snapshot, slot))
            .or_else(|| self.spread.as_ref()?.filter(node))
            .or_else(|| self.near.as_ref()?.filter(node))
    }
}

impl Unfit {
    fn new(nodes: usize, rejections: &[(Slot, Rejection)]) -> Self {
        let diagnosis = Diagnosis::new(nodes, rejections.iter().map(|(_, rejection)| *rejection));
        let resolvable =
            rejections.iter().filter(|(_, rejection)| !rejection.hopeless).map(|(slot, _)| *slot).collect();
        Self { diagnosis, resolvable }
    }
}

/// The weighted sum of all scores, for each feasible node.
fn scores(
    pod: &Pod,
    class: &mut Class,
    snapshot: &Snapshot,
    feasible: &[Slot],
    near: Option<&inter_pod_affinity::Near<'_>>,
) -> Vec<i64> {
    let needs = class.needs.clone();
    let balanced = node_resources_balanced_allocation::applies(&needs);
    let images = image_locality::applies(&needs, snapshot);
    let mut total: Vec<i64> = feasible
        .iter()
        .map(|&slot| {
            let mut score = node_resources_fit::score(&needs, snapshot, slot);
            if balanced {
                score += node_resources_balanced_allocation::score(&needs, snapshot, slot);
            }
            if images {
                score += image_locality::score(&needs, snapshot, slot);
            }
            score
        })
        .collect();
    let mut add = |weight: i64, scores: &[i64]| {
        total.iter_mut().zip(scores).for_each(|(total, score)| *total += weight * score);
    };
    let mut rows = Vec::with_capacity(feasible.len());
    rows.extend(feasible.iter().filter_map(|&slot| Some(class.row(snapshot, slot, snapshot.node(slot)?))));
    let mut taints: Vec<i64> = rows.iter().map(|row| row.taints).collect();
    if taints.iter().any(|count| *count > 0) {
        normalize(&mut taints, true);
        add(TAINTS, &taints);
    }
    if !needs.node_affinity.preferred.is_empty() {
        let mut affinity: Vec<i64> = rows.iter().map(|row| row.affinity).collect();
        normalize(&mut affinity, false);
        add(AFFINITY, &affinity);
    }
    if let Some(spread) = pod_topology_spread::score(pod, snapshot, feasible) {
        add(SPREAD, &spread);
    }
    if let Some(near) = near.and_then(|near| near.score(snapshot, feasible)) {
        add(NEAR, &near);
    }
    total
}

/// One of the best, by dice.
fn best(feasible: &[Slot], scores: &[i64], dice: &mut impl Rng) -> Slot {
    let (mut best, mut score, mut ties) = (feasible[0], i64::MIN, 0_u32);
    for (&slot, &other) in feasible.iter().zip(scores) {
        if other > score {
            (best, score, ties) = (slot, other, 1);
        } else if other == score {
            ties += 1;
            if dice.random_range(0..ties) == 0 {
                best = slot;
            }
        }
    }
    best
}
