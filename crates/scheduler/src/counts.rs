//! Numbers of pods by node and by domain, kept as pods come and go.

use crate::{
    snapshot::Slot,
    topology::{Domain, Moved, Topology, TopologyId},
};

/// Slots a page.
const PAGE: usize = 64;

/// A number of pods for each slot. Pages of slots without any are not there, so that few pods cost little among many nodes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts {
    pages: Vec<Option<Box<[i32; PAGE]>>>,
}

impl Counts {
    pub fn get(&self, slot: Slot) -> i64 {
        let page = self.pages.get(slot / PAGE).and_then(Option::as_ref);
        page.map_or(0, |page| page[slot % PAGE].into())
    }

    /// The slots that have any, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, i64)> {
        let pages = self.pages.iter().enumerate().filter_map(|(at, page)| Some((at, page.as_ref()?)));
        let slots = pages.flat_map(|(at, page)| page.iter().enumerate().map(move |(slot, it)| (at * PAGE + slot, *it)));
        slots.filter(|(_, number)| *number != 0).map(|(slot, number)| (slot, number.into()))
    }

    pub fn add(&mut self, slot: Slot, number: i32) {
        if self.pages.len() <= slot / PAGE {
            self.pages.resize(slot / PAGE + 1, None);
        }
        self.pages[slot / PAGE].get_or_insert_with(|| Box::new([0; PAGE]))[slot % PAGE] += number;
    }
}

/// The pods of some [`Counts`] by the domains of one node label.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    pub topology: TopologyId,
    domains: Vec<i64>,
    /// Pods in any domain.
    total: i64,
}

impl Tally {
    pub fn new(id: TopologyId, topology: &Topology, counts: &Counts) -> Self {
        let mut tally = Self { topology: id, domains: Vec::new(), total: 0 };
        counts.iter().for_each(|(slot, number)| tally.add(topology.domain(slot), number));
        tally
    }

    pub fn of(&self, domain: Domain) -> i64 {
        self.domains.get(domain).copied().unwrap_or(0)
    }

    pub fn total(&self) -> i64 {
        self.total
    }

    /// So many pods came to a node of this domain.
    pub fn add(&mut self, domain: Option<Domain>, number: i64) {
        let Some(domain) = domain else { return };
        if self.domains.len() <= domain {
            self.domains.resize(domain + 1, 0);
        }
        self.domains[domain] += number;
        self.total += number;
    }

    /// A node went from one domain to another, with all its pods.
    pub fn follow(&mut self, moved: &Moved, counts: &Counts) {
        if moved.topology == self.topology {
            let number = counts.get(moved.slot);
            self.add(moved.from, -number);
            self.add(moved.to, number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_those_of_a_plain_list() {
        let mut counts = Counts::default();
        let mut plain = vec![0_i64; 300];
        for (slot, number) in [(0, 1), (63, 2), (64, 1), (299, 3), (63, -2), (0, 1)] {
            counts.add(slot, number);
            plain[slot] += i64::from(number);
        }
        assert_eq!((0..300).map(|slot| counts.get(slot)).collect::<Vec<_>>(), plain);
        assert_eq!(counts.iter().collect::<Vec<_>>(), [(0, 2), (64, 1), (299, 3)]);
        assert_eq!(counts.get(10_000), 0);
    }
}
