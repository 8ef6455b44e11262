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
    /// Numbers are not used again, so that there may be more than values; see [`Topologies::bloated`].
    numbers: HashMap<Box<str>, Domain>,
}

/// A node that went from one domain to another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moved {
    pub slot: Slot,
    pub topology: TopologyId,
    pub from: Option<Domain>,
    pub to: Option<Domain>,
}

impl Topology {
    pub fn is_of(&self, key: &str) -> bool {
        *self.key == *key
    }

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
    /// A label whose values have changed so much that most numbers are of no node.
    pub fn bloated(&self) -> Option<TopologyId> {
        self.0.iter().position(|it| it.numbers.len() > 2 * it.of_slot.len() + 64)
    }

    /// Numbers a label's domains anew. Whatever was counted by them is to be counted again.
    pub fn renumber<'a>(&mut self, id: TopologyId, nodes: impl Iterator<Item = (Slot, &'a Node)>) {
        let mut topology = Topology { key: std::mem::take(&mut self.0[id].key), ..Topology::default() };
        nodes.for_each(|(slot, node)| topology.set(slot, Some(node)));
        self.0[id] = topology;
    }

    /// The label's id, good for ever.
    pub fn id<'a>(&mut self, key: &str, nodes: impl Iterator<Item = (Slot, &'a Node)>) -> TopologyId {
        self.0.iter().position(|topology| topology.is_of(key)).unwrap_or_else(|| {
            self.0.push(Topology { key: key.into(), ..Topology::default() });
            self.renumber(self.0.len() - 1, nodes);
            self.0.len() - 1
        })
    }

    pub fn get(&self, id: TopologyId) -> &Topology {
        &self.0[id]
    }

    /// A node has come, changed or gone.
    pub fn set(&mut self, slot: Slot, node: Option<&Node>) -> Vec<Moved> {
        let mut all = Vec::new();
        for (topology, it) in self.0.iter_mut().enumerate() {
            let from = it.domain(slot);
            it.set(slot, node);
            let moved = Moved { slot, topology, from, to: it.domain(slot) };
            if moved.from != moved.to {
                all.push(moved);
            }
        }
        all
    }
}
