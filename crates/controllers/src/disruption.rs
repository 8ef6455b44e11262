//! PodDisruptionBudgets: how many pods may be evicted at the moment.

mod decide;
mod stale;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use client::{Cache, Change, Item, Key, WorkQueue};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet, StatefulSet},
        autoscaling::v1::Scale as ScaleAnswer,
        core::v1::{Pod, ReplicationController},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement},
    jiff::Timestamp,
};

use crate::{
    discovery::Directory,
    frame::{Env, Error, Loop, Synced},
    pods::PodView,
    selector::Selector,
};
use decide::Decision;

/// When the scale of pods' controllers is asked for again where it could not be had.
const RETRY: Duration = Duration::from_secs(15);

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
    tokio::join!(work.run(&env, 2, |key| controller.sync(key)), stale::run(env.clone()));
}

fn selector(budget: &PodDisruptionBudget) -> Option<Selector> {
    // No selector selects nothing, an empty one everything.
    Selector::new(budget.spec.as_ref()?.selector.as_ref()?)
}

/// The pods of a budget, of those of its namespace.
fn selected(budget: &PodDisruptionBudget, pods: Vec<Arc<Item>>) -> Vec<PodView> {
    let Some(selector) = selector(budget) else { return Vec::new() };
    pods.into_iter().filter(|pod| selector.matches(&pod.labels)).filter_map(PodView::new).collect()
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
        let pods = selected(&budget, self.pods.list_ns(&key.namespace));
        if pods.is_empty() {
            self.env.recorder.normal(&budget, "NoPods", "No matching pods found");
        }
        let scale = if decide::needs_scale(&budget) { self.scale(&key, &pods).await } else { Ok(Scale::default()) };
        let (status, again) = match scale {
            Ok(scale) => {
                if scale.unmanaged {
                    self.env.recorder.warning(&budget, "UnmanagedPods", unmanaged(&budget));
                }
                let Decision { status, overdue, again } = decide::decide(&budget, &pods, scale.sum, Timestamp::now());
                for pod in overdue.iter().filter_map(|item| self.pods.parse(item)) {
                    let message = format!("Pod was expected by PDB {key} to be deleted but it wasn't");
                    self.env.recorder.warning(&pod, "NotDeleted", message);
                }
                (status, again)
            }
            Err(problem) => {
                let message = format!("Failed to calculate the number of expected pods: {problem}");
                self.env.recorder.warning(&budget, "CalculateExpectedPodCountFailed", message);
                (decide::failed(&budget, &problem), Some(RETRY))
            }
        };
        if budget.status.as_ref() != Some(&status) {
            budget.status = Some(status);
            self.env.replace_status(&budget).await?;
        }
        Ok(again)
    }

    /// How many pods the controllers of these mean to have; an error says of which pod that is not known.
    async fn scale(&self, key: &Key, pods: &[PodView]) -> Result<Scale, String> {
        let mut scales: BTreeMap<Box<str>, i32> = BTreeMap::new();
        let mut asked: HashSet<&str> = HashSet::new();
        let mut unmanaged = false;
        for pod in pods {
            let Some(owner) = pod.item.controller() else {
                unmanaged = true;
                continue;
            };
            if !asked.insert(&owner.uid) {
                continue;
            }
            let known = match self.cached_scale(key, owner) {
                Some(known) => Some(known),
                None => self.asked_scale(key, owner).await.map_err(|error| error.message())?,
            };
            let Some((uid, replicas)) = known else {
                return Err(format!("found no controllers for pod {:?}", pod.item.name()));
            };
            scales.insert(uid, replicas);
        }
        Ok(Scale { sum: scales.values().sum(), unmanaged })
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
        match self.env.client.request::<ScaleAnswer>(request).await {
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

/// What the controllers of a budget's pods mean to have together.
#[derive(Default)]
struct Scale {
    sum: i32,
    /// Whether there are pods that have none.
    unmanaged: bool,
}

fn unmanaged(budget: &PodDisruptionBudget) -> String {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
    format!(
        "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the status of the \
         PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \
         \".spec.minAvailable\" field of the PDB to an integer value.",
        written(&selector)
    )
}

/// A selector as upstream's messages write it.
fn written(selector: &LabelSelector) -> String {
    let labels: String =
        selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}: {value},")).collect();
    let expression = |one: &LabelSelectorRequirement| {
        let values = one.values.clone().unwrap_or_default().join(" ");
        format!("LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},", one.key, one.operator)
    };
    let expressions: String = selector.match_expressions.iter().flatten().map(expression).collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pods::tests::item;

    #[test]
    fn a_budget_without_a_selector_selects_nothing_and_an_empty_one_everything() {
        let cases = [
            (json!({}), ""),
            (json!({"selector": {}}), "a b"),
            (json!({"selector": {"matchLabels": {"app": "a"}}}), "a"),
            (json!({"selector": {"matchLabels": {"app": "c"}}}), ""),
        ];
        for (spec, expected) in cases {
            let pod = |name: &str| item(json!({"metadata": {"name": name, "labels": {"app": name}}}));
            let budget = serde_json::from_value(json!({"metadata": {"name": "b"}, "spec": spec})).unwrap();
            let names = selected(&budget, vec![pod("a"), pod("b")]);
            let names: Vec<&str> = names.iter().map(|pod| pod.item.name()).collect();
            assert_eq!(names.join(" "), expected, "{spec}");
        }
    }
}
