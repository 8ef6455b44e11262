//! StatefulSets: pods with names, storage and an order.

mod decide;
mod member;
mod ownership;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use client::{Cache, Change, Expectations, Item, Key, WorkQueue};
use futures::future::join_all;
use k8s_openapi::{
    api::{
        apps::v1::{ControllerRevision, StatefulSet},
        core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec},
    },
    jiff::Timestamp,
};
use kube::api::DeleteParams;
use serde_json::json;

use crate::{
    claim,
    frame::{Env, Error, Loop, Synced, UNSEEN, revision, sooner},
    owner::Named,
    pods::PodView,
    revisions::{self, History, Style},
    selector::Selector,
};
use decide::{Desired, Member};
use ownership::Ownership;

const WORKERS: usize = 5;
/// The most pods made at once.
const MOST_AT_ONCE: usize = 500;
/// When to look again for a claim that should be gone.
const STALE: Duration = Duration::from_secs(1);

/// Runs the StatefulSet controller.
pub(crate) async fn run(env: Env) {
    let controller = Controller {
        sets: env.caches.get(),
        pods: env.caches.get(),
        claims: env.caches.get(),
        revisions: env.caches.get(),
        expectations: Expectations::new(),
        written: Expectations::new(),
        env: env.clone(),
    };
    let sets = controller.sets.clone();
    let work = Loop::new()
        .on_self(&controller.sets)
        .on_owned(&controller.pods, "StatefulSet")
        .on(&controller.pods, move |change, queue| queue_adopters(&sets, change, queue))
        .needs(&controller.claims)
        .needs(&controller.revisions);
    work.run(&env, WORKERS, |key| controller.sync(key)).await;
}

/// Queues the set whose name and selector a pod without an owner fits.
fn queue_adopters(sets: &Cache<StatefulSet>, change: &Change, queue: &WorkQueue<Key>) {
    let Some(pod) = change.new.as_ref().filter(|pod| pod.controller().is_none() && !pod.deleting) else { return };
    if let Some((set, _)) = pod.name().rsplit_once('-')
        && sets.get(pod.namespace(), set).is_some()
    {
        queue.add(Key { namespace: pod.key.namespace.clone(), name: set.into() });
    }
}

struct Controller {
    env: Env,
    sets: Cache<StatefulSet>,
    pods: Cache<Pod>,
    claims: Cache<PersistentVolumeClaim>,
    revisions: Cache<ControllerRevision>,
    expectations: Expectations<Key>,
    /// The same for the statuses that we wrote.
    written: Expectations<Key>,
}

impl Controller {
    async fn sync(&self, key: Key) -> Synced {
        let Some(mut set) = self.sets.read(&key.namespace, &key.name) else {
            self.expectations.forget(&key);
            self.written.forget(&key);
            return Ok(None);
        };
        let spec = set.spec.clone().unwrap_or_default();
        let selector = Selector::new(&spec.selector).filter(|selector| !selector.is_empty());
        let Some(selector) = selector else { return Ok(None) };
        // The status says which revision pods come back with, so that of the past will not do.
        let is_seen =
            self.written.met(&key, &self.sets, set.uid()) && self.expectations.met(&key, &self.pods, set.uid());
        if !is_seen {
            return Ok(Some(UNSEEN));
        }
        let named = |item: &Arc<Item>| decide::ordinal(&key.name, item.name()).is_some();
        let candidates = claim::candidates(&self.pods, &key.namespace, set.uid()).into_iter().filter(named).collect();
        let owned = claim::claim::<StatefulSet, Pod>(&self.env, &set, &selector, candidates).await?;
        let members: BTreeMap<i32, Member> = owned.into_iter().filter_map(|item| self.member(&set, item)).collect();
        let all = revisions::list(&self.env, &self.revisions, &set, &selector).await?;
        if set.is_deleting() {
            return self.tell_of_deletion(set, &members).await;
        }
        let before = set.status.clone().unwrap_or_default();
        let collisions = before.collision_count;
        let history = revisions::sync(&self.env, all, &set, &spec.template, collisions, Style::StatefulSet).await?;
        let update = history.update.name().to_owned();
        let known = before.current_revision.clone();
        let current = known.filter(|name| history.find(name).is_some()).unwrap_or_else(|| update.clone());

        let desired = Desired::of(&set);
        let now = Timestamp::now();
        let stale = self.stale(&set, &desired, &members);
        let plan = decide::plan(&desired, &members, &before, (&current, &update), &stale, now);
        let acted = self.act(&key, &set, &history, &members, plan, (&desired, &current)).await;
        let status = decide::status(&set, &desired, &members, (&current, &update), history.collisions, now);
        if set.status.as_ref() != Some(&status) {
            set.status = Some(status);
            self.written.expect_revision(&key, revision(&self.env.replace_status(&set).await?));
        }
        acted?;
        let used = |revision: &ControllerRevision| {
            let name = revision.name();
            name == current || members.values().any(|member| member.revision == name)
        };
        revisions::truncate(&self.env, &history, spec.revision_history_limit, used, Style::StatefulSet).await?;
        let soon = |member: &Member| member.pod.available_in(desired.min_ready_seconds, now);
        let available = members.values().filter_map(soon).filter(|wait| !wait.is_zero()).min();
        // Nothing tells of a claim that is gone.
        Ok(sooner(available, (!stale.is_empty()).then_some(STALE)))
    }

    fn member(&self, set: &StatefulSet, item: Arc<Item>) -> Option<(i32, Member)> {
        let ordinal = decide::ordinal(set.name(), item.name())?;
        let revision = item.labels.get(revisions::HASH_LABEL).unwrap_or_default().to_owned();
        Some((ordinal, Member { pod: PodView::new(item)?, revision }))
    }

    /// A set that is being deleted does nothing any more but count.
    async fn tell_of_deletion(&self, mut set: StatefulSet, members: &BTreeMap<i32, Member>) -> Synced {
        let before = set.status.clone().unwrap_or_default();
        let (current, update) =
            (before.current_revision.unwrap_or_default(), before.update_revision.unwrap_or_default());
        let collisions = before.collision_count.unwrap_or(0);
        let desired = Desired::of(&set);
        let status = decide::status(&set, &desired, members, (&current, &update), collisions, Timestamp::now());
        if set.status.as_ref() != Some(&status) {
            set.status = Some(status);
            match self.env.replace_status(&set).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(None)
    }

    /// The ordinals without a pod that have to wait for a claim of their last one to be gone.
    fn stale(&self, set: &StatefulSet, desired: &Desired, members: &BTreeMap<i32, Member>) -> BTreeSet<i32> {
        let missing = desired.ordinals().filter(|ordinal| !members.contains_key(ordinal));
        let is_stale = |ordinal: &i32| {
            let name = format!("{}-{ordinal}", set.name());
            let pod = ownership::Member { ordinal: *ordinal, name: &name, uid: None };
            let claims = member::claim_names(set, *ordinal).into_iter();
            let mut claims = claims.filter_map(|claim| self.claims.get(set.namespace(), &claim));
            claims.any(|claim| ownership::is_stale(set, &pod, &claim))
        };
        missing.filter(is_stale).collect()
    }

    async fn act(
        &self,
        key: &Key,
        set: &StatefulSet,
        history: &History,
        members: &BTreeMap<i32, Member>,
        plan: decide::Plan,
        (desired, current): (&Desired, &str),
    ) -> Result<(), Error> {
        let found = |ordinals: &[i32]| -> Vec<(i32, Arc<Item>)> {
            let member = |ordinal: &i32| Some((*ordinal, members.get(ordinal)?.pod.item.clone()));
            ordinals.iter().filter_map(member).collect()
        };
        // A growing number at once, so that a refusal costs few requests. Sets that keep an order make one anyway.
        let (mut rest, mut batch) = (&plan.create[..], 1);
        while !rest.is_empty() {
            let (some, later) = rest.split_at(batch.min(rest.len()));
            let made = join_all(some.iter().map(async |(ordinal, of_current)| {
                let revision = if *of_current { history.find(current) } else { None }.unwrap_or(&history.update);
                let template = revisions::template_of(revision).unwrap_or_default();
                self.create(key, set, *ordinal, &template, revision.name()).await?;
                self.own_claims(set, desired, *ordinal, None).await
            }));
            made.await.into_iter().collect::<Result<(), Error>>()?;
            (rest, batch) = (later, (batch * 2).min(MOST_AT_ONCE));
        }
        for (ordinal, item) in found(&plan.provide) {
            self.provide_claims(set, ordinal).await?;
            self.own_claims(set, desired, ordinal, Some(&item)).await?;
        }
        for (ordinal, item) in found(&plan.repair) {
            self.own_claims(set, desired, ordinal, Some(&item)).await?;
            self.repair(key, set, ordinal, &item).await?;
        }
        // Before their pods go, or nothing would delete them.
        for (ordinal, item) in found(&plan.release) {
            self.own_claims(set, desired, ordinal, Some(&item)).await?;
        }
        for (_, item) in found(&plan.delete) {
            let (name, uid) = (item.name(), &*item.uid);
            let told = |verb: &str| format!("{verb} Pod {name} in StatefulSet {}", set.name());
            match self.env.delete::<Pod>(&key.namespace, name, uid, DeleteParams::default()).await {
                Ok(()) => {
                    self.expectations.expect_deletion(key, uid);
                    self.env.recorder.normal(set, "SuccessfulDelete", format!("{} successful", told("delete")));
                }
                Err(error) => {
                    let message = format!("{} failed error: {}", told("delete"), error.message());
                    self.env.recorder.warning(set, "FailedDelete", message);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    async fn create(
        &self,
        key: &Key,
        set: &StatefulSet,
        ordinal: i32,
        template: &PodTemplateSpec,
        revision: &str,
    ) -> Result<(), Error> {
        let pod = member::pod(set, ordinal, template, revision);
        let told = format!("create Pod {} in StatefulSet {}", pod.name(), set.name());
        let made = match self.provide_claims(set, ordinal).await {
            Ok(()) => self.env.create::<Pod>(&key.namespace, serde_json::to_vec(&pod)?).await,
            Err(error) => Err(error),
        };
        match made {
            Ok(written) => {
                self.expectations.expect_revision(key, written.revision());
                self.env.recorder.normal(set, "SuccessfulCreate", format!("{told} successful"));
                Ok(())
            }
            Err(error) if error.is_namespace_terminating() => Ok(()),
            // The cache has yet to show it, or it is somebody else's and will have to go first.
            Err(error) if error.is_already_exists() => Err(error),
            Err(error) => {
                self.env.recorder.warning(set, "FailedCreate", format!("{told} failed error: {}", error.message()));
                Err(error)
            }
        }
    }

    /// Makes the claims of an ordinal that are missing. One that is on its way out has to be gone first.
    async fn provide_claims(&self, set: &StatefulSet, ordinal: i32) -> Result<(), Error> {
        for claim in member::claims(set, ordinal) {
            match self.claims.get(set.namespace(), claim.name()) {
                Some(known) if known.deleting => {
                    return Err(Error::Message(format!("pvc {} is being deleted", claim.name())));
                }
                Some(_) => continue,
                None => {}
            }
            let (name, set_name) = (claim.name(), set.name());
            match self.env.create::<PersistentVolumeClaim>(set.namespace(), serde_json::to_vec(&claim)?).await {
                Ok(_) => {
                    let message =
                        format!("create Claim {name} Pod {set_name}-{ordinal} in StatefulSet {set_name} success");
                    self.env.recorder.normal(set, "SuccessfulCreate", message);
                }
                Err(error) if error.is_already_exists() => {}
                Err(error) => {
                    let message = format!(
                        "create Claim {name} for Pod {set_name}-{ordinal} in StatefulSet {set_name} failed error: {}",
                        error.message()
                    );
                    self.env.recorder.warning(set, "FailedCreate", message);
                    return Err(Error::Message(format!("failed to create PVC {name}: {}", error.message())));
                }
            }
        }
        Ok(())
    }

    /// Sees to it that an ordinal's claims are owned by what their deletion should follow.
    async fn own_claims(
        &self,
        set: &StatefulSet,
        desired: &Desired,
        ordinal: i32,
        pod: Option<&Item>,
    ) -> Result<(), Error> {
        let name = format!("{}-{ordinal}", set.name());
        let pod = ownership::Member { ordinal, name: &name, uid: pod.map(|pod| &*pod.uid) };
        for claim_name in member::claim_names(set, ordinal) {
            let Some(claim) = self.claims.get(set.namespace(), &claim_name) else { continue };
            let owners = match ownership::ownership(set, desired, &pod, &claim) {
                Ownership::Fits => continue,
                Ownership::Becomes(owners) => owners,
                Ownership::Conflicts(owners) => {
                    self.env.recorder.warning(set, "ConflictingController", ownership::conflict(&claim_name));
                    owners
                }
            };
            let version = claim.resource_version.to_string();
            let patch = json!({"metadata": {"resourceVersion": version, "ownerReferences": owners}});
            match self.env.patch::<PersistentVolumeClaim>(set.namespace(), &claim_name, "", &patch).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Gives an adopted pod what the set's own pods have.
    async fn repair(&self, key: &Key, set: &StatefulSet, ordinal: i32, item: &Item) -> Result<(), Error> {
        let Some(patch) = member::repair(set, ordinal, item)? else { return Ok(()) };
        if patch.pointer("/spec/volumes").is_some() {
            self.provide_claims(set, ordinal).await?;
        }
        let told = format!("update Pod {} in StatefulSet {}", item.name(), set.name());
        match self.env.patch::<Pod>(item.namespace(), item.name(), "", &patch).await {
            Ok(written) => {
                self.expectations.expect_revision(key, written.revision());
                self.env.recorder.normal(set, "SuccessfulUpdate", format!("{told} successful"));
                Ok(())
            }
            Err(error) => {
                self.env.recorder.warning(set, "FailedUpdate", format!("{told} failed error: {}", error.message()));
                Err(error)
            }
        }
    }
}
