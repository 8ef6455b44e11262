//! Groups of pods that are placed together or not at all, as PodGroups say (KEP-4671).

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use client::{Change, Item};
use serde::Deserialize;

use crate::pod::Pod;

/// Namespace and name of a PodGroup.
type Name = (Box<str>, Box<str>);

/// The PodGroups, and the pods of each.
#[derive(Debug, Default)]
pub(crate) struct Gangs {
    gangs: HashMap<Name, Gang>,
    /// The groups of pods, by the pods' uid.
    members: HashMap<Box<str>, Name>,
}

#[derive(Debug, Default)]
struct Gang {
    /// None as long as there is no PodGroup.
    group: Option<Group>,
    pods: BTreeSet<Box<str>>,
}

/// A PodGroup.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub item: Arc<Item>,
    /// How many of its pods must have nodes, for any to get one.
    pub least: usize,
}

impl Group {
    fn read(item: &Arc<Item>) -> Option<Self> {
        #[derive(Deserialize)]
        struct Raw {
            spec: Spec,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Spec {
            scheduling_policy: Policy,
        }
        #[derive(Deserialize)]
        struct Policy {
            gang: Option<GangPolicy>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct GangPolicy {
            min_count: usize,
        }
        let raw: Raw = match serde_json::from_slice(&item.bytes) {
            Ok(raw) => raw,
            Err(error) => {
                tracing::error!(group = %item.key, %error, "unreadable pod group");
                return None;
            }
        };
        // Pods of a group without a gang go one by one.
        let least = raw.spec.scheduling_policy.gang.map_or(1, |gang| gang.min_count);
        Some(Self { item: item.clone(), least })
    }
}

fn name(pod: &Pod) -> Option<Name> {
    Some((pod.item.namespace().into(), pod.group.clone()?))
}

impl Gangs {
    /// A PodGroup has come, changed or gone. Returns the pods that may go on now.
    pub fn observe(&mut self, change: &Change) -> Vec<Box<str>> {
        let name: Name = ((*change.key.namespace).into(), (*change.key.name).into());
        let gang = self.gangs.entry(name.clone()).or_default();
        gang.group = change.new.as_ref().and_then(Group::read);
        let ready = gang.ready();
        self.forget(&name);
        ready
    }

    /// A pod is there, with or without a node. Returns the pods that may go on now that it is.
    pub fn join(&mut self, pod: &Pod) -> Vec<Box<str>> {
        let Some(name) = name(pod) else { return Vec::new() };
        if self.members.insert(pod.uid().into(), name.clone()).is_some() {
            return Vec::new();
        }
        let gang = self.gangs.entry(name).or_default();
        gang.pods.insert(pod.uid().into());
        gang.ready()
    }

    /// A pod is gone.
    pub fn leave(&mut self, uid: &str) {
        let Some(name) = self.members.remove(uid) else { return };
        if let Some(gang) = self.gangs.get_mut(&name) {
            gang.pods.remove(uid);
        }
        self.forget(&name);
    }

    fn forget(&mut self, name: &Name) {
        if self.gangs.get(name).is_some_and(|gang| gang.group.is_none() && gang.pods.is_empty()) {
            self.gangs.remove(name);
        }
    }

    /// A pod's group with all its pods; none as long as there is no such group, or not enough pods.
    pub fn of(&self, pod: &Pod) -> Option<(Group, Vec<Box<str>>)> {
        let gang = self.gangs.get(&name(pod)?)?;
        let group = gang.group.clone()?;
        let pods = gang.ready();
        (!pods.is_empty()).then_some((group, pods))
    }
}

impl Gang {
    /// Its pods, if they are enough.
    fn ready(&self) -> Vec<Box<str>> {
        match &self.group {
            Some(group) if group.least <= self.pods.len() => self.pods.iter().cloned().collect(),
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::Parser;
    use client::Key;
    use serde_json::json;

    #[test]
    fn a_gang_is_ready_when_its_group_and_enough_pods_are_there() {
        let pod = |name: &str| {
            let json = json!({"metadata": {"name": name, "namespace": "n", "uid": name},
                "spec": {"schedulingGroup": {"podGroupName": "g"}}});
            Parser::default().parse(Arc::new(Item::from_json(&json.to_string()).unwrap())).unwrap()
        };
        let group = |least: Option<usize>| {
            let policy = least.map_or(json!({"basic": {}}), |least| json!({"gang": {"minCount": least}}));
            let json = json!({"metadata": {"name": "g", "namespace": "n"}, "spec": {"schedulingPolicy": policy}});
            let new = Some(Arc::new(Item::from_json(&json.to_string()).unwrap()));
            Change { key: Key::new("n", "g"), old: None, new }
        };
        let gone = Change { key: Key::new("n", "g"), old: None, new: None };
        let mut gangs = Gangs::default();
        assert_eq!(gangs.join(&pod("a")).len(), 0, "there is no group yet");
        assert_eq!(gangs.observe(&group(Some(2))).len(), 0, "one is not enough");
        assert!(gangs.of(&pod("a")).is_none());
        assert_eq!(gangs.join(&pod("b")).len(), 2);
        assert_eq!(gangs.join(&pod("b")).len(), 0, "it was there");
        assert_eq!(gangs.of(&pod("a")).map(|(group, pods)| (group.least, pods.len())), Some((2, 2)));
        gangs.leave("b");
        assert!(gangs.of(&pod("a")).is_none());
        assert_eq!(gangs.observe(&group(None)).len(), 1, "without a gang each goes by itself");
        gangs.observe(&gone);
        gangs.leave("a");
        assert!(gangs.gangs.is_empty() && gangs.members.is_empty());
    }
}
