//! What a control group uses.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::Cgroup;

/// Numbers that the kernel does not give are `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    pub cpu_nanoseconds: Option<u64>,
    pub memory: Option<u64>,
    pub memory_limit: Option<u64>,
    pub inactive_file: Option<u64>,
    pub rss: Option<u64>,
    pub page_faults: Option<u64>,
    pub major_page_faults: Option<u64>,
    pub swap: Option<u64>,
    pub processes: Option<u64>,
}

impl Usage {
    /// Memory that cannot be given back easily, as the kubelet's eviction counts it.
    pub fn working_set(&self) -> Option<u64> {
        Some(self.memory?.saturating_sub(self.inactive_file.unwrap_or(0)))
    }

    pub fn available(&self) -> Option<u64> {
        Some(self.memory_limit?.saturating_sub(self.working_set()?))
    }
}

impl Cgroup {
    /// What it and those below it use now.
    pub fn usage(&self) -> Usage {
        let file = |controller: &str, name: &str| -> Option<PathBuf> { Some(self.directory(controller)?.join(name)) };
        let number = |controller: &str, name: &str| -> Option<u64> { read_number(&file(controller, name)?) };
        let table =
            |controller: &str, name: &str| file(controller, name).map(|path| read_table(&path)).unwrap_or_default();
        let processes = number("pids", "pids.current");
        if self.hierarchies.v2 {
            let (cpu, memory) = (table("cpu", "cpu.stat"), table("memory", "memory.stat"));
            let get = |name: &str| memory.get(name).copied();
            return Usage {
                cpu_nanoseconds: cpu.get("usage_usec").map(|microseconds| microseconds * 1000),
                memory: number("memory", "memory.current"),
                memory_limit: number("memory", "memory.max"),
                inactive_file: get("inactive_file"),
                rss: get("anon"),
                page_faults: get("pgfault"),
                major_page_faults: get("pgmajfault"),
                swap: number("memory", "memory.swap.current"),
                processes,
            };
        }
        let memory = table("memory", "memory.stat");
        let get = |name: &str| memory.get(name).copied();
        // Without a limit the file has a number near the largest.
        let limit = number("memory", "memory.limit_in_bytes").filter(|limit| *limit < 1 << 62);
        Usage {
            cpu_nanoseconds: number("cpuacct", "cpuacct.usage"),
            memory: number("memory", "memory.usage_in_bytes"),
            memory_limit: limit,
            inactive_file: get("total_inactive_file"),
            rss: get("total_rss"),
            page_faults: get("total_pgfault"),
            major_page_faults: get("total_pgmajfault"),
            swap: get("total_swap"),
            processes,
        }
    }
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn read_table(path: &Path) -> HashMap<String, u64> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(k, v)| Some((k.into(), v.parse().ok()?)))
        .collect()
}
