//! The cluster laid out by column: for each fact a vector with one place (a *slot*) a node, so that a filter runs along
//! memory. It is changed in place as pods and nodes come and go; a decision reads it and changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use client::{Change, Labels};

use crate::{
    device_classes::DeviceClasses,
    groups::{Group, GroupId, Groups, Kept},
    namespaces::Namespaces,
    node::Node,
    pod::{HostPort, Pod, VolumeSource},
    terms::{self, Term, TermId, Terms},
    topology::{Topologies, Topology, TopologyId},
};

/// The place of a node in every column. It stays the node's as long as it or a pod of it is there.
pub(crate) type Slot = usize;

/// The columns of CPU and memory.
pub(crate) const CPU: usize = 0;
pub(crate) const MEMORY: usize = 1;

/// One resource of all nodes.
#[derive(Debug, Default, Clone)]
pub(crate) struct Column {
    pub allocatable: Vec<i64>,
    pub requested: Vec<i64>,
    /// Whether a node that has none of it may have devices instead, which is for the rule of devices to see.
    pub is_of_devices: bool,
}

impl Column {
    pub fn has_room(&self, slot: Slot, request: i64) -> bool {
        let all = self.allocatable[slot];
        request <= all - self.requested[slot] || self.is_of_devices && all == 0
    }
}

/// A pod on a node.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub pod: Arc<Pod>,
    pub slot: Slot,
    pub stage: Stage,
}

/// How certain it is that a pod is where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The room is kept for it while those that it evicted leave.
    Nominated,
    /// Decided here and not yet confirmed by the API.
    Assumed,
    /// The API says so.
    Bound,
}

#[derive(Default)]
pub(crate) struct Snapshot {
    /// Absent for a free slot, and for a node that is known only by its pods.
    nodes: Vec<Option<Arc<Node>>>,
    names: Vec<Box<str>>,
    slots: HashMap<Box<str>, Slot>,
    free: Vec<Slot>,
    /// Grows with each change of a node itself.
    generations: Vec<u64>,
    generation: u64,
    resources: Vec<Box<str>>,
    columns: Vec<Column>,
    device_classes: DeviceClasses,
    /// How many pods a node takes, and has.
    pub pods: Column,
    /// CPU and memory with assumptions for containers that request none.
    pub assumed: [Vec<i64>; 2],
    on_node: Vec<Vec<Arc<Pod>>>,
    ports: Vec<Vec<HostPort>>,
    /// The nodes, taken from the zones in turn; made anew by [`Snapshot::refresh`] when it is no longer so.
    order: Vec<Slot>,
    is_ordered: bool,
    placed: HashMap<Box<str>, Placed>,
    namespaces: Namespaces,
    groups: Groups,
    terms: Terms,
    topologies: Topologies,
    /// How many pods use a claim, by namespace and name.
    claims: HashMap<Box<str>, HashMap<Box<str>, usize>>,
    /// Those in [`Stage::Nominated`], by priority.
    nominated: BTreeSet<(i32, Box<str>)>,
    /// The size of each image on the nodes that have it.
    images: HashMap<Box<str>, HashMap<Slot, i64>>,
}

impl Snapshot {
    pub fn new() -> Self {
        let mut snapshot = Self::default();
        for resource in ["cpu", "memory"] {
            snapshot.resource(resource);
        }
        snapshot
    }

    /// The nodes in the order in which they are looked at, as of the last [`refresh`](Self::refresh).
    pub fn order(&self) -> &[Slot] {
        &self.order
    }

    pub fn node(&self, slot: Slot) -> Option<&Arc<Node>> {
        self.nodes[slot].as_ref()
    }

    /// The slot of a node that is there.
    pub fn slot_of_node(&self, name: &str) -> Option<Slot> {
        self.slots.get(name).copied().filter(|&slot| self.nodes[slot].is_some())
    }

    pub fn node_by_name(&self, name: &str) -> Option<&Arc<Node>> {
        self.node(*self.slots.get(name)?)
    }

    pub fn node_name(&self, slot: Slot) -> &str {
        &self.names[slot]
    }

    pub fn generation(&self, slot: Slot) -> u64 {
        self.generations[slot]
    }

    /// Changes whenever a node does, or ids of groups or domains mean something else than before.
    pub fn layout(&self) -> u64 {
        self.generation
    }

    pub fn slots(&self) -> usize {
        self.nodes.len()
    }

    pub fn column(&self, resource: usize) -> &Column {
        &self.columns[resource]
    }

    pub fn resource_name(&self, resource: usize) -> &str {
        &self.resources[resource]
    }

    pub fn pods_on(&self, slot: Slot) -> &[Arc<Pod>] {
        &self.on_node[slot]
    }

    pub fn ports(&self, slot: Slot) -> &[HostPort] {
        &self.ports[slot]
    }

    pub fn placed(&self, uid: &str) -> Option<&Placed> {
        self.placed.get(uid)
    }

    /// Pods for which room is kept and that are less important than this.
    pub fn nominated_below(&self, priority: i32) -> Vec<Placed> {
        let below = self.nominated.range(..(priority, "".into()));
        below.filter_map(|(_, uid)| self.placed.get(uid).cloned()).collect()
    }

    /// To be called before a decision asks for nodes, groups and topologies.
    pub fn refresh(&mut self) {
        if self.topologies.is_full() {
            self.topologies.retain(&self.terms.topologies());
            // They are counted by labels that may be others now.
            self.groups = Groups::default();
            self.generation += 1;
        }
        self.generation += u64::from(self.groups.trim());
        while let Some(bloated) = self.topologies.bloated() {
            let nodes = self.nodes.iter().enumerate().filter_map(|(slot, node)| Some((slot, node.as_deref()?)));
            self.topologies.renumber(bloated, nodes);
            self.groups.recount(bloated, &self.topologies);
            self.terms.recount(bloated, &self.topologies);
            self.generation += 1;
        }
        if !self.is_ordered {
            self.reorder();
        }
    }

    pub fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    /// A namespace is there, has other labels, or (without any) is gone.
    pub fn set_namespace(&mut self, name: &str, labels: Option<Labels>) {
        if self.namespaces.get(name) == labels.as_ref() {
            return;
        }
        let there = self.placed.values().filter(|it| it.pod.item.namespace() == name);
        let there: Vec<Placed> = there.cloned().collect();
        there.iter().for_each(|it| self.groups.count(it, -1, &self.namespaces, &self.topologies));
        self.namespaces.set(name, labels);
        there.iter().for_each(|it| self.groups.count(it, 1, &self.namespaces, &self.topologies));
    }

    /// The class of the devices that nodes may have instead of a resource.
    pub fn device_class(&self, resource: &str) -> Option<&str> {
        self.device_classes.behind(resource)
    }

    /// A DeviceClass has come, changed or gone.
    pub fn set_device_class(&mut self, change: &Change) {
        self.device_classes.observe(change);
        for (column, name) in self.columns.iter_mut().zip(&self.resources) {
            column.is_of_devices = self.device_classes.behind(name).is_some();
        }
    }

    pub fn group(&mut self, group: Group) -> GroupId {
        self.groups.id(group, &self.namespaces, self.placed.values())
    }

    /// A group that is counted by the domains of a label too.
    pub fn tallied(&mut self, group: Group, topology: TopologyId) -> GroupId {
        let id = self.group(group);
        self.groups.count_by(id, topology, &self.topologies);
        id
    }

    pub fn grouped(&self, group: GroupId) -> &Kept {
        self.groups.get(group)
    }

    /// Whether a pod that is certain to be on its node is of a group.
    pub fn is_of(&self, group: GroupId, pod: &Pod) -> bool {
        self.groups.has(group, pod, Stage::Bound, &self.namespaces)
    }

    /// Whether any pod that is there says anything of others.
    pub fn has_terms(&self) -> bool {
        !self.terms.is_empty()
    }

    /// What pods that are there say of one.
    pub fn terms_about(&self, pod: &Pod) -> Vec<TermId> {
        self.terms.about(pod, &self.namespaces)
    }

    pub fn term(&self, id: TermId) -> Option<&Term> {
        self.terms.get(id)
    }

    pub fn topology_id(&mut self, key: &str) -> TopologyId {
        let nodes = self.nodes.iter().enumerate();
        self.topologies.id(key, nodes.filter_map(|(slot, node)| Some((slot, node.as_deref()?))))
    }

    #[cfg(test)]
    pub fn topologies(&self) -> usize {
        self.topologies.len()
    }

    pub fn topology(&self, id: TopologyId) -> &Topology {
        self.topologies.get(id)
    }

    /// How many pods use a claim.
    pub fn users(&self, namespace: &str, claim: &str) -> usize {
        self.claims.get(namespace).and_then(|claims| claims.get(claim)).copied().unwrap_or(0)
    }

    pub fn image(&self, name: &str) -> Option<&HashMap<Slot, i64>> {
        self.images.get(name)
    }

    /// The column of a resource, made if there is none.
    pub fn resource(&mut self, name: &str) -> usize {
        self.resources.iter().position(|known| **known == *name).unwrap_or_else(|| {
            let empty = vec![0; self.nodes.len()];
            let is_of_devices = self.device_classes.behind(name).is_some();
            self.resources.push(name.into());
            self.columns.push(Column { allocatable: empty.clone(), requested: empty, is_of_devices });
            self.resources.len() - 1
        })
    }

    fn slot(&mut self, name: &str) -> Slot {
        if let Some(&slot) = self.slots.get(name) {
            return slot;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(None);
            self.names.push("".into());
            self.generations.push(0);
            self.on_node.push(Vec::new());
            self.ports.push(Vec::new());
            self.assumed.iter_mut().for_each(|column| column.push(0));
            for column in self.columns.iter_mut().chain([&mut self.pods]) {
                column.allocatable.push(0);
                column.requested.push(0);
            }
            self.nodes.len() - 1
        });
        self.names[slot] = name.into();
        self.slots.insert(name.into(), slot);
        slot
    }

    /// A node is there or has changed. Returns what it was before; `None` inside when it is as it was.
    pub fn set_node(&mut self, node: Node) -> Option<Option<Arc<Node>>> {
        let slot = self.slot(&node.name);
        if self.nodes[slot].as_deref() == Some(&node) {
            return None;
        }
        let old = self.take(slot);
        for (resource, amount) in &node.allocatable {
            match &**resource {
                "pods" => self.pods.allocatable[slot] = *amount,
                name => {
                    let column = self.resource(name);
                    self.columns[column].allocatable[slot] = *amount;
                }
            }
        }
        for (image, size) in &node.images {
            self.images.entry(image.clone()).or_default().insert(slot, *size);
        }
        self.relabel(slot, Some(&node));
        let moved = old.as_ref().is_none_or(|old| old.zone() != node.zone());
        self.nodes[slot] = Some(Arc::new(node));
        self.is_ordered &= !moved;
        Some(old)
    }

    /// A node is gone; its pods may still be there. Returns what it was.
    pub fn remove_node(&mut self, name: &str) -> Option<Arc<Node>> {
        let slot = *self.slots.get(name)?;
        let old = self.take(slot);
        self.relabel(slot, None);
        self.is_ordered = false;
        self.release(slot);
        old
    }

    /// Moves what is counted on a node to its new domains.
    fn relabel(&mut self, slot: Slot, node: Option<&Node>) {
        for moved in self.topologies.set(slot, node) {
            self.groups.follow(&moved);
            self.terms.follow(&moved);
        }
    }

    /// Clears what the node itself says.
    fn take(&mut self, slot: Slot) -> Option<Arc<Node>> {
        self.generation += 1;
        self.generations[slot] = self.generation;
        let old = self.nodes[slot].take();
        self.columns.iter_mut().chain([&mut self.pods]).for_each(|column| column.allocatable[slot] = 0);
        for image in old.iter().flat_map(|old| old.images.keys()) {
            if let Some(nodes) = self.images.get_mut(image) {
                nodes.remove(&slot);
                if nodes.is_empty() {
                    self.images.remove(image);
                }
            }
        }
        old
    }

    /// Gives the slot back when nothing is left in it.
    fn release(&mut self, slot: Slot) {
        if self.nodes[slot].is_none() && self.on_node[slot].is_empty() && self.slots.remove(&self.names[slot]).is_some()
        {
            self.free.push(slot);
        }
    }

    fn reorder(&mut self) {
        self.is_ordered = true;
        let mut zones: BTreeMap<(&str, &str), Vec<Slot>> = BTreeMap::new();
        for (slot, node) in self.nodes.iter().enumerate() {
            if let Some(node) = node {
                zones.entry(node.zone()).or_default().push(slot);
            }
        }
        let longest = zones.values().map(Vec::len).max().unwrap_or(0);
        self.order = (0..longest).flat_map(|n| zones.values().filter_map(move |zone| zone.get(n).copied())).collect();
    }

    /// A pod is or will be on a node. One that was there under the same uid gives way.
    pub fn place(&mut self, pod: Arc<Pod>, node: &str, stage: Stage) {
        self.remove_pod(pod.uid());
        let slot = self.slot(node);
        let placed = Placed { pod, slot, stage };
        self.count(&placed, 1);
        self.put_back(slot, placed.pod.clone());
        if stage == Stage::Nominated {
            self.nominated.insert((placed.pod.priority, placed.pod.uid().into()));
        }
        self.placed.insert(placed.pod.uid().into(), placed);
    }

    /// The API has confirmed where an assumed pod is.
    pub fn confirm(&mut self, uid: &str) {
        match self.placed.get_mut(uid) {
            Some(Placed { stage: Stage::Nominated, pod, slot }) => {
                let (pod, node) = (pod.clone(), self.names[*slot].clone());
                self.place(pod, &node, Stage::Bound);
            }
            Some(placed) => placed.stage = Stage::Bound,
            None => {}
        }
    }

    /// A pod is gone or has ended, and needs nothing any more.
    pub fn remove_pod(&mut self, uid: &str) -> Option<Placed> {
        let placed = self.placed.remove(uid)?;
        self.count(&placed, -1);
        self.lift(placed.slot, |other| other.uid() == uid);
        self.nominated.remove(&(placed.pod.priority, uid.into()));
        self.release(placed.slot);
        Some(placed)
    }

    /// Takes pods off a node for a while, to see what would be without them: what is counted on the node itself is as if
    /// they were gone; what is counted by groups, terms and claims is not. They are to be [put back](Self::put_back).
    pub fn lift(&mut self, slot: Slot, which: impl Fn(&Pod) -> bool) -> Vec<Arc<Pod>> {
        let lifted: Vec<Arc<Pod>> = self.on_node[slot].extract_if(.., |pod| which(pod)).collect();
        lifted.iter().for_each(|pod| self.take_room(pod, slot, -1));
        if lifted.iter().any(|pod| !pod.needs.ports.is_empty()) {
            self.ports[slot] = self.on_node[slot].iter().flat_map(|pod| pod.needs.ports.iter().cloned()).collect();
        }
        lifted
    }

    pub fn put_back(&mut self, slot: Slot, pod: Arc<Pod>) {
        self.take_room(&pod, slot, 1);
        self.ports[slot].extend_from_slice(&pod.needs.ports);
        self.on_node[slot].push(pod);
    }

    fn take_room(&mut self, pod: &Pod, slot: Slot, sign: i64) {
        for (resource, amount) in &pod.needs.requests {
            let column = self.resource(resource);
            self.columns[column].requested[slot] += sign * amount;
        }
        for (column, amount) in self.assumed.iter_mut().zip(pod.needs.assumed) {
            column[slot] += sign * amount;
        }
        self.pods.requested[slot] += sign;
    }

    /// Counts a pod where others than its node ask for it.
    fn count(&mut self, placed: &Placed, sign: i32) {
        let Placed { pod, slot, .. } = placed;
        self.groups.count(placed, sign, &self.namespaces, &self.topologies);
        if pod.needs.has_affinity() {
            if !self.terms.knows(&pod.needs) {
                let labels: Vec<TopologyId> = terms::keys(&pod.needs).map(|key| self.topology_id(key)).collect();
                self.terms.learn(&pod.needs, &labels, &self.topologies);
            }
            self.terms.count(&pod.needs, *slot, sign, &self.topologies);
        }
        let names: BTreeSet<&str> = pod
            .volumes
            .iter()
            .filter_map(|it| match &it.source {
                VolumeSource::Claim { name, .. } => Some(&**name),
                _ => None,
            })
            .collect();
        for name in names {
            let claims = self.claims.entry(pod.item.namespace().into()).or_default();
            let users = claims.entry(name.into()).or_default();
            *users = if sign > 0 { *users + 1 } else { users.saturating_sub(1) };
            if *users == 0 {
                claims.remove(name);
            }
            if claims.is_empty() {
                self.claims.remove(pod.item.namespace());
            }
        }
    }
}
