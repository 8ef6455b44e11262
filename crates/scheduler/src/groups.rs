//! Pods counted by node for those who ask for them by namespace and labels. A group is counted once when it is first asked
//! for, and kept as pods come and go, so that a decision never goes through all pods.

use std::collections::HashMap;

use crate::{
    expression::Selector,
    pod::Pod,
    snapshot::{Placed, Slot, Stage},
};

/// How many groups are kept before all are forgotten; those that are asked for again are counted again.
const KEPT: usize = 1024;

pub(crate) type GroupId = usize;

/// Which pods.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Group {
    pub namespace: Box<str>,
    pub selector: Selector,
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
    fn has(&self, pod: &Pod, stage: Stage) -> bool {
        let counts = match self.who {
            Who::All => true,
            Who::Staying => !pod.item.deleting,
            Who::Certain => stage != Stage::Nominated,
        };
        counts && *self.namespace == *pod.item.namespace() && self.selector.matches(|key| pod.labels().get(key))
    }
}

/// A number of pods for each node that has any, in the order of the slots.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts(Vec<(Slot, i64)>);

impl Counts {
    pub fn get(&self, slot: Slot) -> i64 {
        self.0.binary_search_by_key(&slot, |(slot, _)| *slot).map_or(0, |at| self.0[at].1)
    }

    pub fn iter(&self) -> impl Iterator<Item = (Slot, i64)> {
        self.0.iter().copied()
    }

    /// A number for each of so many slots.
    pub fn by_slot(&self, slots: usize) -> Vec<i64> {
        let mut all = vec![0; slots];
        self.0.iter().for_each(|(slot, number)| all[*slot] = *number);
        all
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn add(&mut self, slot: Slot, number: i64) {
        match self.0.binary_search_by_key(&slot, |(slot, _)| *slot) {
            Ok(at) => {
                self.0[at].1 += number;
                if self.0[at].1 == 0 {
                    self.0.remove(at);
                }
            }
            Err(at) => self.0.insert(at, (slot, number)),
        }
    }
}

#[derive(Default)]
pub(crate) struct Groups {
    ids: HashMap<Group, GroupId>,
    by_namespace: HashMap<Box<str>, Vec<GroupId>>,
    groups: Vec<(Group, Counts)>,
}

impl Groups {
    /// Makes room for new groups. Ids from before may be of other groups afterwards.
    pub fn trim(&mut self) {
        if self.groups.len() >= KEPT {
            *self = Self::default();
        }
    }

    /// The group's id, good until the next [`trim`](Self::trim). `pods` are all that there are.
    pub fn id<'a>(&mut self, group: Group, pods: impl Iterator<Item = &'a Placed>) -> GroupId {
        if let Some(id) = self.ids.get(&group) {
            return *id;
        }
        let mut counts = Counts::default();
        pods.filter(|it| group.has(&it.pod, it.stage)).for_each(|it| counts.add(it.slot, 1));
        let id = self.groups.len();
        self.by_namespace.entry(group.namespace.clone()).or_default().push(id);
        self.ids.insert(group.clone(), id);
        self.groups.push((group, counts));
        id
    }

    pub fn counts(&self, id: GroupId) -> &Counts {
        &self.groups[id].1
    }

    /// A pod has come to a node, or gone.
    pub fn count(&mut self, pod: &Pod, stage: Stage, slot: Slot, sign: i64) {
        for &id in self.by_namespace.get(pod.item.namespace()).into_iter().flatten() {
            let (group, counts) = &mut self.groups[id];
            if group.has(pod, stage) {
                counts.add(slot, sign);
            }
        }
    }
}
