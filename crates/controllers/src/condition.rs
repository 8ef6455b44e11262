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
    fn new(kind: &str, status: &str, reason: &str, message: &str, at: Time) -> Self;
    fn kind(&self) -> &str;
    fn status(&self) -> &str;
    fn reason(&self) -> &str;
    fn since(&self) -> Option<&Time>;
    fn set_since(&mut self, at: Option<Time>);
}

macro_rules! conditions {
    ($($kind:ty { $($also:ident),* }),* $(,)?) => {$(
        impl Condition for $kind {
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
    DeploymentCondition { last_update_time },
    ReplicaSetCondition {},
    ReplicationControllerCondition {},
    StatefulSetCondition {},
    DaemonSetCondition {},
    JobCondition { last_probe_time },
    NamespaceCondition {},
    NodeCondition { last_heartbeat_time },
    PodCondition {},
    HorizontalPodAutoscalerCondition {},
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
    if let Some(present) = find(conditions, new.kind()) {
        if present.status() == new.status() && present.reason() == new.reason() {
            return;
        }
        if present.status() == new.status() {
            new.set_since(present.since().cloned());
        }
    }
    remove(conditions, new.kind());
    conditions.get_or_insert_default().push(new);
}

pub(crate) fn remove<C: Condition>(conditions: &mut Option<Vec<C>>, kind: &str) {
    if let Some(list) = conditions {
        list.retain(|condition| condition.kind() != kind);
        if list.is_empty() {
            *conditions = None;
        }
    }
}
