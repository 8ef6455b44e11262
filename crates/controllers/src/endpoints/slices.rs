//! The EndpointSlice controller.

use std::{collections::HashSet, sync::Arc};

use client::{Cache, Item, Key};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use parking_lot::Mutex;

use super::{
    Selectors, backends,
    hints::{self, Place},
    is_managed, slice,
    write::Slices,
};
use crate::{
    frame::{Env, Synced, UNSEEN},
    owner::Named,
};

const WORKERS: usize = 5;

pub(crate) async fn run(env: Env) {
    let controller = Controller {
        services: env.caches.get(),
        pods: env.caches.get(),
        nodes: env.caches.get(),
        slices: Slices::new(&env, slice::MANAGED_BY),
        shared: Mutex::default(),
        env: env.clone(),
    };
    let work = Selectors::watch(&controller.services, &controller.pods)
        .on(&controller.slices.cache, Slices::queue_owner(slice::MANAGED_BY))
        .on(&controller.nodes, {
            let (services, nodes) = (controller.services.clone(), controller.nodes.clone());
            move |change, queue| {
                let place = |item: &Option<Arc<Item>>| item.as_ref().and_then(|item| place(&nodes, item).cloned());
                let (old, new) = (place(&change.old), place(&change.new));
                if old == new {
                    return;
                }
                // Another zone changes every Service with a pod there; it happens seldom.
                let zone = |place: &Option<Place>| place.as_ref().and_then(|place| place.zone.clone());
                let is_moved = zone(&old) != zone(&new);
                let shares = |item: &Item| services.parse(item).is_some_and(|service| hints::are_wanted(&service));
                let concerned = services.list().into_iter().filter(|item| is_moved || shares(item));
                concerned.for_each(|service| queue.add(service.key.clone()));
            }
        });
    work.run(&env, WORKERS, |key| controller.sync(key)).await;
}

fn place<'a>(nodes: &Cache<Node>, item: &'a Item) -> Option<&'a Place> {
    item.facts(|item| nodes.parse(item).map(|node| Place::of(&node)).ok_or(())).ok()
}

struct Controller {
    services: Cache<Service>,
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    slices: Slices,
    /// The Services whose endpoints the zones share.
    shared: Mutex<HashSet<Key>>,
    env: Env,
}

impl Controller {
    async fn sync(&self, key: Key) -> Synced {
        let Some(service) = self.services.read(&key.namespace, &key.name) else {
            // The slices follow by garbage collection.
            self.slices.forget(&key);
            self.shared.lock().remove(&key);
            return Ok(None);
        };
        if !is_managed(&service) || service.is_deleting() {
            return Ok(None);
        }
        let Some(existing) = self.slices.existing(&key, service.uid()) else { return Ok(Some(UNSEEN)) };
        let zone = |node: &str| place(&self.nodes, self.nodes.get("", node)?.as_ref())?.zone.clone();
        let zones = hints::are_wanted(&service).then(|| {
            let nodes = self.nodes.list();
            hints::zones(nodes.iter().filter_map(|item| place(&self.nodes, item)))
        });
        let (writes, shared) = slice::plan(&service, &backends(&service, &self.pods), existing, zone, zones.as_ref());
        self.tell(&key, &service, shared);
        self.slices.write(&key, &service, writes, "FailedToUpdateEndpointSlices").await.map(|()| None)
    }

    /// Tells of zones that begin to share the endpoints, and of those that do not.
    fn tell(&self, key: &Key, service: &Service, shared: slice::Shared) {
        const DISABLED: &str = "TopologyAwareHintsDisabled";
        if shared.is_empty() && self.shared.lock().remove(key) {
            self.env.recorder.warning(service, DISABLED, "Topology Aware Hints has been disabled");
        }
        for (family, outcome) in shared {
            match outcome {
                Err(why) => {
                    self.shared.lock().remove(key);
                    self.env.recorder.warning(service, DISABLED, format!("{why}, addressType: {family}"));
                }
                Ok(()) if self.shared.lock().insert(key.clone()) => {
                    let message = format!("Topology Aware Hints has been enabled, addressType: {family}");
                    self.env.recorder.normal(service, "TopologyAwareHintsEnabled", message);
                }
                Ok(()) => {}
            }
        }
    }
}
