//! The EndpointSlice controller.

use std::sync::Arc;

use client::{Cache, Key};
use k8s_openapi::api::core::v1::{Node, Pod, Service};

use super::{
    Selectors, backends,
    hints::{self, Zones},
    is_managed, slice,
    write::Slices,
};
use crate::{
    condition,
    frame::{Env, Synced, UNSEEN},
    owner::Named,
};

const WORKERS: usize = 5;
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
const CONTROL_PLANE_LABEL: &str = "node-role.kubernetes.io/control-plane";

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
        let zones = hints::are_wanted(&service).then(|| self.zones());
        let writes = slice::plan(&service, &backends(&service, &self.pods), existing, zone, zones.as_ref());
        self.slices.write(&key, &service, writes, "FailedToUpdateEndpointSlices").await.map(|()| None)
    }

    /// The CPU of the zones, but for nodes of the control plane and those that are not ready.
    fn zones(&self) -> Zones {
        let mut zones = Zones::new();
        for node in self.nodes.list().iter().filter_map(|item| self.nodes.parse(item)) {
            let label = |name: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(name));
            let status = node.status.as_ref();
            let is_ready = status.is_some_and(|status| condition::is_true(&status.conditions, "Ready"));
            let cpu = status.and_then(|status| status.allocatable.as_ref()?.get("cpu"));
            let cpu = cpu.and_then(|cpu| api::quantity::Quantity::parse(&cpu.0).ok());
            if let (Some(zone), Some(cpu), true, None) = (label(ZONE_LABEL), cpu, is_ready, label(CONTROL_PLANE_LABEL))
            {
                *zones.entry(zone.clone()).or_default() += cpu.milli_value();
            }
        }
        zones
    }
}
