//! What the node runs short of: the signals that thresholds are set on, and how they are observed.

use std::collections::BTreeMap;

use crate::node::facts::{self, Disk};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    MemoryAvailable,
    NodeFsAvailable,
    NodeFsInodesFree,
    ImageFsAvailable,
    ImageFsInodesFree,
    PidAvailable,
}

/// A signal, its name in configurations, the resource that is starved and the node's condition.
const TABLE: [(Signal, &str, &str, &str); 6] = [
    (Signal::MemoryAvailable, "memory.available", "memory", "MemoryPressure"),
    (Signal::NodeFsAvailable, "nodefs.available", "ephemeral-storage", "DiskPressure"),
    (Signal::NodeFsInodesFree, "nodefs.inodesFree", "inodes", "DiskPressure"),
    (Signal::ImageFsAvailable, "imagefs.available", "ephemeral-storage", "DiskPressure"),
    (Signal::ImageFsInodesFree, "imagefs.inodesFree", "inodes", "DiskPressure"),
    (Signal::PidAvailable, "pid.available", "pids", "PIDPressure"),
];

impl Signal {
    pub fn parse(text: &str) -> Option<Signal> {
        TABLE.iter().find(|row| row.1 == text).map(|row| row.0)
    }

    fn row(self) -> &'static (Signal, &'static str, &'static str, &'static str) {
        &TABLE[self as usize]
    }

    pub fn name(self) -> &'static str {
        self.row().1
    }

    pub fn resource(self) -> &'static str {
        self.row().2
    }

    pub fn condition(self) -> &'static str {
        self.row().3
    }

    /// Whether unused images are worth removing against it.
    pub fn is_disk(self) -> bool {
        self.condition() == "DiskPressure"
    }
}

/// How much there is of something, and how much there would be were nothing used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    pub available: i64,
    pub capacity: i64,
}

pub type Observations = BTreeMap<Signal, Observation>;

/// What the node has left. A number that cannot be learnt is absent, and then nothing is done about it.
pub fn observe(node: Option<Disk>, images: Option<Disk>) -> Observations {
    let mut all = Observations::new();
    let mut note = |signal, available: u64, capacity: u64| {
        if capacity > 0 {
            let number = |n| i64::try_from(n).unwrap_or(i64::MAX);
            all.insert(signal, Observation { available: number(available), capacity: number(capacity) });
        }
    };
    let memory = facts::Memory::read();
    note(Signal::MemoryAvailable, memory.available(), memory.total);
    for (disk, space, inodes) in [
        (node, Signal::NodeFsAvailable, Signal::NodeFsInodesFree),
        (images, Signal::ImageFsAvailable, Signal::ImageFsInodesFree),
    ] {
        let Some(disk) = disk else { continue };
        note(space, disk.available, disk.capacity);
        // File systems that make inodes as they need them count none.
        note(inodes, disk.inodes_free, disk.inodes);
    }
    if let Some((running, most)) = facts::processes() {
        note(Signal::PidAvailable, most.saturating_sub(running), most);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_is_found_by_its_name_and_in_its_row() {
        for (signal, name, ..) in TABLE {
            assert_eq!((Signal::parse(name), signal.name()), (Some(signal), name));
        }
        assert_eq!(Signal::parse("memory"), None);
    }
}
