//! The cluster laid out by column: for each fact a vector with one place (a *slot*) a node, so that a filter runs along
//! memory. It is changed in place as pods and nodes come and go; a decision reads it and changes nothing.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{
    node::Node,
    pod::{HostPort, Pod},
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
    /// How many pods a node takes, and has.
    pub pods: Column,
    /// CPU and memory with assumptions for containers that request none.
    pub assumed: [Vec<i64>; 2],
    on_node: Vec<Vec<Arc<Pod>>>,
    ports: Vec<Vec<HostPort>>,
    /// The nodes, taken from the zones in turn.
    order: Vec<Slot>,
    placed: HashMap<Box<str>, Placed>,
    /// Pods whose affinity matters to others.
    with_affinity: BTreeMap<Box<str>, (Arc<Pod>, Slot)>,
    /// How many pods of an owner are on each node.
    owners: HashMap<Box<str>, HashMap<Slot, u32>>,
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

    /// The nodes in the order in which they are looked at.
    pub fn order(&self) -> &[Slot] {
        &self.order
    }

    pub fn node(&self, slot: Slot) -> Option<&Arc<Node>> {
        self.nodes[slot].as_ref()
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

    pub fn with_affinity(&self) -> impl Iterator<Item = &(Arc<Pod>, Slot)> {
        self.with_affinity.values()
    }

    pub fn of_owner(&self, owner: &str) -> Option<&HashMap<Slot, u32>> {
        self.owners.get(owner)
    }

    pub fn image(&self, name: &str) -> Option<&HashMap<Slot, i64>> {
        self.images.get(name)
    }

    /// The column of a resource, made if there is none.
    pub fn resource(&mut self, name: &str) -> usize {
        self.resources.iter().position(|known| **known == *name).unwrap_or_else(|| {
            let empty = vec![0; self.nodes.len()];
            self.resources.push(name.into());
            self.columns.push(Column { allocatable: empty.clone(), requested: empty });
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
        let moved = old.as_ref().is_none_or(|old| old.zone() != node.zone());
        self.nodes[slot] = Some(Arc::new(node));
        if moved {
            self.reorder();
        }
        Some(old)
    }

    /// A node is gone; its pods may still be there.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(&slot) = self.slots.get(name) {
            self.take(slot);
            self.reorder();
            self.release(slot);
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
        self.count(&pod, slot, 1);
        self.on_node[slot].push(pod.clone());
        self.ports[slot].extend_from_slice(&pod.needs.ports);
        if pod.needs.has_affinity() {
            self.with_affinity.insert(pod.uid().into(), (pod.clone(), slot));
        }
        if let Some(owner) = &pod.owner {
            *self.owners.entry(owner.clone()).or_default().entry(slot).or_default() += 1;
        }
        self.placed.insert(pod.uid().into(), Placed { pod, slot, stage });
    }

    /// The API has confirmed where an assumed pod is.
    pub fn confirm(&mut self, uid: &str) {
        if let Some(placed) = self.placed.get_mut(uid) {
            placed.stage = Stage::Bound;
        }
    }

    /// A pod is gone or has ended, and needs nothing any more.
    pub fn remove_pod(&mut self, uid: &str) -> Option<Placed> {
        let placed = self.placed.remove(uid)?;
        let Placed { pod, slot, .. } = &placed;
        self.count(pod, *slot, -1);
        self.on_node[*slot].retain(|other| other.uid() != uid);
        if !pod.needs.ports.is_empty() {
            self.ports[*slot] = self.on_node[*slot].iter().flat_map(|pod| pod.needs.ports.iter().cloned()).collect();
        }
        self.with_affinity.remove(uid);
        if let Some(owner) = &pod.owner
            && let Some(counts) = self.owners.get_mut(owner)
        {
            counts.entry(*slot).and_modify(|count| *count -= 1);
            counts.retain(|_, count| *count > 0);
            if counts.is_empty() {
                self.owners.remove(owner);
            }
        }
        self.release(*slot);
        Some(placed)
    }

    fn count(&mut self, pod: &Pod, slot: Slot, sign: i64) {
        for (resource, amount) in &pod.needs.requests {
            let column = self.resource(resource);
            self.columns[column].requested[slot] += sign * amount;
        }
        for (column, amount) in self.assumed.iter_mut().zip(pod.needs.assumed) {
            column[slot] += sign * amount;
        }
        self.pods.requested[slot] += sign;
    }
}
