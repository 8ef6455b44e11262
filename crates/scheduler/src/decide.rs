//! The decision: which node a pod goes to. A function of the snapshot, the pod and dice.

use std::sync::Arc;

use rand::Rng;

use crate::{
    candidates::Candidates,
    class::{Class, Classes},
    expression::Selector,
    extender::{Extender, Filtered, Nodes},
    plugins::{
        Plugin,
        dynamic_resources::Freed,
        extension::{Extension, Judge, Reservation},
        image_locality, inter_pod_affinity, node_declared_features, node_ports, node_resources_balanced_allocation,
        node_resources_fit, normalize, pod_topology_spread,
    },
    pod::Pod,
    profile::Profile,
    snapshot::{Slot, Snapshot},
    verdict::{Diagnosis, Rejection},
};

/// In smaller clusters every node is looked at.
const SAMPLED_FROM: usize = 100;

/// What a decision may ask besides the snapshot.
#[derive(Clone, Copy)]
pub(crate) struct World<'a> {
    pub extensions: &'a [Arc<dyn Extension>],
    /// The pods with which a pod without constraints of its own is spread.
    pub siblings: Option<&'a Selector>,
    pub extenders: &'a [Arc<Extender>],
    /// What extenders are told of nodes.
    pub nodes: Nodes<'a>,
}

/// Where a pod goes, and what is held for it until it is bound.
pub(crate) struct Decision {
    pub slot: Slot,
    pub reservations: Reservations,
}

/// What was taken for one pod, in the order in which it was.
pub(crate) type Reservations = Vec<Box<dyn Reservation>>;

/// What is kept between decisions for the pods of one profile.
pub(crate) struct Decider {
    pub profile: Arc<Profile>,
    classes: Classes,
    /// Where in the order of nodes the next decision begins, so that all get their turn.
    start: usize,
}

/// Why there is no decision.
#[derive(Debug)]
pub(crate) enum Failure {
    Unfit(Unfit),
    /// An extender failed.
    Broken(String),
}

impl From<Unfit> for Failure {
    fn from(unfit: Unfit) -> Self {
        Self::Unfit(unfit)
    }
}

/// A pod fits nowhere.
#[derive(Debug)]
pub(crate) struct Unfit {
    pub diagnosis: Diagnosis,
    /// The nodes that would do if pods were gone from them.
    pub resolvable: Vec<Slot>,
    /// A claim that is given back, so that the pod may get other devices.
    pub freed: Option<Box<Freed>>,
}

/// How many feasible nodes are enough to choose from.
fn enough(nodes: usize, percentage: usize) -> usize {
    if nodes < SAMPLED_FROM || percentage >= 100 {
        return nodes;
    }
    let adapted = if percentage == 0 { 50_usize.saturating_sub(nodes / 125).max(5) } else { percentage };
    (nodes * adapted / 100).max(SAMPLED_FROM)
}

fn takes_part(profile: &Profile, plugin: Plugin) -> bool {
    profile.filters(plugin) || profile.weight(plugin) > 0
}

impl Decider {
    pub fn new(profile: Arc<Profile>) -> Self {
        Self { profile, classes: Classes::default(), start: 0 }
    }

    /// The rules set up for one pod, to see what would be if other pods were gone. An error speaks against all nodes.
    pub fn trial<'a>(
        &'a mut self,
        pod: &'a Pod,
        snapshot: &mut Snapshot,
        world: World<'a>,
    ) -> Result<Trial<'a>, Rejection> {
        snapshot.refresh();
        let class = self.classes.get(&pod.needs, &self.profile, snapshot);
        let against = Against::new(pod, &self.profile, class, snapshot, world)?;
        Ok(Trial { against, class, pod })
    }

    /// The node for a pod: the preferred one if it will do, else the best.
    pub fn decide(
        &mut self,
        pod: &Pod,
        snapshot: &mut Snapshot,
        preferred: Option<Slot>,
        world: World<'_>,
        dice: &mut impl Rng,
    ) -> Result<Decision, Failure> {
        snapshot.refresh();
        let class = self.classes.get(&pod.needs, &self.profile, snapshot);
        let nodes = snapshot.order().len();
        let everywhere = |rejection| Failure::Unfit(Unfit::everywhere(nodes, &rejection));
        let extenders = || world.extenders.iter().filter(|it| it.is_interested(pod));
        let mut against = Against::new(pod, &self.profile, class, snapshot, world).map_err(everywhere)?;
        let snapshot = &*snapshot;
        if let Some(slot) = preferred.filter(|&slot| snapshot.node(slot).is_some())
            && against.find(class, snapshot, slot).is_none()
            && ask(extenders(), pod, vec![slot], snapshot, world.nodes)?.feasible == [slot]
        {
            return against.reserve(snapshot, slot).map_err(everywhere);
        }
        let Found { feasible, named, absent } = against.look(class, snapshot, &mut self.start);
        let Filtered { feasible, rejected } = ask(extenders(), pod, feasible, snapshot, world.nodes)?;
        let slot = match feasible[..] {
            [] => {
                let mut rejections = against.explain(class, snapshot, named.as_deref().unwrap_or(snapshot.order()));
                rejections.extend(rejected);
                let freed = against.judges.iter_mut().find_map(|(_, judge)| judge.relieve()).map(Box::new);
                return Err(Unfit { freed, ..Unfit::new(nodes, &rejections, absent) }.into());
            }
            [only] => only,
            _ => {
                let mut scores = scores(class, snapshot, &feasible, &mut against);
                for more in extenders().filter_map(|it| it.prioritize(pod, &feasible, snapshot, world.nodes)) {
                    scores.iter_mut().zip(more).for_each(|(score, more)| *score += more);
                }
                best(&feasible, &scores, dice)
            }
        };
        against.reserve(snapshot, slot).map_err(everywhere)
    }
}

/// A pod's rules, while pods are taken off nodes and put back to see what would be. One node is tried after another, and all
/// of its pods are back before the next is.
pub(crate) struct Trial<'a> {
    against: Against<'a>,
    class: &'a mut Class,
    pod: &'a Pod,
}

impl Trial<'_> {
    /// What speaks against a node as it is now.
    pub fn rejection(&mut self, snapshot: &Snapshot, slot: Slot) -> Option<Rejection> {
        self.against.find(self.class, snapshot, slot)
    }

    /// Takes pods off a node.
    pub fn lift(&mut self, snapshot: &mut Snapshot, slot: Slot, which: impl Fn(&Pod) -> bool) -> Vec<Arc<Pod>> {
        let lifted = snapshot.lift(slot, which);
        lifted.iter().for_each(|other| self.change(snapshot, slot, other, -1));
        lifted
    }

    pub fn put_back(&mut self, snapshot: &mut Snapshot, slot: Slot, other: Arc<Pod>) {
        self.change(snapshot, slot, &other, 1);
        snapshot.put_back(slot, other);
    }

    fn change(&mut self, snapshot: &Snapshot, slot: Slot, other: &Pod, sign: i64) {
        let Against { profile, hard, near, judges, .. } = &mut self.against;
        if let Some(hard) = hard {
            hard.change(other, slot, sign, (&mut *self.class, *profile, snapshot));
        }
        if let Some(near) = near {
            near.change(self.pod, other, slot, sign, snapshot);
        }
        judges.iter_mut().for_each(|(_, judge)| judge.change(other, slot, sign));
    }
}

/// What the extenders leave of the feasible nodes, one after another.
fn ask<'a>(
    extenders: impl Iterator<Item = &'a Arc<Extender>>,
    pod: &Pod,
    feasible: Vec<Slot>,
    snapshot: &Snapshot,
    nodes: Nodes<'_>,
) -> Result<Filtered, Failure> {
    let mut all = Filtered { feasible, rejected: Vec::new() };
    for extender in extenders {
        if all.feasible.is_empty() {
            break;
        }
        match extender.filter(pod, all.feasible.clone(), snapshot, nodes) {
            Ok(Filtered { feasible, rejected }) => {
                // Without a reason it is still the extender that would not have the node.
                let silent = all.feasible.iter().filter(|slot| !feasible.contains(slot));
                let silent = silent.filter(|slot| !rejected.iter().any(|(other, _)| other == *slot)).copied();
                all.rejected.extend(silent.map(|slot| (slot, Rejection::because(Plugin::Extender, false, []))));
                all.rejected.extend(rejected);
                all.feasible = feasible;
            }
            Err(error) if extender.is_ignorable() => {
                tracing::warn!(extender = extender.name(), error, "goes on without an extender");
            }
            Err(error) => return Err(Failure::Broken(error)),
        }
    }
    Ok(all)
}

#[cfg(test)]
impl Decider {
    /// All nodes that will do with their scores, by name.
    pub fn scored(
        &mut self,
        pod: &Pod,
        snapshot: &mut Snapshot,
        world: World<'_>,
    ) -> std::collections::BTreeMap<String, i64> {
        snapshot.refresh();
        let class = self.classes.get(&pod.needs, &self.profile, snapshot);
        let Ok(mut against) = Against::new(pod, &self.profile, class, snapshot, world) else {
            return Default::default();
        };
        let feasible = against.look(class, snapshot, &mut 0).feasible;
        let scores = scores(class, snapshot, &feasible, &mut against);
        feasible.iter().map(|slot| snapshot.node_name(*slot).to_owned()).zip(scores).collect()
    }
}

/// What became of the search.
struct Found {
    feasible: Vec<Slot>,
    /// The only nodes among which was looked, if the pod names some.
    named: Option<Vec<Slot>>,
    /// Nodes that were not looked at, because the pod names others.
    absent: usize,
}

/// All rules that filter, with what they know of the pods that are there.
struct Against<'a> {
    profile: &'a Profile,
    spread: Option<pod_topology_spread::Plan>,
    hard: Option<pod_topology_spread::Hard>,
    near: Option<inter_pod_affinity::Near>,
    /// The extensions that the pod concerns, in the order of their plugins.
    judges: Vec<(Plugin, Box<dyn Judge + 'a>)>,
}

impl<'a> Against<'a> {
    fn new(
        pod: &'a Pod,
        profile: &'a Profile,
        class: &mut Class,
        snapshot: &mut Snapshot,
        world: World<'a>,
    ) -> Result<Self, Rejection> {
        let mut judges = Vec::new();
        for extension in world.extensions.iter().filter(|it| profile.filters(it.plugin())) {
            judges.extend(extension.prepare(pod, snapshot)?.map(|judge| (extension.plugin(), judge)));
        }
        let spread = takes_part(profile, Plugin::PodTopologySpread)
            .then(|| pod_topology_spread::Plan::new(pod, profile, world.siblings, snapshot))
            .flatten();
        let near = takes_part(profile, Plugin::InterPodAffinity)
            .then(|| inter_pod_affinity::Near::new(pod, profile, snapshot))
            .flatten();
        let hard = spread.as_ref().filter(|_| profile.filters(Plugin::PodTopologySpread));
        let hard = hard.and_then(|plan| pod_topology_spread::Hard::prepare(plan, class, profile, snapshot));
        Ok(Self { profile, spread, hard, near, judges })
    }

    /// Looks at nodes until enough are feasible, beginning where the last search ended.
    fn look(&mut self, class: &mut Class, snapshot: &Snapshot, start: &mut usize) -> Found {
        let named = self.profile.filters(Plugin::NodeAffinity).then(|| class.needs.node_affinity.names()).flatten();
        let named: Option<Vec<Slot>> =
            named.map(|names| names.into_iter().filter_map(|name| snapshot.slot_of_node(name)).collect());
        let all = snapshot.order().len();
        let order = named.as_deref().unwrap_or(snapshot.order());
        let enough = enough(order.len(), self.profile.percentage);
        let mut candidates = Candidates::new(class, self.profile, snapshot);
        let (mut feasible, mut seen) = (Vec::with_capacity(enough), 0);
        let begin = if order.is_empty() { 0 } else { *start % order.len() };
        for &slot in order[begin..].iter().chain(&order[..begin]) {
            seen += 1;
            if candidates.has(slot, class, snapshot) && self.find_more(class, snapshot, slot).is_none() {
                feasible.push(slot);
                if feasible.len() >= enough {
                    break;
                }
            }
        }
        let absent = all - order.len();
        if absent == 0 {
            *start = (begin + seen) % all.max(1);
        }
        Found { feasible, named, absent }
    }

    /// What speaks against nodes of which it is told why. That is mostly nobody's question, so it is not kept by the search.
    fn explain(&mut self, class: &mut Class, snapshot: &Snapshot, order: &[Slot]) -> Vec<(Slot, Rejection)> {
        order.iter().filter_map(|&slot| Some((slot, self.find(class, snapshot, slot)?))).collect()
    }

    /// The first rule's rejection of a node.
    fn find(&mut self, class: &mut Class, snapshot: &Snapshot, slot: Slot) -> Option<Rejection> {
        let profile = self.profile;
        // The order of nodes has only slots that have one.
        let node = snapshot.node(slot)?;
        if let Some(rejection) = &class.row(profile, snapshot, slot, node).rejection {
            return Some(rejection.clone());
        }
        let is_on = |plugin| profile.filters(plugin);
        let ports = || is_on(Plugin::NodePorts).then(|| node_ports::filter(&class.needs, snapshot, slot)).flatten();
        let fit = || {
            is_on(Plugin::NodeResourcesFit)
                .then(|| node_resources_fit::filter(&class.requests, snapshot, slot))
                .flatten()
        };
        ports().or_else(fit).or_else(|| self.find_more(class, snapshot, slot))
    }

    /// The same by the rules that need more than the columns of nodes.
    fn find_more(&mut self, class: &Class, snapshot: &Snapshot, slot: Slot) -> Option<Rejection> {
        let (profile, node) = (self.profile, snapshot.node(slot)?);
        let is_on = |plugin| profile.filters(plugin);
        let needs = &class.needs;
        if !needs.ports.is_empty()
            && is_on(Plugin::NodePorts)
            && let Some(rejection) = node_ports::filter(needs, snapshot, slot)
        {
            return Some(rejection);
        }
        let split = self.judges.partition_point(|(plugin, _)| *plugin < Plugin::PodTopologySpread);
        let (early, late) = self.judges.split_at_mut(split);
        let judged = |judges: &mut [(Plugin, Box<dyn Judge + 'a>)]| {
            judges.iter_mut().find_map(|(_, judge)| judge.filter(slot, node, snapshot))
        };
        let features =
            || is_on(Plugin::NodeDeclaredFeatures).then(|| node_declared_features::filter(needs, node)).flatten();
        judged(early)
            .or_else(|| self.hard.as_ref()?.filter(slot, snapshot))
            .or_else(|| self.near.as_ref().filter(|_| is_on(Plugin::InterPodAffinity))?.filter(slot, snapshot))
            .or_else(|| judged(late))
            .or_else(features)
    }

    /// Takes on the node what the extensions keep for the pod, all or nothing.
    fn reserve(mut self, snapshot: &Snapshot, slot: Slot) -> Result<Decision, Rejection> {
        let mut reservations = Reservations::new();
        let Some(node) = snapshot.node(slot) else { return Ok(Decision { slot, reservations }) };
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
        Self { diagnosis: Diagnosis::everywhere(nodes, rejection), resolvable: Vec::new(), freed: None }
    }

    fn new(nodes: usize, rejections: &[(Slot, Rejection)], absent: usize) -> Self {
        let mut diagnosis = Diagnosis::new(nodes, rejections.iter().map(|(_, rejection)| rejection));
        if absent > 0 {
            let text = format!("node(s) didn't satisfy plugin(s) [{}]", Plugin::NodeAffinity.name());
            diagnosis.add(absent, &Rejection::because(Plugin::NodeAffinity, true, [text.into()]));
        }
        let resolvable =
            rejections.iter().filter(|(_, rejection)| !rejection.hopeless).map(|(slot, _)| *slot).collect();
        Self { diagnosis, resolvable, freed: None }
    }
}

/// The weighted sum of all scores, for each feasible node.
fn scores(class: &mut Class, snapshot: &Snapshot, feasible: &[Slot], against: &mut Against<'_>) -> Vec<i64> {
    let profile = against.profile;
    let weight = |plugin| profile.weight(plugin);
    let needs = class.needs.clone();
    let fit = weight(Plugin::NodeResourcesFit);
    let balance = if class.compared.is_empty() { 0 } else { weight(Plugin::NodeResourcesBalancedAllocation) };
    let images = if image_locality::applies(&needs, snapshot) { weight(Plugin::ImageLocality) } else { 0 };
    let mut total = vec![0; feasible.len()];
    for (total, &slot) in total.iter_mut().zip(feasible) {
        if fit > 0 {
            *total += fit * node_resources_fit::score(&class.scored, &profile.fit.strategy, snapshot, slot);
        }
        if balance > 0 {
            *total += balance * node_resources_balanced_allocation::score(&class.compared, snapshot, slot);
        }
        if images > 0 {
            *total += images * image_locality::score(&needs, snapshot, slot);
        }
    }
    let mut add = |plugin: Plugin, scores: &[i64]| {
        total.iter_mut().zip(scores).for_each(|(total, score)| *total += weight(plugin) * score);
    };
    let (mut taints, mut affinity) = (Vec::with_capacity(feasible.len()), Vec::with_capacity(feasible.len()));
    let (has_taints, has_preferred) = class.has_soft();
    for &slot in feasible.iter().filter(|_| has_taints || has_preferred) {
        if let Some(node) = snapshot.node(slot) {
            let row = class.row(profile, snapshot, slot, node);
            taints.push(row.taints);
            affinity.push(row.affinity);
        }
    }
    if taints.iter().any(|count| *count > 0) {
        normalize(&mut taints, true);
        add(Plugin::TaintToleration, &taints);
    }
    if affinity.iter().any(|score| *score > 0) {
        normalize(&mut affinity, false);
        add(Plugin::NodeAffinity, &affinity);
    }
    let spread = against.spread.as_ref().filter(|_| weight(Plugin::PodTopologySpread) > 0);
    if let Some(scores) = spread.and_then(|plan| pod_topology_spread::score(plan, class, profile, snapshot, feasible)) {
        add(Plugin::PodTopologySpread, &scores);
    }
    if let Some(scores) = against.near.as_ref().and_then(|near| near.score(feasible, snapshot)) {
        add(Plugin::InterPodAffinity, &scores);
    }
    for (plugin, judge) in &mut against.judges {
        if weight(*plugin) > 0
            && let Some(scores) = judge.score(feasible)
        {
            add(*plugin, &scores);
        }
    }
    total
}

/// One of the best, by dice.
fn best(feasible: &[Slot], scores: &[i64], dice: &mut impl Rng) -> Slot {
    let most = scores.iter().copied().max().unwrap_or(0);
    let ties = scores.iter().filter(|score| **score == most).count();
    let chosen = if ties > 1 { dice.random_range(0..ties) } else { 0 };
    let mut best = feasible.iter().zip(scores).filter(|(_, score)| **score == most);
    best.nth(chosen).map_or(feasible[0], |(slot, _)| *slot)
}
