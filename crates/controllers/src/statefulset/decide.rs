//! What a StatefulSet does next. A function of values.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::apps::v1::{StatefulSet, StatefulSetStatus},
    jiff::Timestamp,
};

use crate::{intstr::scaled, owner::Named, pods::PodView};

/// A StatefulSet's specification with defaults resolved.
#[derive(Clone, Debug)]
pub(super) struct Desired {
    pub replicas: i32,
    pub start: i32,
    pub parallel: bool,
    pub on_delete: bool,
    /// Pods below this place keep the earlier revision.
    pub partition: i32,
    pub max_unavailable: i32,
    pub min_ready_seconds: i32,
}

impl Desired {
    pub fn of(set: &StatefulSet) -> Desired {
        let spec = set.spec.clone().unwrap_or_default();
        let replicas = spec.replicas.unwrap_or(1);
        let strategy = spec.update_strategy.unwrap_or_default();
        let rolling = strategy.rolling_update.unwrap_or_default();
        let max_unavailable = rolling.max_unavailable.map_or(1, |most| scaled(&most, replicas, false).max(1));
        Desired {
            replicas,
            start: spec.ordinals.and_then(|ordinals| ordinals.start).unwrap_or(0),
            parallel: spec.pod_management_policy.as_deref() == Some("Parallel"),
            on_delete: strategy.type_.as_deref() == Some("OnDelete"),
            partition: rolling.partition.unwrap_or(0),
            max_unavailable,
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
        }
    }

    fn ordinals(&self) -> std::ops::Range<i32> {
        self.start..self.start + self.replicas
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

    fn is_healthy(&self) -> bool {
        self.is_running_ready() && !self.pod.item.deleting
    }

    fn is_over(&self) -> bool {
        matches!(&*self.pod.item.phase, "Failed" | "Succeeded")
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Ordinals of pods to make, and whether of the earlier revision.
    pub create: Vec<(i32, bool)>,
    /// Ordinals of pods to delete.
    pub delete: Vec<i32>,
}

/// The ordinal in a pod's name, if it is one of the set's.
pub(super) fn ordinal(set: &str, pod: &str) -> Option<i32> {
    let ordinal = pod.strip_prefix(set)?.strip_prefix('-')?;
    ordinal.parse().ok().filter(|number: &i32| number.to_string() == ordinal)
}

/// `current` and `update` are the names of the earlier and the present revision.
pub(super) fn plan(
    desired: &Desired,
    members: &BTreeMap<i32, Member>,
    status: &StatefulSetStatus,
    (current, update): (&str, &str),
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    let available = |member: &Member| member.is_healthy() && member.pod.is_available(desired.min_ready_seconds, now);
    for ordinal in desired.ordinals() {
        match members.get(&ordinal) {
            None => plan.create.push((ordinal, needs_current(desired, status, ordinal, current, update))),
            Some(member) if member.is_over() && !member.pod.item.deleting => plan.delete.push(ordinal),
            Some(member) if desired.parallel || available(member) => continue,
            Some(_) => return plan,
        }
        if !desired.parallel {
            return plan;
        }
    }
    // From the last one down, and in order only while everything before it is well.
    let condemned = members.iter().rev().filter(|(ordinal, _)| !desired.ordinals().contains(ordinal));
    let unwell = members.iter().find(|(_, member)| !member.is_healthy()).map(|(ordinal, _)| *ordinal);
    for (ordinal, member) in condemned {
        if member.pod.item.deleting {
            if desired.parallel {
                continue;
            }
            return plan;
        }
        if !desired.parallel && unwell.is_some_and(|unwell| unwell != *ordinal) {
            return plan;
        }
        plan.delete.push(*ordinal);
        if !desired.parallel {
            return plan;
        }
    }
    if !desired.on_delete && plan == Plan::default() {
        plan.delete = outdated(desired, members, update, available);
    }
    plan
}

/// Pods to be replaced by those of the present revision, from the last one down to the partition.
fn outdated(
    desired: &Desired,
    members: &BTreeMap<i32, Member>,
    update: &str,
    available: impl Fn(&Member) -> bool,
) -> Vec<i32> {
    let most = usize::try_from(desired.max_unavailable).unwrap_or(1);
    let mut unavailable = members.values().filter(|member| !available(member)).count();
    let mut delete = Vec::new();
    for ordinal in desired.ordinals().rev().take_while(|ordinal| *ordinal >= desired.start + desired.partition) {
        let Some(member) = members.get(&ordinal) else { continue };
        if member.revision == update || member.pod.item.deleting {
            continue;
        }
        // One that is not available anyway costs nothing more, but those above it must be well.
        let costs = usize::from(available(member));
        if unavailable + costs > most {
            break;
        }
        unavailable += costs;
        delete.push(ordinal);
    }
    delete
}

/// Whether a missing pod is to come back as it was before the update that is under way.
fn needs_current(desired: &Desired, status: &StatefulSetStatus, ordinal: i32, current: &str, update: &str) -> bool {
    if current == update || desired.on_delete {
        return false;
    }
    let kept = if desired.partition > 0 { desired.partition } else { status.current_replicas.unwrap_or(0) };
    ordinal < desired.start + kept
}

/// The status that follows from the pods.
pub(super) fn status(
    set: &StatefulSet,
    desired: &Desired,
    members: &BTreeMap<i32, Member>,
    (current, update): (&str, &str),
    now: Timestamp,
) -> StatefulSetStatus {
    let count = |test: &dyn Fn(&Member) -> bool| {
        i32::try_from(members.values().filter(|member| test(member)).count()).unwrap_or(i32::MAX)
    };
    let some = |count: i32| (count != 0).then_some(count);
    let replicas = count(&|member| !member.is_over() || member.pod.item.deleting);
    let ready = count(&|member| member.is_running_ready());
    let is_of = |member: &Member, revision: &str| !member.pod.item.deleting && member.revision == revision;
    let updated = count(&|member| is_of(member, update));
    let mut status = StatefulSetStatus {
        replicas,
        ready_replicas: some(ready),
        available_replicas: Some(count(&|member| {
            member.is_running_ready() && member.pod.is_available(desired.min_ready_seconds, now)
        })),
        current_replicas: some(count(&|member| is_of(member, current))),
        updated_replicas: some(updated),
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
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pods::tests::item;

    /// Members from `0:ready@1`: ordinal, state (`ready`, `pending`, `failed`, `going`), revision.
    fn members(text: &str) -> BTreeMap<i32, Member> {
        let member = |text: &str| {
            let (ordinal, rest) = text.split_once(':').unwrap();
            let (state, revision) = rest.split_once('@').unwrap();
            let phase = match state {
                "pending" => "Pending",
                "failed" => "Failed",
                _ => "Running",
            };
            let ready = if matches!(state, "ready" | "going") { "True" } else { "False" };
            let mut pod = json!({"metadata": {"name": format!("db-{ordinal}"), "uid": ordinal},
                "status": {"phase": phase, "conditions": [
                    {"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
            if state == "going" {
                pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            }
            let member = Member { pod: PodView::new(item(pod)).unwrap(), revision: revision.to_owned() };
            (ordinal.parse().unwrap(), member)
        };
        text.split_whitespace().map(member).collect()
    }

    fn told(spec: serde_json::Value, pods: &str, current_replicas: i32) -> String {
        let set: StatefulSet = serde_json::from_value(json!({"metadata": {"name": "db"}, "spec": spec})).unwrap();
        let status = StatefulSetStatus { current_replicas: Some(current_replicas), ..StatefulSetStatus::default() };
        let plan = plan(&Desired::of(&set), &members(pods), &status, ("1", "2"), Timestamp::now());
        let created =
            plan.create.iter().map(|(ordinal, current)| format!("+{ordinal}@{}", if *current { 1 } else { 2 }));
        created.chain(plan.delete.iter().map(|ordinal| format!("-{ordinal}"))).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn pods_come_go_and_are_updated_in_order() {
        let three = json!({"replicas": 3});
        let parallel = json!({"replicas": 3, "podManagementPolicy": "Parallel"});
        let partition =
            json!({"replicas": 3, "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}});
        let two_at_once =
            json!({"replicas": 3, "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}}});
        let on_delete = json!({"replicas": 3, "updateStrategy": {"type": "OnDelete"}});
        let cases = [
            (&three, "", 0, "+0@2"),
            (&three, "0:pending@2", 0, ""),
            (&three, "0:ready@2", 0, "+1@2"),
            (&three, "0:ready@2 1:failed@2", 0, "-1"),
            (&three, "0:ready@2 1:going@2", 0, ""),
            (&parallel, "", 0, "+0@2 +1@2 +2@2"),
            (&three, "0:ready@2 1:ready@2 2:ready@2 3:ready@2 4:ready@2", 0, "-4"),
            (&three, "0:ready@2 1:ready@2 2:ready@2 3:ready@2 4:going@2", 0, ""),
            (&parallel, "0:ready@2 1:ready@2 2:ready@2 3:ready@2 4:ready@2", 0, "-4 -3"),
            (&three, "0:ready@1 1:ready@1 2:ready@1", 3, "-2"),
            (&three, "0:ready@1 1:ready@1 2:pending@2", 2, ""),
            (&three, "0:ready@1 1:ready@1 2:ready@2", 2, "-1"),
            (&three, "0:ready@1 2:ready@2", 2, "+1@1"),
            (&partition, "0:ready@1 1:ready@1 2:ready@2", 2, ""),
            (&partition, "0:ready@1 2:ready@2", 2, "+1@1"),
            (&two_at_once, "0:ready@1 1:ready@1 2:ready@1", 3, "-2 -1"),
            (&on_delete, "0:ready@1 1:ready@1 2:ready@1", 3, ""),
            (&on_delete, "0:ready@1 1:ready@1", 3, "+2@2"),
        ];
        for (spec, pods, current, expected) in cases {
            assert_eq!(told(spec.clone(), pods, current), expected, "{spec} {pods}");
        }
    }

    #[test]
    fn ordinals_are_read_from_names() {
        let cases =
            [("db-0", Some(0)), ("db-12", Some(12)), ("db-01", None), ("db", None), ("dbx-1", None), ("db-a", None)];
        for (name, expected) in cases {
            assert_eq!(ordinal("db", name), expected, "{name}");
        }
    }
}
