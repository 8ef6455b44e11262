//! ReplicaSets and ReplicationControllers: so many pods of one template.

mod decide;
mod kinds;
mod rank;

use std::{sync::Arc, time::Duration};

use client::{Cache, Change, Expectations, Item, Key, WorkQueue};
use futures::future::join_all;
use k8s_openapi::{
    api::{
        apps::v1::ReplicaSet,
        core::v1::{Pod, ReplicationController},
    },
    jiff::Timestamp,
};
use kube::api::DeleteParams;

use crate::{
    claim,
    frame::{Env, Error, Loop, Synced, UNSEEN, sooner},
    owner::{Named, controller_reference},
    pods::{self, PodView},
};
use decide::{Failure, Plan};
use kinds::Replicated;

/// ReplicaSets synced at once.
const WORKERS: usize = 5;

/// Runs the ReplicaSet controller.
pub(crate) async fn run(env: Env) {
    run_for::<ReplicaSet>(env).await;
}

/// Runs the ReplicationController controller, which is the same for another kind.
pub(crate) async fn run_replication_controllers(env: Env) {
    run_for::<ReplicationController>(env).await;
}

async fn run_for<R: Replicated>(env: Env) {
    let controller = Controller::<R> {
        pods: env.caches.get(),
        sets: env.caches.get(),
        expectations: Expectations::new(),
        env: env.clone(),
    };
    let sets = controller.sets.clone();
    let work = Loop::new()
        .on_self(&controller.sets)
        .on_owned(&controller.pods, R::KIND)
        .on(&controller.pods, move |change, queue| queue_adopters(&sets, change, queue));
    work.run(&env, WORKERS, |key| controller.sync(key)).await;
}

/// Queues the sets that may adopt a pod which nobody owns.
fn queue_adopters<R: Replicated>(sets: &Cache<R>, change: &Change, queue: &WorkQueue<Key>) {
    let Some(pod) = change.new.as_ref().filter(|pod| pod.controller().is_none() && !pod.deleting) else { return };
    for set in sets.list_ns(pod.namespace()) {
        if sets.parse(&set).and_then(|set| set.selector()).is_some_and(|selector| selector.matches(&pod.labels)) {
            queue.add(set.key.clone());
        }
    }
}

struct Controller<R> {
    env: Env,
    pods: Cache<Pod>,
    sets: Cache<R>,
    expectations: Expectations<Key>,
}

impl<R: Replicated> Controller<R> {
    async fn sync(&self, key: Key) -> Synced {
        let Some(set) = self.sets.read(&key.namespace, &key.name) else {
            self.expectations.forget(&key);
            return Ok(None);
        };
        let Some(selector) = set.selector().filter(|selector| !selector.is_empty()) else { return Ok(None) };
        let up_to_date = self.expectations.met(&key, &self.pods, set.uid());
        let candidates = claim::candidates(&self.pods, &key.namespace, set.uid());
        let owned = claim::claim::<R, Pod>(&self.env, &set, &selector, candidates).await?;
        let terminating = owned.iter().filter(|pod| pod.deleting && !pods::is_finished(pod)).count();
        let active: Vec<PodView> =
            owned.into_iter().filter(|pod| pods::is_active(pod)).filter_map(PodView::new).collect();

        let failed = if up_to_date && !set.is_deleting() { self.manage(&key, &set, &active).await } else { Ok(()) };
        let failure = failed.as_ref().err().map(|error| Failure {
            creating: (active.len() as i64) < i64::from(set.replicas()),
            message: error.message(),
        });
        let now = Timestamp::now();
        let counts = decide::count(&active, terminating, &set, now);
        if let Some(updated) = set.with_status(&counts, failure.as_ref()) {
            self.env.replace_status(&updated).await?;
        }
        failed?;
        let soonest = |pod: &PodView| pod.available_in(set.min_ready_seconds(), now).filter(|wait| !wait.is_zero());
        let available = active.iter().filter_map(soonest).min().map(|wait| wait + Duration::from_millis(50));
        Ok(sooner(available, (!up_to_date).then_some(UNSEEN)))
    }

    async fn manage(&self, key: &Key, set: &R, active: &[PodView]) -> Result<(), Error> {
        match decide::plan(active, set.replicas(), || self.related(set), Timestamp::now()) {
            Plan::Nothing => Ok(()),
            Plan::Create(count) => self.create(key, set, count).await,
            Plan::Delete(doomed) => self.delete(key, set, &doomed).await,
        }
    }

    /// The active pods of all sets that share this one's managing owner, by which crowded nodes are known.
    fn related(&self, set: &R) -> Vec<Arc<Item>> {
        let Some(owner) = crate::owner::controller_of(set.meta()).map(|owner| owner.uid.clone()) else {
            return self.pods.owned_by(set.uid());
        };
        let siblings = self.sets.owned_by(&owner);
        siblings
            .iter()
            .flat_map(|sibling| self.pods.owned_by(&sibling.uid))
            .filter(|pod| pods::is_active(pod))
            .collect()
    }

    /// Creates pods in batches that double as long as all goes well, so that a refusal costs few requests.
    async fn create(&self, key: &Key, set: &R, count: usize) -> Result<(), Error> {
        let mut pod = pods::from_template(&set.template(), controller_reference(set));
        pod.metadata.generate_name = Some(pods::name_prefix(&key.name));
        let body = serde_json::to_vec(&pod)?;
        let mut remaining = count;
        let mut batch = 1;
        while remaining > 0 {
            batch = batch.min(remaining);
            let made = join_all((0..batch).map(|_| self.env.create::<Pod>(&key.namespace, body.clone()))).await;
            let mut failed = None;
            for outcome in made {
                match outcome {
                    Ok(pod) => {
                        self.expectations.expect_revision(key, pod.revision());
                        let message = format!("Created pod: {}", pod.metadata.name);
                        self.env.recorder.normal(set, "SuccessfulCreate", message);
                    }
                    Err(error) if error.is_namespace_terminating() => return Ok(()),
                    Err(error) => {
                        let message = format!("Error creating: {}", error.message());
                        self.env.recorder.warning(set, "FailedCreate", message);
                        failed.get_or_insert(error);
                    }
                }
            }
            if let Some(error) = failed {
                return Err(error);
            }
            remaining -= batch;
            batch *= 2;
        }
        Ok(())
    }

    async fn delete(&self, key: &Key, set: &R, doomed: &[Arc<Item>]) -> Result<(), Error> {
        let deletions = doomed.iter().map(|pod| async {
            let gone = self.env.delete::<Pod>(pod.namespace(), pod.name(), &pod.uid, DeleteParams::default()).await;
            match &gone {
                Ok(()) => {
                    self.expectations.expect_deletion(key, &pod.uid);
                    self.env.recorder.normal(set, "SuccessfulDelete", format!("Deleted pod: {}", pod.name()));
                }
                Err(error) => {
                    self.env.recorder.warning(set, "FailedDelete", format!("Error deleting: {}", error.message()));
                }
            }
            gone
        });
        join_all(deletions).await.into_iter().collect()
    }
}
