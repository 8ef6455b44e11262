//! What a Deployment asks for and what its ReplicaSets are, as numbers.

use std::cmp::Ordering;

use k8s_openapi::{
    api::apps::v1::{Deployment, ReplicaSet},
    apimachinery::pkg::util::intstr::IntOrString,
    jiff::Timestamp,
};

use crate::{intstr::scaled, owner::Named};

pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
pub(crate) const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(crate) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub(crate) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";

/// A Deployment's specification with percentages and defaults resolved.
#[derive(Clone, Debug, Default)]
pub(super) struct Desired {
    pub replicas: i32,
    pub max_surge: i32,
    pub max_unavailable: i32,
    pub recreate: bool,
    pub paused: bool,
    pub min_ready_seconds: i32,
    /// Seconds without progress after which a rollout counts as stuck; none for never.
    pub deadline: Option<i32>,
    /// How many old ReplicaSets to keep; none for all.
    pub history: Option<i32>,
}

impl Desired {
    pub fn of(deployment: &Deployment) -> Desired {
        let Some(spec) = &deployment.spec else { return Desired::default() };
        let limit = |number: Option<i32>| number.filter(|number| *number != i32::MAX);
        let replicas = spec.replicas.unwrap_or(1);
        let strategy = spec.strategy.as_ref();
        let recreate = strategy.is_some_and(|strategy| strategy.type_.as_deref() == Some("Recreate"));
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let quarter = IntOrString::String("25%".to_owned());
        let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref()).unwrap_or(&quarter);
        let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref()).unwrap_or(&quarter);
        let (surge, unavailable) = fenceposts(surge, unavailable, replicas);
        Desired {
            replicas,
            max_surge: if recreate { 0 } else { surge },
            max_unavailable: if recreate { 0 } else { unavailable.min(replicas) },
            recreate,
            paused: spec.paused.unwrap_or(false),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            deadline: limit(spec.progress_deadline_seconds),
            history: limit(spec.revision_history_limit),
        }
    }

    /// The most pods at any time of a rollout.
    pub fn max_replicas(&self) -> i32 {
        self.replicas + self.max_surge
    }
}

/// Surge rounds up and unavailability down; both at nothing would never move, so one may then be unavailable.
pub(crate) fn fenceposts(surge: &IntOrString, unavailable: &IntOrString, replicas: i32) -> (i32, i32) {
    match (scaled(surge, replicas, true), scaled(unavailable, replicas, false)) {
        (0, 0) => (0, 1),
        both => both,
    }
}

/// A ReplicaSet's numbers.
pub(super) trait Numbers {
    fn size(&self) -> i32;
    fn actual(&self) -> i32;
    fn ready(&self) -> i32;
    fn available(&self) -> i32;
    fn terminating(&self) -> Option<i32>;
    fn revision(&self) -> i64;
    fn created(&self) -> Timestamp;
    fn number(&self, annotation: &str) -> Option<i32>;
}

impl Numbers for ReplicaSet {
    fn size(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn actual(&self) -> i32 {
        self.status.as_ref().map_or(0, |status| status.replicas)
    }

    fn ready(&self) -> i32 {
        self.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0)
    }

    fn available(&self) -> i32 {
        self.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
    }

    fn terminating(&self) -> Option<i32> {
        self.status.as_ref().and_then(|status| status.terminating_replicas)
    }

    fn revision(&self) -> i64 {
        self.annotation(REVISION).and_then(|revision| revision.parse().ok()).unwrap_or(0)
    }

    fn created(&self) -> Timestamp {
        self.metadata.creation_timestamp.as_ref().map_or(Timestamp::MAX, |time| time.0)
    }

    fn number(&self, annotation: &str) -> Option<i32> {
        self.annotation(annotation)?.parse().ok()
    }
}

/// Oldest first; the name decides between those of one second.
pub(super) fn by_age(a: &ReplicaSet, b: &ReplicaSet) -> Ordering {
    a.created().cmp(&b.created()).then_with(|| a.metadata.name.cmp(&b.metadata.name))
}

pub(super) fn sum<'a>(sets: impl IntoIterator<Item = &'a ReplicaSet>, number: impl Fn(&ReplicaSet) -> i32) -> i32 {
    sets.into_iter().map(number).sum()
}

/// A Deployment's ReplicaSets: the one of its present template, and the others, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Sets {
    pub new: Option<ReplicaSet>,
    pub old: Vec<ReplicaSet>,
}

impl Sets {
    /// The oldest set of the template is the new one, should there ever be several.
    pub fn split(mut sets: Vec<ReplicaSet>, is_new: impl Fn(&ReplicaSet) -> bool) -> Sets {
        sets.sort_by(by_age);
        let new = sets.iter().position(is_new).map(|at| sets.remove(at));
        Sets { new, old: sets }
    }

    pub fn all(&self) -> impl Iterator<Item = &ReplicaSet> {
        self.old.iter().chain(&self.new)
    }

    pub fn active(&self) -> impl Iterator<Item = &ReplicaSet> {
        self.all().filter(|set| set.size() > 0)
    }

    pub fn by_name_mut(&mut self, name: &str) -> Option<&mut ReplicaSet> {
        self.old.iter_mut().chain(&mut self.new).find(|set| set.name() == name)
    }
}
