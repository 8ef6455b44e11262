//! The domains of a node label as a column: nodes with the same value have the same number.

use std::collections::HashMap;

use crate::{node::Node, snapshot::Slot};

pub(crate) type TopologyId = usize;

/// A value of the label.
pub(crate) type Domain = usize;

/// One label of all nodes.
#[derive(Debug, Default)]
pub(crate) struct Topology {
    key: Box<str>,
    of_slot: Vec<Option<Domain>>,
    /// Numbers are not used again, so that there may be more than values; see [`Topologies::trim`].
    numbers: HashMap<Box<str>, Domain>,
}

impl Topology {
    pub fn domain(&self, slot: Slot) -> Option<Domain> {
        self.of_slot.get(slot).copied().flatten()
    }

    /// One more than the greatest domain.
    pub fn domains(&self) -> usize {
        self.numbers.len()
    }

    fn set(&mut self, slot: Slot, node: Option<&Node>) {
        let next = self.numbers.len();
        let domain = node.and_then(|node| node.labels.get(&self.key)).map(|value| match self.numbers.get(value) {
            Some(domain) => *domain,
            None => *self.numbers.entry(value.into()).or_insert(next),
        });
        if self.of_slot.len() <= slot {
            self.of_slot.resize(slot + 1, None);
        }
        self.of_slot[slot] = domain;
    }
}

#[derive(Debug, Default)]
pub(crate) struct Topologies(Vec<Topology>);

impl Topologies {
    /// Forgets columns whose values have changed so much that most numbers are of no node. Ids from before may be of other
    /// labels afterwards.
    pub fn trim(&mut self) {
        self.0.retain(|topology| topology.numbers.len() <= 2 * topology.of_slot.len() + 64);
    }

    /// The label's id, good until the next [`trim`](Self::trim).
    pub fn id<'a>(&mut self, key: &str, nodes: impl Iterator<Item = (Slot, &'a Node)>) -> TopologyId {
        self.find(key).unwrap_or_else(|| {
            let mut topology = Topology { key: key.into(), ..Topology::default() };
            nodes.for_each(|(slot, node)| topology.set(slot, Some(node)));
            self.0.push(topology);
            self.0.len() - 1
        })
    }

    pub fn find(&self, key: &str) -> Option<TopologyId> {
        self.0.iter().position(|topology| *topology.key == *key)
    }

    pub fn get(&self, id: TopologyId) -> &Topology {
        &self.0[id]
    }

    /// A node has come, changed or gone.
    pub fn set(&mut self, slot: Slot, node: Option<&Node>) {
        self.0.iter_mut().for_each(|topology| topology.set(slot, node));
    }
}
