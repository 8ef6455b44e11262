//! The machine's processors and memory, and how near they are to each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use api::quantity::{Format, Quantity};

use super::cpu_set::CpuSet;
use super::hints::Mask;
use crate::resources::Amounts;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Of the whole machine.
    pub core: (usize, usize),
    pub socket: usize,
    pub node: usize,
}

#[derive(Clone, Debug, Default)]
pub struct Machine {
    pub cpus: BTreeMap<usize, Cpu>,
    /// The memory of each NUMA node: `memory` and `hugepages-<size>`, in bytes.
    pub nodes: BTreeMap<usize, Amounts>,
    pub distances: BTreeMap<usize, Vec<u64>>,
}

impl Machine {
    /// As `/sys/devices/system` and the like tell it; a machine that tells nothing has one node.
    pub fn read(system: &Path) -> Machine {
        let text = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        let number = |path: &Path| text(path).trim().parse().unwrap_or(0);
        let set = |path: &Path| CpuSet::parse(&text(path)).unwrap_or_default();
        let mut machine = Machine::default();
        let mut node_of = BTreeMap::new();
        for node in set(&system.join("node/online")).0 {
            let directory = system.join(format!("node/node{node}"));
            node_of.extend(set(&directory.join("cpulist")).0.into_iter().map(|cpu| (cpu, node)));
            machine.nodes.insert(node, memory(&directory));
            let distances = text(&directory.join("distance"));
            machine.distances.insert(node, distances.split_whitespace().flat_map(str::parse).collect());
        }
        if machine.nodes.is_empty() {
            let whole = crate::node::facts::memory();
            machine.nodes.insert(0, Amounts::from([("memory".to_owned(), whole)]));
        }
        for cpu in set(&system.join("cpu/online")).0 {
            let topology = system.join(format!("cpu/cpu{cpu}/topology"));
            let socket = number(&topology.join("physical_package_id"));
            let core = (socket, number(&topology.join("core_id")));
            machine.cpus.insert(cpu, Cpu { core, socket, node: node_of.get(&cpu).copied().unwrap_or(0) });
        }
        machine
    }

    pub fn all(&self) -> CpuSet {
        self.cpus.keys().copied().collect()
    }

    pub fn node_ids(&self) -> Vec<usize> {
        self.nodes.keys().copied().collect()
    }

    /// Processors of one core.
    pub fn threads(&self) -> usize {
        let cores: BTreeSet<_> = self.cpus.values().map(|cpu| cpu.core).collect();
        (self.cpus.len() / cores.len().max(1)).max(1)
    }

    /// Of a set, those whose core is in it as a whole.
    pub fn whole_cores(&self, set: &CpuSet) -> CpuSet {
        let missing: BTreeSet<_> =
            self.cpus.iter().filter(|(id, _)| !set.0.contains(id)).map(|(_, cpu)| cpu.core).collect();
        set.0.iter().copied().filter(|id| self.cpus.get(id).is_some_and(|cpu| !missing.contains(&cpu.core))).collect()
    }

    /// Of a set, those of some nodes.
    pub fn of_nodes(&self, set: &CpuSet, nodes: Mask) -> CpuSet {
        set.0.iter().copied().filter(|cpu| self.cpus.get(cpu).is_some_and(|cpu| nodes.has(cpu.node))).collect()
    }
}

fn memory(node: &Path) -> Amounts {
    let mut all = Amounts::new();
    let text = fs::read_to_string(node.join("meminfo")).unwrap_or_default();
    let kib = text.lines().find(|line| line.contains("MemTotal:")).and_then(|line| line.split_whitespace().nth(3));
    let mut bytes = kib.and_then(|kib| kib.parse::<i64>().ok()).unwrap_or(0) * 1024;
    for pool in fs::read_dir(node.join("hugepages")).into_iter().flatten().flatten() {
        let name = pool.file_name().to_string_lossy().into_owned();
        let size = name.strip_prefix("hugepages-").and_then(|size| size.strip_suffix("kB"));
        let Some(size) = size.and_then(|size| size.parse::<i64>().ok()).map(|kib| kib * 1024) else { continue };
        let count = fs::read_to_string(pool.path().join("nr_hugepages")).unwrap_or_default();
        let whole = count.trim().parse::<i64>().unwrap_or(0) * size;
        // Pages that are set aside are no memory for anything else.
        bytes -= whole;
        all.insert(format!("hugepages-{}", Quantity::new(size, Format::BinarySi)), whole);
    }
    all.insert("memory".to_owned(), bytes.max(0));
    all
}

#[cfg(test)]
pub fn sample(sockets: usize, cores: usize, threads: usize, memory: i64) -> Machine {
    let mut machine = Machine::default();
    for socket in 0..sockets {
        machine.nodes.insert(socket, Amounts::from([("memory".to_owned(), memory)]));
        let distances = (0..sockets).map(|other| if other == socket { 10 } else { 20 });
        machine.distances.insert(socket, distances.collect());
        for core in 0..cores {
            for thread in 0..threads {
                let id = thread * sockets * cores + socket * cores + core;
                machine.cpus.insert(id, Cpu { core: (socket, core), socket, node: socket });
            }
        }
    }
    machine
}
