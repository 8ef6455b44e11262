//! What equal pods have in common: the verdicts of the rules that look at needs and node alone, kept until the node changes.

use std::{collections::HashMap, sync::Arc};

use crate::{
    candidates::WORD,
    node::Node,
    plugins::{
        Plugin, node_affinity, node_resources_balanced_allocation, node_resources_fit, node_unschedulable,
        pod_topology_spread, taint_toleration,
    },
    pod::Needs,
    profile::Profile,
    snapshot::{Slot, Snapshot},
    verdict::Rejection,
};

/// How many classes are kept before those that no pod uses are dropped.
const KEPT: usize = 64;

/// All pods with the same needs, in one profile.
pub(crate) struct Class {
    pub needs: Arc<Needs>,
    /// The requests that must fit, by column.
    pub requests: Vec<(usize, i64)>,
    pub scored: Vec<node_resources_fit::Scored>,
    pub compared: Vec<(usize, i64)>,
    pub ledgers: pod_topology_spread::Ledgers,
    rows: Vec<Row>,
    /// The nodes whose rows reject nothing, as bits.
    open: Vec<u64>,
    /// How many nodes would rather not have the pod, and how many it prefers.
    soft: (usize, usize),
    /// The snapshot's layout of which these are.
    layout: u64,
}

/// What is known of one node, as of its generation.
#[derive(Debug, Clone, Default)]
pub(crate) struct Row {
    generation: u64,
    pub rejection: Option<Rejection>,
    /// Whether the pod's own node affinity and its tolerations let it be there.
    pub is_chosen: bool,
    pub is_tolerated: bool,
    /// The raw scores of taints and node affinity.
    pub taints: i64,
    pub affinity: i64,
}

impl Row {
    fn new(needs: &Needs, node: &Node, profile: &Profile, generation: u64) -> Self {
        type Filter = fn(&Needs, &Node) -> Option<Rejection>;
        let filters: [(Plugin, Filter); 2] = [
            (Plugin::NodeUnschedulable, node_unschedulable::filter),
            (Plugin::TaintToleration, taint_toleration::filter),
        ];
        let mut rejection =
            filters.iter().filter(|(plugin, _)| profile.filters(*plugin)).find_map(|(_, filter)| filter(needs, node));
        if profile.filters(Plugin::NodeAffinity) {
            rejection = rejection.or_else(|| node_affinity::filter(needs, &profile.added_affinity, node));
        }
        Self {
            generation,
            rejection,
            is_chosen: node_affinity::fits(&needs.node_affinity, node),
            is_tolerated: taint_toleration::fits(needs, node),
            taints: taint_toleration::score(needs, node),
            affinity: node_affinity::score(needs, &profile.added_affinity, node),
        }
    }
}

impl Class {
    /// Brings up to date what is known of all nodes, if any has changed.
    pub fn refresh(&mut self, profile: &Profile, snapshot: &Snapshot) {
        if self.layout == snapshot.layout() {
            return;
        }
        self.layout = snapshot.layout();
        self.open = vec![0; snapshot.slots().div_ceil(WORD)];
        self.soft = (0, 0);
        for &slot in snapshot.order() {
            let Some(node) = snapshot.node(slot) else { continue };
            let row = self.row(profile, snapshot, slot, node);
            let (is_open, tainted, preferred) = (row.rejection.is_none(), row.taints > 0, row.affinity > 0);
            self.open[slot / WORD] |= u64::from(is_open) << (slot % WORD);
            self.soft.0 += usize::from(tainted);
            self.soft.1 += usize::from(preferred);
        }
    }

    /// The nodes of a word that are open, as of the last refresh.
    pub fn open(&self, word: usize) -> u64 {
        self.open.get(word).copied().unwrap_or(0)
    }

    /// Whether any node would rather not have the pod, and whether it prefers any, as of the last refresh.
    pub fn has_soft(&self) -> (bool, bool) {
        (self.soft.0 > 0, self.soft.1 > 0)
    }

    pub fn row(&mut self, profile: &Profile, snapshot: &Snapshot, slot: Slot, node: &Node) -> &Row {
        let generation = snapshot.generation(slot);
        if self.rows.len() <= slot {
            self.rows.resize(snapshot.slots(), Row::default());
        }
        let row = &mut self.rows[slot];
        if row.generation != generation {
            *row = Row::new(&self.needs, node, profile, generation);
        }
        row
    }
}

#[derive(Default)]
pub(crate) struct Classes(HashMap<usize, Class>);

impl Classes {
    /// The class of some needs. Equal needs that are shared are one allocation, whose address tells them apart as long as
    /// the class holds it.
    pub fn get(&mut self, needs: &Arc<Needs>, profile: &Profile, snapshot: &mut Snapshot) -> &mut Class {
        let address = Arc::as_ptr(needs) as usize;
        if self.0.len() >= KEPT && !self.0.contains_key(&address) {
            // A class, and the parser that shares needs, hold one each.
            self.0.retain(|_, class| Arc::strong_count(&class.needs) > 2);
            if self.0.len() >= KEPT * 16 {
                self.0.clear();
            }
        }
        self.0.entry(address).or_insert_with(|| {
            let own = needs
                .requests
                .iter()
                .filter(|(name, _)| !node_resources_fit::is_scalar(name) || !profile.fit.ignores(name));
            let requests = own.map(|(name, amount)| (snapshot.resource(name), *amount)).collect();
            Class {
                requests,
                scored: node_resources_fit::scored(needs, &profile.fit, snapshot),
                compared: node_resources_balanced_allocation::compared(needs, &profile.balanced, snapshot),
                needs: needs.clone(),
                ledgers: pod_topology_spread::Ledgers::default(),
                rows: Vec::new(),
                open: Vec::new(),
                soft: (0, 0),
                layout: 0,
            }
        })
    }
}
