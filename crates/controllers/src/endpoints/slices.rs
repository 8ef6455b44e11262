//! The EndpointSlice controller.

use std::sync::Arc;

use client::{Cache, Key};
use k8s_openapi::api::core::v1::{Node, Pod, Service};

use super::{Selectors, backends, is_managed, slice, write::Slices};
use crate::{
    frame::{Env, Synced, UNSEEN},
    owner::Named,
};

const WORKERS: usize = 5;
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

pub(crate) async fn run(env: Env) {
    let controller = Controller {
        services: env.caches.get(),
        pods: env.caches.get(),
        nodes: env.caches.get(),
        slices: Slices::new(&env, slice::MANAGED_BY),
    };
    let work = Selectors::watch(&controller.services, &controller.pods)
        .on(&controller.slices.cache, Slices::queue_owner(slice::MANAGED_BY))
        .on(&controller.nodes, {
            let services = controller.services.clone();
            // A node that gets another zone, or is gone, changes every Service with a pod there; it happens seldom.
            move |change, queue| {
                let zone = |item: &Option<Arc<client::Item>>| {
                    item.as_ref().and_then(|item| item.labels.get(ZONE_LABEL).map(str::to_owned))
                };
                if zone(&change.old) != zone(&change.new) {
                    services.list().iter().for_each(|service| queue.add(service.key.clone()));
                }
            }
        });
    work.run(&env, WORKERS, |key| controller.sync(key)).await;
}

struct Controller {
    services: Cache<Service>,
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    slices: Slices,
}

impl Controller {
    async fn sync(&self, key: Key) -> Synced {
        let Some(service) = self.services.read(&key.namespace, &key.name) else {
            // The slices follow by garbage collection.
            self.slices.forget(&key);
            return Ok(None);
        };
        if !is_managed(&service) || service.is_deleting() {
            return Ok(None);
        }
        let Some(existing) = self.slices.existing(&key, service.uid()) else { return Ok(Some(UNSEEN)) };
        let zone = |node: &str| Some(self.nodes.get("", node)?.labels.get(ZONE_LABEL)?.to_owned());
        let writes = slice::plan(&service, &backends(&service, &self.pods), existing, zone);
        self.slices.write(&key, &service, writes, "FailedToUpdateEndpointSlices").await.map(|()| None)
    }
}
