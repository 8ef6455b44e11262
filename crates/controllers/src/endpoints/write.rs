//! The slices of one kind of controller: which are there, and the writes that change them.

use std::sync::Arc;

use client::{Cache, Expectations, Key, WorkQueue};
use k8s_openapi::{NamespaceResourceScope, api::discovery::v1::EndpointSlice};
use kube::{
    Resource,
    api::{DeleteParams, PostParams},
};

use super::{MANAGED_BY_LABEL, SERVICE_LABEL, spread::Writes};
use crate::{
    frame::{Env, Error},
    owner::Named,
};

pub(super) struct Slices {
    env: Env,
    pub cache: Cache<EndpointSlice>,
    expectations: Expectations<Key>,
    /// The value of the label by which the controller knows its own.
    managed_by: &'static str,
}

impl Slices {
    pub fn new(env: &Env, managed_by: &'static str) -> Slices {
        Slices { env: env.clone(), cache: env.caches.get(), expectations: Expectations::new(), managed_by }
    }

    /// Queues the set that a slice belongs to.
    pub fn queue_owner(managed_by: &'static str) -> impl Fn(&client::Change, &WorkQueue<Key>) + Send + 'static {
        move |change, queue| {
            for item in [&change.old, &change.new].into_iter().flatten() {
                if let (Some(by), Some(name)) = (item.labels.get(MANAGED_BY_LABEL), item.labels.get(SERVICE_LABEL))
                    && by == managed_by
                {
                    queue.add(Key { namespace: item.key.namespace.clone(), name: name.into() });
                }
            }
        }
    }

    /// The slices of this name; none while the cache lags behind what was written.
    pub fn existing(&self, key: &Key, owner: &str) -> Option<Vec<EndpointSlice>> {
        if !self.expectations.met(key, &self.cache, owner) {
            return None;
        }
        let is_ours = |item: &Arc<client::Item>| {
            item.labels.get(SERVICE_LABEL) == Some(&key.name)
                && item.labels.get(MANAGED_BY_LABEL) == Some(self.managed_by)
                && !item.deleting
        };
        let items = self.cache.list_ns(&key.namespace).into_iter().filter(is_ours);
        Some(items.filter_map(|item| self.cache.parse(&item)).collect())
    }

    pub fn forget(&self, key: &Key) {
        self.expectations.forget(key);
    }

    /// Makes the writes. `about` is told in an event of what fails.
    pub async fn write<K>(&self, key: &Key, about: &K, writes: Writes, reason: &str) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        match self.try_write(key, writes).await {
            Err(error) if error.is_namespace_terminating() => Ok(()),
            // The cache was behind, which is nothing to tell anyone.
            Err(error) if !error.is_conflict() => {
                let message = format!("Error updating Endpoint Slices for {} {key}: {}", K::kind(&()), error.message());
                self.env.recorder.warning(about, reason, message);
                Err(error)
            }
            answer => answer,
        }
    }

    async fn try_write(&self, key: &Key, writes: Writes) -> Result<(), Error> {
        for slice in writes.create {
            let created = self.env.create::<EndpointSlice>(&key.namespace, serde_json::to_vec(&slice)?).await?;
            self.expectations.expect_revision(key, created.revision());
        }
        let api = self.env.api::<EndpointSlice>(&key.namespace);
        for slice in writes.update {
            let written = api.replace(slice.name(), &PostParams::default(), &slice).await?;
            let revision = written.metadata.resource_version.and_then(|version| version.parse().ok());
            self.expectations.expect_revision(key, revision.unwrap_or(0));
        }
        for slice in writes.delete {
            let params = DeleteParams::default();
            self.env.delete::<EndpointSlice>(&key.namespace, slice.name(), slice.uid(), params).await?;
            self.expectations.expect_deletion(key, slice.uid());
        }
        Ok(())
    }
}
