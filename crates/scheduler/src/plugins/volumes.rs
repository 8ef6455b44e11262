//! What the rules about volumes share: the claims of a pod and what they are bound to, as the caches show them.

use api::volume::{Claim, Class, Volume};
use client::Cache;
use serde::de::DeserializeOwned;

use super::Event;
use crate::{
    objects::{Kind, Objects},
    pod::{self, Pod, VolumeSource},
};

/// The part of a cached object that volumes are about.
pub(super) fn view<K, V: DeserializeOwned>(cache: &Cache<K>, namespace: &str, name: &str) -> Option<V> {
    let item = cache.get(namespace, name)?;
    item.parse().inspect_err(|error| tracing::error!(object = %item.key, %error, "unreadable object in the cache")).ok()
}

/// The names of the claims that a pod uses, and whether each is made for it.
pub(super) fn claim_names(pod: &Pod) -> impl Iterator<Item = (&pod::Volume, &str, bool)> {
    pod.volumes.iter().filter_map(|volume| match &volume.source {
        VolumeSource::Claim { name, ephemeral } => Some((volume, &**name, *ephemeral)),
        _ => None,
    })
}

/// Those claims of a pod that are there.
pub(super) fn claims(objects: &Objects, pod: &Pod) -> Vec<Claim> {
    let namespace = pod.item.namespace();
    claim_names(pod).filter_map(|(_, name, _)| view(&objects.volume_claims, namespace, name)).collect()
}

/// The volume that a claim has, if it has one.
pub(super) fn volume_of(objects: &Objects, claim: &Claim) -> Option<Volume> {
    match claim.spec.volume_name.as_str() {
        "" => None,
        name => view(&objects.volumes, "", name),
    }
}

pub(super) fn class_of(objects: &Objects, claim: &Claim) -> Option<Class> {
    match claim.class() {
        "" => None,
        name => view(&objects.storage_classes, "", name),
    }
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
