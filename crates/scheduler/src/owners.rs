//! Which pods belong together when none of them says so: those that the Services of a pod and its owner select.

use std::{collections::HashMap, sync::Arc};

use client::{Change, Item};
use serde::Deserialize;

use crate::{
    expression::{Expression, Selector},
    objects::Objects,
    pod::Pod,
};

/// Owners whose selectors are remembered.
const KEPT: usize = 4096;

pub(crate) struct Owners {
    objects: Objects,
    /// The selectors of Services by namespace and name.
    services: HashMap<Box<str>, HashMap<Box<str>, Selector>>,
    /// By uid, with the version that they were read from.
    selectors: HashMap<Box<str>, (u64, Option<Selector>)>,
}

impl Owners {
    pub fn new(objects: Objects) -> Self {
        Self { objects, services: HashMap::new(), selectors: HashMap::new() }
    }

    pub fn service(&mut self, change: &Change) {
        let (namespace, name) = (&*change.key.namespace, &*change.key.name);
        let selector = change.new.as_deref().and_then(selector_of).filter(|selector| !selector.0.is_empty());
        match selector {
            Some(selector) => _ = self.services.entry(namespace.into()).or_default().insert(name.into(), selector),
            None => {
                if let Some(services) = self.services.get_mut(namespace) {
                    services.remove(name);
                    if services.is_empty() {
                        self.services.remove(namespace);
                    }
                }
            }
        }
    }

    /// What selects the pod, all of it together; none if nothing does.
    pub fn selector(&mut self, pod: &Pod) -> Option<Arc<Selector>> {
        let namespace = pod.item.namespace();
        let services = self.services.get(namespace).into_iter().flat_map(HashMap::values);
        let services = services.filter(|selector| selector.matches(|key| pod.labels().get(key)));
        let mut all: Vec<Expression> = services.flat_map(|selector| selector.0.iter().cloned()).collect();
        if let Some(owner) = pod.item.controller() {
            let item = match &*owner.kind {
                "ReplicaSet" => self.objects.replica_sets.get(namespace, &owner.name),
                "StatefulSet" => self.objects.stateful_sets.get(namespace, &owner.name),
                "ReplicationController" => self.objects.replication_controllers.get(namespace, &owner.name),
                _ => None,
            };
            if let Some(item) = item.filter(|item| item.uid == owner.uid) {
                all.extend(self.read(&item).iter().flat_map(|selector| selector.0.iter().cloned()));
            }
        }
        all.sort_by(|a, b| a.key.cmp(&b.key).then_with(|| a.values.cmp(&b.values)));
        all.dedup();
        (!all.is_empty()).then(|| Arc::new(Selector(all)))
    }

    fn read(&mut self, item: &Item) -> Option<Selector> {
        if let Some((version, selector)) = self.selectors.get(&item.uid)
            && *version == item.resource_version
        {
            return selector.clone();
        }
        if self.selectors.len() >= KEPT {
            self.selectors.clear();
        }
        let selector = selector_of(item);
        self.selectors.insert(item.uid.clone(), (item.resource_version, selector.clone()));
        selector
    }
}

/// `spec.selector`, be it a label selector or, of Services and ReplicationControllers, a map of labels.
fn selector_of(item: &Item) -> Option<Selector> {
    #[derive(Deserialize)]
    struct Head<S> {
        spec: Spec<S>,
    }
    #[derive(Deserialize)]
    struct Spec<S> {
        selector: Option<S>,
    }
    type Labels = std::collections::BTreeMap<Box<str>, Box<str>>;
    if let Ok(head) = serde_json::from_slice::<Head<Labels>>(&item.bytes) {
        let labels = head.spec.selector?;
        return Some(Selector(labels.into_iter().map(|(key, value)| Expression::equals(key, value)).collect()));
    }
    serde_json::from_slice::<Head<Selector>>(&item.bytes).ok()?.spec.selector
}
