//! Preemption: which pods of lower priority would have to go so that one can run, with as few budgets broken and as little
//! of importance lost as can be.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use client::Item;
use parking_lot::Mutex;
use rand::Rng;
use serde::Deserialize;

use crate::{
    decide::{Decider, Trial, Unfit, World},
    expression::Selector,
    plugins::Plugin,
    pod::Pod,
    snapshot::{Slot, Snapshot},
    verdict::{Diagnosis, Rejection},
};

/// What came of the attempt.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The pod may have this node once the victims have left.
    Nominated(Preemption),
    /// The pod takes nobody's place.
    Never,
    /// The victims of the last attempt are still leaving.
    Terminating,
    /// Nobody's leaving would help, as told of each node.
    Nowhere(Diagnosis),
    /// An extender would have none of the nodes, or failed.
    Refused(String),
    /// The profile does without preemption.
    Off,
}

/// A node, and who must leave it.
#[derive(Debug)]
pub(crate) struct Preemption {
    pub slot: Slot,
    /// The most important first.
    pub victims: Vec<Arc<Pod>>,
    /// How many of them budgets would rather keep.
    pub violations: usize,
}

impl PartialEq for Preemption {
    fn eq(&self, other: &Self) -> bool {
        self.slot == other.slot && self.victims.iter().map(|it| it.uid()).eq(other.victims.iter().map(|it| it.uid()))
    }
}

impl Eq for Preemption {}

/// A PodDisruptionBudget.
#[derive(Debug)]
pub(crate) struct Budget {
    namespace: Box<str>,
    selector: Selector,
    allowed: i64,
    /// Pods whose disruption was counted already.
    disrupted: BTreeSet<Box<str>>,
}

impl Budget {
    /// None for one that selects nothing.
    pub fn parse(item: &Item) -> Option<Self> {
        #[derive(Deserialize)]
        struct Raw {
            spec: Spec,
            #[serde(default)]
            status: Status,
        }
        #[derive(Deserialize)]
        struct Spec {
            selector: Option<Selector>,
        }
        #[derive(Deserialize, Default)]
        #[serde(default, rename_all = "camelCase")]
        struct Status {
            disruptions_allowed: i64,
            disrupted_pods: std::collections::BTreeMap<Box<str>, serde::de::IgnoredAny>,
        }
        let Raw { spec, status } = serde_json::from_slice(&item.bytes).ok()?;
        let selector = spec.selector.filter(|selector| !selector.0.is_empty())?;
        let disrupted = status.disrupted_pods.into_keys().collect();
        Some(Self { namespace: item.namespace().into(), selector, allowed: status.disruptions_allowed, disrupted })
    }

    fn covers(&self, pod: &Pod) -> bool {
        *self.namespace == *pod.item.namespace()
            && self.selector.matches(|key| pod.labels().get(key))
            && !self.disrupted.contains(pod.item.name())
    }
}

/// What the victims' choice may ask.
#[derive(Clone, Copy)]
pub(crate) struct Lives<'a> {
    pub budgets: &'a [Arc<Budget>],
    /// The newest version of a pod that is there.
    pub newest: &'a dyn Fn(&Pod) -> Arc<Item>,
    pub starts: &'a Starts,
}

/// Since when pods run, in nanoseconds, by their uid. It is read once for a pod that does, and once a version for one that
/// does not yet.
#[derive(Debug, Default)]
pub(crate) struct Starts(Mutex<HashMap<Box<str>, Start>>);

/// A version of a pod, and when it began to run.
type Start = (u64, Option<i128>);

impl Starts {
    pub fn forget(&self, uid: &str) {
        self.0.lock().remove(uid);
    }

    fn of(&self, pod: &Pod, newest: &dyn Fn(&Pod) -> Arc<Item>) -> Option<i128> {
        let mut known = self.0.lock();
        let item = match known.get(pod.uid()) {
            Some((_, Some(start))) => return Some(*start),
            Some((version, None)) => match newest(pod) {
                item if item.resource_version == *version => return None,
                item => item,
            },
            None => newest(pod),
        };
        let start = status(&item).start_time.map(jiff::Timestamp::as_nanosecond);
        known.insert(pod.uid().into(), (item.resource_version, start));
        start
    }
}

impl Lives<'_> {
    /// Since when a pod runs, in nanoseconds; one that does not yet, since for ever in the future.
    fn since(&self, pod: &Pod) -> i128 {
        self.starts.of(pod, self.newest).unwrap_or(i128::MAX)
    }

    /// Whether a pod leaves because another one took its place.
    fn is_leaving(&self, pod: &Pod) -> bool {
        let newest = (self.newest)(pod);
        let target = |it: &Condition| &*it.kind == "DisruptionTarget";
        newest.deleting
            && status(&newest)
                .conditions
                .iter()
                .find(|it| target(it))
                .is_some_and(|it| &*it.status == "True" && &*it.reason == "PreemptionByScheduler")
    }

    /// Parts pods, the most important first, into those whose budgets would be broken and the others.
    fn part(&self, pods: &[Arc<Pod>]) -> (Vec<Arc<Pod>>, Vec<Arc<Pod>>) {
        let mut left: Vec<i64> = self.budgets.iter().map(|budget| budget.allowed).collect();
        pods.iter().cloned().partition(|pod| {
            let mut broken = false;
            for (_, left) in self.budgets.iter().zip(&mut left).filter(|(budget, _)| budget.covers(pod)) {
                *left -= 1;
                broken |= *left < 0;
            }
            broken
        })
    }
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    start_time: Option<jiff::Timestamp>,
    conditions: Vec<Condition>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: Box<str>,
    status: Box<str>,
    reason: Box<str>,
}

fn status(item: &Item) -> Status {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Head {
        status: Status,
    }
    serde_json::from_slice::<Head>(&item.bytes).unwrap_or_default().status
}

/// Looks for a node to clear for a pod that fits nowhere. The snapshot is as before when it returns.
pub(crate) fn find(
    decider: &mut Decider,
    pod: &Pod,
    snapshot: &mut Snapshot,
    unfit: &Unfit,
    nominated: Option<Slot>,
    (world, lives): (World<'_>, Lives<'_>),
    dice: &mut impl Rng,
) -> Outcome {
    if !decider.profile.preempts {
        return Outcome::Off;
    }
    if !pod.preempts {
        return Outcome::Never;
    }
    let is_lower = |other: &Pod| other.priority < pod.priority;
    if let Some(slot) = nominated.filter(|slot| unfit.resolvable.contains(slot))
        && snapshot.pods_on(slot).iter().any(|other| is_lower(other) && lives.is_leaving(other))
    {
        return Outcome::Terminating;
    }
    let nodes = &unfit.resolvable;
    let (percentage, least) = decider.profile.preemption_nodes;
    let mut trial = match decider.trial(pod, snapshot, world) {
        Ok(trial) => trial,
        Err(rejection) => return nowhere(unfit, &vec![rejection; nodes.len()], snapshot),
    };
    let wanted = (nodes.len() * percentage / 100).max(least).min(nodes.len());
    let offset = if nodes.is_empty() { 0 } else { dice.random_range(0..nodes.len()) };
    let (mut found, mut harmless, mut tried) = (Vec::<Preemption>::new(), 0, Vec::new());
    for at in 0..nodes.len() {
        let slot = nodes[(offset + at) % nodes.len()];
        match clear(&mut trial, pod, snapshot, slot, lives) {
            Ok(preemption) => {
                harmless += usize::from(preemption.violations == 0);
                found.push(preemption);
            }
            Err(rejection) => tried.push(rejection),
        }
        if harmless > 0 && found.len() >= wanted {
            break;
        }
    }
    for extender in world.extenders.iter().filter(|it| it.is_interested(pod)) {
        if found.is_empty() {
            break;
        }
        let known = found.iter().map(|it| Preemption { victims: it.victims.clone(), ..*it }).collect();
        match extender.preempt(pod, known, snapshot) {
            Ok(kept) if kept.is_empty() => return Outcome::Refused("no candidate node for preemption".into()),
            Ok(kept) => found = kept,
            Err(error) if extender.is_ignorable() => {
                tracing::warn!(extender = extender.name(), error, "goes on without an extender");
            }
            Err(error) => return Outcome::Refused(error),
        }
    }
    let best = found.into_iter().min_by_key(|it| cost(it, lives));
    best.map_or_else(|| nowhere(unfit, &tried, snapshot), Outcome::Nominated)
}

/// What is lost, the most weighty first: broken budgets, the highest priority, all priorities, pods, and the time that the
/// most important have run.
fn cost(it: &Preemption, lives: Lives<'_>) -> impl Ord + use<> {
    let priorities = || it.victims.iter().map(|victim| i64::from(victim.priority));
    // A sum of priorities alone would prefer many of negative priority.
    let sum: i64 = priorities().map(|priority| priority - i64::from(i32::MIN)).sum();
    let highest = priorities().max();
    let most_important = it.victims.iter().filter(|victim| Some(i64::from(victim.priority)) == highest);
    let earliest = most_important.map(|victim| lives.since(victim)).min();
    (it.violations, highest, sum, it.victims.len(), Reverse(earliest))
}

fn nowhere(unfit: &Unfit, tried: &[Rejection], snapshot: &Snapshot) -> Outcome {
    let nodes = snapshot.order().len();
    let mut diagnosis = Diagnosis::new(nodes, tried.iter());
    if nodes > unfit.resolvable.len() {
        let helpless = Rejection::because(Plugin::Extender, true, ["Preemption is not helpful for scheduling".into()]);
        diagnosis.add(nodes - unfit.resolvable.len(), &helpless);
    }
    Outcome::Nowhere(diagnosis)
}

/// Whether the pod fits on a node without some of its lower pods, and without which.
fn clear(
    trial: &mut Trial<'_>,
    pod: &Pod,
    snapshot: &mut Snapshot,
    slot: Slot,
    lives: Lives<'_>,
) -> Result<Preemption, Rejection> {
    // Of those for whom room is kept only, the lower ones are not in the snapshot now.
    let mut lower = trial.lift(snapshot, slot, |other| other.priority < pod.priority);
    if lower.is_empty() {
        let text = "No preemption victims found for incoming pod".into();
        return Err(Rejection::because(Plugin::Extender, true, [text]));
    }
    if let Some(rejection) = trial.rejection(snapshot, slot) {
        lower.into_iter().for_each(|other| trial.put_back(snapshot, slot, other));
        return Err(rejection);
    }
    // The most important are spared first: by priority, and those that run the longest.
    lower.sort_by_cached_key(|other| (Reverse(other.priority), lives.since(other)));
    let (dear, cheap) = lives.part(&lower);
    let parts = dear.into_iter().map(|other| (other, 1)).chain(cheap.into_iter().map(|other| (other, 0)));
    let (mut victims, mut violations) = (Vec::new(), 0);
    for (other, violation) in parts {
        trial.put_back(snapshot, slot, other.clone());
        if trial.rejection(snapshot, slot).is_some() {
            trial.lift(snapshot, slot, |it| it.uid() == other.uid());
            victims.push(other);
            violations += violation;
        }
    }
    victims.iter().for_each(|victim| trial.put_back(snapshot, slot, victim.clone()));
    victims.sort_by_cached_key(|victim| lower.iter().position(|other| other.uid() == victim.uid()));
    Ok(Preemption { slot, victims, violations })
}
