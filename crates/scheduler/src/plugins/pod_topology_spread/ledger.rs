//! What a constraint counts in each domain, among the nodes at which a class of pods looks. It is kept from one decision to
//! the next: only the pods that came and went in between are counted.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{
    class::Class,
    groups::GroupId,
    profile::Profile,
    snapshot::{Slot, Snapshot},
    topology::{Domain, TopologyId},
};

/// How many ledgers a class keeps.
const KEPT: usize = 256;

/// What is counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Account {
    pub group: Option<GroupId>,
    pub topology: TopologyId,
    pub honor_affinity: bool,
    pub honor_taints: bool,
    /// Labels without which a node is not looked at.
    pub labels: Vec<TopologyId>,
}

#[derive(Debug, Clone)]
pub(super) struct Ledger {
    account: Account,
    /// The snapshot's layout, and how often the group had changed, when it was last brought up to date.
    layout: u64,
    changes: u64,
    /// None for a domain without a node that is looked at.
    counts: Vec<Option<i64>>,
    /// How many domains have so many pods.
    domains: BTreeMap<i64, usize>,
    known: usize,
}

impl Ledger {
    /// The pods in a domain; none if no node of it is looked at.
    pub fn of(&self, domain: Domain) -> Option<i64> {
        self.counts.get(domain).copied().flatten()
    }

    /// How many domains have a node that is looked at.
    pub fn domains(&self) -> usize {
        self.known
    }

    /// The fewest pods in any domain, if in one of them they were more by so many.
    pub fn fewest(&self, domain: Domain, more: i64) -> i64 {
        let own = self.of(domain).filter(|_| more != 0);
        let mut others = self.domains.iter().filter(|(count, domains)| Some(**count) != own || **domains > 1);
        let others = others.next().map(|(count, _)| *count);
        own.map(|own| own + more).into_iter().chain(others).min().unwrap_or(0)
    }

    pub fn looks_at(&self, slot: Slot, class: &mut Class, profile: &Profile, snapshot: &Snapshot) -> bool {
        let Some(node) = snapshot.node(slot) else { return false };
        let Account { topology, honor_affinity, honor_taints, ref labels, .. } = self.account;
        let has = |label: TopologyId| snapshot.topology(label).domain(slot).is_some();
        if !has(topology) || !labels.iter().all(|label| has(*label)) {
            return false;
        }
        if !honor_affinity && !honor_taints {
            return true;
        }
        let row = class.row(profile, snapshot, slot, node);
        (!honor_affinity || row.is_chosen) && (!honor_taints || row.is_tolerated)
    }

    fn new(account: Account, class: &mut Class, profile: &Profile, snapshot: &Snapshot) -> Self {
        let topology = snapshot.topology(account.topology);
        let group = account.group.map(|group| snapshot.grouped(group));
        let (layout, changes) = (snapshot.layout(), group.map_or(0, |group| group.changes()));
        let counts = vec![None; topology.domains()];
        let mut ledger = Self { account, layout, changes, counts, domains: BTreeMap::new(), known: 0 };
        for &slot in snapshot.order() {
            if let Some(domain) = topology.domain(slot)
                && ledger.looks_at(slot, class, profile, snapshot)
            {
                *ledger.counts[domain].get_or_insert(0) += group.map_or(0, |group| group.counts.get(slot));
            }
        }
        for count in ledger.counts.iter().flatten() {
            *ledger.domains.entry(*count).or_default() += 1;
            ledger.known += 1;
        }
        ledger
    }

    /// Counts what has changed. False if that cannot be told.
    fn catch_up(&mut self, class: &mut Class, profile: &Profile, snapshot: &Snapshot) -> bool {
        if self.layout != snapshot.layout() {
            return false;
        }
        let Some(group) = self.account.group.map(|group| snapshot.grouped(group)) else { return true };
        let Some(new) = group.since(self.changes) else { return false };
        for (slot, number) in new {
            if self.looks_at(slot, class, profile, snapshot)
                && let Some(domain) = snapshot.topology(self.account.topology).domain(slot)
            {
                self.add(domain, number.into());
            }
        }
        self.changes = group.changes();
        true
    }

    fn add(&mut self, domain: Domain, number: i64) {
        let Some(count) = self.counts.get_mut(domain).and_then(Option::as_mut) else { return };
        if let Some(domains) = self.domains.get_mut(count) {
            *domains -= 1;
            if *domains == 0 {
                self.domains.remove(count);
            }
        }
        *count += number;
        *self.domains.entry(*count).or_default() += 1;
    }
}

/// The ledgers of a class.
#[derive(Default)]
pub(crate) struct Ledgers(HashMap<Account, Arc<Ledger>>);

impl Ledgers {
    pub(super) fn up_to_date(
        account: Account,
        class: &mut Class,
        profile: &Profile,
        snapshot: &Snapshot,
    ) -> Arc<Ledger> {
        let known = class.ledgers.0.remove(&account).and_then(|mut ledger| {
            let caught_up = Arc::make_mut(&mut ledger).catch_up(class, profile, snapshot);
            caught_up.then_some(ledger)
        });
        let ledger = known.unwrap_or_else(|| Arc::new(Ledger::new(account.clone(), class, profile, snapshot)));
        if class.ledgers.0.len() >= KEPT {
            class.ledgers.0.clear();
        }
        class.ledgers.0.insert(account, ledger.clone());
        ledger
    }
}
