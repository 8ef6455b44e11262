//! Which EndpointSlices belong to which Service, followed through a subscription.

use client::{Cache, Change, Item, Key};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The label of an EndpointSlice that names its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The slices of each service.
#[derive(Debug, Default)]
pub struct Slices(BTreeMap<Key, BTreeSet<Key>>);

impl Slices {
    /// Notes a change of a slice; the services that it is about.
    pub fn note(&mut self, change: &Change) -> Vec<Key> {
        let owner = |item: &Arc<Item>| item.labels.get(SERVICE_NAME).map(|name| Key::new(item.namespace(), name));
        let (old, new) = (change.old.as_ref().and_then(owner), change.new.as_ref().and_then(owner));
        if let Some(old) = &old
            && let Some(slices) = self.0.get_mut(old)
        {
            slices.remove(&change.key);
            if slices.is_empty() {
                self.0.remove(old);
            }
        }
        if let Some(new) = &new {
            self.0.entry(new.clone()).or_default().insert(change.key.clone());
        }
        old.into_iter().chain(new).collect()
    }

    /// The slices of a service as they are now.
    pub fn of(&self, service: &Key, cache: &Cache<EndpointSlice>) -> Vec<EndpointSlice> {
        let own = self.0.get(service).into_iter().flatten();
        own.filter_map(|slice| cache.read(&slice.namespace, &slice.name)).collect()
    }
}
