//! Memory of as few NUMA nodes as can be, for containers of Guaranteed pods. See <https://kep.k8s.io/1769>.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::hints::{Hint, Mask};
use crate::resources::Amounts;

/// An amount of one resource from some nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Block {
    pub numa_affinity: Vec<usize>,
    pub r#type: String,
    pub size: i64,
}

/// Who has which blocks, by pod and container, and what the nodes have to give.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// What may be given, node by node.
    pub allocatable: BTreeMap<usize, Amounts>,
    pub blocks: BTreeMap<String, BTreeMap<String, Vec<Block>>>,
}

impl Memory {
    fn mask(block: &Block) -> Mask {
        block.numa_affinity.iter().copied().collect()
    }

    fn all(&self) -> impl Iterator<Item = &Block> {
        self.blocks.values().flat_map(BTreeMap::values).flatten()
    }

    pub fn of(&self, pod: &str, container: &str) -> Option<&Vec<Block>> {
        self.blocks.get(pod)?.get(container)
    }

    /// The nodes that a container's memory is of.
    pub fn nodes_of(&self, pod: &str, container: &str) -> Option<Mask> {
        self.of(pod, container).map(|blocks| blocks.iter().flat_map(|block| block.numa_affinity.clone()).collect())
    }

    /// Nodes that are used together are used together only: a block is of one node, or of one group of them.
    fn splits(&self, nodes: Mask) -> bool {
        let touches = |other: Mask| other != nodes && other.nodes().any(|node| nodes.has(node));
        self.all().map(Memory::mask).any(touches)
    }

    fn left(&self, nodes: Mask, resource: &str) -> i64 {
        let of = |node: usize| self.allocatable.get(&node).and_then(|all| all.get(resource)).copied().unwrap_or(0);
        let used: i64 = self.all().filter(|b| b.r#type == resource && Memory::mask(b) == nodes).map(|b| b.size).sum();
        nodes.nodes().map(of).sum::<i64>() - used
    }

    /// Where all that is wanted could come from; `held` is what the pod's earlier containers leave to it.
    pub fn hints(&self, wanted: &Amounts, held: &[Block]) -> Vec<Hint> {
        let masks = Mask::all_of(&self.allocatable.keys().copied().collect::<Vec<_>>());
        let whole = |mask: Mask, resource: &str| -> i64 {
            let of = |node| self.allocatable.get(&node).and_then(|all| all.get(resource)).copied().unwrap_or(0);
            mask.nodes().map(of).sum()
        };
        let could = |mask: &&Mask| wanted.iter().all(|(resource, size)| whole(**mask, resource) >= *size);
        let least = masks.iter().filter(could).map(|mask| mask.count()).min().unwrap_or(0);
        let reused = |mask: Mask, resource: &str| -> i64 {
            held.iter().filter(|b| b.r#type == *resource && Memory::mask(b) == mask).map(|b| b.size).sum()
        };
        let can = |mask: &&Mask| {
            !self.splits(**mask)
                && wanted.iter().all(|(resource, size)| self.left(**mask, resource) + reused(**mask, resource) >= *size)
        };
        masks.iter().filter(can).map(|mask| Hint { nodes: Some(*mask), preferred: mask.count() == least }).collect()
    }

    /// Gives a container what it wants of the nodes, or of more where those do not suffice.
    pub fn take(
        &mut self,
        (pod, container): (&str, &str),
        wanted: &Amounts,
        hint: Hint,
        held: &[Block],
    ) -> Result<(), String> {
        let places = self.hints(wanted, held);
        let holds = |place: &&Hint| {
            hint.nodes.is_none_or(|nodes| place.nodes.is_some_and(|place| nodes.nodes().all(|node| place.has(node))))
        };
        let found = places
            .iter()
            .filter(holds)
            .max_by_key(|place| (place.preferred, place.nodes.map(|nodes| std::cmp::Reverse((nodes.count(), nodes)))));
        let found = found.ok_or("[memorymanager] failed to find the default preferred hint")?;
        if hint.preferred && !found.preferred {
            return Err("[memorymanager] failed to find the extended preferred hint".to_owned());
        }
        let nodes: Vec<usize> = found.nodes.into_iter().flat_map(Mask::nodes).collect();
        // What the earlier ones had goes over to this one, so that the sum stays what the pod has.
        for earlier in self.blocks.get_mut(pod).into_iter().flat_map(BTreeMap::values_mut).flatten() {
            if held.contains(earlier) && earlier.numa_affinity == nodes {
                let needs = wanted.get(&earlier.r#type).copied().unwrap_or(0);
                earlier.size = (earlier.size - needs).max(0);
            }
        }
        let blocks = wanted.iter().map(|(resource, size)| Block {
            numa_affinity: nodes.clone(),
            r#type: resource.clone(),
            size: *size,
        });
        self.blocks.entry(pod.to_owned()).or_default().insert(container.to_owned(), blocks.collect());
        Ok(())
    }

    /// Takes back what a pod had; true if it had any.
    pub fn release(&mut self, pod: &str) -> bool {
        self.blocks.remove(pod).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amounts(memory: i64) -> Amounts {
        Amounts::from([("memory".to_owned(), memory)])
    }

    fn shown(hints: Vec<Hint>) -> String {
        let one = |hint: Hint| {
            let nodes: String = hint.nodes.unwrap().nodes().map(|node| node.to_string()).collect();
            format!("{nodes}{}", if hint.preferred { "+" } else { "-" })
        };
        hints.into_iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_node_is_used_alone_or_in_one_group() {
        let mut memory = Memory { allocatable: (0..2).map(|node| (node, amounts(100))).collect(), ..Memory::default() };
        let anywhere = Hint { nodes: None, preferred: false };
        assert_eq!(shown(memory.hints(&amounts(60), &[])), "0+ 1+ 01-");
        assert_eq!(shown(memory.hints(&amounts(150), &[])), "01+");
        memory.take(("p", "a"), &amounts(60), anywhere, &[]).unwrap();
        assert_eq!(memory.of("p", "a").unwrap()[0].numa_affinity, [0]);
        assert_eq!(shown(memory.hints(&amounts(60), &[])), "1+");
        assert_eq!(shown(memory.hints(&amounts(150), &[])), "");
        let held = memory.of("p", "a").unwrap().clone();
        assert_eq!(shown(memory.hints(&amounts(60), &held)), "0+ 1+");
        memory.take(("p", "b"), &amounts(60), anywhere, &held).unwrap();
        assert_eq!((memory.of("p", "a").unwrap()[0].size, memory.of("p", "b").unwrap()[0].size), (0, 60));
        assert!(memory.take(("q", "a"), &amounts(150), anywhere, &[]).is_err());
        assert!(memory.release("p"));
        memory.take(("q", "a"), &amounts(150), anywhere, &[]).unwrap();
        assert_eq!(shown(memory.hints(&amounts(10), &[])), "01-");
    }
}
