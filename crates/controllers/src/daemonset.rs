//! DaemonSets: a pod on each node that matches.

mod backoff;
mod decide;
mod fit;

use std::{collections::BTreeMap, sync::Arc};

use client::{Cache, Change, Expectations, Item, Key, WorkQueue};
use futures::future::join_all;
use k8s_openapi::{
    api::{
        apps::v1::{ControllerRevision, DaemonSet},
        core::v1::{Node, Pod, PodTemplateSpec},
    },
    jiff::Timestamp,
};
use kube::api::DeleteParams;
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use crate::{
    claim,
    frame::{Env, Error, Loop, Synced, UNSEEN, sooner},
    owner::{Named, controller_reference},
    pods::{self, PodView},
    revisions::{self, History, Style},
    selector::Selector,
};
use backoff::{Backoff, Spot};
use decide::{Daemon, Desired, Place, Plan};

const WORKERS: usize = 2;
/// The most pods made in one sync.
const BURST: usize = 250;
const GENERATION: &str = "deprecated.daemonset.template.generation";
const GENERATION_LABEL: &str = "pod-template-generation";

/// Runs the DaemonSet controller.
pub(crate) async fn run(env: Env) {
    let controller = Controller {
        sets: env.caches.get(),
        pods: env.caches.get(),
        nodes: env.caches.get(),
        revisions: env.caches.get(),
        backoff: Mutex::default(),
        expectations: Expectations::new(),
        env: env.clone(),
    };
    let (sets, nodes) = (controller.sets.clone(), controller.nodes.clone());
    let adopters = sets.clone();
    let work = Loop::new()
        .on_self(&controller.sets)
        .on_owned(&controller.pods, "DaemonSet")
        .on(&controller.pods, move |change, queue| queue_adopters(&adopters, change, queue))
        .on(&controller.nodes, move |change, queue| {
            // Heartbeats make no difference, but labels and taints do.
            if footprint(&nodes, change.old.as_ref()) != footprint(&nodes, change.new.as_ref()) {
                sets.list().iter().for_each(|set| queue.add(set.key.clone()));
            }
        })
        .on_owned(&controller.revisions, "DaemonSet");
    work.run(&env, WORKERS, |key| controller.sync(key)).await;
}

/// All of a node that decides who runs there.
fn footprint(nodes: &Cache<Node>, item: Option<&Arc<Item>>) -> Option<(client::Labels, Option<serde_json::Value>)> {
    let item = item?;
    let taints = nodes.parse(item)?.spec.and_then(|spec| spec.taints);
    Some((item.labels.clone(), serde_json::to_value(taints).ok()))
}

fn queue_adopters(sets: &Cache<DaemonSet>, change: &Change, queue: &WorkQueue<Key>) {
    let Some(pod) = change.new.as_ref().filter(|pod| pod.controller().is_none() && !pod.deleting) else { return };
    for item in sets.list_ns(pod.namespace()) {
        let selector = sets.parse(&item).and_then(|set| Selector::new(&set.spec?.selector));
        if selector.is_some_and(|selector| !selector.is_empty() && selector.matches(&pod.labels)) {
            queue.add(item.key.clone());
        }
    }
}

struct Controller {
    env: Env,
    sets: Cache<DaemonSet>,
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    revisions: Cache<ControllerRevision>,
    backoff: Mutex<Backoff>,
    expectations: Expectations<Key>,
}

impl Controller {
    async fn sync(&self, key: Key) -> Synced {
        let Some(mut set) = self.sets.read(&key.namespace, &key.name) else {
            self.expectations.forget(&key);
            return Ok(None);
        };
        let spec = set.spec.clone().unwrap_or_default();
        let Some(selector) = Selector::new(&spec.selector) else { return Ok(None) };
        if selector.is_empty() {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.env.recorder.warning(&set, "SelectingAll", message);
            return Ok(None);
        }
        if set.is_deleting() {
            return Ok(None);
        }
        // While the cache is behind, what it shows may be told but not acted on.
        let up_to_date = self.expectations.met(&key, &self.pods, set.uid());
        let candidates = claim::candidates(&self.pods, &key.namespace, set.uid());
        let owned = claim::claim::<DaemonSet, Pod>(&self.env, &set, &selector, candidates).await?;
        let all = revisions::list(&self.env, &self.revisions, &set, &selector).await?;
        let collisions = set.status.as_ref().and_then(|status| status.collision_count);
        let history = revisions::sync(&self.env, all, &set, &spec.template, collisions, Style::DaemonSet).await?;
        self.merge(&history, &owned).await?;
        let hash = revisions::hash_of(&history.update);
        let places = self.places(&set, &spec.template, &owned, &hash);
        let wanted = places.iter().filter(|place| place.should_run).count();
        let (desired, now) = (Desired::of(&set, wanted), Timestamp::now());
        let (mut acted, mut again) = (Ok(()), None);
        if up_to_date {
            let plan = self.plan(&set, &desired, &places, now);
            again = plan.again;
            acted = self.act(&key, &set, plan, &owned, &hash).await;
        }
        let collisions = collisions.or((history.collisions > 0).then_some(0)).map(|_| history.collisions);
        let status = decide::status(&set, &desired, &places, collisions, up_to_date, now);
        if set.status.as_ref() != Some(&status) {
            set.status = Some(status);
            self.env.replace_status(&set).await?;
        }
        acted?;
        if !up_to_date {
            return Ok(Some(UNSEEN));
        }
        let used = |revision: &ControllerRevision| {
            let hash = revisions::hash_of(revision);
            owned.iter().any(|pod| pod.labels.get(revisions::HASH_LABEL) == Some(&hash))
        };
        revisions::truncate(&self.env, &history, spec.revision_history_limit, used, Style::DaemonSet).await?;
        let daemons = places.iter().flat_map(|place| &place.daemons);
        let soon =
            |daemon: &Daemon| daemon.pod.available_in(desired.min_ready_seconds, now).filter(|wait| !wait.is_zero());
        Ok(sooner(again, daemons.filter_map(soon).min()))
    }

    fn plan(&self, set: &DaemonSet, desired: &Desired, places: &[Place], now: Timestamp) -> Plan {
        let generation = set.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
        let spot = |node: &str| Spot { set: set.uid().to_owned(), generation, node: node.to_owned() };
        let mut backoff = self.backoff.lock();
        decide::plan(desired, places, now, |node| backoff.replace(spot(node), Instant::now()))
    }

    /// Does away with further revisions of the present template; their pods are as good as those of the one that stays.
    async fn merge(&self, history: &History, owned: &[Arc<Item>]) -> Result<(), Error> {
        let hash = revisions::hash_of(&history.update);
        for duplicate in history.duplicates() {
            let other = revisions::hash_of(duplicate);
            for pod in owned.iter().filter(|pod| pod.labels.get(revisions::HASH_LABEL) == Some(&other)) {
                let patch = json!({"metadata": {"uid": pod.uid, "labels": {revisions::HASH_LABEL: hash}}});
                self.env.patch::<Pod>(pod.namespace(), pod.name(), "", &patch).await?;
            }
            revisions::delete(&self.env, duplicate).await?;
        }
        Ok(())
    }

    /// Every node with the set's pods on it, and the nodes that are gone but for its pods.
    fn places(&self, set: &DaemonSet, template: &PodTemplateSpec, owned: &[Arc<Item>], hash: &str) -> Vec<Place> {
        let mut by_node: BTreeMap<String, Vec<Daemon>> = BTreeMap::new();
        let generation = set.annotation(GENERATION).filter(|generation| generation.parse::<i64>().is_ok());
        for item in owned {
            let node = if item.node_name.is_empty() {
                self.pods.parse(item).and_then(|pod| fit::pinned(pod.spec.as_ref()?)).unwrap_or_default()
            } else {
                item.node_name.to_string()
            };
            let of_generation = generation.is_some() && item.labels.get(GENERATION_LABEL) == generation;
            let updated = of_generation || item.labels.get(revisions::HASH_LABEL) == Some(hash);
            if let Some(pod) = PodView::new(item.clone()) {
                by_node.entry(node).or_default().push(Daemon { pod, updated });
            }
        }
        let spec = template.spec.clone().unwrap_or_default();
        let nodes = self.nodes.list();
        let there = nodes.iter().filter_map(|item| self.nodes.parse(item)).map(|node| {
            let daemons = by_node.remove(node.name()).unwrap_or_default();
            Place::new(node.name(), true, decide::belongs(&spec, &node), daemons)
        });
        let mut places: Vec<Place> = there.collect();
        places.extend(by_node.into_iter().map(|(node, daemons)| Place::new(&node, false, (false, false), daemons)));
        places
    }

    async fn act(&self, key: &Key, set: &DaemonSet, plan: Plan, owned: &[Arc<Item>], hash: &str) -> Result<(), Error> {
        let namespace = &key.namespace;
        for (pod, node) in &plan.failed {
            let message = format!("Found failed daemon pod {namespace}/{pod} on node {node}, will try to kill it");
            self.env.recorder.warning(set, "FailedDaemonPod", message);
        }
        for (pod, node) in &plan.succeeded {
            let message = format!("Found succeeded daemon pod {namespace}/{pod} on node {node}, will try to delete it");
            self.env.recorder.normal(set, "SucceededDaemonPod", message);
        }
        let created = self.create(key, set, &plan.create[..plan.create.len().min(BURST)], hash).await;
        let doomed = owned.iter().filter(|pod| plan.delete.iter().any(|name| name == pod.name())).take(BURST);
        let deletions = join_all(doomed.map(async |pod| {
            match self.env.delete::<Pod>(pod.namespace(), pod.name(), &pod.uid, DeleteParams::default()).await {
                Ok(()) => {
                    self.expectations.expect_deletion(key, &pod.uid);
                    self.env.recorder.normal(set, "SuccessfulDelete", format!("Deleted pod: {}", pod.name()));
                    Ok(())
                }
                Err(error) => {
                    self.env.recorder.warning(set, "FailedDelete", format!("Error deleting: {}", error.message()));
                    Err(error)
                }
            }
        }));
        created.and(deletions.await.into_iter().collect())
    }

    /// Creates pods, a growing number at once, so that a refusal costs few requests.
    async fn create(&self, key: &Key, set: &DaemonSet, mut rest: &[String], hash: &str) -> Result<(), Error> {
        let mut batch = 1;
        while !rest.is_empty() {
            let (nodes, later) = rest.split_at(batch.min(rest.len()));
            let made = join_all(nodes.iter().map(async |node| {
                let body = serde_json::to_vec(&pod_for(set, node, hash))?;
                self.env.create::<Pod>(&key.namespace, body).await
            }));
            let mut failed = None;
            for outcome in made.await {
                match outcome {
                    Ok(pod) => {
                        self.expectations.expect_revision(key, pod.revision());
                        let message = format!("Created pod: {}", pod.metadata.name);
                        self.env.recorder.normal(set, "SuccessfulCreate", message);
                    }
                    Err(error) if error.is_namespace_terminating() => return Ok(()),
                    Err(error) => {
                        self.env.recorder.warning(set, "FailedCreate", format!("Error creating: {}", error.message()));
                        failed.get_or_insert(error);
                    }
                }
            }
            if let Some(error) = failed {
                return Err(error);
            }
            rest = later;
            batch *= 2;
        }
        Ok(())
    }
}

/// The pod for a node.
fn pod_for(set: &DaemonSet, node: &str, hash: &str) -> Pod {
    let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let mut pod = pods::from_template(&template, controller_reference(set));
    pod.metadata.generate_name = Some(pods::name_prefix(set.name()));
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(revisions::HASH_LABEL.to_owned(), hash.to_owned());
    if let Some(generation) = set.annotation(GENERATION) {
        labels.insert(GENERATION_LABEL.to_owned(), generation.to_owned());
    }
    let spec = pod.spec.get_or_insert_default();
    spec.tolerations = Some(decide::tolerations(spec));
    fit::pin(spec, node);
    pod
}
