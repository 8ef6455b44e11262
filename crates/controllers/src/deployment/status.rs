//! What a Deployment's status says: counts, availability, and how its rollout fares. Functions of values.

use std::time::Duration;

use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus},
    jiff::{SignedDuration, Timestamp},
};

use super::set::{Desired, Numbers, Sets, sum};
use crate::{
    condition::{self, condition},
    frame::between,
    owner::Named,
};

pub(super) const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";
/// Reasons of `Progressing`, on which `kubectl rollout status` and others rely.
pub(super) const NEW_SET: &str = "NewReplicaSetCreated";
pub(super) const FOUND_SET: &str = "FoundNewReplicaSet";
pub(super) const SET_FAILED: &str = "ReplicaSetCreateError";
pub(super) const PAUSED: &str = "DeploymentPaused";
pub(super) const RESUMED: &str = "DeploymentResumed";
const UPDATED: &str = "ReplicaSetUpdated";
const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

/// The counts, and the condition `Available`.
pub(super) fn counted(deployment: &Deployment, desired: &Desired, sets: &Sets) -> DeploymentStatus {
    let old = deployment.status.clone().unwrap_or_default();
    let available = sum(sets.all(), Numbers::available);
    let nonzero = |number: i32| (number != 0).then_some(number);
    let terminating: Option<i32> = sets.all().map(Numbers::terminating).sum();
    let mut status = DeploymentStatus {
        observed_generation: Some(deployment.generation()),
        replicas: nonzero(sum(sets.all(), Numbers::actual)),
        updated_replicas: nonzero(sum(&sets.new, Numbers::actual)),
        ready_replicas: nonzero(sum(sets.all(), Numbers::ready)),
        available_replicas: nonzero(available),
        unavailable_replicas: nonzero((sum(sets.all(), Numbers::size) - available).max(0)),
        terminating_replicas: terminating,
        collision_count: old.collision_count,
        conditions: old.conditions,
    };
    let verdict: DeploymentCondition = if available >= desired.replicas - desired.max_unavailable {
        condition(AVAILABLE, "True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        let message = "Deployment does not have minimum availability.";
        condition(AVAILABLE, "False", "MinimumReplicasUnavailable", message)
    };
    condition::set(&mut status.conditions, verdict);
    status
}

/// The counts, `Progressing` and `ReplicaFailure`, while a rollout is looked after.
pub(super) fn rolled(deployment: &Deployment, desired: &Desired, sets: &Sets, now: Timestamp) -> DeploymentStatus {
    let mut status = counted(deployment, desired, sets);
    progress(deployment, desired, sets, &mut status, now);
    let failures = |set: &k8s_openapi::api::apps::v1::ReplicaSet| {
        condition::find(&set.status.as_ref()?.conditions, REPLICA_FAILURE).cloned()
    };
    // The new set's failure counts for more than that of others.
    match sets.new.iter().chain(&sets.old).find_map(failures) {
        Some(failure) => {
            let reason = failure.reason.as_deref().unwrap_or_default();
            let message = failure.message.as_deref().unwrap_or_default();
            condition::set(&mut status.conditions, condition(REPLICA_FAILURE, &failure.status, reason, message));
        }
        None => condition::remove(&mut status.conditions, REPLICA_FAILURE),
    }
    status
}

fn progress(deployment: &Deployment, desired: &Desired, sets: &Sets, status: &mut DeploymentStatus, now: Timestamp) {
    let Some(deadline) = desired.deadline else {
        return condition::remove(&mut status.conditions, PROGRESSING);
    };
    let present = condition::find(&status.conditions, PROGRESSING).cloned();
    let settled = status.replicas == status.updated_replicas
        && present.as_ref().is_some_and(|present| present.reason.as_deref() == Some(COMPLETE));
    if settled {
        return;
    }
    let subject = match &sets.new {
        Some(new) => format!("ReplicaSet \"{}\"", new.name()),
        None => format!("Deployment \"{}\"", deployment.name()),
    };
    let old = deployment.status.clone().unwrap_or_default();
    if is_complete(desired, deployment.generation(), status) {
        let message = format!("{subject} has successfully progressed.");
        condition::set(&mut status.conditions, condition(PROGRESSING, "True", COMPLETE, &message));
    } else if is_progressing(&old, status) {
        let message = format!("{subject} is progressing.");
        let mut new: DeploymentCondition = condition(PROGRESSING, "True", UPDATED, &message);
        // Always replaced, so that its update time tells when there was progress last.
        if let Some(present) = present.filter(|present| present.status == "True") {
            new.last_transition_time = present.last_transition_time;
        }
        condition::remove(&mut status.conditions, PROGRESSING);
        condition::set(&mut status.conditions, new);
    } else if is_timed_out(status, deadline, now) {
        let message = format!("{subject} has timed out progressing.");
        condition::set(&mut status.conditions, condition(PROGRESSING, "False", TIMED_OUT, &message));
    }
}

/// Whether all pods are of the new template, and available.
pub(super) fn is_complete(desired: &Desired, generation: i64, status: &DeploymentStatus) -> bool {
    let is_all = |number: Option<i32>| number.unwrap_or(0) == desired.replicas;
    is_all(status.updated_replicas)
        && is_all(status.replicas)
        && is_all(status.available_replicas)
        && status.observed_generation.unwrap_or(0) >= generation
}

fn is_progressing(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let outdated = |status: &DeploymentStatus| status.replicas.unwrap_or(0) - status.updated_replicas.unwrap_or(0);
    new.updated_replicas > old.updated_replicas
        || outdated(new) < outdated(old)
        || new.ready_replicas > old.ready_replicas
        || new.available_replicas > old.available_replicas
}

fn is_timed_out(status: &DeploymentStatus, deadline: i32, now: Timestamp) -> bool {
    let Some(present) = condition::find(&status.conditions, PROGRESSING) else { return false };
    match present.reason.as_deref() {
        Some(COMPLETE) => false,
        Some(TIMED_OUT) => true,
        _ => deadline_at(present, deadline).is_some_and(|at| at < now),
    }
}

fn deadline_at(progressing: &DeploymentCondition, deadline: i32) -> Option<Timestamp> {
    let since = progressing.last_update_time.as_ref().or(progressing.last_transition_time.as_ref())?;
    since.0.checked_add(SignedDuration::from_secs(deadline.into())).ok()
}

/// When to look again whether a rollout that is not complete has timed out.
pub(super) fn check_again(
    desired: &Desired,
    generation: i64,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Option<Duration> {
    let deadline = desired.deadline?;
    let present = condition::find(&status.conditions, PROGRESSING)?;
    if is_complete(desired, generation, status) || present.reason.as_deref() == Some(TIMED_OUT) {
        return None;
    }
    // Times have whole seconds, hence one more.
    deadline_at(present, deadline).map(|at| between(now, at) + Duration::from_secs(1))
}

/// The status with `Progressing` saying that the rollout was paused or resumed; none if it says so, or timed out.
pub(super) fn paused(deployment: &Deployment, desired: &Desired) -> Option<DeploymentStatus> {
    desired.deadline?;
    let mut status = deployment.status.clone().unwrap_or_default();
    let reason = condition::find(&status.conditions, PROGRESSING).and_then(|present| present.reason.as_deref());
    let (reason, message) = match (desired.paused, reason) {
        (_, Some(TIMED_OUT)) => return None,
        (true, present) if present != Some(PAUSED) => (PAUSED, "Deployment is paused"),
        (false, Some(PAUSED)) => (RESUMED, "Deployment is resumed"),
        _ => return None,
    };
    condition::set(&mut status.conditions, condition(PROGRESSING, "Unknown", reason, message));
    Some(status)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: &str = "2026-01-01T00:10:00Z";

    fn desired() -> Desired {
        Desired { replicas: 2, max_surge: 1, deadline: Some(60), ..Desired::default() }
    }

    fn deployment(status: serde_json::Value) -> Deployment {
        serde_json::from_value(json!({"metadata": {"name": "web", "generation": 2}, "status": status})).unwrap()
    }

    fn sets(size: i32, available: i32) -> Sets {
        let new = json!({"metadata": {"name": "web-1"}, "spec": {"replicas": size, "selector": {}},
            "status": {"replicas": size, "readyReplicas": available, "availableReplicas": available}});
        Sets { new: serde_json::from_value(new).unwrap(), old: Vec::new() }
    }

    fn progressing(status: &DeploymentStatus) -> String {
        condition::find(&status.conditions, PROGRESSING).map_or("none".to_owned(), |condition| {
            format!(
                "{} {}: {}",
                condition.status,
                condition.reason.as_deref().unwrap(),
                condition.message.as_deref().unwrap_or_default()
            )
        })
    }

    fn present(reason: &str, updated: &str) -> serde_json::Value {
        json!({"replicas": 2, "updatedReplicas": 2, "conditions": [{"type": "Progressing", "status": "True",
            "reason": reason, "lastUpdateTime": updated, "lastTransitionTime": "2026-01-01T00:00:00Z"}]})
    }

    #[test]
    fn progress_is_told_in_upstreams_words() {
        let cases = [
            (json!({}), sets(2, 0), "True ReplicaSetUpdated: ReplicaSet \"web-1\" is progressing."),
            (json!({}), sets(2, 2), "True NewReplicaSetAvailable: ReplicaSet \"web-1\" has successfully progressed."),
            (
                present("ReplicaSetUpdated", "2026-01-01T00:08:00Z"),
                sets(2, 0),
                "False ProgressDeadlineExceeded: ReplicaSet \"web-1\" has timed out progressing.",
            ),
        ];
        for (before, sets, expected) in cases {
            let status = rolled(&deployment(before), &desired(), &sets, NOW.parse().unwrap());
            assert_eq!(progressing(&status), expected);
        }
        let patient = rolled(
            &deployment(present("ReplicaSetUpdated", "2026-01-01T00:09:30Z")),
            &desired(),
            &sets(2, 0),
            NOW.parse().unwrap(),
        );
        assert!(progressing(&patient).starts_with("True ReplicaSetUpdated"));
        assert_eq!(check_again(&desired(), 2, &patient, NOW.parse().unwrap()), Some(Duration::from_secs(31)));
    }

    #[test]
    fn availability_counts_the_whole() {
        let available = |sets: Sets| {
            let status = counted(&deployment(json!({})), &desired(), &sets);
            (condition::is_true(&status.conditions, AVAILABLE), status.unavailable_replicas, status.observed_generation)
        };
        assert_eq!(available(sets(2, 2)), (true, None, Some(2)));
        assert_eq!(available(sets(2, 1)), (false, Some(1), Some(2)));
    }

    #[test]
    fn pausing_and_resuming_are_told_once() {
        let on = Desired { paused: true, ..desired() };
        let status = paused(&deployment(json!({})), &on).unwrap();
        assert_eq!(progressing(&status), "Unknown DeploymentPaused: Deployment is paused");
        let told = deployment(serde_json::to_value(&status).unwrap());
        assert!(paused(&told, &on).is_none());
        let resumed = paused(&told, &desired()).unwrap();
        assert_eq!(progressing(&resumed), "Unknown DeploymentResumed: Deployment is resumed");
    }
}
