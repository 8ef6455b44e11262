//! Limits of a control group, from CRI's resources.

use std::io;
use std::path::Path;

use super::{Cgroup, Result, failed, write_existing};
use crate::cri::LinuxContainerResources;

impl Cgroup {
    /// Sets what the resources specify and leaves the rest.
    pub fn apply(&self, resources: &LinuxContainerResources) -> Result<()> {
        let v2 = self.hierarchies.v2;
        for (controller, file, value) in settings(resources, v2) {
            let Some(directory) = self.directory(controller) else { continue };
            set(&directory.join(&file), &value)?;
        }
        if v2 { self.apply_memory_v2(resources) } else { self.apply_memory_v1(resources) }
    }

    fn apply_memory_v1(&self, resources: &LinuxContainerResources) -> Result<()> {
        let Some(directory) = self.directory("memory") else { return Ok(()) };
        let limit = (resources.memory_limit_in_bytes != 0)
            .then(|| (directory.join("memory.limit_in_bytes"), resources.memory_limit_in_bytes.to_string()));
        // Without swap accounting the file is not there, and there is nothing to limit.
        let swap =
            Some((directory.join("memory.memsw.limit_in_bytes"), resources.memory_swap_limit_in_bytes.to_string()))
                .filter(|(path, _)| resources.memory_swap_limit_in_bytes != 0 && path.exists());
        // Memory may never exceed memory and swap together, so that it depends on the direction which comes first.
        match (&limit, &swap) {
            (Some(limit), Some(swap)) => set(&limit.0, &limit.1)
                .and_then(|()| set(&swap.0, &swap.1))
                .or_else(|_| set(&swap.0, &swap.1).and_then(|()| set(&limit.0, &limit.1))),
            (Some((path, value)), None) | (None, Some((path, value))) => set(path, value),
            (None, None) => Ok(()),
        }
    }

    fn apply_memory_v2(&self, resources: &LinuxContainerResources) -> Result<()> {
        let Some(directory) = self.directory("memory") else { return Ok(()) };
        let (memory, both) = (resources.memory_limit_in_bytes, resources.memory_swap_limit_in_bytes);
        let swap = directory.join("memory.swap.max");
        if both != 0 && swap.exists() {
            let value = if both < 0 { "max".into() } else { (both - memory.max(0)).max(0).to_string() };
            set(&swap, &value)?;
        }
        if memory != 0 {
            set(&directory.join("memory.max"), &unlimited(memory))?;
        }
        Ok(())
    }
}

fn unlimited(value: i64) -> String {
    if value < 0 { "max".into() } else { value.to_string() }
}

/// Everything but memory: controller, file, value.
fn settings(resources: &LinuxContainerResources, v2: bool) -> Vec<(&'static str, String, String)> {
    let mut all: Vec<(&str, String, String)> = Vec::new();
    let mut add = |controller, file: &str, value: String| all.push((controller, file.to_owned(), value));
    let LinuxContainerResources { cpu_period: period, cpu_quota: quota, cpu_shares: shares, .. } = *resources;
    if v2 {
        if shares > 0 {
            add("cpu", "cpu.weight", weight(shares).to_string());
        }
        if quota != 0 {
            let period = if period > 0 { period } else { 100_000 };
            add("cpu", "cpu.max", format!("{} {period}", unlimited(quota)));
        }
    } else {
        if shares > 0 {
            add("cpu", "cpu.shares", shares.to_string());
        }
        if period > 0 {
            add("cpu", "cpu.cfs_period_us", period.to_string());
        }
        if quota != 0 {
            add("cpu", "cpu.cfs_quota_us", quota.to_string());
        }
    }
    for (file, value) in [("cpuset.cpus", &resources.cpuset_cpus), ("cpuset.mems", &resources.cpuset_mems)] {
        if !value.is_empty() {
            add("cpuset", file, value.clone());
        }
    }
    if resources.pids_limit != 0 {
        add("pids", "pids.max", unlimited(resources.pids_limit));
    }
    for huge in &resources.hugepage_limits {
        let file = if v2 { "max" } else { "limit_in_bytes" };
        add("hugetlb", &format!("hugetlb.{}.{file}", huge.page_size), huge.limit.to_string());
    }
    if v2 {
        for (file, value) in resources.unified.iter().filter(|(file, _)| !file.contains('/')) {
            add("cpu", file, value.clone());
        }
    }
    all
}

/// Version 1's shares (2 to 262144) as version 2's weight (1 to 10000), as upstream converts them.
fn weight(shares: i64) -> i64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

/// A page size that the kernel does not have needs no limit, and memory that it does not count has none.
fn set(path: &Path, value: &str) -> Result<()> {
    match write_existing(path, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && may_lack(path) => Ok(()),
        Err(error) => Err(failed(path, error)),
        Ok(()) => Ok(()),
    }
}

fn may_lack(path: &Path) -> bool {
    path.file_name().is_some_and(|name| {
        let name = name.to_string_lossy();
        name.starts_with("hugetlb.") || matches!(&*name, "memory.swap.max" | "memory.oom.group")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_become_the_files_of_each_version() {
        let resources = LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 50_000,
            cpu_shares: 1024,
            cpuset_cpus: "0-1".into(),
            pids_limit: -1,
            ..LinuxContainerResources::default()
        };
        let text = |v2| {
            let all = settings(&resources, v2).into_iter().map(|(_, file, value)| format!("{file}={value}"));
            all.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            text(false),
            "cpu.shares=1024 cpu.cfs_period_us=100000 cpu.cfs_quota_us=50000 cpuset.cpus=0-1 pids.max=max"
        );
        assert_eq!(text(true), "cpu.weight=39 cpu.max=50000 100000 cpuset.cpus=0-1 pids.max=max");
        assert_eq!([2, 1024, 262_144].map(weight), [1, 39, 10_000]);
    }
}
