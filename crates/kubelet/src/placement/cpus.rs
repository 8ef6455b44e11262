//! Processors of a container's own: whole cores and sockets where they fit, of the nodes that are asked for.

use std::collections::BTreeMap;

use super::cpu_set::CpuSet;
use super::hints::{Hint, Mask};
use super::machine::Machine;

/// Which processors are whose, by pod and container; all others are everybody else's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cpus {
    pub shared: CpuSet,
    pub owned: BTreeMap<String, BTreeMap<String, CpuSet>>,
}

/// What is given to nobody, and in what portions the rest is given.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    pub reserved: CpuSet,
    /// Whole cores only.
    pub full_cores: bool,
    /// Those that are reserved are not shared either.
    pub strict: bool,
}

impl Cpus {
    pub fn new(machine: &Machine, rules: &Rules) -> Cpus {
        let all = machine.all();
        let shared = if rules.strict { all.without(&rules.reserved) } else { all };
        Cpus { shared, owned: BTreeMap::new() }
    }

    pub fn of(&self, pod: &str, container: &str) -> Option<&CpuSet> {
        self.owned.get(pod)?.get(container)
    }

    /// What may be given, with what is the pod's already; where only whole cores are, without those of which a part is taken.
    pub fn free(&self, machine: &Machine, rules: &Rules, reusable: &CpuSet) -> CpuSet {
        let free = self.shared.without(&rules.reserved).union(reusable);
        if rules.full_cores { machine.whole_cores(&free) } else { free }
    }

    /// Where those are that a container has already, as nothing else will do.
    pub fn hints_at(machine: &Machine, wanted: usize, given: &CpuSet) -> Vec<Hint> {
        let least = Cpus::least(machine, wanted);
        let masks = Mask::all_of(&machine.node_ids()).into_iter();
        let places = masks.filter(|mask| machine.of_nodes(given, *mask).len() == given.len());
        places.map(|mask| Hint { nodes: Some(mask), preferred: mask.count() == least }).collect()
    }

    /// The fewest nodes that could ever give so many.
    fn least(machine: &Machine, wanted: usize) -> usize {
        let all = machine.all();
        let masks = Mask::all_of(&machine.node_ids()).into_iter();
        masks.filter(|mask| machine.of_nodes(&all, *mask).len() >= wanted).map(Mask::count).min().unwrap_or(0)
    }

    /// Where so many could come from; `reusable` ones are the pod's already, and go first.
    pub fn hints(&self, machine: &Machine, rules: &Rules, wanted: usize, reusable: &CpuSet) -> Vec<Hint> {
        let (least, free) = (Cpus::least(machine, wanted), self.free(machine, rules, reusable));
        let masks = Mask::all_of(&machine.node_ids());
        let held = reusable.len().min(wanted);
        let places = masks.iter().filter(|mask| {
            machine.of_nodes(&free, **mask).len() >= wanted && machine.of_nodes(reusable, **mask).len() >= held
        });
        places.map(|mask| Hint { nodes: Some(*mask), preferred: mask.count() == least }).collect()
    }

    /// Gives a container so many of its own, those of the nodes first.
    pub fn take(
        &mut self,
        machine: &Machine,
        rules: &Rules,
        (pod, container): (&str, &str),
        wanted: usize,
        nodes: Option<Mask>,
        reusable: &CpuSet,
    ) -> Result<(), String> {
        let free = self.free(machine, rules, reusable);
        let mut taken = CpuSet::default();
        let near = nodes.map_or_else(|| free.clone(), |nodes| machine.of_nodes(&free, nodes));
        for from in [reusable.common(&near), near, free.clone()] {
            let left = wanted - taken.len();
            let from = from.without(&taken);
            taken = taken.union(&packed(machine, &from, left.min(from.len())));
        }
        if taken.len() < wanted {
            return Err(format!(
                "not enough cpus available to satisfy request: requested={wanted}, available={}",
                free.len()
            ));
        }
        self.shared = self.shared.without(&taken);
        self.owned.entry(pod.to_owned()).or_default().insert(container.to_owned(), taken);
        Ok(())
    }

    /// Takes back what a pod had; true if it had any.
    pub fn release(&mut self, pod: &str) -> bool {
        let Some(had) = self.owned.remove(pod) else { return false };
        self.shared = had.values().fold(self.shared.clone(), |all, set| all.union(set));
        true
    }
}

/// So many of a set, in the fewest sockets and cores, and leaving as few of those broken as can be.
fn packed(machine: &Machine, from: &CpuSet, wanted: usize) -> CpuSet {
    let mut left = from.clone();
    let mut taken = CpuSet::default();
    let take = |group: CpuSet, left: &mut CpuSet, taken: &mut CpuSet| {
        *left = left.without(&group);
        *taken = taken.union(&group);
    };
    let group = |of: &dyn Fn(usize) -> (usize, usize)| {
        let mut groups: BTreeMap<(usize, usize), CpuSet> = BTreeMap::new();
        for cpu in machine.cpus.keys() {
            groups.entry(of(*cpu)).or_default().0.insert(*cpu);
        }
        groups
    };
    let socket = |cpu: usize| (machine.cpus[&cpu].socket, 0);
    for (_, whole) in group(&socket) {
        if whole.len() <= wanted - taken.len() && whole.without(&left).is_empty() {
            take(whole, &mut left, &mut taken);
        }
    }
    let beside = |cpus: &CpuSet, set: &CpuSet| {
        let sockets: Vec<_> = cpus.0.iter().map(|cpu| socket(*cpu)).collect();
        set.0.iter().filter(|cpu| sockets.contains(&socket(**cpu))).count()
    };
    let mut cores: Vec<CpuSet> = group(&|cpu| machine.cpus[&cpu].core).into_values().collect();
    // In the socket that has the least left.
    cores.sort_by_key(|core| (std::cmp::Reverse(beside(core, &taken)), beside(core, from), core.0.first().copied()));
    for core in cores.iter().filter(|core| core.without(from).is_empty()) {
        if core.len() <= wanted - taken.len() && core.without(&left).is_empty() {
            take(core.clone(), &mut left, &mut taken);
        }
    }
    let mut single: Vec<usize> = left.0.iter().copied().collect();
    single.sort_by_key(|cpu| {
        let alone: CpuSet = [*cpu].into_iter().collect();
        let core = left.0.iter().filter(|other| machine.cpus[other].core == machine.cpus[cpu].core).count();
        (std::cmp::Reverse(beside(&alone, &taken)), beside(&alone, from), core, *cpu)
    });
    taken.0.extend(single.into_iter().take(wanted - taken.len()));
    taken
}

#[cfg(test)]
mod tests {
    use super::super::machine::sample;
    use super::*;

    fn set(text: &str) -> CpuSet {
        CpuSet::parse(text).unwrap()
    }

    #[test]
    fn whole_sockets_and_cores_are_taken_before_parts_of_them() {
        // Two sockets with two cores of two threads each: the cores are 0,4 1,5 and 2,6 3,7.
        let machine = sample(2, 2, 2, 1);
        for (from, wanted, expected) in [
            ("0-7", 4, "0-1,4-5"),
            ("0-7", 2, "0,4"),
            ("1-7", 2, "1,5"),
            ("1-7", 1, "4"),
            ("1-7", 4, "2-3,6-7"),
            ("1-7", 5, "2-4,6-7"),
            ("0-3", 2, "0-1"),
            ("0-7", 8, "0-7"),
        ] {
            assert_eq!(packed(&machine, &set(from), wanted), set(expected), "{from} {wanted}");
        }
    }

    #[test]
    fn what_is_owned_is_nobody_elses_until_it_is_given_back() {
        let machine = sample(2, 2, 2, 1);
        let rules = Rules { reserved: set("0"), ..Rules::default() };
        let mut cpus = Cpus::new(&machine, &rules);
        let none = CpuSet::default();
        cpus.take(&machine, &rules, ("p", "a"), 2, Some([1].into_iter().collect()), &none).unwrap();
        assert_eq!((cpus.of("p", "a").unwrap(), &cpus.shared), (&set("2,6"), &set("0-1,3-5,7")));
        let shown: Vec<_> =
            cpus.hints(&machine, &rules, 3, &none).iter().map(|h| (h.nodes.unwrap().count(), h.preferred)).collect();
        assert_eq!(shown, [(1, true), (2, false)]);
        let lent = cpus.of("p", "a").unwrap().clone();
        cpus.take(&machine, &rules, ("p", "b"), 2, None, &lent).unwrap();
        assert_eq!(cpus.of("p", "b"), Some(&set("2,6")), "what an init container had is used again");
        let error = cpus.take(&machine, &rules, ("q", "a"), 6, None, &none).unwrap_err();
        assert_eq!(error, "not enough cpus available to satisfy request: requested=6, available=5");
        assert!(cpus.release("p") && !cpus.release("p"));
        assert_eq!(cpus.shared, set("0-7"));
    }

    #[test]
    fn a_core_of_which_a_part_is_taken_is_not_given_where_only_whole_ones_are() {
        // The cores are 0,4 1,5 and 2,6 3,7.
        let machine = sample(2, 2, 2, 1);
        for (full_cores, reserved, reusable, expected) in [
            (false, "0,2", "", "1,3-7"),
            (true, "0,2", "", "1,3,5,7"),
            (true, "0,4", "", "1-3,5-7"),
            (true, "0,2", "2,6", "1-3,5-7"),
        ] {
            let rules = Rules { reserved: set(reserved), full_cores, strict: false };
            let free = Cpus::new(&machine, &rules).free(&machine, &rules, &set(reusable));
            assert_eq!(free, set(expected), "{full_cores} {reserved} {reusable}");
        }
    }

    #[test]
    fn what_a_container_has_is_hinted_at_and_nothing_else() {
        let machine = sample(2, 2, 2, 1);
        for (given, expected) in [("2,6", "1+ 01-"), ("1,2", "01-"), ("0-7", "01+")] {
            let hints = Cpus::hints_at(&machine, set(given).len(), &set(given)).into_iter().map(|hint| {
                let nodes: String = hint.nodes.unwrap().nodes().map(|node| node.to_string()).collect();
                format!("{nodes}{}", if hint.preferred { "+" } else { "-" })
            });
            assert_eq!(hints.collect::<Vec<_>>().join(" "), expected, "{given}");
        }
    }
}
