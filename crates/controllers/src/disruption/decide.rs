//! What a budget allows. Functions of values.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use client::Item;
use k8s_openapi::{
    api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus},
    apimachinery::pkg::{
        apis::meta::v1::{Condition, Time},
        util::intstr::IntOrString,
    },
    jiff::{SignedDuration, Timestamp},
};

use crate::{
    frame::{between, now, sooner},
    intstr::scaled,
    owner::Named,
    pods::PodView,
};

/// For so long an evicted pod that is still there counts as gone.
const EVICTION_LIMIT: i64 = 120;

#[derive(Debug)]
pub(super) struct Decision {
    pub status: PodDisruptionBudgetStatus,
    /// Pods that were evicted too long ago to be there still.
    pub overdue: Vec<Arc<Item>>,
    /// When an eviction that counts will have been too long ago.
    pub again: Option<Duration>,
}

/// Whether the budget is a part of what the controllers of its pods mean to have.
pub(super) fn needs_scale(budget: &PodDisruptionBudget) -> bool {
    let Some(spec) = &budget.spec else { return false };
    spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
}

/// The status for these pods, whose controllers mean to have `scale` of them.
pub(super) fn decide(budget: &PodDisruptionBudget, pods: &[PodView], scale: i32, at: Timestamp) -> Decision {
    let spec = budget.spec.clone().unwrap_or_default();
    let old = budget.status.clone().unwrap_or_default();
    let count = i32::try_from(pods.len()).unwrap_or(i32::MAX);
    let (expected, desired) = match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => (scale, (scale - scaled(most, scale, true)).max(0)),
        (None, Some(IntOrString::Int(least))) => (count, *least),
        (None, Some(least)) => (scale, scaled(least, scale, true)),
        (None, None) => (0, 0),
    };
    let (mut again, mut overdue) = (None, Vec::new());
    let mut disrupted: BTreeMap<String, Time> = BTreeMap::new();
    let evicted = old.disrupted_pods.clone().unwrap_or_default();
    for pod in pods.iter().filter(|pod| !pod.item.deleting) {
        let Some(since) = evicted.get(pod.item.name()) else { continue };
        let until = since.0.checked_add(SignedDuration::from_secs(EVICTION_LIMIT)).unwrap_or(Timestamp::MAX);
        if until < at {
            overdue.push(pod.item.clone());
        } else {
            again = sooner(again, Some(between(at, until) + Duration::from_millis(50)));
            disrupted.insert(pod.item.name().to_owned(), since.clone());
        }
    }
    let is_healthy = |pod: &&PodView| !pod.item.deleting && !disrupted.contains_key(pod.item.name()) && pod.is_ready();
    let healthy = i32::try_from(pods.iter().filter(is_healthy).count()).unwrap_or(i32::MAX);
    let allowed = if expected <= 0 { 0 } else { (healthy - desired).max(0) };
    let (verdict, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let status = PodDisruptionBudgetStatus {
        conditions: Some(conditions(budget, verdict, reason, "", budget.generation())),
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected),
        observed_generation: Some(budget.generation()),
    };
    Decision { status, overdue, again }
}

/// The status where what the budget is a part of is not known: nothing is allowed, and what was known before stands.
pub(super) fn failed(budget: &PodDisruptionBudget, problem: &str) -> PodDisruptionBudgetStatus {
    let old = budget.status.clone().unwrap_or_default();
    let observed = old.observed_generation.unwrap_or(0);
    PodDisruptionBudgetStatus {
        conditions: Some(conditions(budget, "False", "SyncFailed", problem, observed)),
        disruptions_allowed: Some(0),
        // The API wants these, zero or not.
        current_healthy: Some(old.current_healthy.unwrap_or(0)),
        desired_healthy: Some(old.desired_healthy.unwrap_or(0)),
        expected_pods: Some(old.expected_pods.unwrap_or(0)),
        ..old
    }
}

fn conditions(
    budget: &PodDisruptionBudget,
    verdict: &str,
    reason: &str,
    message: &str,
    generation: i64,
) -> Vec<Condition> {
    let old = budget.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let known = old.iter().find(|known| known.type_ == "DisruptionAllowed" && known.status == verdict);
    vec![Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: verdict.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: Some(generation),
        last_transition_time: known.map_or_else(now, |known| known.last_transition_time.clone()),
    }]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pods::tests::item;

    fn pod(number: usize, ready: bool) -> PodView {
        let ready = if ready { "True" } else { "False" };
        PodView::new(item(json!({"metadata": {"name": format!("p{number}"), "uid": number.to_string()},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}})))
        .unwrap()
    }

    #[test]
    fn a_budget_allows_what_its_numbers_leave() {
        // Specification, healthy, unhealthy, scale: allowed, desired healthy, expected, reason.
        let cases = [
            (json!({"minAvailable": 2}), 3, 0, 9, (1, 2, 3, "SufficientPods")),
            (json!({"minAvailable": 2}), 2, 1, 9, (0, 2, 3, "InsufficientPods")),
            (json!({"minAvailable": "50%"}), 3, 0, 3, (1, 2, 3, "SufficientPods")),
            (json!({"maxUnavailable": 1}), 4, 0, 4, (1, 3, 4, "SufficientPods")),
            (json!({"maxUnavailable": "30%"}), 4, 0, 4, (2, 2, 4, "SufficientPods")),
            // Of four, two belong to nobody, and are not what the percentage is of.
            (json!({"maxUnavailable": 1}), 4, 0, 2, (3, 1, 2, "SufficientPods")),
            (json!({"maxUnavailable": 1}), 2, 0, 0, (0, 0, 0, "InsufficientPods")),
            (json!({"minAvailable": 0}), 0, 0, 0, (0, 0, 0, "InsufficientPods")),
        ];
        for (spec, healthy, unhealthy, scale, expected) in cases {
            let budget = serde_json::from_value(json!({"metadata": {"name": "b"}, "spec": spec})).unwrap();
            let pods: Vec<_> = (0..healthy + unhealthy).map(|number| pod(number, number < healthy)).collect();
            let made = decide(&budget, &pods, scale, Timestamp::now()).status;
            let condition = &made.conditions.as_ref().unwrap()[0];
            let numbers = [made.disruptions_allowed, made.desired_healthy, made.expected_pods];
            let [allowed, desired, pods] = numbers.map(|number| number.unwrap());
            assert_eq!((allowed, desired, pods, &*condition.reason), expected, "{spec}");
        }
    }

    #[test]
    fn the_scale_is_asked_for_only_where_it_counts() {
        let cases = [
            (json!({"minAvailable": 2}), false),
            (json!({"minAvailable": "2%"}), true),
            (json!({"maxUnavailable": 2}), true),
            (json!({}), false),
        ];
        for (spec, expected) in cases {
            let budget = serde_json::from_value(json!({"metadata": {"name": "b"}, "spec": spec})).unwrap();
            assert_eq!(needs_scale(&budget), expected, "{spec}");
        }
    }

    #[test]
    fn evicted_pods_count_as_gone_until_they_are_overdue() {
        let at: Timestamp = "2026-01-01T00:10:00Z".parse().unwrap();
        let budget: PodDisruptionBudget = serde_json::from_value(json!({"metadata": {"name": "b"},
            "spec": {"minAvailable": 1}, "status": {"disruptedPods": {"p0": "2026-01-01T00:09:00Z",
                "p1": "2026-01-01T00:07:00Z", "gone": "2026-01-01T00:09:59Z"}}}))
        .unwrap();
        let made = decide(&budget, &[pod(0, true), pod(1, true), pod(2, true)], 0, at);
        assert_eq!(made.status.disrupted_pods.unwrap().into_keys().collect::<Vec<_>>(), ["p0"]);
        assert_eq!(made.overdue.iter().map(|pod| pod.name().to_owned()).collect::<Vec<_>>(), ["p1"]);
        assert_eq!((made.status.current_healthy, made.status.disruptions_allowed), (Some(2), Some(1)));
        assert_eq!(made.again.map(|wait| wait.as_secs()), Some(60));
    }

    #[test]
    fn a_budget_that_cannot_be_computed_allows_nothing_and_keeps_its_numbers() {
        let budget: PodDisruptionBudget = serde_json::from_value(json!({"metadata": {"name": "b", "generation": 3},
            "status": {"expectedPods": 5, "currentHealthy": 5, "desiredHealthy": 4, "disruptionsAllowed": 1,
                "observedGeneration": 2}}))
        .unwrap();
        let made = failed(&budget, "why");
        assert_eq!(
            (made.disruptions_allowed, made.expected_pods, made.observed_generation),
            (Some(0), Some(5), Some(2))
        );
        let condition = &made.conditions.unwrap()[0];
        assert_eq!((&*condition.reason, &*condition.message), ("SyncFailed", "why"));
    }
}
