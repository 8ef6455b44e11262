//! The EndpointSlice controller.

use std::sync::Arc;

use client::{Cache, Expectations, Key};
use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::api::{DeleteParams, PostParams};

use super::{
    Selectors, backends, is_managed,
    slice::{self, MANAGED_BY, MANAGED_BY_LABEL, SERVICE_LABEL},
};
use crate::{
    frame::{Env, Error, Loop, Synced, UNSEEN},
    owner::Named,
};

const WORKERS: usize = 5;
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

pub(crate) async fn run(env: Env) {
    let controller = Controller {
        services: env.caches.get(),
        pods: env.caches.get(),
        nodes: env.caches.get(),
        slices: env.caches.get(),
        expectations: Expectations::new(),
        env: env.clone(),
    };
    let services = controller.services.clone();
    let selectors = Arc::new(Selectors::default());
    let selecting = selectors.clone();
    let work = Loop::new()
        .on(&controller.services, move |change, queue| {
            selectors.learn(&services, change);
            queue.add(change.key.clone());
        })
        .on(&controller.pods, move |change, queue| selecting.queue_selecting(change, queue))
        .on(&controller.slices, |change, queue| {
            for item in [&change.old, &change.new].into_iter().flatten() {
                if let (Some(MANAGED_BY), Some(service)) =
                    (item.labels.get(MANAGED_BY_LABEL), item.labels.get(SERVICE_LABEL))
                {
                    queue.add(Key { namespace: item.key.namespace.clone(), name: service.into() });
                }
            }
        })
        .needs(&controller.nodes);
    work.run(&env, WORKERS, |key| controller.sync(key)).await;
}

struct Controller {
    env: Env,
    services: Cache<Service>,
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    slices: Cache<EndpointSlice>,
    expectations: Expectations<Key>,
}

impl Controller {
    async fn sync(&self, key: Key) -> Synced {
        let Some(service) = self.services.read(&key.namespace, &key.name) else {
            // The slices follow by garbage collection.
            self.expectations.forget(&key);
            return Ok(None);
        };
        if !is_managed(&service) || service.is_deleting() {
            return Ok(None);
        }
        if !self.expectations.met(&key, &self.slices, service.uid()) {
            return Ok(Some(UNSEEN));
        }
        let is_ours = |item: &Arc<client::Item>| {
            item.labels.get(SERVICE_LABEL) == Some(service.name())
                && item.labels.get(MANAGED_BY_LABEL) == Some(MANAGED_BY)
                && !item.deleting
        };
        let existing = self.slices.list_ns(&key.namespace).into_iter().filter(is_ours);
        let existing = existing.filter_map(|item| self.slices.parse(&item)).collect();
        let zone = |node: &str| Some(self.nodes.get("", node)?.labels.get(ZONE_LABEL)?.to_owned());
        let writes = slice::plan(&service, &backends(&service, &self.pods), existing, zone);
        self.write(&key, &service, writes).await.map(|()| None)
    }

    async fn write(&self, key: &Key, service: &Service, writes: slice::Writes) -> Result<(), Error> {
        let api = self.env.api::<EndpointSlice>(&key.namespace);
        for slice in writes.create {
            match self.env.create::<EndpointSlice>(&key.namespace, serde_json::to_vec(&slice)?).await {
                Ok(created) => self.expectations.expect_revision(key, created.revision()),
                Err(error) if error.is_namespace_terminating() => return Ok(()),
                Err(error) => {
                    let message = format!(
                        "Error updating Endpoint Slices for Service {key}: failed to create EndpointSlice: {}",
                        error.message()
                    );
                    self.env.recorder.warning(service, "FailedToUpdateEndpointSlices", message);
                    return Err(error);
                }
            }
        }
        for slice in writes.update {
            let written = api.replace(slice.name(), &PostParams::default(), &slice).await?;
            let revision = written.metadata.resource_version.and_then(|version| version.parse().ok());
            self.expectations.expect_revision(key, revision.unwrap_or(0));
        }
        for slice in writes.delete {
            self.expectations.expect_deletion(key, slice.uid());
            self.env
                .delete::<EndpointSlice>(&key.namespace, slice.name(), slice.uid(), DeleteParams::default())
                .await?;
        }
        Ok(())
    }
}
