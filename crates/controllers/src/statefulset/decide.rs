//! What a StatefulSet does next. A function of values.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::apps::v1::{StatefulSet, StatefulSetStatus},
    jiff::Timestamp,
};

use crate::{
    intstr::scaled,
    owner::Named,
    pods::{PodView, is_finished},
};

/// A StatefulSet's specification with defaults resolved.
#[derive(Clone, Debug)]
pub(super) struct Desired {
    pub replicas: i32,
    pub start: i32,
    pub parallel: bool,
    pub on_delete: bool,
    /// Pods below this place keep the earlier revision; none if the strategy does not say, which the API defaults.
    pub partition: Option<i32>,
    pub max_unavailable: i32,
    pub min_ready_seconds: i32,
}

impl Desired {
    pub fn of(set: &StatefulSet) -> Desired {
        let spec = set.spec.clone().unwrap_or_default();
        let replicas = spec.replicas.unwrap_or(1);
        let strategy = spec.update_strategy.unwrap_or_default();
        let rolling = strategy.rolling_update;
        let most = rolling.as_ref().and_then(|rolling| rolling.max_unavailable.as_ref());
        let max_unavailable = most.map_or(1, |most| scaled(most, replicas, false).max(1));
        Desired {
            replicas,
            start: spec.ordinals.and_then(|ordinals| ordinals.start).unwrap_or(0),
            parallel: spec.pod_management_policy.as_deref() == Some("Parallel"),
            on_delete: strategy.type_.as_deref() == Some("OnDelete"),
            partition: rolling.map(|rolling| rolling.partition.unwrap_or(0)),
            max_unavailable,
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
        }
    }

    /// No ordinal is as great as `i32::MAX`, however many pods are wanted.
    pub fn ordinals(&self) -> std::ops::Range<i32> {
        self.start..self.start.saturating_add(self.replicas)
    }

    /// The ordinal from which on pods are of the present revision, when so many before it are not.
    fn first_of_update(&self, others: i32) -> i32 {
        self.start.saturating_add(others)
    }
}

/// A pod of the set, by its ordinal.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub pod: PodView,
    /// The value of its revision label.
    pub revision: String,
}

impl Member {
    fn is_running_ready(&self) -> bool {
        &*self.pod.item.phase == "Running" && self.pod.is_ready()
    }

    fn is_deleting(&self) -> bool {
        self.pod.item.deleting
    }

    /// Running, and ready for as long as the set asks for; one that is on its way out may be so too.
    fn is_available(&self, desired: &Desired, now: Timestamp) -> bool {
        self.is_running_ready() && self.pod.is_available(desired.min_ready_seconds, now)
    }

    fn serves(&self, desired: &Desired, now: Timestamp) -> bool {
        self.is_available(desired, now) && !self.is_deleting()
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Ordinals of pods to make, and whether of the earlier revision.
    pub create: Vec<(i32, bool)>,
    /// Ordinals of pods to delete.
    pub delete: Vec<i32>,
    /// Ordinals of pods that wait, for which claims are made that are missing.
    pub provide: Vec<i32>,
    /// Ordinals of pods whose names, volumes and claims are put right.
    pub repair: Vec<i32>,
    /// Ordinals of pods that are to go and whose claims go with them or not.
    pub release: Vec<i32>,
}

/// The ordinal in a pod's name, if it is one of the set's.
pub(super) fn ordinal(set: &str, pod: &str) -> Option<i32> {
    let ordinal = pod.strip_prefix(set)?.strip_prefix('-')?;
    ordinal.parse().ok().filter(|number: &i32| number.to_string() == ordinal)
}

/// `current` and `update` are the names of the earlier and the present revision; `stale` are the ordinals that have to wait
/// for a claim of their predecessor to be gone.
pub(super) fn plan(
    desired: &Desired,
    members: &BTreeMap<i32, Member>,
    status: &StatefulSetStatus,
    (current, update): (&str, &str),
    stale: &BTreeSet<i32>,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    if complete(desired, members, status, (current, update), stale, now, &mut plan)
        && shrink(desired, members, now, &mut plan)
        && !desired.on_delete
    {
        for ordinal in outdated(desired, members, update, now) {
            if !plan.delete.contains(&ordinal) {
                plan.delete.push(ordinal);
            }
        }
    }
    plan
}

/// Sees to it that every ordinal has its pod. False if the rest has to wait.
fn complete(
    desired: &Desired,
    members: &BTreeMap<i32, Member>,
    status: &StatefulSetStatus,
    (current, update): (&str, &str),
    stale: &BTreeSet<i32>,
    now: Timestamp,
    plan: &mut Plan,
) -> bool {
    for ordinal in desired.ordinals() {
        let settled = match members.get(&ordinal) {
            None => {
                if !stale.contains(&ordinal) {
                    plan.create.push((ordinal, needs_current(desired, status, ordinal, current, update)));
                }
                false
            }
            // However it ended, it is made again.
            Some(member) if is_finished(&member.pod.item) => {
                if !member.is_deleting() {
                    plan.delete.push(ordinal);
                }
                false
            }
            Some(member) => {
                if &*member.pod.item.phase == "Pending" {
                    plan.provide.push(ordinal);
                }
                let settled = member.serves(desired, now);
                if settled || desired.parallel {
                    plan.repair.push(ordinal);
                }
                settled
            }
        };
        if !settled && !desired.parallel {
            return false;
        }
    }
    true
}

/// Does away with pods that are no longer wanted, from the last one down. False if the rest has to wait.
fn shrink(desired: &Desired, members: &BTreeMap<i32, Member>, now: Timestamp, plan: &mut Plan) -> bool {
    let condemned = || members.iter().filter(|(ordinal, _)| !desired.ordinals().contains(ordinal));
    plan.release.extend(condemned().map(|(ordinal, _)| *ordinal));
    if desired.parallel {
        plan.delete.extend(condemned().rev().filter(|(_, member)| !member.is_deleting()).map(|(ordinal, _)| *ordinal));
        return true;
    }
    // All that stay serve by now. Of those that go, one that does not may go only if all before it do.
    let Some((last, member)) = condemned().next_back() else { return true };
    let first_unwell = condemned().find(|(_, member)| !member.serves(desired, now)).map(|(ordinal, _)| ordinal);
    if !member.is_deleting() && (member.is_available(desired, now) || first_unwell == Some(last)) {
        plan.delete.push(*last);
    }
    false
}

/// Pods to be replaced by those of the present revision, from the last one down to the partition.
fn outdated(desired: &Desired, members: &BTreeMap<i32, Member>, update: &str, now: Timestamp) -> Vec<i32> {
    let serves = |ordinal: &i32| members.get(ordinal).is_some_and(|member| member.serves(desired, now));
    let unavailable = desired.ordinals().filter(|ordinal| !serves(ordinal)).count();
    let budget = usize::try_from(desired.max_unavailable).unwrap_or(1).saturating_sub(unavailable);
    let first = desired.first_of_update(desired.partition.unwrap_or(0));
    let old = desired.ordinals().rev().take_while(|ordinal| *ordinal >= first).filter(|ordinal| {
        members.get(ordinal).is_some_and(|member| member.revision != update && !member.is_deleting())
    });
    let (serving, idle): (Vec<i32>, Vec<i32>) = old.partition(serves);
    // Those that serve nobody cost nothing, and may never serve before they are replaced.
    let idle = if desired.parallel { idle } else { Vec::new() };
    idle.into_iter().chain(serving.into_iter().take(budget)).collect()
}

/// Whether a missing pod is to come back as it was before the update that is under way.
fn needs_current(desired: &Desired, status: &StatefulSetStatus, ordinal: i32, current: &str, update: &str) -> bool {
    if current == update || desired.on_delete {
        return false;
    }
    ordinal < desired.first_of_update(desired.partition.unwrap_or(status.current_replicas.unwrap_or(0)))
}

/// The status that follows from the pods.
pub(super) fn status(
    set: &StatefulSet,
    desired: &Desired,
    members: &BTreeMap<i32, Member>,
    (current, update): (&str, &str),
    collisions: i32,
    now: Timestamp,
) -> StatefulSetStatus {
    let count = |test: &dyn Fn(&Member) -> bool| {
        i32::try_from(members.values().filter(|member| test(member)).count()).unwrap_or(i32::MAX)
    };
    let some = |count: i32| (count != 0).then_some(count);
    let replicas = i32::try_from(members.len()).unwrap_or(i32::MAX);
    let ready = count(&|member| member.is_running_ready());
    let is_of = |member: &Member, revision: &str| !member.is_deleting() && member.revision == revision;
    let updated = count(&|member| is_of(member, update));
    let mut status = StatefulSetStatus {
        replicas,
        ready_replicas: some(ready),
        available_replicas: Some(count(&|member| member.is_available(desired, now))),
        current_replicas: some(count(&|member| is_of(member, current))),
        updated_replicas: some(updated),
        collision_count: Some(collisions),
        current_revision: Some(current.to_owned()),
        update_revision: Some(update.to_owned()),
        observed_generation: Some(set.generation()),
        ..set.status.clone().unwrap_or_default()
    };
    // The update is complete when every pod is of the present revision and ready.
    if !desired.on_delete && updated == replicas && ready == replicas && replicas == desired.replicas {
        status.current_replicas = status.updated_replicas;
        status.current_revision = status.update_revision.clone();
    }
    status
}

#[cfg(test)]
mod tests;
