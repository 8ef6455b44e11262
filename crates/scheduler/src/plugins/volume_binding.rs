//! A pod goes where its volumes are or can be: bound ones by their node affinity, unbound ones by what is free or can be made
//! for the node. What was chosen is written before the pod is bound.

mod bind;
mod free;

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use api::volume::{Claim, ClaimRef, Class, NO_PROVISIONER, SELECTED_NODE, Volume, selects};
use client::Change;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;

use free::{Capacities, Free};

use super::{
    Event, Plugin,
    extension::{Extension, Judge, Reservation, Text},
    volumes::{Views, claim_names, concerns},
};
use crate::{
    node::Node,
    objects::{Kind, Objects},
    pod::Pod,
    snapshot::{Slot, Snapshot},
    verdict::Rejection,
};

const NO_MATCH: Text = Cow::Borrowed("node(s) didn't find available persistent volumes to bind");
const AFFINITY: Text = Cow::Borrowed("node(s) had volume node affinity conflict");
const NO_SPACE: Text = Cow::Borrowed("node(s) did not have enough free storage");
const NO_VOLUME: Text = Cow::Borrowed("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)");

/// What was chosen for pods that are being bound, and the caches do not show yet.
#[derive(Debug, Default)]
struct Assumed {
    /// The claims of volumes.
    claims: HashMap<String, ClaimRef>,
    /// The nodes of claims, by their uid.
    nodes: HashMap<String, String>,
}

pub(crate) struct VolumeBinding {
    objects: Objects,
    views: Arc<Views>,
    assumed: Arc<Mutex<Assumed>>,
    free: Mutex<Free>,
    capacities: Mutex<Capacities>,
    /// How long volumes may take to be made and bound.
    limit: Duration,
}

impl VolumeBinding {
    pub fn new(objects: Objects, views: Arc<Views>, limit: Duration) -> Self {
        let (assumed, free, capacities) = Default::default();
        Self { objects, views, assumed, free, capacities, limit }
    }
}

/// A claim whose volume is chosen with the node.
#[derive(Clone)]
struct Open {
    claim: Claim,
    class: Arc<Class>,
    /// What is known of free space, where the class's driver tells it.
    space: Option<Vec<Arc<Capacity>>>,
}

/// What a driver says of the space that it has for a class.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Capacity {
    storage_class_name: String,
    node_topology: Option<Value>,
    capacity: Option<String>,
    maximum_volume_size: Option<String>,
}

/// What a node offers to the open claims of a pod.
#[derive(Clone, Default)]
struct Chosen {
    /// Claims with volumes that are there.
    matched: Vec<(Claim, Arc<Volume>)>,
    /// Claims whose volumes are to be made.
    made: Vec<Claim>,
}

/// The claims of one pod.
#[derive(Default)]
struct Claims {
    /// The volumes of bound claims; none for one that is gone.
    bound: Vec<Option<Arc<Volume>>>,
    /// In the order of their size, so that small claims leave large volumes to others.
    open: Vec<Open>,
    /// Every volume that may be for an open claim.
    volumes: Vec<Arc<Volume>>,
}

impl Claims {
    /// What a node has for the pod, or why it will not do.
    fn on<'a>(&self, node: &str, label: &dyn Fn(&str) -> Option<&'a str>) -> Result<Chosen, Vec<Text>> {
        let mut reasons = Vec::new();
        if self.bound.iter().any(Option::is_none) {
            reasons.push(NO_VOLUME);
        }
        if !self.bound.iter().flatten().all(|volume| volume.reaches(node, label)) {
            reasons.push(AFFINITY);
        }
        let mut chosen = Chosen::default();
        let mut taken = BTreeSet::new();
        for Open { claim, class, space } in &self.open {
            if let Some(selected) = claim.metadata.annotations.get(SELECTED_NODE) {
                if selected != node {
                    reasons.push(NO_MATCH);
                    break;
                }
            } else {
                let free = self.volumes.iter().filter(|volume| !taken.contains(&volume.metadata.name));
                let free = free.map(|volume| &**volume);
                if let Some(volume) = claim.best_match(free, true, Some(&|volume| volume.reaches(node, label))) {
                    let name = &volume.metadata.name;
                    taken.insert(name.clone());
                    let shared = self.volumes.iter().find(|it| it.metadata.name == *name);
                    chosen.matched.extend(shared.map(|volume| (claim.clone(), volume.clone())));
                    continue;
                }
            }
            if matches!(&*class.provisioner, "" | NO_PROVISIONER) || !class.allows(label) {
                reasons.push(NO_MATCH);
                break;
            }
            if space.as_ref().is_some_and(|all| !all.iter().any(|it| it.holds(claim, class, label))) {
                reasons.push(NO_SPACE);
                break;
            }
            chosen.made.push(claim.clone());
        }
        if reasons.is_empty() { Ok(chosen) } else { Err(reasons) }
    }
}

impl Capacity {
    /// Whether there is room for a claim's volume on a node with these labels.
    fn holds<'a>(&self, claim: &Claim, class: &Class, label: &dyn Fn(&str) -> Option<&'a str>) -> bool {
        let size = self.maximum_volume_size.as_ref().or(self.capacity.as_ref());
        let size = size.and_then(|text| api::quantity::Quantity::parse(text).ok());
        self.storage_class_name == class.metadata.name
            && size.is_some_and(|size| size >= claim.request())
            && self.node_topology.as_ref().is_some_and(|topology| selects(topology, label))
    }
}

/// Why the pod cannot be placed anywhere.
fn nowhere(text: String) -> Rejection {
    Rejection::because(Plugin::VolumeBinding, true, [text.into()])
}

impl VolumeBinding {
    /// Sorts the pod's claims by what is to be done for them.
    fn claims(&self, pod: &Pod) -> Result<Claims, Rejection> {
        let (objects, namespace, assumed) = (&self.objects, pod.item.namespace(), self.assumed.lock());
        let mut claims = Claims::default();
        let mut immediate = false;
        for (_, name, ephemeral) in claim_names(pod) {
            let Some(item) = objects.volume_claims.get(namespace, name) else {
                return Err(nowhere(if ephemeral {
                    format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}")
                } else {
                    format!("persistentvolumeclaim {name:?} not found")
                }));
            };
            let Some(claim) = self.views.claim(namespace, name) else {
                return Err(nowhere(format!("persistentvolumeclaim {name:?} cannot be read")));
            };
            if claim.status.phase == "Lost" {
                let volume = &claim.spec.volume_name;
                let text = format!("persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}");
                return Err(nowhere(text));
            }
            if claim.metadata.is_deleting() {
                return Err(nowhere(format!("persistentvolumeclaim {name:?} is being deleted")));
            }
            if ephemeral && item.controller().is_none_or(|owner| *owner.uid != *pod.uid()) {
                return Err(nowhere(format!(
                    "PVC {namespace}/{name} was not created for pod {namespace}/{} (pod is not owner)",
                    pod.item.name()
                )));
            }
            if claim.is_fully_bound() {
                claims.bound.push(self.views.volume(&claim.spec.volume_name));
                continue;
            }
            match self.views.class_of(&claim).filter(|class| class.is_delayed()) {
                Some(class) if claim.spec.volume_name.is_empty() => {
                    let mut claim = Claim::clone(&claim);
                    if let Some(node) = assumed.nodes.get(&claim.metadata.uid) {
                        claim.metadata.annotations.insert(SELECTED_NODE.to_owned(), node.clone());
                    }
                    claims.open.push(Open { space: self.space(&class), claim, class });
                }
                _ => immediate = true,
            }
        }
        if immediate {
            return Err(nowhere("pod has unbound immediate PersistentVolumeClaims".to_owned()));
        }
        if !claims.open.is_empty() {
            claims.open.sort_by_key(|open| open.claim.request());
            claims.volumes = self.free.lock().of(claims.open.iter().map(|open| &open.claim));
            for volume in &mut claims.volumes {
                if let Some(claim) = assumed.claims.get(&volume.metadata.name) {
                    Arc::make_mut(volume).spec.claim_ref = Some(claim.clone());
                }
            }
        }
        Ok(claims)
    }

    fn space(&self, class: &Class) -> Option<Vec<Arc<Capacity>>> {
        let driver = self.views.csi_driver(&class.provisioner)?;
        driver.spec.storage_capacity.then(|| self.capacities.lock().of(&class.metadata.name))
    }
}

impl Extension for VolumeBinding {
    fn plugin(&self) -> Plugin {
        Plugin::VolumeBinding
    }

    fn prepare<'a>(&'a self, pod: &'a Pod, _: &Snapshot) -> Result<Option<Box<dyn Judge + 'a>>, Rejection> {
        if claim_names(pod).next().is_none() {
            return Ok(None);
        }
        let claims = self.claims(pod)?;
        Ok(Some(Box::new(Binding { rule: self, pod, claims, chosen: HashMap::new() })))
    }

    fn observe(&self, kind: Kind, change: &Change) {
        match kind {
            Kind::PersistentVolume => self.free.lock().observe(change),
            Kind::CsiStorageCapacity => self.capacities.lock().observe(change),
            _ => {}
        }
    }

    fn helps(&self, pod: &Pod, event: Event<'_>) -> bool {
        match event {
            Event::Node { old, new } => old.is_none_or(|old| old.labels != new.labels),
            // A pod that was not bound after all gives back what was chosen for it.
            Event::Gone(other) => claim_names(other).next().is_some(),
            Event::Object { kind: Kind::CsiNode | Kind::CsiDriver | Kind::CsiStorageCapacity, new, .. } => {
                new.is_some()
            }
            _ => concerns(pod, event),
        }
    }
}

/// One pod's claims during a decision, and what each node that will do has for them.
struct Binding<'a> {
    rule: &'a VolumeBinding,
    pod: &'a Pod,
    claims: Claims,
    chosen: HashMap<Slot, Chosen>,
}

impl Judge for Binding<'_> {
    fn filter(&mut self, slot: Slot, node: &Node, _: &Snapshot) -> Option<Rejection> {
        match self.claims.on(&node.name, &|key| node.labels.get(key)) {
            Ok(chosen) => {
                if !self.claims.open.is_empty() {
                    self.chosen.insert(slot, chosen);
                }
                None
            }
            Err(reasons) => Some(Rejection::because(Plugin::VolumeBinding, true, reasons)),
        }
    }

    fn reserve(&mut self, slot: Slot, node: &Node) -> Result<Option<Box<dyn Reservation>>, Text> {
        let Some(chosen) = self.chosen.remove(&slot) else { return Ok(None) };
        let (rule, pod) = (self.rule, self.pod);
        let namespace = pod.item.namespace().to_owned();
        let reserved = bind::Reserved::new(rule, chosen, &namespace, &node.name);
        Ok(Some(Box::new(bind::Timed { reserved, limit: rule.limit })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse<T: serde::de::DeserializeOwned>(object: Value) -> T {
        serde_json::from_value(object).unwrap()
    }

    fn volume(name: &str, size: &str, host: &str) -> Volume {
        parse(json!({
            "metadata": {"name": name},
            "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "c",
                "nodeAffinity": {"required": {"nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "host", "operator": "In", "values": [host]}]}]}}},
            "status": {"phase": "Available"},
        }))
    }

    fn open(name: &str, size: &str, selected: Option<&str>, provisioner: &str) -> Open {
        let annotations = selected.map_or(json!({}), |node| json!({SELECTED_NODE: node}));
        Open {
            claim: parse(json!({
                "metadata": {"name": name, "namespace": "n", "uid": name, "annotations": annotations},
                "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "c", "resources": {"requests": {"storage": size}}},
            })),
            class: Arc::new(parse(
                json!({"metadata": {"name": "c"}, "provisioner": provisioner, "allowedTopologies": [
                {"matchLabelExpressions": [{"key": "host", "values": ["a", "b"]}]}]}),
            )),
            space: None,
        }
    }

    fn on(claims: &Claims, node: &'static str) -> String {
        match claims.on(node, &|key| (key == "host").then_some(node)) {
            Err(reasons) => reasons.join("; "),
            Ok(chosen) => {
                let matched = chosen.matched.iter().map(|(c, v)| format!("{}={}", c.metadata.name, v.metadata.name));
                let made = chosen.made.iter().map(|claim| format!("{}=new", claim.metadata.name));
                matched.chain(made).collect::<Vec<_>>().join(" ")
            }
        }
    }

    #[test]
    fn open_claims_take_what_a_node_has_and_the_rest_is_made() {
        let volumes = || [volume("a1", "1Gi", "a"), volume("a5", "5Gi", "a"), volume("b5", "5Gi", "b")].map(Arc::new);
        let claims = |open: Vec<Open>| Claims { bound: Vec::new(), open, volumes: volumes().into() };
        let two = |maker: &str| claims(vec![open("small", "1Gi", None, maker), open("large", "2Gi", None, maker)]);
        assert_eq!(on(&two(NO_PROVISIONER), "a"), "small=a1 large=a5");
        assert_eq!(on(&two(NO_PROVISIONER), "b"), NO_MATCH);
        assert_eq!(on(&two("maker"), "b"), "small=b5 large=new");
        assert_eq!(on(&two("maker"), "c"), NO_MATCH, "its topology is not allowed");
        let chosen = claims(vec![open("data", "1Gi", Some("b"), "maker")]);
        assert_eq!((on(&chosen, "a"), on(&chosen, "b")), (NO_MATCH.to_string(), "data=new".to_owned()));
    }

    #[test]
    fn bound_claims_hold_the_pod_where_their_volumes_are() {
        let bound = |volume| Claims { bound: vec![volume], ..Claims::default() };
        assert_eq!(on(&bound(Some(Arc::new(volume("v", "1Gi", "a")))), "a"), "");
        assert_eq!(on(&bound(Some(Arc::new(volume("v", "1Gi", "a")))), "b"), AFFINITY);
        assert_eq!(on(&bound(None), "a"), NO_VOLUME);
    }

    #[test]
    fn a_driver_that_tells_its_free_space_is_believed() {
        let with = |space: Value| {
            let mut open = open("data", "2Gi", None, "maker");
            open.space = Some(vec![Arc::new(parse(space))]);
            Claims { bound: Vec::new(), open: vec![open], volumes: Vec::new() }
        };
        let here = json!({"matchLabels": {"host": "a"}});
        let space = |size: &str| json!({"storageClassName": "c", "nodeTopology": here, "capacity": size});
        assert_eq!(on(&with(space("3Gi")), "a"), "data=new");
        assert_eq!(on(&with(space("3Gi")), "b"), NO_SPACE);
        assert_eq!(on(&with(space("1Gi")), "a"), NO_SPACE);
        let mut most = space("3Gi");
        most["maximumVolumeSize"] = "1Gi".into();
        assert_eq!(on(&with(most), "a"), NO_SPACE);
    }
}
