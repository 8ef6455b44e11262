//! The domains of a node label as a column: nodes with the same value have the same number.

use std::collections::{BTreeSet, HashMap};

use crate::{node::Node, snapshot::Slot};

/// How many labels are kept before those are forgotten that no pod on a node speaks of.
const KEPT: usize = 256;

pub(crate) type TopologyId = usize;

/// A value of the label.
pub(crate) type Domain = usize;

/// One label of all nodes.
#[derive(Debug, Default)]
pub(crate) struct Topology {
    /// None in a free place, where no node is of any domain.
    key: Option<Box<str>>,
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
        self.key.as_deref() == Some(key)
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
        let Some(key) = &self.key else { return };
        let domain = node.and_then(|node| node.labels.get(key)).map(|value| match self.numbers.get(value) {
            Some(domain) => *domain,
            None => *self.numbers.entry(value.into()).or_insert(next),
        });
        if self.of_slot.len() <= slot {
            self.of_slot.resize(slot + 1, None);
        }
        self.of_slot[slot] = domain;
    }
}

#[derive(Debug)]
pub(crate) struct Topologies {
    all: Vec<Topology>,
    free: Vec<TopologyId>,
    /// From so many on those are forgotten that are not needed: always many, so that it is seldom done.
    limit: usize,
}

impl Default for Topologies {
    fn default() -> Self {
        Self { all: Vec::new(), free: Vec::new(), limit: KEPT }
    }
}

impl Topologies {
    /// A label whose values have changed so much that most numbers are of no node.
    pub fn bloated(&self) -> Option<TopologyId> {
        self.all.iter().position(|it| it.numbers.len() > 2 * it.of_slot.len() + 64)
    }

    pub fn len(&self) -> usize {
        self.all.len() - self.free.len()
    }

    /// Whether it is time to [retain](Self::retain) only those that are needed.
    pub fn is_full(&self) -> bool {
        self.len() >= self.limit
    }

    /// Forgets all labels but these. The ids of the others may be of other labels from now on.
    pub fn retain(&mut self, needed: &BTreeSet<TopologyId>) {
        for (id, topology) in self.all.iter_mut().enumerate() {
            if topology.key.is_some() && !needed.contains(&id) {
                *topology = Topology::default();
                self.free.push(id);
            }
        }
        self.limit = KEPT.max(2 * self.len());
    }

    /// Numbers a label's domains anew. Whatever was counted by them is to be counted again.
    pub fn renumber<'a>(&mut self, id: TopologyId, nodes: impl Iterator<Item = (Slot, &'a Node)>) {
        let mut topology = Topology { key: self.all[id].key.take(), ..Topology::default() };
        nodes.for_each(|(slot, node)| topology.set(slot, Some(node)));
        self.all[id] = topology;
    }

    /// The label's id, good until the next [`retain`](Self::retain) without it.
    pub fn id<'a>(&mut self, key: &str, nodes: impl Iterator<Item = (Slot, &'a Node)>) -> TopologyId {
        self.all.iter().position(|topology| topology.is_of(key)).unwrap_or_else(|| {
            let id = self.free.pop().unwrap_or_else(|| {
                self.all.push(Topology::default());
                self.all.len() - 1
            });
            self.all[id].key = Some(key.into());
            self.renumber(id, nodes);
            id
        })
    }

    pub fn get(&self, id: TopologyId) -> &Topology {
        &self.all[id]
    }

    /// A node has come, changed or gone.
    pub fn set(&mut self, slot: Slot, node: Option<&Node>) -> Vec<Moved> {
        let mut all = Vec::new();
        for (topology, it) in self.all.iter_mut().enumerate() {
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
