//! What equal pods have in common: the verdicts of the rules that look at needs and node alone, kept until the node changes.

use std::{collections::HashMap, sync::Arc};

use crate::{
    node::Node,
    plugins::{node_affinity, node_unschedulable, taint_toleration},
    pod::Needs,
    snapshot::{Slot, Snapshot},
    verdict::Rejection,
};

/// How many classes are kept before those that no pod uses are dropped.
const KEPT: usize = 64;

/// All pods with the same needs.
pub(crate) struct Class {
    pub needs: Arc<Needs>,
    /// The requests by column.
    pub requests: Vec<(usize, i64)>,
    rows: Vec<Row>,
}

/// What is known of one node, as of its generation.
#[derive(Debug, Clone, Default)]
pub(crate) struct Row {
    generation: u64,
    pub rejection: Option<Rejection>,
    /// The raw scores of taints and node affinity.
    pub taints: i64,
    pub affinity: i64,
}

impl Row {
    fn new(needs: &Needs, node: &Node, generation: u64) -> Self {
        let filters = [node_unschedulable::filter, taint_toleration::filter, node_affinity::filter];
        Self {
            generation,
            rejection: filters.iter().find_map(|filter| filter(needs, node)),
            taints: taint_toleration::score(needs, node),
            affinity: node_affinity::score(needs, node),
        }
    }
}

impl Class {
    pub fn row(&mut self, snapshot: &Snapshot, slot: Slot, node: &Node) -> &Row {
        let generation = snapshot.generation(slot);
        if self.rows.len() <= slot {
            self.rows.resize(snapshot.slots(), Row::default());
        }
        let row = &mut self.rows[slot];
        if row.generation != generation {
            *row = Row::new(&self.needs, node, generation);
        }
        row
    }
}

#[derive(Default)]
pub(crate) struct Classes(HashMap<usize, Class>);

impl Classes {
    /// The class of some needs. Equal needs that are shared are one allocation, whose address tells them apart as long as
    /// the class holds it.
    pub fn get(&mut self, needs: &Arc<Needs>, snapshot: &mut Snapshot) -> &mut Class {
        let address = Arc::as_ptr(needs) as usize;
        if self.0.len() >= KEPT && !self.0.contains_key(&address) {
            // A class, and the parser that shares needs, hold one each.
            self.0.retain(|_, class| Arc::strong_count(&class.needs) > 2);
            if self.0.len() >= KEPT * 16 {
                self.0.clear();
            }
        }
        self.0.entry(address).or_insert_with(|| {
            let requests = needs.requests.iter().map(|(name, amount)| (snapshot.resource(name), *amount)).collect();
            Class { needs: needs.clone(), requests, rows: Vec::new() }
        })
    }
}
