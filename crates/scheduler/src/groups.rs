//! Pods counted by node for those who ask for them by namespace and labels. A group is counted once when it is first asked
//! for, and kept as pods come and go, so that a decision never goes through all pods.

use std::collections::{HashMap, VecDeque};

use crate::{
    counts::{Counts, Tally},
    expression::Selector,
    handle::Handle,
    namespaces::{Namespaces, Scope},
    pod::Pod,
    snapshot::{Placed, Slot, Stage},
    topology::{Moved, Topologies, TopologyId},
};

/// How many groups are kept before all are forgotten; those that are asked for again are counted again.
const KEPT: usize = 1024;
/// How many of a group's last changes are kept for those who count further by what they know.
const CHANGES: usize = 64;

pub(crate) type GroupId = usize;

/// Which pods: those that all these speak of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Group {
    pub of: Vec<(Scope, Selector)>,
    pub who: Who,
}

/// Which of the pods count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Who {
    All,
    /// Not those that are being deleted.
    Staying,
    /// Not those for which room is kept only: they may never come.
    Certain,
}

impl Group {
    pub fn has(&self, pod: &Pod, stage: Stage, namespaces: &Namespaces) -> bool {
        let counts = match self.who {
            Who::All => true,
            Who::Staying => !pod.item.deleting,
            Who::Certain => stage != Stage::Nominated,
        };
        counts
            && self.of.iter().all(|(scope, selector)| {
                scope.has(pod.item.namespace(), namespaces) && selector.matches(|key| pod.labels().get(key))
            })
    }

    /// Under what it is found by its pods: the narrowest that is known of any of what they must all be.
    fn handles(&self) -> Vec<Handle> {
        let all = self.of.iter().map(|(scope, selector)| Handle::all(scope, selector));
        let breadth = |handles: &Vec<Handle>| match handles[..] {
            [Handle::Any, ..] => 2,
            [Handle::Namespace(_), ..] => 1,
            _ => 0,
        };
        all.min_by_key(breadth).unwrap_or_default()
    }
}

/// A group with what is known of it.
pub(crate) struct Kept {
    group: Group,
    pub counts: Counts,
    tallies: Vec<Tally>,
    changes: u64,
    last: VecDeque<(Slot, i32)>,
}

impl Kept {
    /// How often the counts have changed.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The changes after the first so many; none if some of them are forgotten.
    pub fn since(&self, changes: u64) -> Option<impl Iterator<Item = (Slot, i32)>> {
        let new = usize::try_from(self.changes - changes).ok().filter(|new| *new <= self.last.len())?;
        Some(self.last.iter().skip(self.last.len() - new).copied())
    }

    /// The pods by the domains of a label that was asked for.
    pub fn tally(&self, topology: TopologyId) -> Option<&Tally> {
        self.tallies.iter().find(|tally| tally.topology == topology)
    }

    fn count(&mut self, slot: Slot, sign: i32, topologies: &Topologies) {
        self.counts.add(slot, sign);
        for tally in &mut self.tallies {
            tally.add(topologies.get(tally.topology).domain(slot), sign.into());
        }
        self.changes += 1;
        if self.last.len() == CHANGES {
            self.last.pop_front();
        }
        self.last.push_back((slot, sign));
    }
}

#[derive(Default)]
pub(crate) struct Groups {
    ids: HashMap<Group, GroupId>,
    index: HashMap<Handle, Vec<GroupId>>,
    groups: Vec<Kept>,
}

impl Groups {
    /// Makes room for new groups. Ids from before may be of other groups when it returns true.
    pub fn trim(&mut self) -> bool {
        let full = self.groups.len() >= KEPT;
        if full {
            *self = Self::default();
        }
        full
    }

    /// The group's id, good until the next [`trim`](Self::trim). `pods` are all that there are.
    pub fn id<'a>(&mut self, group: Group, namespaces: &Namespaces, pods: impl Iterator<Item = &'a Placed>) -> GroupId {
        if let Some(id) = self.ids.get(&group) {
            return *id;
        }
        let mut counts = Counts::default();
        pods.filter(|it| group.has(&it.pod, it.stage, namespaces)).for_each(|it| counts.add(it.slot, 1));
        let id = self.groups.len();
        for handle in group.handles() {
            self.index.entry(handle).or_default().push(id);
        }
        self.ids.insert(group.clone(), id);
        self.groups.push(Kept { group, counts, tallies: Vec::new(), changes: 0, last: VecDeque::new() });
        id
    }

    pub fn get(&self, id: GroupId) -> &Kept {
        &self.groups[id]
    }

    pub fn has(&self, id: GroupId, pod: &Pod, stage: Stage, namespaces: &Namespaces) -> bool {
        self.groups[id].group.has(pod, stage, namespaces)
    }

    /// From now on the group is counted by the domains of this label too.
    pub fn count_by(&mut self, id: GroupId, topology: TopologyId, topologies: &Topologies) {
        let kept = &mut self.groups[id];
        if kept.tally(topology).is_none() {
            kept.tallies.push(Tally::new(topology, topologies.get(topology), &kept.counts));
        }
    }

    /// A pod has come to a node, or gone.
    pub fn count(&mut self, pod: &Placed, sign: i32, namespaces: &Namespaces, topologies: &Topologies) {
        if self.groups.is_empty() {
            return;
        }
        let Placed { pod, slot, stage } = pod;
        for &id in Handle::of(pod).filter_map(|handle| self.index.get(&handle)).flatten() {
            let kept = &mut self.groups[id];
            if kept.group.has(pod, *stage, namespaces) {
                kept.count(*slot, sign, topologies);
            }
        }
    }

    /// A node went from one domain to another.
    pub fn follow(&mut self, moved: &Moved) {
        for Kept { counts, tallies, .. } in &mut self.groups {
            tallies.iter_mut().for_each(|tally| tally.follow(moved, counts));
        }
    }

    /// The domains of a label have got other numbers.
    pub fn recount(&mut self, topology: TopologyId, topologies: &Topologies) {
        for Kept { counts, tallies, .. } in &mut self.groups {
            for tally in tallies.iter_mut().filter(|tally| tally.topology == topology) {
                *tally = Tally::new(topology, topologies.get(topology), counts);
            }
        }
    }
}
