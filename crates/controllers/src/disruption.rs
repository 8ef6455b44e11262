//! PodDisruptionBudgets: how many pods may be evicted at the moment.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use client::{Cache, Change, Item, Key, WorkQueue};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet, StatefulSet},
        autoscaling::v1::Scale,
        core::v1::{Pod, ReplicationController},
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus},
    },
    apimachinery::pkg::{
        apis::meta::v1::{Condition, Time},
        util::intstr::IntOrString,
    },
    jiff::{SignedDuration, Timestamp},
};

use crate::{
    discovery::Directory,
    frame::{Env, Error, Loop, Synced, between, now, sooner},
    intstr::scaled,
    owner::Named,
    pods::{self, PodView},
    selector::Selector,
};

/// For so long an evicted pod that is still there counts as gone.
const EVICTION_LIMIT: i64 = 120;

/// Runs the disruption controller.
pub(crate) async fn run(env: Env) {
    let controller = Controller {
        budgets: env.caches.get(),
        pods: env.caches.get(),
        sets: env.caches.get(),
        deployments: env.caches.get(),
        stateful: env.caches.get(),
        replication: env.caches.get(),
        directory: Directory::new(env.client.clone()),
        env: env.clone(),
    };
    let budgets = controller.budgets.clone();
    let of_namespace = |budgets: &Cache<PodDisruptionBudget>| {
        let budgets = budgets.clone();
        // A controller's scale counts for the budgets of its pods, which are few in a namespace.
        move |change: &Change, queue: &WorkQueue<Key>| {
            budgets.list_ns(&change.key.namespace).iter().for_each(|budget| queue.add(budget.key.clone()));
        }
    };
    let work = Loop::new()
        .on_self(&controller.budgets)
        .on(&controller.sets, of_namespace(&budgets))
        .on(&controller.deployments, of_namespace(&budgets))
        .on(&controller.stateful, of_namespace(&budgets))
        .on(&controller.replication, of_namespace(&budgets))
        .on(&controller.pods, {
            let budgets = budgets.clone();
            move |change, queue| {
                for item in budgets.list_ns(&change.key.namespace) {
                    let selects = budgets.parse(&item).and_then(|budget| selector(&budget)).is_some_and(|selector| {
                        [&change.old, &change.new].into_iter().flatten().any(|pod| selector.matches(&pod.labels))
                    });
                    if selects {
                        queue.add(item.key.clone());
                    }
                }
            }
        });
    work.run(&env, 2, |key| controller.sync(key)).await;
}

fn selector(budget: &PodDisruptionBudget) -> Option<Selector> {
    // No selector selects nothing, an empty one everything.
    Selector::new(budget.spec.as_ref()?.selector.as_ref()?)
}

struct Controller {
    env: Env,
    budgets: Cache<PodDisruptionBudget>,
    pods: Cache<Pod>,
    sets: Cache<ReplicaSet>,
    deployments: Cache<Deployment>,
    stateful: Cache<StatefulSet>,
    replication: Cache<ReplicationController>,
    directory: Directory,
}

impl Controller {
    async fn sync(&self, key: Key) -> Synced {
        let Some(mut budget) = self.budgets.read(&key.namespace, &key.name) else { return Ok(None) };
        let Some(selector) = selector(&budget) else { return Ok(None) };
        let selected = self.pods.list_ns(&key.namespace).into_iter();
        let selected = selected.filter(|pod| selector.matches(&pod.labels) && !pods::is_finished(pod));
        let pods: Vec<PodView> = selected.filter_map(PodView::new).collect();
        if pods.is_empty() {
            self.env.recorder.normal(&budget, "NoPods", "No matching pods found");
        }
        let scale = self.scale(&key, &pods).await;
        let (status, again) = status(&budget, &pods, scale, Timestamp::now());
        if budget.status.as_ref() != Some(&status) {
            budget.status = Some(status);
            self.env.replace_status(&budget).await?;
        }
        Ok(again)
    }

    /// How many pods the controllers of these mean to have; an error says of which pod that is not known.
    async fn scale(&self, key: &Key, pods: &[PodView]) -> Result<i32, String> {
        let mut scales: BTreeMap<Box<str>, i32> = BTreeMap::new();
        for pod in pods {
            let Some(owner) = pod.item.controller() else {
                return Err(format!("found no controller ref for pod {:?}", pod.item.name()));
            };
            if !scales.contains_key(&owner.uid) {
                let known = match self.cached_scale(key, owner) {
                    Some(known) => Some(known),
                    None => self.asked_scale(key, owner).await.map_err(|error| error.message())?,
                };
                let Some((uid, replicas)) = known else {
                    return Err(format!("found no controllers for pod {:?}", pod.item.name()));
                };
                scales.insert(uid, replicas);
            }
        }
        Ok(scales.values().sum())
    }

    fn cached_scale(&self, key: &Key, owner: &client::Owner) -> Option<(Box<str>, i32)> {
        let (namespace, name, uid) = (&*key.namespace, &*owner.name, owner.uid.clone());
        match &*owner.kind {
            "ReplicaSet" => {
                let item: Arc<Item> = self.sets.get(namespace, name).filter(|item| item.uid == uid)?;
                // A Deployment's sets together are as large as it is.
                if let Some(parent) = item.controller().filter(|parent| &*parent.kind == "Deployment") {
                    let deployment = self.deployments.read(namespace, &parent.name)?;
                    return Some((parent.uid.clone(), deployment.spec?.replicas.unwrap_or(1)));
                }
                Some((uid, self.sets.parse(&item)?.spec?.replicas.unwrap_or(1)))
            }
            "StatefulSet" => Some((uid, self.stateful.read(namespace, name)?.spec?.replicas.unwrap_or(1))),
            "ReplicationController" => Some((uid, self.replication.read(namespace, name)?.spec?.replicas.unwrap_or(1))),
            _ => None,
        }
    }

    /// The scale of an owner of any other kind that has one.
    async fn asked_scale(&self, key: &Key, owner: &client::Owner) -> Result<Option<(Box<str>, i32)>, Error> {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let Some(kind) = self.directory.find(group, &owner.kind).await? else { return Ok(None) };
        let path = format!("{}/{}/scale", kind.path_in(&key.namespace), owner.name);
        let request = http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
        match self.env.client.request::<Scale>(request).await {
            Ok(scale) if scale.metadata.uid.as_deref() == Some(&owner.uid) => {
                Ok(Some((owner.uid.clone(), scale.spec.and_then(|spec| spec.replicas).unwrap_or(0))))
            }
            Ok(_) => Ok(None),
            Err(kube::Error::Api(status)) if status.is_not_found() => {
                Err(Error::Message(format!("{} does not implement the scale subresource", kind.qualified())))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The budget's status, and when an eviction that it counts will have been too long ago.
fn status(
    budget: &PodDisruptionBudget,
    pods: &[PodView],
    scale: Result<i32, String>,
    at: Timestamp,
) -> (PodDisruptionBudgetStatus, Option<Duration>) {
    let spec = budget.spec.clone().unwrap_or_default();
    let old = budget.status.clone().unwrap_or_default();
    let count = i32::try_from(pods.len()).unwrap_or(i32::MAX);
    let numbers = match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => scale.map(|scale| (scale, (scale - scaled(most, scale, true)).max(0))),
        (None, Some(IntOrString::Int(least))) => Ok((count, *least)),
        (None, Some(least)) => scale.map(|scale| (scale, scaled(least, scale, true))),
        (None, None) => Ok((count, 0)),
    };
    let mut again = None;
    let mut disrupted: BTreeMap<String, Time> = BTreeMap::new();
    for (name, evicted) in old.disrupted_pods.clone().unwrap_or_default() {
        let there = pods.iter().any(|pod| pod.item.name() == name && !pod.item.deleting);
        let until = evicted.0.checked_add(SignedDuration::from_secs(EVICTION_LIMIT)).unwrap_or(Timestamp::MAX);
        if there && until > at {
            again = sooner(again, Some(between(at, until)));
            disrupted.insert(name, evicted);
        }
    }
    let is_healthy = |pod: &&PodView| !pod.item.deleting && !disrupted.contains_key(pod.item.name()) && pod.is_ready();
    let healthy = i32::try_from(pods.iter().filter(is_healthy).count()).unwrap_or(i32::MAX);
    let (expected, desired, problem) = match numbers {
        Ok((expected, desired)) => (expected, desired, None),
        Err(problem) => (0, 0, Some(problem)),
    };
    let allowed = if expected <= 0 { 0 } else { (healthy - desired).max(0) };
    let (verdict, reason) = match (&problem, allowed) {
        (Some(_), _) => ("False", "SyncFailed"),
        (None, 0) => ("False", "InsufficientPods"),
        (None, _) => ("True", "SufficientPods"),
    };
    let known = old.conditions.iter().flatten().find(|known| known.type_ == "DisruptionAllowed");
    let since =
        known.filter(|known| known.status == verdict).map_or_else(now, |known| known.last_transition_time.clone());
    let condition = Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: verdict.to_owned(),
        reason: reason.to_owned(),
        message: problem.unwrap_or_default(),
        observed_generation: Some(budget.generation()),
        last_transition_time: since,
    };
    let status = PodDisruptionBudgetStatus {
        conditions: Some(vec![condition]),
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected),
        observed_generation: Some(budget.generation()),
    };
    (status, again)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pods::tests::item;

    #[test]
    fn a_budget_allows_what_its_numbers_leave() {
        let pod = |number: usize, ready: bool| {
            let ready = if ready { "True" } else { "False" };
            PodView::new(item(json!({"metadata": {"name": format!("p{number}"), "uid": number.to_string()},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}})))
            .unwrap()
        };
        // Specification, healthy, unhealthy, scale: allowed, desired healthy, expected, reason.
        let cases = [
            (json!({"minAvailable": 2}), 3, 0, Ok(3), (1, 2, 3, "SufficientPods")),
            (json!({"minAvailable": 2}), 2, 1, Ok(3), (0, 2, 3, "InsufficientPods")),
            (json!({"minAvailable": "50%"}), 3, 0, Ok(3), (1, 2, 3, "SufficientPods")),
            (json!({"maxUnavailable": 1}), 4, 0, Ok(4), (1, 3, 4, "SufficientPods")),
            (json!({"maxUnavailable": "30%"}), 4, 0, Ok(4), (2, 2, 4, "SufficientPods")),
            (json!({"maxUnavailable": 1}), 2, 0, Err("x".to_owned()), (0, 0, 0, "SyncFailed")),
            (json!({"minAvailable": 0}), 0, 0, Ok(0), (0, 0, 0, "InsufficientPods")),
        ];
        for (spec, healthy, unhealthy, scale, expected) in cases {
            let budget = serde_json::from_value(json!({"metadata": {"name": "b"}, "spec": spec})).unwrap();
            let pods: Vec<_> = (0..healthy + unhealthy).map(|number| pod(number, number < healthy)).collect();
            let (made, _) = status(&budget, &pods, scale, Timestamp::now());
            let condition = &made.conditions.as_ref().unwrap()[0];
            let number = |number: Option<i32>| number.unwrap();
            let numbers = [made.disruptions_allowed, made.desired_healthy, made.expected_pods].map(number);
            let [allowed, desired, pods] = numbers;
            assert_eq!((allowed, desired, pods, &*condition.reason), expected, "{spec}");
        }
    }
}
