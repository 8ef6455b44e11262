//! Preemption: which pods of lower priority would have to go so that one can run.

use std::{cmp::Reverse, sync::Arc};

use crate::{
    decide::{Decider, Unfit, World},
    pod::Pod,
    snapshot::{Placed, Slot, Snapshot},
};

/// Nodes that are tried at least, and what part of all nodes.
const TRIED: usize = 100;
const TRIED_PART: usize = 10;

/// What came of the attempt.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The pod may have this node once the victims have left.
    Nominated(Preemption),
    /// The pod takes nobody's place.
    Never,
    /// The victims of the last attempt are still leaving.
    Terminating,
    /// Nobody's leaving would help.
    Nowhere,
}

/// A node, and who must leave it.
#[derive(Debug)]
pub(crate) struct Preemption {
    pub slot: Slot,
    pub victims: Vec<Arc<Pod>>,
}

impl PartialEq for Preemption {
    fn eq(&self, other: &Self) -> bool {
        self.slot == other.slot && self.victims.iter().map(|it| it.uid()).eq(other.victims.iter().map(|it| it.uid()))
    }
}

impl Eq for Preemption {}

/// Looks for a node to clear for a pod that fits nowhere. The snapshot is as before when it returns.
pub(crate) fn find(
    decider: &mut Decider,
    pod: &Pod,
    snapshot: &mut Snapshot,
    unfit: &Unfit,
    nominated: Option<Slot>,
    world: World<'_>,
) -> Outcome {
    if !pod.preempts {
        return Outcome::Never;
    }
    let is_lower = |other: &Pod| other.priority < pod.priority;
    if let Some(slot) = nominated
        && snapshot.pods_on(slot).iter().any(|other| is_lower(other) && other.item.deleting)
    {
        return Outcome::Terminating;
    }
    let tried = TRIED.max(snapshot.order().len() / TRIED_PART);
    let mut found: Vec<Preemption> = Vec::new();
    for &slot in &unfit.resolvable {
        let mut lower: Vec<Arc<Pod>> = snapshot.pods_on(slot).iter().filter(|other| is_lower(other)).cloned().collect();
        if lower.is_empty() {
            continue;
        }
        // The most important are spared first.
        lower.sort_by_key(|other| Reverse(other.priority));
        found.extend(clear(decider, pod, snapshot, slot, &lower, world));
        if found.len() >= tried {
            break;
        }
    }
    let cost = |it: &Preemption| {
        let priorities = || it.victims.iter().map(|victim| i64::from(victim.priority));
        // A sum of priorities alone would prefer many of negative priority.
        let sum: i64 = priorities().map(|priority| priority - i64::from(i32::MIN)).sum();
        (priorities().max(), sum, it.victims.len())
    };
    found.into_iter().min_by_key(cost).map_or(Outcome::Nowhere, Outcome::Nominated)
}

/// Whether the pod fits on a node without some of its lower pods, and without which.
fn clear(
    decider: &mut Decider,
    pod: &Pod,
    snapshot: &mut Snapshot,
    slot: Slot,
    lower: &[Arc<Pod>],
    world: World<'_>,
) -> Option<Preemption> {
    let node = snapshot.node_name(slot).to_owned();
    let out: Vec<Placed> = lower.iter().filter_map(|other| snapshot.remove_pod(other.uid())).collect();
    let mut fits = |snapshot: &mut Snapshot| decider.rejection(pod, snapshot, slot, world).is_none();
    let is_possible = fits(snapshot);
    let mut victims = Vec::new();
    for Placed { pod: other, stage, .. } in &out {
        snapshot.place(other.clone(), &node, *stage);
        if is_possible && !fits(snapshot) {
            snapshot.remove_pod(other.uid());
            victims.push(other.clone());
        }
    }
    for Placed { pod: other, stage, .. } in out {
        if victims.iter().any(|victim| victim.uid() == other.uid()) {
            snapshot.place(other, &node, stage);
        }
    }
    is_possible.then_some(Preemption { slot, victims })
}
