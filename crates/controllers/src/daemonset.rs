//! DaemonSets: a pod on each node that matches.

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

use crate::{
    claim,
    frame::{Env, Error, Loop, Synced, UNSEEN},
    owner::{Named, controller_reference},
    pods::{self, PodView},
    revisions,
    selector::Selector,
};
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
        .needs(&controller.revisions);
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
        if !self.expectations.met(&key, &self.pods, set.uid()) {
            return Ok(Some(UNSEEN));
        }
        let candidates = self.pods.list_ns(&key.namespace);
        let owned = claim::claim::<DaemonSet, Pod>(&self.env, &set, &selector, candidates).await?;
        let history = revisions::sync(&self.env, &self.revisions, &set, &spec.template, false).await?;
        let hash = revisions::hash_of(&history.update);
        let places = self.places(&spec.template, &owned, &hash);
        let wanted = places.iter().filter(|place| place.should_run).count();
        let (desired, now) = (Desired::of(&set, wanted), Timestamp::now());
        let plan = decide::plan(&desired, &places, now);
        let acted = self.act(&key, &set, plan, &owned, &hash).await;
        let status = decide::status(&set, &desired, &places, now);
        if set.status.as_ref() != Some(&status) {
            set.status = Some(status);
            self.env.replace_status(&set).await?;
        }
        acted?;
        let used = |revision: &ControllerRevision| {
            let hash = revisions::hash_of(revision);
            revision.name() == history.update.name()
                || owned.iter().any(|pod| pod.labels.get(revisions::HASH_LABEL) == Some(&hash))
        };
        revisions::truncate(&self.env, &history, spec.revision_history_limit, used).await?;
        let daemons = places.iter().flat_map(|place| &place.daemons);
        let soon =
            |daemon: &Daemon| daemon.pod.available_in(desired.min_ready_seconds, now).filter(|wait| !wait.is_zero());
        Ok(daemons.filter_map(soon).min())
    }

    /// Every node with the set's pods on it. Pods for nodes that are gone stand at places where they may not stay.
    fn places(&self, template: &PodTemplateSpec, owned: &[Arc<Item>], hash: &str) -> Vec<Place> {
        let mut by_node: BTreeMap<String, Vec<Daemon>> = BTreeMap::new();
        for item in owned {
            let node = if item.node_name.is_empty() {
                self.pods.parse(item).and_then(|pod| fit::pinned(pod.spec.as_ref()?)).unwrap_or_default()
            } else {
                item.node_name.to_string()
            };
            let updated = item.labels.get(revisions::HASH_LABEL) == Some(hash);
            if let Some(pod) = PodView::new(item.clone()) {
                by_node.entry(node).or_default().push(Daemon { pod, updated });
            }
        }
        let spec = template.spec.clone().unwrap_or_default();
        let nodes = self.nodes.list();
        let mut places: Vec<Place> = nodes
            .iter()
            .filter_map(|item| self.nodes.parse(item))
            .map(|node| {
                let (should_run, may_stay) = decide::belongs(&spec, &node);
                let daemons = by_node.remove(node.name()).unwrap_or_default();
                Place { node: node.name().to_owned(), should_run, may_stay, daemons }
            })
            .collect();
        places.extend(by_node.into_iter().map(|(node, daemons)| Place {
            node,
            should_run: false,
            may_stay: false,
            daemons,
        }));
        places
    }

    async fn act(&self, key: &Key, set: &DaemonSet, plan: Plan, owned: &[Arc<Item>], hash: &str) -> Result<(), Error> {
        for (pod, node) in &plan.failed {
            let message =
                format!("Found failed daemon pod {}/{pod} on node {node}, will try to kill it", key.namespace);
            self.env.recorder.warning(set, "FailedDaemonPod", message);
        }
        let doomed = owned.iter().filter(|pod| plan.delete.iter().any(|name| name == pod.name()));
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
        deletions.await.into_iter().collect::<Result<(), Error>>()?;
        let mut rest = &plan.create[..plan.create.len().min(BURST)];
        let mut batch = 1;
        while !rest.is_empty() {
            let (nodes, later) = rest.split_at(batch.min(rest.len()));
            let made = join_all(nodes.iter().map(async |node| {
                let body = serde_json::to_vec(&pod_for(set, node, hash))?;
                self.env.create::<Pod>(&key.namespace, body).await
            }));
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
                        return Err(error);
                    }
                }
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
