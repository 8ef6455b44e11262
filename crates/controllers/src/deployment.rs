//! Deployments: rollouts of a template through ReplicaSets, one for each version of it.

mod history;
mod rollout;
pub(crate) mod set;
mod status;
pub(crate) mod template;

use client::{Cache, Change, Expectations, Key, WorkQueue};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    jiff::Timestamp,
};
use kube::api::DeleteParams;
use serde_json::json;

use crate::{
    claim,
    condition::{self, condition},
    frame::{Env, Error, Loop, Synced, UNSEEN},
    owner::{Named, controller_of, controller_reference},
    pods,
    selector::Selector,
};
use set::{Desired, Numbers, Sets};

/// Deployments synced at once.
const WORKERS: usize = 5;

/// Runs the Deployment controller.
pub(crate) async fn run(env: Env) {
    let controller = Controller {
        deployments: env.caches.get(),
        sets: env.caches.get(),
        pods: env.caches.get(),
        expectations: Expectations::new(),
        env: env.clone(),
    };
    let (deployments, sets) = (controller.deployments.clone(), controller.sets.clone());
    let adopters = deployments.clone();
    let work = Loop::new()
        .on_self(&deployments)
        .on_owned(&sets, "Deployment")
        .on(&sets, move |change, queue| queue_adopters(&adopters, change, queue))
        .on(&controller.pods, {
            let sets = sets.clone();
            move |change, queue| queue_recreating(&deployments, &sets, change, queue)
        });
    work.run(&env, WORKERS, |key| controller.sync(key)).await;
}

fn selector(deployment: &Deployment) -> Option<Selector> {
    Selector::new(&deployment.spec.as_ref()?.selector)
}

/// Queues the Deployments that may adopt a ReplicaSet which nobody owns.
fn queue_adopters(deployments: &Cache<Deployment>, change: &Change, queue: &WorkQueue<Key>) {
    let Some(set) = change.new.as_ref().filter(|set| set.controller().is_none() && !set.deleting) else { return };
    for item in deployments.list_ns(set.namespace()) {
        let selector = deployments.parse(&item).as_ref().and_then(selector);
        if selector.is_some_and(|selector| !selector.is_empty() && selector.matches(&set.labels)) {
            queue.add(item.key.clone());
        }
    }
}

/// Queues a Deployment that waits for its old pods to be gone before it makes new ones.
fn queue_recreating(
    deployments: &Cache<Deployment>,
    sets: &Cache<ReplicaSet>,
    change: &Change,
    queue: &WorkQueue<Key>,
) {
    let ended = change.new.as_ref().is_none_or(|pod| pods::is_finished(pod));
    let Some(pod) = change.item().filter(|_| ended) else { return };
    let Some(owner) = pod.controller().filter(|owner| &*owner.kind == "ReplicaSet") else { return };
    let Some(set) = sets.get(pod.namespace(), &owner.name) else { return };
    let Some(owner) = set.controller().filter(|owner| &*owner.kind == "Deployment") else { return };
    if deployments.read(pod.namespace(), &owner.name).is_some_and(|deployment| Desired::of(&deployment).recreate) {
        queue.add(Key { namespace: pod.key.namespace.clone(), name: (&*owner.name).into() });
    }
}

struct Controller {
    env: Env,
    deployments: Cache<Deployment>,
    sets: Cache<ReplicaSet>,
    pods: Cache<Pod>,
    /// ReplicaSets that were created and have yet to be seen.
    expectations: Expectations<Key>,
}

impl Controller {
    async fn sync(&self, key: Key) -> Synced {
        let Some(mut deployment) = self.deployments.read(&key.namespace, &key.name) else {
            self.expectations.forget(&key);
            return Ok(None);
        };
        let Some(selector) = selector(&deployment) else { return Ok(None) };
        if selector.is_empty() {
            return self.refuse(deployment).await;
        }
        if !self.expectations.met(&key, &self.sets, deployment.uid()) {
            return Ok(Some(UNSEEN));
        }
        let candidates = claim::candidates(&self.sets, &key.namespace, deployment.uid());
        let owned = claim::claim::<Deployment, ReplicaSet>(&self.env, &deployment, &selector, candidates).await?;
        let owned = owned.iter().filter_map(|item| self.sets.parse(item)).collect();
        let desired = Desired::of(&deployment);
        let wanted = deployment.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
        let mut sets = Sets::split(owned, |set| template::is_of(set, &wanted));
        if deployment.is_deleting() {
            let status = status::counted(&deployment, &desired, &sets);
            return self.write_status(&mut deployment, status).await.map(|()| None);
        }
        if let Some(status) = status::paused(&deployment, &desired) {
            self.write_status(&mut deployment, status).await?;
        }
        if desired.paused || rollout::is_scaling(&desired, &sets) {
            self.update_revision(&mut deployment, &desired, &mut sets).await?;
            for resize in rollout::scale(&desired, &sets) {
                self.resize(&deployment, &desired, &mut sets, resize).await?;
            }
            if desired.paused {
                self.clean_up(&desired, &sets).await?;
            }
            let status = status::counted(&deployment, &desired, &sets);
            return self.write_status(&mut deployment, status).await.map(|()| None);
        }
        if desired.recreate {
            self.recreate(&key, &mut deployment, &desired, &mut sets).await?;
        } else {
            self.ensure_new(&key, &mut deployment, &desired, &mut sets).await?;
            for resize in rollout::rolling(&desired, &sets) {
                self.resize(&deployment, &desired, &mut sets, resize).await?;
            }
        }
        let now = Timestamp::now();
        let status = status::rolled(&deployment, &desired, &sets, now);
        if status::is_complete(&desired, deployment.generation(), &status) {
            self.clean_up(&desired, &sets).await?;
        }
        let again = status::check_again(&desired, deployment.generation(), &status, now);
        self.write_status(&mut deployment, status).await?;
        Ok(again)
    }

    /// A selector of everything would take all pods of the namespace.
    async fn refuse(&self, mut deployment: Deployment) -> Synced {
        let message = "This deployment is selecting all pods. A non-empty selector is required.";
        self.env.recorder.warning(&deployment, "SelectingAll", message);
        let mut status = deployment.status.clone().unwrap_or_default();
        status.observed_generation = Some(deployment.generation());
        self.write_status(&mut deployment, status).await?;
        Ok(None)
    }

    async fn write_status(&self, deployment: &mut Deployment, status: DeploymentStatus) -> Result<(), Error> {
        if deployment.status.as_ref() != Some(&status) {
            deployment.status = Some(status);
            *deployment = self.env.replace_status(deployment).await?;
        }
        Ok(())
    }

    /// All old pods go, and when none is left, the new ones come.
    async fn recreate(
        &self,
        key: &Key,
        deployment: &mut Deployment,
        desired: &Desired,
        sets: &mut Sets,
    ) -> Result<(), Error> {
        self.update_revision(deployment, desired, sets).await?;
        let active: Vec<_> = sets.old.iter().filter(|set| set.size() > 0).map(|set| set.name().to_owned()).collect();
        if !active.is_empty() {
            for name in active {
                self.resize(deployment, desired, sets, (name, 0)).await?;
            }
            return Ok(());
        }
        let running = |set: &ReplicaSet| {
            set.actual() > 0 || self.pods.owned_by(set.uid()).iter().any(|pod| !pods::is_finished(pod))
        };
        if sets.old.iter().any(running) {
            return Ok(());
        }
        self.ensure_new(key, deployment, desired, sets).await?;
        if let Some(new) = sets.new.as_ref().filter(|new| new.size() != desired.replicas) {
            let resize = (new.name().to_owned(), desired.replicas);
            self.resize(deployment, desired, sets, resize).await?;
        }
        Ok(())
    }

    /// Sees to it that there is a ReplicaSet of the present template, with the newest revision.
    async fn ensure_new(
        &self,
        key: &Key,
        deployment: &mut Deployment,
        desired: &Desired,
        sets: &mut Sets,
    ) -> Result<(), Error> {
        if sets.new.is_some() {
            return self.update_revision(deployment, desired, sets).await;
        }
        let set = new_set(deployment, desired, sets);
        let (name, size) = (set.name().to_owned(), set.size());
        match self.env.api::<ReplicaSet>(&key.namespace).create(&Default::default(), &set).await.map_err(Error::from) {
            Ok(created) => {
                let revision = created.metadata.resource_version.as_ref().and_then(|version| version.parse().ok());
                self.expectations.expect_revision(key, revision.unwrap_or(0));
                if size > 0 {
                    let message = format!("Scaled up replica set {name} from 0 to {size}");
                    self.env.recorder.normal(deployment, "ScalingReplicaSet", message);
                }
                let message = format!("Created new replica set \"{name}\"");
                sets.new = Some(created);
                self.publish_revision(deployment, sets).await?;
                self.tell_progress(deployment, desired, "True", status::NEW_SET, &message).await
            }
            Err(error) if error.is_already_exists() => self.adopt_or_collide(deployment, desired, sets, &name).await,
            Err(error) if error.is_namespace_terminating() => Err(error),
            Err(error) => {
                let message = format!("Failed to create new replica set \"{name}\": {}", error.message());
                self.env.recorder.warning(deployment, status::SET_FAILED, &message);
                self.tell_progress(deployment, desired, "False", status::SET_FAILED, &message).await?;
                Err(error)
            }
        }
    }

    /// The name is taken: by a set of ours that the cache has yet to show, or by another template of the same hash.
    async fn adopt_or_collide(
        &self,
        deployment: &mut Deployment,
        desired: &Desired,
        sets: &mut Sets,
        name: &str,
    ) -> Result<(), Error> {
        let taken = self.env.api::<ReplicaSet>(deployment.namespace()).get(name).await?;
        let wanted = deployment.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
        let ours = controller_of(&taken.metadata).is_some_and(|owner| owner.uid == deployment.uid());
        if ours && template::is_of(&taken, &wanted) {
            sets.new = Some(taken);
            return self.update_revision(deployment, desired, sets).await;
        }
        let mut status = deployment.status.clone().unwrap_or_default();
        *status.collision_count.get_or_insert(0) += 1;
        self.write_status(deployment, status).await?;
        Err(Error::Message(format!("replicaset \"{name}\" already exists and is of another template")))
    }

    /// Brings the new set's annotations up to date, and the Deployment's revision with them.
    async fn update_revision(
        &self,
        deployment: &mut Deployment,
        desired: &Desired,
        sets: &mut Sets,
    ) -> Result<(), Error> {
        let Some(new) = &sets.new else { return Ok(()) };
        let annotations = history::annotations(deployment, new, history::next_revision(&sets.old));
        let min_ready = new.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
        if !annotations.is_empty() || min_ready != desired.min_ready_seconds {
            let patch = json!({
                "metadata": {"resourceVersion": new.metadata.resource_version, "annotations": annotations},
                "spec": {"minReadySeconds": desired.min_ready_seconds},
            });
            sets.new = Some(self.patch_set(new, patch).await?);
        }
        self.publish_revision(deployment, sets).await?;
        let known =
            deployment.status.as_ref().and_then(|status| condition::find(&status.conditions, status::PROGRESSING));
        match &sets.new {
            Some(new) if known.is_none() => {
                let message = format!("Found new replica set \"{}\"", new.name());
                self.tell_progress(deployment, desired, "True", status::FOUND_SET, &message).await
            }
            _ => Ok(()),
        }
    }

    /// Writes the new set's revision to the Deployment.
    async fn publish_revision(&self, deployment: &mut Deployment, sets: &Sets) -> Result<(), Error> {
        let Some(revision) = sets.new.as_ref().and_then(|new| new.annotation(set::REVISION)) else { return Ok(()) };
        if deployment.annotation(set::REVISION) == Some(revision) {
            return Ok(());
        }
        let patch = json!({"metadata": {
            "resourceVersion": deployment.metadata.resource_version,
            "annotations": {set::REVISION: revision},
        }});
        let (namespace, name) = (deployment.namespace(), deployment.name());
        let written = self.env.patch::<Deployment>(namespace, name, "", &patch).await?;
        deployment.metadata.resource_version = Some(written.metadata.resource_version);
        deployment.metadata.annotations.get_or_insert_default().insert(set::REVISION.to_owned(), revision.to_owned());
        Ok(())
    }

    async fn tell_progress(
        &self,
        deployment: &mut Deployment,
        desired: &Desired,
        verdict: &str,
        reason: &str,
        message: &str,
    ) -> Result<(), Error> {
        if desired.deadline.is_none() {
            return Ok(());
        }
        let mut status = deployment.status.clone().unwrap_or_default();
        condition::set(&mut status.conditions, condition(status::PROGRESSING, verdict, reason, message));
        self.write_status(deployment, status).await
    }

    /// Sizes one set, and notes in its annotations of what whole it is a part.
    async fn resize(
        &self,
        deployment: &Deployment,
        desired: &Desired,
        sets: &mut Sets,
        (name, size): rollout::Resize,
    ) -> Result<(), Error> {
        let Some(set) = sets.by_name_mut(&name) else { return Ok(()) };
        let before = set.size();
        let annotations = history::whole(desired);
        if before == size && annotations.iter().all(|(key, value)| set.annotation(key) == Some(value)) {
            return Ok(());
        }
        let patch = json!({
            "metadata": {"resourceVersion": set.metadata.resource_version, "annotations": annotations},
            "spec": {"replicas": size},
        });
        *set = self.patch_set(set, patch).await?;
        if before != size {
            let direction = if size > before { "up" } else { "down" };
            let message = format!("Scaled {direction} replica set {name} from {before} to {size}");
            self.env.recorder.normal(deployment, "ScalingReplicaSet", message);
        }
        Ok(())
    }

    async fn patch_set(&self, set: &ReplicaSet, patch: serde_json::Value) -> Result<ReplicaSet, Error> {
        let api = self.env.api::<ReplicaSet>(set.namespace());
        Ok(api.patch(set.name(), &Default::default(), &kube::api::Patch::Merge(patch)).await?)
    }

    async fn clean_up(&self, desired: &Desired, sets: &Sets) -> Result<(), Error> {
        for set in rollout::surplus(desired, sets) {
            let params = DeleteParams::background();
            self.env.delete::<ReplicaSet>(set.namespace(), set.name(), set.uid(), params).await?;
        }
        Ok(())
    }
}

/// The ReplicaSet for a template that has none yet.
fn new_set(deployment: &Deployment, desired: &Desired, sets: &Sets) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let hash = template::hash(&spec.template, collisions);
    let label = (template::HASH_LABEL.to_owned(), hash.clone());
    let mut pod_template = spec.template;
    let labels = pod_template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.extend([label.clone()]);
    let labels = labels.clone();
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().extend([label]);
    let mut set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.name())),
            namespace: Some(deployment.namespace().to_owned()),
            owner_references: Some(vec![controller_reference(deployment)]),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(rollout::new_size(desired, 0, set::sum(&sets.old, Numbers::size))),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(pod_template),
        }),
        status: None,
    };
    let mut annotations = history::annotations(deployment, &set, history::next_revision(&sets.old));
    annotations.extend(history::whole(desired));
    set.metadata.annotations = Some(annotations);
    set
}
