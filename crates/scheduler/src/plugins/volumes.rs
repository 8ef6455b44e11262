//! What the rules about volumes share: the claims of a pod and what they are bound to, as the caches show them, each object
//! read once a version.

use std::{collections::HashMap, sync::Arc};

use api::volume::{Claim, Class, Volume};
use client::{Cache, Key};
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim},
    storage::v1::{CSIDriver, CSINode, StorageClass},
};
use parking_lot::Mutex;
use serde::{Deserialize, de::DeserializeOwned};

use super::Event;
use crate::{
    objects::{Kind, Objects},
    pod::{self, Pod, VolumeSource},
};

/// What was read of the objects of one kind, by name and version.
struct Versions<K, V> {
    cache: Cache<K>,
    known: Mutex<HashMap<Key, (u64, Arc<V>)>>,
}

impl<K, V: DeserializeOwned> Versions<K, V> {
    fn new(cache: &Cache<K>) -> Self {
        Self { cache: cache.clone(), known: Mutex::default() }
    }

    fn get(&self, namespace: &str, name: &str) -> Option<Arc<V>> {
        let item = self.cache.get(namespace, name)?;
        let mut known = self.known.lock();
        if let Some((version, view)) = known.get(&item.key)
            && *version == item.resource_version
        {
            return Some(view.clone());
        }
        let view = item.parse::<V>().map(Arc::new);
        let view = view.inspect_err(|error| tracing::error!(object = %item.key, %error, "unreadable object")).ok()?;
        // Those that are gone are forgotten when they are about to outnumber the others.
        if known.len() > 2 * self.cache.len() + 64 {
            known.retain(|key, _| self.cache.get(&key.namespace, &key.name).is_some());
        }
        known.insert(item.key.clone(), (item.resource_version, view.clone()));
        Some(view)
    }
}

/// What the rules see of volumes and all that belongs to them.
pub(crate) struct Views {
    claims: Versions<PersistentVolumeClaim, Claim>,
    volumes: Versions<PersistentVolume, Volume>,
    classes: Versions<StorageClass, Class>,
    csi_nodes: Versions<CSINode, CsiNode>,
    csi_drivers: Versions<CSIDriver, CsiDriver>,
}

impl Views {
    pub fn new(objects: &Objects) -> Self {
        Self {
            claims: Versions::new(&objects.volume_claims),
            volumes: Versions::new(&objects.volumes),
            classes: Versions::new(&objects.storage_classes),
            csi_nodes: Versions::new(&objects.csi_nodes),
            csi_drivers: Versions::new(&objects.csi_drivers),
        }
    }

    pub(super) fn claim(&self, namespace: &str, name: &str) -> Option<Arc<Claim>> {
        self.claims.get(namespace, name)
    }

    pub(super) fn volume(&self, name: &str) -> Option<Arc<Volume>> {
        self.volumes.get("", name)
    }

    pub(super) fn csi_node(&self, name: &str) -> Option<Arc<CsiNode>> {
        self.csi_nodes.get("", name)
    }

    pub(super) fn csi_driver(&self, name: &str) -> Option<Arc<CsiDriver>> {
        self.csi_drivers.get("", name)
    }

    /// Those claims of a pod that are there.
    pub(super) fn claims(&self, pod: &Pod) -> Vec<Arc<Claim>> {
        let namespace = pod.item.namespace();
        claim_names(pod).filter_map(|(_, name, _)| self.claim(namespace, name)).collect()
    }

    /// The volume that a claim has, if it has one.
    pub(super) fn volume_of(&self, claim: &Claim) -> Option<Arc<Volume>> {
        match claim.spec.volume_name.as_str() {
            "" => None,
            name => self.volume(name),
        }
    }

    pub(super) fn class_of(&self, claim: &Claim) -> Option<Arc<Class>> {
        match claim.class() {
            "" => None,
            name => self.classes.get("", name),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct CsiNode {
    pub spec: CsiNodeSpec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct CsiNodeSpec {
    pub drivers: Vec<Driver>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Driver {
    pub name: String,
    pub allocatable: Allocatable,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Allocatable {
    pub count: Option<usize>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct CsiDriver {
    pub spec: CsiDriverSpec,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct CsiDriverSpec {
    pub storage_capacity: bool,
}

/// The names of the claims that a pod uses, and whether each is made for it.
pub(super) fn claim_names(pod: &Pod) -> impl Iterator<Item = (&pod::Volume, &str, bool)> {
    pod.volumes.iter().filter_map(|volume| match &volume.source {
        VolumeSource::Claim { name, ephemeral } => Some((volume, &**name, *ephemeral)),
        _ => None,
    })
}

/// Whether an event is about a volume, a class or one of the pod's own claims.
pub(super) fn concerns(pod: &Pod, event: Event<'_>) -> bool {
    match event {
        Event::Object { kind: Kind::PersistentVolumeClaim, new: Some(claim), .. } => {
            claim.namespace() == pod.item.namespace() && claim_names(pod).any(|(_, name, _)| name == claim.name())
        }
        Event::Object { kind: Kind::PersistentVolume | Kind::StorageClass, new, .. } => new.is_some(),
        _ => false,
    }
}
