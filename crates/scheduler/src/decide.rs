//! The decision: which node a pod goes to. A function of the snapshot, the pod and dice.

use std::sync::Arc;

use rand::Rng;

use crate::{
    class::{Class, Classes},
    plugins::{
        Plugin,
        extension::{Extension, Judge, Reservation},
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

/// What a decision may ask besides the snapshot.
#[derive(Clone, Copy)]
pub(crate) struct World<'a> {
    pub namespaces: inter_pod_affinity::Namespaces<'a>,
    pub extensions: &'a [Arc<dyn Extension>],
}

/// Where a pod goes, and what is held for it until it is bound.
pub(crate) struct Decision {
    pub slot: Slot,
    pub reservations: Reservations,
}

/// What was taken for one pod, in the order in which it was.
pub(crate) type Reservations = Vec<Box<dyn Reservation>>;

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
    pub fn rejection(&mut self, pod: &Pod, snapshot: &mut Snapshot, slot: Slot, world: World<'_>) -> Option<Rejection> {
        let class = self.classes.get(&pod.needs, snapshot);
        match Against::new(pod, snapshot, world) {
            Ok(mut against) => against.find(class, slot),
            Err(rejection) => Some(rejection),
        }
    }

    /// The node for a pod: the preferred one if it will do, else the best.
    pub fn decide(
        &mut self,
        pod: &Pod,
        snapshot: &mut Snapshot,
        preferred: Option<Slot>,
        world: World<'_>,
        dice: &mut impl Rng,
    ) -> Result<Decision, Unfit> {
        let class = self.classes.get(&pod.needs, snapshot);
        let snapshot = &*snapshot;
        let order = snapshot.order();
        let mut against =
            Against::new(pod, snapshot, world).map_err(|rejection| Unfit::everywhere(order.len(), &rejection))?;
        if let Some(slot) = preferred.filter(|&slot| snapshot.node(slot).is_some())
            && against.find(class, slot).is_none()
        {
            return against.reserve(slot).map_err(|rejection| Unfit::everywhere(order.len(), &rejection));
        }
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
        let slot = match feasible[..] {
            [] => return Err(Unfit::new(order.len(), &rejections)),
            [only] => only,
            _ => {
                let scores = scores(pod, class, snapshot, &feasible, &mut against);
                best(&feasible, &scores, dice)
            }
        };
        against.reserve(slot).map_err(|rejection| Unfit::everywhere(order.len(), &rejection))
    }
}

/// All rules that filter, with what they know of the pods that are there.
struct Against<'a> {
    snapshot: &'a Snapshot,
    spread: Option<pod_topology_spread::Hard<'a>>,
    near: Option<inter_pod_affinity::Near<'a>>,
    /// The extensions that the pod concerns.
    judges: Vec<(Plugin, Box<dyn Judge + 'a>)>,
}

impl<'a> Against<'a> {
    fn new(pod: &'a Pod, snapshot: &'a Snapshot, world: World<'a>) -> Result<Self, Rejection> {
        let mut judges = Vec::new();
        for extension in world.extensions {
            judges.extend(extension.prepare(pod, snapshot)?.map(|judge| (extension.plugin(), judge)));
        }
        let spread = pod_topology_spread::Hard::prepare(pod, snapshot);
        let near = inter_pod_affinity::Near::prepare(pod, snapshot, world.namespaces);
        Ok(Self { snapshot, spread, near, judges })
    }

    /// The first rule's rejection of a node.
    fn find(&mut self, class: &mut Class, slot: Slot) -> Option<Rejection> {
        // The order of nodes has only slots that have one.
        let node = self.snapshot.node(slot)?;
        if let Some(rejection) = &class.row(self.snapshot, slot, node).rejection {
            return Some(rejection.clone());
        }
        node_ports::filter(&class.needs, self.snapshot, slot)
            .or_else(|| node_resources_fit::filter(&class.requests, self.snapshot, slot))
            .or_else(|| self.judges.iter_mut().find_map(|(_, judge)| judge.filter(slot, node)))
            .or_else(|| self.spread.as_ref()?.filter(node))
            .or_else(|| self.near.as_ref()?.filter(node))
    }

    /// Takes on the node what the extensions keep for the pod, all or nothing.
    fn reserve(mut self, slot: Slot) -> Result<Decision, Rejection> {
        let mut reservations = Reservations::new();
        let Some(node) = self.snapshot.node(slot) else { return Ok(Decision { slot, reservations }) };
        for (plugin, judge) in &mut self.judges {
            match judge.reserve(slot, node) {
                Ok(reserved) => reservations.extend(reserved),
                Err(text) => {
                    reservations.into_iter().rev().for_each(Reservation::unreserve);
                    return Err(Rejection::because(*plugin, true, [text]));
                }
            }
        }
        Ok(Decision { slot, reservations })
    }
}

impl Unfit {
    fn everywhere(nodes: usize, rejection: &Rejection) -> Self {
        Self { diagnosis: Diagnosis::everywhere(nodes, rejection), resolvable: Vec::new() }
    }

    fn new(nodes: usize, rejections: &[(Slot, Rejection)]) -> Self {
        let diagnosis = Diagnosis::new(nodes, rejections.iter().map(|(_, rejection)| rejection));
        let resolvable =
            rejections.iter().filter(|(_, rejection)| !rejection.hopeless).map(|(slot, _)| *slot).collect();
        Self { diagnosis, resolvable }
    }
}

/// The weighted sum of all scores, for each feasible node.
fn scores(pod: &Pod, class: &mut Class, snapshot: &Snapshot, feasible: &[Slot], against: &mut Against<'_>) -> Vec<i64> {
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
    let mut rows: Vec<(i64, i64)> = Vec::with_capacity(feasible.len());
    rows.extend(feasible.iter().filter_map(|&slot| {
        let row = class.row(snapshot, slot, snapshot.node(slot)?);
        Some((row.taints, row.affinity))
    }));
    let mut taints: Vec<i64> = rows.iter().map(|(taints, _)| *taints).collect();
    if taints.iter().any(|count| *count > 0) {
        normalize(&mut taints, true);
        add(TAINTS, &taints);
    }
    if !needs.node_affinity.preferred.is_empty() {
        let mut affinity: Vec<i64> = rows.iter().map(|(_, affinity)| *affinity).collect();
        normalize(&mut affinity, false);
        add(AFFINITY, &affinity);
    }
    if let Some(spread) = pod_topology_spread::score(pod, snapshot, feasible) {
        add(SPREAD, &spread);
    }
    if let Some(near) = against.near.as_ref().and_then(|near| near.score(snapshot, feasible)) {
        add(NEAR, &near);
    }
    for (_, judge) in &mut against.judges {
        if let Some(scores) = judge.score(feasible) {
            add(1, &scores);
        }
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
