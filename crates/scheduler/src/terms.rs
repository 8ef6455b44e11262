//! What the pods that are there say of others by their affinities: each term once, however many pods state it, with where
//! they are. Terms are found by the labels and namespace of a pod of which they may speak, so that a decision looks at few.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    sync::Arc,
};

use crate::{
    counts::{Counts, Tally},
    handle::Handle,
    namespaces::Namespaces,
    pod::{Needs, Pod, PodTerm},
    snapshot::Slot,
    topology::{Moved, Topologies, TopologyId},
};

pub(crate) type TermId = usize;

/// What a pod says of those that its term selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Says {
    /// They must not come.
    Forbids,
    /// It needed one of them.
    Requires,
    /// They are liked so much, or, if negative, disliked.
    Prefers(i32),
}

/// A term, and the pods that state it.
pub(crate) struct Term {
    pub says: Says,
    pub term: Arc<PodTerm>,
    counts: Counts,
    pub tally: Tally,
    /// How many distinct needs have it.
    users: usize,
}

#[derive(Default)]
pub(crate) struct Terms {
    terms: Vec<Option<Term>>,
    free: Vec<TermId>,
    ids: HashMap<(Says, Arc<PodTerm>), TermId>,
    index: HashMap<Handle, Vec<TermId>>,
    /// The needs that have terms, by their address: how many pods have them, and the terms.
    users: HashMap<usize, (Arc<Needs>, usize, Vec<TermId>)>,
}

/// All terms of some needs.
fn of(needs: &Needs) -> impl Iterator<Item = (Says, &Arc<PodTerm>)> {
    let (near, far) = (&needs.affinity, &needs.anti_affinity);
    let forbids = far.required.iter().map(|term| (Says::Forbids, term));
    let requires = near.required.iter().map(|term| (Says::Requires, term));
    let likes = near.preferred.iter().map(|(weight, term)| (Says::Prefers(*weight), term));
    let dislikes = far.preferred.iter().map(|(weight, term)| (Says::Prefers(-weight), term));
    forbids.chain(requires).chain(likes).chain(dislikes)
}

/// The labels of all terms of some needs.
pub(crate) fn keys(needs: &Needs) -> impl Iterator<Item = &str> {
    of(needs).map(|(_, term)| &*term.topology_key)
}

/// Under what a term is found. One without a selector speaks of nobody.
fn handles(term: &PodTerm) -> Vec<Handle> {
    term.selector.as_ref().map_or_else(Vec::new, |selector| Handle::all(&term.scope, selector))
}

impl Terms {
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    pub fn get(&self, id: TermId) -> Option<&Term> {
        self.terms[id].as_ref()
    }

    /// The terms that select a pod.
    pub fn about(&self, pod: &Pod, namespaces: &Namespaces) -> Vec<TermId> {
        if self.is_empty() {
            return Vec::new();
        }
        let handles = Handle::of(pod);
        let found = handles.filter_map(|handle| self.index.get(&handle)).flatten().copied();
        found.filter(|id| self.get(*id).is_some_and(|it| it.term.matches(pod, namespaces))).collect()
    }

    pub fn knows(&self, needs: &Arc<Needs>) -> bool {
        self.users.contains_key(&(Arc::as_ptr(needs) as usize))
    }

    /// Takes note of needs that no pod had yet, with the label of each term as [`keys`] gives them.
    pub fn learn(&mut self, needs: &Arc<Needs>, labels: &[TopologyId], topologies: &Topologies) {
        let ids = of(needs).zip(labels).map(|((says, term), label)| self.id(says, term, *label, topologies)).collect();
        self.users.insert(Arc::as_ptr(needs) as usize, (needs.clone(), 0, ids));
    }

    /// A pod with needs that are known has come to a node, or gone.
    pub fn count(&mut self, needs: &Arc<Needs>, slot: Slot, sign: i32, topologies: &Topologies) {
        let Entry::Occupied(mut user) = self.users.entry(Arc::as_ptr(needs) as usize) else { return };
        let (_, pods, ids) = user.get_mut();
        *pods = if sign > 0 { *pods + 1 } else { *pods - 1 };
        for id in ids.iter() {
            if let Some(Term { counts, tally, .. }) = &mut self.terms[*id] {
                counts.add(slot, sign);
                tally.add(topologies.get(tally.topology).domain(slot), sign.into());
            }
        }
        if *pods == 0 {
            let (_, _, ids) = user.remove();
            ids.into_iter().for_each(|id| self.release(id));
        }
    }

    /// The id of a term, which has one user more.
    fn id(&mut self, says: Says, term: &Arc<PodTerm>, topology: TopologyId, topologies: &Topologies) -> TermId {
        if let Some(&id) = self.ids.get(&(says, term.clone())) {
            if let Some(term) = &mut self.terms[id] {
                term.users += 1;
            }
            return id;
        }
        let counts = Counts::default();
        let tally = Tally::new(topology, topologies.get(topology), &counts);
        let new = Some(Term { says, term: term.clone(), counts, tally, users: 1 });
        let id = match self.free.pop() {
            Some(id) => {
                self.terms[id] = new;
                id
            }
            None => {
                self.terms.push(new);
                self.terms.len() - 1
            }
        };
        self.ids.insert((says, term.clone()), id);
        for handle in handles(term) {
            self.index.entry(handle).or_default().push(id);
        }
        id
    }

    fn release(&mut self, id: TermId) {
        let Some(term) = &mut self.terms[id] else { return };
        term.users -= 1;
        if term.users > 0 {
            return;
        }
        let Some(Term { says, term, .. }) = self.terms[id].take() else { return };
        for handle in handles(&term) {
            if let Entry::Occupied(mut ids) = self.index.entry(handle) {
                ids.get_mut().retain(|other| *other != id);
                if ids.get().is_empty() {
                    ids.remove();
                }
            }
        }
        self.ids.remove(&(says, term));
        self.free.push(id);
    }

    /// The labels by which terms are counted.
    pub fn topologies(&self) -> BTreeSet<TopologyId> {
        self.terms.iter().flatten().map(|it| it.tally.topology).collect()
    }

    /// A node went from one domain to another.
    pub fn follow(&mut self, moved: &Moved) {
        self.terms.iter_mut().flatten().for_each(|it| it.tally.follow(moved, &it.counts));
    }

    /// The domains of a label have got other numbers.
    pub fn recount(&mut self, topology: TopologyId, topologies: &Topologies) {
        for it in self.terms.iter_mut().flatten().filter(|it| it.tally.topology == topology) {
            it.tally = Tally::new(topology, topologies.get(topology), &it.counts);
        }
    }
}
