//! What a DaemonSet does next. Functions of values.

use std::time::Duration;

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, DaemonSetStatus},
        core::v1::{Node, PodSpec, Taint, Toleration},
    },
    apimachinery::pkg::util::intstr::IntOrString,
    jiff::Timestamp,
};

use super::fit;
use crate::{
    frame::sooner,
    intstr::scaled,
    owner::Named,
    pods::{PodView, is_finished},
};

/// A DaemonSet's specification with defaults resolved, for so many nodes.
#[derive(Clone, Debug)]
pub(super) struct Desired {
    pub on_delete: bool,
    /// Whether a new pod may stand beside the one that it will replace.
    pub surges: bool,
    pub max_surge: usize,
    pub max_unavailable: usize,
    pub min_ready_seconds: i32,
}

impl Desired {
    pub fn of(set: &DaemonSet, nodes: usize) -> Desired {
        let spec = set.spec.as_ref();
        let strategy = spec.and_then(|spec| spec.update_strategy.clone()).unwrap_or_default();
        let rolling = strategy.rolling_update.unwrap_or_default();
        let nodes = i32::try_from(nodes).unwrap_or(i32::MAX);
        let number = |value: &IntOrString, of: i32| usize::try_from(scaled(value, of, true)).unwrap_or(0);
        let on_delete = strategy.type_.as_deref() == Some("OnDelete");
        let surge = rolling.max_surge.as_ref().filter(|_| !on_delete);
        let max_surge = surge.map_or(0, |surge| number(surge, nodes));
        let max_unavailable = rolling.max_unavailable.as_ref().map_or(1, |most| number(most, nodes));
        Desired {
            on_delete,
            surges: surge.is_some_and(|surge| number(surge, 1) > 0),
            max_surge,
            // Both at nothing would never move.
            max_unavailable: if max_surge == 0 { max_unavailable.max(1) } else { max_unavailable },
            min_ready_seconds: spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0),
        }
    }
}

/// A pod of the set.
#[derive(Clone, Debug)]
pub(super) struct Daemon {
    pub pod: PodView,
    /// Whether it is of the present template.
    pub updated: bool,
}

/// A node, and the set's pods on it or meant for it.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub node: String,
    /// Whether there is such a node.
    pub exists: bool,
    pub should_run: bool,
    pub may_stay: bool,
    /// The one that counts first: bound ones, then the oldest.
    pub daemons: Vec<Daemon>,
}

impl Place {
    /// A place with its pods in order, without those that have ended and are being deleted.
    pub fn new(node: &str, exists: bool, (should_run, may_stay): (bool, bool), mut daemons: Vec<Daemon>) -> Place {
        daemons.retain(|daemon| !(daemon.pod.item.deleting && is_finished(&daemon.pod.item)));
        daemons.sort_by(|a, b| a.rank().cmp(&b.rank()));
        Place { node: node.to_owned(), exists, should_run, may_stay, daemons }
    }
}

impl Daemon {
    fn rank(&self) -> (bool, Timestamp, &str) {
        (self.pod.item.node_name.is_empty(), self.pod.created, self.pod.item.name())
    }

    fn name(&self) -> String {
        self.pod.item.name().to_owned()
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Names of nodes that get a pod.
    pub create: Vec<String>,
    /// Names of pods.
    pub delete: Vec<String>,
    /// Of these, which had failed, and on which node.
    pub failed: Vec<(String, String)>,
    /// Of these, which had succeeded, as no daemon should.
    pub succeeded: Vec<(String, String)>,
    /// How long until the first of the failed pods that are left for now may go.
    pub again: Option<Duration>,
}

/// The tolerations that every daemon has beside its own.
pub(super) fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let exists = |key: &str, effect: &str| Toleration {
        key: Some(format!("node.kubernetes.io/{key}")),
        operator: Some("Exists".to_owned()),
        effect: Some(effect.to_owned()),
        ..Toleration::default()
    };
    let mut all = spec.tolerations.clone().unwrap_or_default();
    let mut added = vec![
        exists("not-ready", "NoExecute"),
        exists("unreachable", "NoExecute"),
        exists("disk-pressure", "NoSchedule"),
        exists("memory-pressure", "NoSchedule"),
        exists("pid-pressure", "NoSchedule"),
        exists("unschedulable", "NoSchedule"),
    ];
    if spec.host_network == Some(true) {
        added.push(exists("network-unavailable", "NoSchedule"));
    }
    added.retain(|new| !all.contains(new));
    all.extend(added);
    all
}

/// Whether a daemon should run on a node, and whether one that does may stay.
pub(super) fn belongs(spec: &PodSpec, node: &Node) -> (bool, bool) {
    if spec.node_name.as_deref().is_some_and(|name| !name.is_empty() && name != node.name())
        || !fit::matches(spec, node)
    {
        return (false, false);
    }
    let tolerations = tolerations(spec);
    let taints: Vec<&Taint> = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).collect();
    let tolerated =
        |taint: &&Taint| tolerations.iter().any(|toleration| crate::node::eviction::tolerates(toleration, taint));
    let untolerated =
        |effects: &[&str]| taints.iter().any(|taint| effects.contains(&taint.effect.as_str()) && !tolerated(taint));
    (!untolerated(&["NoSchedule", "NoExecute"]), !untolerated(&["NoExecute"]))
}

/// Which pods are made and deleted so that each place has one, of the present template in the end. `replace` is asked
/// whether a failed pod on a node may be replaced now, or in how long.
pub(super) fn plan(
    desired: &Desired,
    places: &[Place],
    now: Timestamp,
    mut replace: impl FnMut(&str) -> Result<(), Duration>,
) -> Plan {
    let mut plan = Plan::default();
    for place in places {
        keep_one(desired, place, now, &mut replace, &mut plan);
    }
    // Replacing waits until every place has what it should.
    if !desired.on_delete && plan.create.is_empty() && plan.delete.is_empty() {
        if desired.surges {
            surge(desired, places, now, &mut plan);
        } else {
            update(desired, places, now, &mut plan);
        }
    }
    plan
}

fn keep_one(
    desired: &Desired,
    place: &Place,
    now: Timestamp,
    mut replace: impl FnMut(&str) -> Result<(), Duration>,
    plan: &mut Plan,
) {
    let there = place.daemons.iter().filter(|daemon| !daemon.pod.item.deleting);
    if !place.exists {
        // What was bound there goes with the node; what never was would wait for it for ever.
        plan.delete.extend(there.filter(|daemon| daemon.pod.item.node_name.is_empty()).map(Daemon::name));
        return;
    }
    if place.should_run && place.daemons.is_empty() {
        plan.create.push(place.node.clone());
        return;
    }
    if !place.may_stay {
        plan.delete.extend(there.map(Daemon::name));
        return;
    }
    let mut running = Vec::new();
    for daemon in there {
        match &*daemon.pod.item.phase {
            "Failed" => match replace(&place.node) {
                Ok(()) => {
                    plan.failed.push((daemon.name(), place.node.clone()));
                    plan.delete.push(daemon.name());
                }
                Err(wait) => plan.again = sooner(plan.again, Some(wait)),
            },
            "Succeeded" => {
                plan.succeeded.push((daemon.name(), place.node.clone()));
                plan.delete.push(daemon.name());
            }
            _ => running.push(daemon),
        }
    }
    if !desired.surges {
        plan.delete.extend(running.iter().skip(1).map(|daemon| daemon.name()));
        return;
    }
    if running.is_empty() && place.should_run {
        plan.create.push(place.node.clone());
    }
    let (new, old): (Vec<&Daemon>, Vec<&Daemon>) = running.into_iter().partition(|daemon| daemon.updated);
    plan.delete.extend(new.iter().chain(&old).filter(|extra| !is_first(extra, &new, &old)).map(|extra| extra.name()));
    if let (Some(new), Some(old)) = (new.first(), old.first())
        && (!old.pod.is_ready() || new.pod.is_available(desired.min_ready_seconds, now))
    {
        plan.delete.push(old.name());
    }
}

fn is_first(daemon: &Daemon, new: &[&Daemon], old: &[&Daemon]) -> bool {
    [new.first(), old.first()].into_iter().flatten().any(|first| first.pod.item.uid == daemon.pod.item.uid)
}

/// The pods of the present and of an earlier template that stay at a place; none if there are several of either.
fn pair(place: &Place) -> Option<(Option<&Daemon>, Option<&Daemon>)> {
    let there = place.daemons.iter().filter(|daemon| !daemon.pod.item.deleting);
    let (new, old): (Vec<&Daemon>, Vec<&Daemon>) = there.partition(|daemon| daemon.updated);
    (new.len() <= 1 && old.len() <= 1).then(|| (new.first().copied(), old.first().copied()))
}

/// Replaces pods of earlier templates by deleting them first.
fn update(desired: &Desired, places: &[Place], now: Timestamp, plan: &mut Plan) {
    let available = |daemon: &Daemon| daemon.pod.is_available(desired.min_ready_seconds, now);
    let mut unavailable = 0;
    let mut candidates = Vec::new();
    for place in places.iter().filter(|place| place.should_run || !place.daemons.is_empty()) {
        match pair(place) {
            Some((Some(new), None)) if available(new) => {}
            // One that serves nobody is replaced whatever the others do.
            Some((None, Some(old))) if !available(old) => {
                unavailable += 1;
                plan.delete.push(old.name());
            }
            Some((None, Some(old))) => candidates.push(old),
            _ => unavailable += 1,
        }
    }
    let most = desired.max_unavailable.saturating_sub(unavailable);
    plan.delete.extend(candidates.into_iter().take(most).map(Daemon::name));
}

/// Replaces pods of earlier templates by making the new ones beside them.
fn surge(desired: &Desired, places: &[Place], now: Timestamp, plan: &mut Plan) {
    let available = |daemon: &Daemon| daemon.pod.is_available(desired.min_ready_seconds, now);
    let wanted = places.iter().filter(|place| place.should_run).count();
    let (mut surging, mut serving) = (0, 0);
    let (mut candidates, mut leaving) = (Vec::new(), Vec::new());
    for place in places {
        let Some((new, old)) = pair(place) else {
            surging += 1;
            continue;
        };
        serving += usize::from(old.or(new).is_some_and(available));
        match (new, old) {
            (_, None) => {}
            (None, Some(old)) => match (available(old), place.should_run) {
                // It costs nobody anything, so it needs no room.
                (false, true) => plan.create.push(place.node.clone()),
                (false, false) => plan.delete.push(old.name()),
                (true, true) => candidates.push(place.node.clone()),
                (true, false) => leaving.push(old.name()),
            },
            (Some(new), Some(old)) if available(new) => plan.delete.push(old.name()),
            (Some(_), Some(_)) => surging += 1,
        }
    }
    // Pods where none should be any more go only as others serve in their stead.
    plan.delete.extend(leaving.into_iter().take(serving.saturating_sub(wanted)));
    plan.create.extend(candidates.into_iter().take(desired.max_surge.saturating_sub(surging)));
}

/// The status that follows from the places. The generation counts as observed only where it was acted on.
pub(super) fn status(
    set: &DaemonSet,
    desired: &Desired,
    places: &[Place],
    collisions: Option<i32>,
    observed: bool,
    now: Timestamp,
) -> DaemonSetStatus {
    let count = |test: &dyn Fn(&Place) -> bool| {
        i32::try_from(places.iter().filter(|place| place.exists && test(place)).count()).unwrap_or(i32::MAX)
    };
    // Of several pods, the first stands for the place.
    let of_first =
        |test: &dyn Fn(&Daemon) -> bool| count(&|place| place.should_run && place.daemons.first().is_some_and(test));
    let some = |number: i32| (number != 0).then_some(number);
    let wanted = count(&|place| place.should_run);
    let available = of_first(&|daemon| daemon.pod.is_available(desired.min_ready_seconds, now));
    let old = set.status.clone().unwrap_or_default();
    DaemonSetStatus {
        current_number_scheduled: of_first(&|_| true),
        desired_number_scheduled: wanted,
        number_misscheduled: count(&|place| !place.should_run && !place.daemons.is_empty()),
        number_ready: of_first(&|daemon| daemon.pod.is_ready()),
        number_available: some(available),
        number_unavailable: some(wanted - available),
        updated_number_scheduled: some(of_first(&|daemon| daemon.updated)),
        observed_generation: if observed { Some(set.generation()) } else { old.observed_generation },
        collision_count: collisions,
        conditions: old.conditions,
    }
}

#[cfg(test)]
mod tests;
