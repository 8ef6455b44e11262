//! Storage: claims get volumes, volumes go back when their claims are gone, and nodes get what their pods mount.
//!
//! - [`binder`] brings claims and volumes together, either way round, and hands released volumes to [`reclaim`];
//! - [`provision`] makes the volumes of the cluster's own class, directories on the nodes' disks, and lets them grow;
//! - [`ephemeral`] makes the claims that pods carry in their own specification;
//! - [`attach`] says which volumes of CSI drivers are to be attached to which node;
//! - [`attributes`] keeps classes of volume attributes while something uses them.

pub(crate) mod attach;
pub(crate) mod attributes;
pub(crate) mod binder;
pub(crate) mod ephemeral;
pub(crate) mod provision;
mod reclaim;

use std::time::Duration;

use api::volume::{Claim, Meta, Volume};
use client::{Cache, events::EventType};
use k8s_openapi::api::core::v1::ObjectReference;
use serde::de::DeserializeOwned;

use crate::frame::{Env, Error, Written};

/// How long the caches may take to show what was written. Nothing is decided before they do.
const SEEN: Duration = Duration::from_secs(5);

/// The part of a cached object that storage is about.
fn view<K, V: DeserializeOwned>(cache: &Cache<K>, namespace: &str, name: &str) -> Option<V> {
    let item = cache.get(namespace, name)?;
    item.parse().inspect_err(|error| tracing::error!(object = %item.key, %error, "unreadable object in the cache")).ok()
}

/// Everything of a kind, in the order of names.
fn views<K, V: DeserializeOwned>(cache: &Cache<K>) -> Vec<V> {
    cache.list().iter().filter_map(|item| item.parse().ok()).collect()
}

/// Waits until a cache shows a write.
async fn seen<K>(cache: &Cache<K>, written: &Written) {
    cache.reached(written.revision(), SEEN).await;
}

/// Success where the object is gone already.
fn unless_gone(answer: Result<Written, Error>) -> Result<(), Error> {
    match answer {
        Err(error) if error.is_not_found() => Ok(()),
        answer => answer.map(drop),
    }
}

fn about(kind: &str, meta: &Meta) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some(kind.to_owned()),
        namespace: Some(meta.namespace.clone()).filter(|namespace| !namespace.is_empty()),
        name: Some(meta.name.clone()),
        uid: Some(meta.uid.clone()),
        resource_version: Some(meta.resource_version.clone()),
        field_path: None,
    }
}

fn tell_claim(env: &Env, claim: &Claim, kind: EventType, reason: &str, message: impl Into<String>) {
    env.recorder.record(about("PersistentVolumeClaim", &claim.metadata), kind, reason, message);
}

fn tell_volume(env: &Env, volume: &Volume, kind: EventType, reason: &str, message: impl Into<String>) {
    env.recorder.record(about("PersistentVolume", &volume.metadata), kind, reason, message);
}
