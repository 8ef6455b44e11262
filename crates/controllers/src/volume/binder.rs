//! The binder: each claim gets a volume that fits, each volume says whose it is, and what is free again is reclaimed.
//!
//! The two sides point to each other, and the volume's side is written first: at any instant one that died in between can go on
//! from what is written. One worker does all, so that no volume is given twice.

mod decide;

use std::collections::BTreeSet;

use api::volume::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, Claim, Class, LOCAL_PATH, NO_PROVISIONER, PROVISIONERS, Volume,
};
use client::{
    Cache, Change, Key,
    events::EventType::{Normal, Warning},
};
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::StorageClass,
};
use serde_json::{Value, json};

use super::{seen, tell_claim, tell_volume, unless_gone, view, views};
use crate::{
    frame::{Env, Error, Loop, Synced, Written},
    pods, protection,
};
use decide::{OfClaim, OfVolume};

pub(super) struct Binder {
    pub env: Env,
    pub claims: Cache<PersistentVolumeClaim>,
    pub volumes: Cache<PersistentVolume>,
    pub classes: Cache<StorageClass>,
    pub pods: Cache<Pod>,
}

/// Runs the binder.
pub(crate) async fn run(env: Env) {
    let (claims, volumes) = (env.caches.get(), env.caches.get());
    let binder = Binder { claims, volumes, classes: env.caches.get(), pods: env.caches.get(), env };
    let Binder { env, claims, volumes, classes, pods } = &binder;
    let (waiting, reserved, by_class) = (claims.clone(), volumes.clone(), claims.clone());
    let work = Loop::new()
        .on(claims, move |change, queue| {
            queue.add(change.key.clone());
            for name in volumes_of(change, &reserved) {
                queue.add(Key::new("", &name));
            }
        })
        .on(volumes, move |change, queue| {
            queue.add(change.key.clone());
            for volume in [&change.old, &change.new].into_iter().flatten() {
                let Ok(volume) = volume.parse::<Volume>() else { continue };
                match volume.spec.claim_ref {
                    Some(claim) => queue.add(Key::new(&claim.namespace, &claim.name)),
                    None => unbound(&waiting, queue),
                }
            }
        })
        .on(classes, move |_, queue| unbound(&by_class, queue))
        .on(pods, |change, queue| {
            let recycles = change.key.name.strip_prefix(super::reclaim::RECYCLER);
            if let Some(volume) = recycles {
                queue.add(Key::new("", volume));
            }
        });
    work.run(env, 1, |key| binder.sync(key)).await;
}

/// The volumes that a change of a claim may matter to: the one it has, and those that are meant for it.
fn volumes_of(change: &Change, volumes: &Cache<PersistentVolume>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for claim in [&change.old, &change.new].into_iter().flatten() {
        if let Ok(claim) = claim.parse::<Claim>()
            && !claim.spec.volume_name.is_empty()
        {
            names.insert(claim.spec.volume_name);
        }
    }
    // A claim that came or went may be one that a volume waits for by its name.
    if change.old.is_none() || change.new.is_none() {
        names.extend(views::<_, Volume>(volumes).into_iter().filter_map(|volume| {
            let claim = volume.spec.claim_ref.as_ref()?;
            let same = *claim.namespace == *change.key.namespace && *claim.name == *change.key.name;
            same.then_some(volume.metadata.name)
        }));
    }
    names
}

/// Queues every claim that has no volume yet.
fn unbound(claims: &Cache<PersistentVolumeClaim>, queue: &client::WorkQueue<Key>) {
    for item in claims.list() {
        if item.parse::<Claim>().is_ok_and(|claim| !claim.metadata.has(BIND_COMPLETED)) {
            queue.add(item.key.clone());
        }
    }
}

impl Binder {
    async fn sync(&self, key: Key) -> Synced {
        match &*key.namespace {
            "" => {
                if let Some(volume) = view::<_, Volume>(&self.volumes, "", &key.name) {
                    self.volume(&volume).await?;
                }
            }
            namespace => {
                if let Some(claim) = view::<_, Claim>(&self.claims, namespace, &key.name) {
                    self.claim(&claim).await?;
                }
            }
        }
        Ok(None)
    }

    async fn claim(&self, claim: &Claim) -> Result<(), Error> {
        let classes: Vec<Class> = views(&self.classes);
        let volumes: Vec<Volume> = match claim.spec.volume_name.as_str() {
            "" => views(&self.volumes),
            name => view(&self.volumes, "", name).into_iter().collect(),
        };
        match decide::claim(claim, &volumes, &classes, || self.waiting_pods(claim)) {
            OfClaim::Bind(volume) => self.bind(volume, claim).await,
            OfClaim::Provision => self.provision(claim, &classes).await,
            OfClaim::Classify(class) => {
                let patch = json!({
                    "metadata": {"resourceVersion": claim.metadata.resource_version}, "spec": {"storageClassName": class},
                });
                self.patch_claim(claim, "", &patch).await
            }
            OfClaim::Wait(said) => {
                if let Some(said) = said {
                    tell_claim(&self.env, claim, said.kind, said.reason, said.message);
                }
                self.set_phase(claim, "Pending").await
            }
            OfClaim::Lost(said) => {
                if claim.status.phase != "Lost" {
                    tell_claim(&self.env, claim, said.kind, said.reason, said.message);
                }
                self.set_phase(claim, "Lost").await
            }
        }
    }

    /// The pods that use a claim and have no node yet.
    fn waiting_pods(&self, claim: &Claim) -> Vec<String> {
        let pods = self.pods.list_ns(&claim.metadata.namespace).into_iter();
        let pods = pods.filter(|pod| pod.node_name.is_empty() && !pods::is_finished(pod));
        let users = pods.filter(|pod| protection::claims_on(pod).contains(&claim.metadata.name));
        users.map(|pod| pod.name().to_owned()).collect()
    }

    /// Completes all that says that a volume is a claim's: on the volume, then on the claim.
    async fn bind(&self, volume: &Volume, claim: &Claim) -> Result<(), Error> {
        let (of_volume, of_claim) = (&volume.metadata, &claim.metadata);
        let reference = volume.spec.claim_ref.as_ref();
        if reference.is_none_or(|it| it.uid != of_claim.uid) {
            let mut metadata = json!({"resourceVersion": of_volume.resource_version});
            if !volume.is_for(claim) {
                metadata["annotations"] = json!({BOUND_BY_CONTROLLER: "yes"});
            }
            let reference = json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": of_claim.namespace,
                "name": of_claim.name, "uid": of_claim.uid, "resourceVersion": of_claim.resource_version,
            });
            self.patch_volume(volume, "", &json!({"metadata": metadata, "spec": {"claimRef": reference}})).await?;
        }
        if volume.status.phase != "Bound" {
            self.set_volume_phase(volume, "Bound", "").await?;
        }
        let chosen = claim.spec.volume_name != of_volume.name;
        if chosen || !of_claim.has(BIND_COMPLETED) {
            let mut annotations = json!({BIND_COMPLETED: "yes"});
            if chosen {
                annotations[BOUND_BY_CONTROLLER] = "yes".into();
            }
            let metadata = json!({"resourceVersion": of_claim.resource_version, "annotations": annotations});
            let patch = json!({"metadata": metadata, "spec": {"volumeName": of_volume.name}});
            self.patch_claim(claim, "", &patch).await?;
        }
        let attributes = &volume.spec.volume_attributes_class_name;
        if claim.status.phase != "Bound" || claim.status.access_modes != volume.spec.access_modes {
            let mut status = json!({"phase": "Bound", "accessModes": volume.spec.access_modes});
            if claim.status.phase != "Bound" {
                status["capacity"] = json!(volume.spec.capacity);
                status["currentVolumeAttributesClassName"] = json!(attributes);
                tracing::info!(volume = of_volume.name, namespace = of_claim.namespace, claim = of_claim.name, "bound");
            }
            self.patch_claim(claim, "status", &json!({"status": status})).await?;
        }
        Ok(())
    }

    /// Says who is to make a volume for the claim.
    async fn provision(&self, claim: &Claim, classes: &[Class]) -> Result<(), Error> {
        let Some(class) = classes.iter().find(|class| class.metadata.name == claim.class()) else {
            let message = format!("storageclass.storage.k8s.io {:?} not found", claim.class());
            tell_claim(&self.env, claim, Warning, "ProvisioningFailed", message);
            return self.set_phase(claim, "Pending").await;
        };
        let maker = &class.provisioner;
        if maker == NO_PROVISIONER || maker.starts_with("kubernetes.io/") {
            let message = format!("no volume plugin matched name: {maker}");
            tell_claim(&self.env, claim, Warning, "ProvisioningFailed", message);
            return self.set_phase(claim, "Pending").await;
        }
        if PROVISIONERS.iter().any(|name| claim.metadata.annotations.get(*name) != Some(maker)) {
            let annotations: Value = PROVISIONERS.iter().map(|name| ((*name).to_owned(), json!(maker))).collect();
            let metadata = json!({"resourceVersion": claim.metadata.resource_version, "annotations": annotations});
            self.patch_claim(claim, "", &json!({ "metadata": metadata })).await?;
        }
        if maker != LOCAL_PATH {
            let message = format!(
                "Waiting for a volume to be created either by the external provisioner '{maker}' or manually by the system \
                 administrator. If volume creation is delayed, please verify that the provisioner is running and correctly \
                 registered."
            );
            tell_claim(&self.env, claim, Normal, "ExternalProvisioning", message);
        }
        self.set_phase(claim, "Pending").await
    }

    async fn volume(&self, volume: &Volume) -> Result<(), Error> {
        let claim = match &volume.spec.claim_ref {
            Some(claim) => self.claim_of(volume, &claim.namespace, &claim.name).await?,
            None => None,
        };
        match decide::volume(volume, claim.as_ref()) {
            OfVolume::Available => self.set_volume_phase(volume, "Available", "").await,
            OfVolume::Bound => self.set_volume_phase(volume, "Bound", "").await,
            OfVolume::Ask => {
                if volume.spec.claim_ref.as_ref().is_some_and(|claim| claim.uid.is_empty()) {
                    self.set_volume_phase(volume, "Available", "").await?;
                }
                match claim {
                    Some(claim) => self.claim(&claim).await,
                    None => Ok(()),
                }
            }
            OfVolume::Mismatch(message) => {
                tell_volume(&self.env, volume, Warning, "VolumeMismatch", message.clone());
                if let Some(claim) = claim {
                    tell_claim(&self.env, &claim, Warning, "VolumeMismatch", message);
                }
                Ok(())
            }
            OfVolume::Unbind => self.unbind(volume).await,
            OfVolume::Release => {
                if !matches!(&*volume.status.phase, "Released" | "Failed") {
                    self.set_volume_phase(volume, "Released", "").await?;
                }
                self.reclaim(volume).await
            }
        }
    }

    /// The claim of that name. Before a volume is given up, the server is asked whether the cache is only late.
    async fn claim_of(&self, volume: &Volume, namespace: &str, name: &str) -> Result<Option<Claim>, Error> {
        let cached = view::<_, Claim>(&self.claims, namespace, name);
        let uid = volume.spec.claim_ref.as_ref().map(|claim| claim.uid.as_str()).unwrap_or_default();
        let known = cached.as_ref().is_some_and(|claim| uid.is_empty() || claim.metadata.uid == uid);
        if known || uid.is_empty() || matches!(&*volume.status.phase, "Released" | "Failed") {
            return Ok(cached);
        }
        let path = format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}");
        let request = http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
        match self.env.client.request::<Claim>(request).await {
            Ok(claim) => Ok(Some(claim)),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes a volume's claim from it. What the user had chosen stays, for whoever has that name next.
    pub(super) async fn unbind(&self, volume: &Volume) -> Result<(), Error> {
        let version = &volume.metadata.resource_version;
        let patch = if decide::chosen_here(volume) {
            let metadata = json!({"resourceVersion": version, "annotations": {BOUND_BY_CONTROLLER: null}});
            json!({"metadata": metadata, "spec": {"claimRef": null}})
        } else {
            json!({"metadata": {"resourceVersion": version}, "spec": {"claimRef": {"uid": null, "resourceVersion": null}}})
        };
        self.patch_volume(volume, "", &patch).await?;
        self.set_volume_phase(volume, "Available", "").await
    }

    pub(super) async fn set_volume_phase(&self, volume: &Volume, phase: &str, message: &str) -> Result<(), Error> {
        if volume.status.phase == phase {
            return Ok(());
        }
        let message = Some(message).filter(|message| !message.is_empty());
        let status = json!({"phase": phase, "message": message, "reason": null});
        self.patch_volume(volume, "status", &json!({ "status": status })).await
    }

    async fn set_phase(&self, claim: &Claim, phase: &str) -> Result<(), Error> {
        if claim.status.phase == phase {
            return Ok(());
        }
        let mut status = json!({ "phase": phase });
        if phase == "Pending" {
            status["accessModes"] = Value::Null;
            status["capacity"] = Value::Null;
        }
        self.patch_claim(claim, "status", &json!({ "status": status })).await
    }

    async fn patch_claim(&self, claim: &Claim, subresource: &str, patch: &Value) -> Result<(), Error> {
        let meta = &claim.metadata;
        let answer = self.env.patch::<PersistentVolumeClaim>(&meta.namespace, &meta.name, subresource, patch).await;
        self.shown(&self.claims, answer).await
    }

    pub(super) async fn patch_volume(&self, volume: &Volume, subresource: &str, patch: &Value) -> Result<(), Error> {
        let answer = self.env.patch::<PersistentVolume>("", &volume.metadata.name, subresource, patch).await;
        self.shown(&self.volumes, answer).await
    }

    async fn shown<K>(&self, cache: &Cache<K>, answer: Result<Written, Error>) -> Result<(), Error> {
        if let Ok(written) = &answer {
            seen(cache, written).await;
        }
        unless_gone(answer)
    }
}
