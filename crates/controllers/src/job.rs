//! Jobs: pods that run to completion, each counted exactly once.

mod decide;
mod indexes;
mod owners;
mod pod;
mod policy;

use std::sync::Arc;

use client::{Cache, Expectations, Item, Key, events::EventType};
use futures::future::join_all;
use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod},
    },
    jiff::Timestamp,
};
use kube::api::DeleteParams;
use serde_json::json;

use crate::{
    claim,
    frame::{Env, Error, Loop, Synced, UNSEEN, revision},
    owner::{Named, controller_reference},
    pods,
    selector::Selector,
};
pub(crate) use decide::is_finished;
use decide::{Creation, Decision};
use owners::Owners;
use pod::{FINALIZER, INDEX, INDEX_FAILURES, INDEX_IGNORED_FAILURES, JobPod};

const WORKERS: usize = 5;
const NAME_LABEL: &str = "batch.kubernetes.io/job-name";
const CONTROLLER: &str = "kubernetes.io/job-controller";

/// Runs the Job controller.
pub(crate) async fn run(env: Env) {
    let controller = Controller {
        jobs: env.caches.get(),
        pods: env.caches.get(),
        owners: Owners::default(),
        expectations: Expectations::new(),
        written: Expectations::new(),
        env: env.clone(),
    };
    let owners = controller.owners.clone();
    let work = Loop::new().on_self(&controller.jobs).on_owned(&controller.pods, "Job").on(&controller.pods, {
        move |change, queue| {
            if let Some(pod) = change.new.as_ref().filter(|pod| is_tracked(pod))
                && let Some(owner) = pod.controller().filter(|owner| &*owner.kind == "Job")
            {
                let key = Key { namespace: change.key.namespace.clone(), name: (&*owner.name).into() };
                if owners.see(&key, &owner.uid) {
                    queue.add(key);
                }
            }
            // A pod that lost its owner must not be held by a finalizer of ours.
            let stray = |pod: &&Arc<Item>| pod.controller().is_none() && is_tracked(pod);
            if let Some(name) = change.new.as_ref().filter(stray).and_then(|pod| pod.labels.get(NAME_LABEL)) {
                queue.add(Key { namespace: change.key.namespace.clone(), name: name.into() });
            }
        }
    });
    work.run(&env, WORKERS, |key| controller.sync(key)).await;
}

fn is_tracked(pod: &Item) -> bool {
    pod.finalizers.iter().any(|name| &**name == FINALIZER)
}

struct Controller {
    env: Env,
    jobs: Cache<Job>,
    pods: Cache<Pod>,
    owners: Owners,
    expectations: Expectations<Key>,
    /// The same for the statuses that we wrote.
    written: Expectations<Key>,
}

impl Controller {
    async fn sync(&self, key: Key) -> Synced {
        let job = self.jobs.read(&key.namespace, &key.name);
        self.free_strays(&key, job.as_ref()).await?;
        let Some(mut job) = job else {
            self.expectations.forget(&key);
            self.written.forget(&key);
            return Ok(None);
        };
        let spec = job.spec.clone().unwrap_or_default();
        if spec.managed_by.as_deref().is_some_and(|manager| manager != CONTROLLER) {
            return Ok(None);
        }
        // Pods are told apart by what the status says of them: one of the past would have them counted, or made, again.
        let is_seen =
            self.written.met(&key, &self.jobs, job.uid()) && self.expectations.met(&key, &self.pods, job.uid());
        if !is_seen {
            return Ok(Some(UNSEEN));
        }
        let Some(selector) = spec.selector.as_ref().and_then(Selector::new) else { return Ok(None) };
        let candidates = claim::candidates(&self.pods, &key.namespace, job.uid());
        let owned = claim::claim_held::<Job, Pod>(&self.env, &job, &selector, candidates, Some(FINALIZER)).await?;
        if is_finished(&job) {
            let tracked = owned.into_iter().filter(|pod| is_tracked(pod)).collect();
            return self.untrack(&key, tracked).await.map(|()| None);
        }
        self.track(&key, owned.iter().filter(|pod| pods::is_active(pod) && !is_tracked(pod))).await?;
        let pods: Vec<JobPod> = owned.into_iter().filter_map(JobPod::new).collect();
        let decision = decide::decide(&job, &pods, Timestamp::now());
        self.act(&key, &mut job, decision).await
    }

    async fn act(&self, key: &Key, job: &mut Job, mut decision: Decision) -> Synced {
        let made = self.create(key, job, &decision.create).await;
        if let Ok(count) = &made {
            decision.status.active = Some(decision.status.active.unwrap_or(0) + count).filter(|count| *count != 0);
        }
        if job.status.as_ref() != Some(&decision.status) {
            job.status = Some(decision.status);
            *job = self.env.replace_status(job).await?;
            self.written.expect_revision(key, revision(job));
            for (kind, reason, message) in decision.events {
                self.env.recorder.record(client::events::reference(job), kind, &reason, message);
            }
        }
        // Only now that the status knows them.
        self.untrack(key, decision.untrack).await?;
        self.delete(key, job, decision.delete).await?;
        made?;
        Ok(decision.again)
    }

    /// Removes our finalizer from pods that no longer have a Job, which would keep them for ever.
    async fn free_strays(&self, key: &Key, job: Option<&Job>) -> Result<(), Error> {
        let selector = job.filter(|job| !job.is_deleting()).and_then(|job| job.spec.as_ref()?.selector.as_ref());
        let selector = selector.and_then(Selector::new);
        let adopts = |pod: &Item| !pod.deleting && selector.as_ref().is_some_and(|s| s.matches(&pod.labels));
        // Before their pods are looked for: one that comes meanwhile is seen anew, and asks for another turn.
        let former = self.owners.take_former(key, job.map(|job| job.uid()));
        let of_former = former.iter().flat_map(|uid| self.pods.owned_by(uid)).filter(|pod| {
            pod.controller().is_some_and(|owner| former.contains(&owner.uid) && *owner.name == *key.name)
        });
        let nobodys = self.pods.adoptable(&key.namespace).into_iter();
        // One that a living Job's selector still matches is adopted instead.
        let nobodys = nobodys.filter(|pod| pod.labels.get(NAME_LABEL) == Some(&*key.name) && !adopts(pod));
        let strays: Vec<_> = of_former.chain(nobodys).filter(|pod| is_tracked(pod)).collect();
        let freed = self.untrack(key, strays).await;
        if freed.is_err() {
            self.owners.put_back(key, former);
        }
        freed
    }

    /// Holds pods that were adopted, so that they are counted too.
    async fn track(&self, key: &Key, adopted: impl Iterator<Item = &Arc<Item>>) -> Result<(), Error> {
        for pod in adopted {
            let finalizers: Vec<&str> = pod.finalizers.iter().map(|name| &**name).chain([FINALIZER]).collect();
            self.set_finalizers(key, pod, finalizers).await?;
        }
        Ok(())
    }

    async fn untrack(&self, key: &Key, pods: Vec<Arc<Item>>) -> Result<(), Error> {
        let patches = pods.iter().map(|pod| {
            let others = pod.finalizers.iter().map(|name| &**name).filter(|name| *name != FINALIZER);
            self.set_finalizers(key, pod, others.collect())
        });
        join_all(patches).await.into_iter().collect()
    }

    async fn set_finalizers(&self, key: &Key, pod: &Item, finalizers: Vec<&str>) -> Result<(), Error> {
        let version = pod.resource_version.to_string();
        let patch = json!({"metadata": {"uid": pod.uid, "resourceVersion": version, "finalizers": finalizers}});
        match self.env.patch::<Pod>(pod.namespace(), pod.name(), "", &patch).await {
            Ok(written) => self.expectations.expect_revision(key, written.revision()),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn delete(&self, key: &Key, job: &Job, pods: Vec<Arc<Item>>) -> Result<(), Error> {
        let deletions = pods.iter().map(async |pod| {
            let params = DeleteParams::default();
            match self.env.delete::<Pod>(pod.namespace(), pod.name(), &pod.uid, params).await {
                Ok(()) => {
                    self.expectations.expect_deletion(key, &pod.uid);
                    self.env.recorder.normal(job, "SuccessfulDelete", format!("Deleted pod: {}", pod.name()));
                    Ok(())
                }
                Err(error) => {
                    self.env.recorder.warning(job, "FailedDelete", format!("Error deleting: {}", error.message()));
                    Err(error)
                }
            }
        });
        join_all(deletions).await.into_iter().collect()
    }

    /// Creates pods, a growing number at once, and says how many were made.
    async fn create(&self, key: &Key, job: &Job, wanted: &[Creation]) -> Result<i32, Error> {
        let mut made = 0;
        let (mut rest, mut batch) = (wanted, 1);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(batch.min(rest.len()));
            let created = join_all(now.iter().map(async |creation| {
                let body = serde_json::to_vec(&pod_for(job, creation))?;
                self.env.create::<Pod>(&key.namespace, body).await
            }));
            let mut failed = None;
            for outcome in created.await {
                match outcome {
                    Ok(pod) => {
                        made += 1;
                        self.expectations.expect_revision(key, pod.revision());
                        let message = format!("Created pod: {}", pod.metadata.name);
                        self.env.recorder.normal(job, "SuccessfulCreate", message);
                    }
                    Err(error) if error.is_namespace_terminating() => return Ok(made),
                    Err(error) => {
                        let message = format!("Error creating: {}", error.message());
                        self.env.recorder.record(
                            client::events::reference(job),
                            EventType::Warning,
                            "FailedCreate",
                            message,
                        );
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
        Ok(made)
    }
}

/// A pod of the Job, which our finalizer holds until it is counted.
fn pod_for(job: &Job, creation: &Creation) -> Pod {
    let spec = job.spec.clone().unwrap_or_default();
    let mut pod = pods::from_template(&spec.template, controller_reference(job));
    pod.metadata.finalizers.get_or_insert_default().push(FINALIZER.to_owned());
    let Some(index) = creation.index else {
        pod.metadata.generate_name = Some(pods::name_prefix(job.name()));
        return pod;
    };
    pod.metadata.generate_name = Some(pods::name_prefix(&format!("{}-{index}", job.name())));
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.to_owned(), index.to_string());
    if let Some((counted, ignored)) = creation.index_failures {
        annotations.insert(INDEX_FAILURES.to_owned(), counted.to_string());
        if ignored > 0 {
            annotations.insert(INDEX_IGNORED_FAILURES.to_owned(), ignored.to_string());
        }
    }
    pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    let template = pod.spec.get_or_insert_default();
    template.hostname.get_or_insert_with(|| format!("{}-{index}", job.name()));
    let variable = EnvVar {
        name: "JOB_COMPLETION_INDEX".to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: format!("metadata.labels['{INDEX}']"),
                api_version: None,
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    };
    let inits = template.init_containers.iter_mut().flatten();
    for container in inits.chain(&mut template.containers) {
        let variables = container.env.get_or_insert_default();
        if !variables.iter().any(|known| known.name == variable.name) {
            variables.push(variable.clone());
        }
    }
    pod
}
