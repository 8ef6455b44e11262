//! Lists of conditions, which many kinds have in shapes that differ in name only.

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSetCondition, DeploymentCondition, ReplicaSetCondition, StatefulSetCondition},
        autoscaling::v2::HorizontalPodAutoscalerCondition,
        batch::v1::JobCondition,
        core::v1::{NamespaceCondition, NodeCondition, PodCondition, ReplicationControllerCondition},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::frame::now;

/// A condition of some kind of object.
pub(crate) trait Condition: Clone + PartialEq {
    /// Whether one that changes becomes the last of its list, as upstream's older controllers have it.
    const MOVES: bool;
    fn new(kind: &str, status: &str, reason: &str, message: &str, at: Time) -> Self;
    fn kind(&self) -> &str;
    fn status(&self) -> &str;
    fn reason(&self) -> &str;
    fn since(&self) -> Option<&Time>;
    fn set_since(&mut self, at: Option<Time>);
}

macro_rules! conditions {
    ($($kind:ty { $($also:ident),* } $moves:expr),* $(,)?) => {$(
        impl Condition for $kind {
            const MOVES: bool = $moves;

            #[allow(clippy::needless_update)] // Some kinds have further fields.
            fn new(kind: &str, status: &str, reason: &str, message: &str, at: Time) -> Self {
                $(let $also = Some(at.clone());)*
                let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
                Self {
                    type_: kind.to_owned(),
                    status: status.to_owned(),
                    reason: text(reason),
                    message: text(message),
                    last_transition_time: Some(at),
                    $($also,)*
                    ..Default::default()
                }
            }

            fn kind(&self) -> &str {
                &self.type_
            }

            fn status(&self) -> &str {
                &self.status
            }

            fn reason(&self) -> &str {
                self.reason.as_deref().unwrap_or_default()
            }

            fn since(&self) -> Option<&Time> {
                self.last_transition_time.as_ref()
            }

            fn set_since(&mut self, at: Option<Time>) {
                self.last_transition_time = at;
            }
        }
    )*};
}

conditions! {
    DeploymentCondition { last_update_time } true,
    ReplicaSetCondition {} true,
    ReplicationControllerCondition {} true,
    StatefulSetCondition {} true,
    DaemonSetCondition {} true,
    JobCondition { last_probe_time } false,
    NamespaceCondition {} false,
    NodeCondition { last_heartbeat_time } false,
    PodCondition {} false,
    HorizontalPodAutoscalerCondition {} false,
}

/// A condition that begins now.
pub(crate) fn condition<C: Condition>(kind: &str, status: &str, reason: &str, message: &str) -> C {
    C::new(kind, status, reason, message, now())
}

pub(crate) fn find<'a, C: Condition>(conditions: &'a Option<Vec<C>>, kind: &str) -> Option<&'a C> {
    conditions.iter().flatten().find(|condition| condition.kind() == kind)
}

pub(crate) fn is_true<C: Condition>(conditions: &Option<Vec<C>>, kind: &str) -> bool {
    find(conditions, kind).is_some_and(|condition| condition.status() == "True")
}

/// Sets a condition unless its status and reason are there already. The transition time moves with the status alone.
pub(crate) fn set<C: Condition>(conditions: &mut Option<Vec<C>>, mut new: C) {
    let list = conditions.get_or_insert_default();
    let Some(at) = list.iter().position(|present| present.kind() == new.kind()) else { return list.push(new) };
    let present = &list[at];
    if present.status() == new.status() && present.reason() == new.reason() {
        return;
    }
    if present.status() == new.status() {
        new.set_since(present.since().cloned());
    }
    if C::MOVES {
        list.remove(at);
        list.push(new);
    } else {
        list[at] = new;
    }
}

pub(crate) fn remove<C: Condition>(conditions: &mut Option<Vec<C>>, kind: &str) {
    if let Some(list) = conditions {
        list.retain(|condition| condition.kind() != kind);
        if list.is_empty() {
            *conditions = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_changes_keeps_its_place_or_becomes_the_last() {
        fn kinds<C: Condition>() -> Vec<String> {
            let mut all: Option<Vec<C>> = None;
            for (kind, status) in [("a", "True"), ("b", "True"), ("a", "False")] {
                set(&mut all, condition(kind, status, "Because", ""));
            }
            all.unwrap().iter().map(|condition| format!("{}={}", condition.kind(), condition.status())).collect()
        }
        assert_eq!(kinds::<DeploymentCondition>(), ["b=True", "a=False"]);
        assert_eq!(kinds::<HorizontalPodAutoscalerCondition>(), ["a=False", "b=True"]);
    }
}
