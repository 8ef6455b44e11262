//! StatefulSets: pods with names, storage and an order.

mod decide;
mod member;

use std::{collections::BTreeMap, sync::Arc};

use client::{Cache, Change, Expectations, Item, Key, WorkQueue};
use k8s_openapi::{
    api::{
        apps::v1::{ControllerRevision, StatefulSet},
        core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec},
    },
    jiff::Timestamp,
};
use kube::api::DeleteParams;

use crate::{
    claim,
    frame::{Env, Error, Loop, Synced, UNSEEN},
    owner::Named,
    pods::PodView,
    revisions::{self, History},
    selector::Selector,
};
use decide::{Desired, Member};

const WORKERS: usize = 5;

/// Runs the StatefulSet controller.
pub(crate) async fn run(env: Env) {
    let controller = Controller {
        sets: env.caches.get(),
        pods: env.caches.get(),
        claims: env.caches.get(),
        revisions: env.caches.get(),
        expectations: Expectations::new(),
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
}

impl Controller {
    async fn sync(&self, key: Key) -> Synced {
        let Some(mut set) = self.sets.read(&key.namespace, &key.name) else {
            self.expectations.forget(&key);
            return Ok(None);
        };
        let spec = set.spec.clone().unwrap_or_default();
        let selector = Selector::new(&spec.selector).filter(|selector| !selector.is_empty());
        let Some(selector) = selector.filter(|_| !set.is_deleting()) else { return Ok(None) };
        if !self.expectations.met(&key, &self.pods, set.uid()) {
            return Ok(Some(UNSEEN));
        }
        let named = |item: &Arc<Item>| decide::ordinal(&key.name, item.name()).is_some();
        let candidates = self.pods.list_ns(&key.namespace).into_iter().filter(named).collect();
        let owned = claim::claim::<StatefulSet, Pod>(&self.env, &set, &selector, candidates).await?;
        let history = revisions::sync(&self.env, &self.revisions, &set, &spec.template, true).await?;
        let update = history.update.name().to_owned();
        let known = set.status.as_ref().and_then(|status| status.current_revision.clone());
        let current = known.filter(|name| history.find(name).is_some()).unwrap_or_else(|| update.clone());

        let members: BTreeMap<i32, Member> = owned.into_iter().filter_map(|item| self.member(&set, item)).collect();
        let desired = Desired::of(&set);
        let now = Timestamp::now();
        let before = set.status.clone().unwrap_or_default();
        let plan = decide::plan(&desired, &members, &before, (&current, &update), now);
        let acted = self.act(&key, &set, &history, &members, plan, &current).await;
        self.keep_claims(&set, &desired).await?;
        let status = decide::status(&set, &desired, &members, (&current, &update), now);
        if set.status.as_ref() != Some(&status) {
            set.status = Some(status);
            self.env.replace_status(&set).await?;
        }
        acted?;
        let used = |revision: &ControllerRevision| {
            let name = revision.name();
            name == current || name == update || members.values().any(|member| member.revision == name)
        };
        revisions::truncate(&self.env, &history, spec.revision_history_limit, used).await?;
        let soon = |member: &Member| member.pod.available_in(desired.min_ready_seconds, now);
        Ok(members.values().filter_map(soon).filter(|wait| !wait.is_zero()).min())
    }

    fn member(&self, set: &StatefulSet, item: Arc<Item>) -> Option<(i32, Member)> {
        let ordinal = decide::ordinal(set.name(), item.name())?;
        let revision = item.labels.get(revisions::HASH_LABEL).unwrap_or_default().to_owned();
        Some((ordinal, Member { pod: PodView::new(item)?, revision }))
    }

    async fn act(
        &self,
        key: &Key,
        set: &StatefulSet,
        history: &History,
        members: &BTreeMap<i32, Member>,
        plan: decide::Plan,
        current: &str,
    ) -> Result<(), Error> {
        for (ordinal, of_current) in plan.create {
            let revision = if of_current { history.find(current) } else { None }.unwrap_or(&history.update);
            let template = revisions::template_of(revision).unwrap_or_default();
            self.create(key, set, ordinal, &template, revision.name()).await?;
        }
        for member in plan.delete.iter().filter_map(|ordinal| members.get(ordinal)) {
            let (name, uid) = (member.pod.item.name(), &*member.pod.item.uid);
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
        for claim in member::claims(set, ordinal) {
            if self.claims.get(&key.namespace, claim.name()).is_some() {
                continue;
            }
            match self.env.create::<PersistentVolumeClaim>(&key.namespace, serde_json::to_vec(&claim)?).await {
                Err(error) if error.is_already_exists() => {}
                answer => {
                    answer?;
                    let (claim, set_name) = (claim.name(), set.name());
                    let message =
                        format!("create Claim {claim} Pod {set_name}-{ordinal} in StatefulSet {set_name} success");
                    self.env.recorder.normal(set, "SuccessfulCreate", message);
                }
            }
        }
        let pod = member::pod(set, ordinal, template, revision);
        match self.env.create::<Pod>(&key.namespace, serde_json::to_vec(&pod)?).await {
            Ok(written) => {
                self.expectations.expect_revision(key, written.revision());
                let message = format!("create Pod {} in StatefulSet {} successful", pod.name(), set.name());
                self.env.recorder.normal(set, "SuccessfulCreate", message);
                Ok(())
            }
            Err(error) if error.is_namespace_terminating() => Ok(()),
            Err(error) => {
                let (pod, name) = (pod.name(), set.name());
                let message = format!("create Pod {pod} in StatefulSet {name} failed error: {}", error.message());
                self.env.recorder.warning(set, "FailedCreate", message);
                Err(error)
            }
        }
    }

    /// Sees to it that claims are owned by whom their deletion should follow.
    async fn keep_claims(&self, set: &StatefulSet, desired: &Desired) -> Result<(), Error> {
        for item in self.claims.list_ns(set.namespace()) {
            let Some(ordinal) = member::claim_ordinal(set, item.name()) else { continue };
            let pod = self.pods.get(set.namespace(), &format!("{}-{ordinal}", set.name()));
            if let Some(owners) = member::claim_owners(set, desired, ordinal, &item, pod.as_deref()) {
                let version = item.resource_version.to_string();
                let patch = serde_json::json!({"metadata": {"resourceVersion": version, "ownerReferences": owners}});
                self.env.patch::<PersistentVolumeClaim>(set.namespace(), item.name(), "", &patch).await?;
            }
        }
        Ok(())
    }
}
