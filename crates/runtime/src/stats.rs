//! What containers and sandboxes use.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::cgroup::Usage;
use crate::cri::*;
use crate::runtime::{Runtime, now};
use crate::sandbox::namespaces::in_network;
use crate::service::selects;

impl Runtime {
    /// Of containers that run.
    pub(crate) fn stats_of_containers(&self, filter: &ContainerStatsFilter) -> Vec<ContainerStats> {
        let all: Vec<_> = self.containers.read().values().cloned().collect();
        let mut stats: Vec<_> = all
            .iter()
            .filter(|container| {
                container.is_running()
                    && filter.id.as_ref().is_none_or(|id| id == container.id())
                    && filter.pod_sandbox_id.as_ref().is_none_or(|id| *id == container.record.sandbox_id)
                    && selects(&filter.label_selector, &container.record.config.labels)
            })
            .filter_map(|container| {
                let usage = self.hierarchies.at(&container.record.cgroup).ok()?.usage();
                let config = &container.record.config;
                Some(ContainerStats {
                    attributes: ContainerAttributes {
                        id: container.id().to_owned(),
                        metadata: config.metadata.clone(),
                        labels: config.labels.clone(),
                        annotations: config.annotations.clone(),
                    },
                    cpu: cpu(&usage),
                    memory: memory(&usage),
                    swap: SwapUsage { timestamp: now(), swap_usage_bytes: usage.swap, swap_available_bytes: None },
                    writable_layer: Some(disk_usage(&self.paths.container(container.id()).join("upper"))),
                })
            })
            .collect();
        stats.sort_by(|a, b| a.attributes.id.cmp(&b.attributes.id));
        stats
    }

    pub(crate) fn stats_of_sandboxes(&self, filter: &PodSandboxStatsFilter) -> Vec<PodSandboxStats> {
        let all: Vec<_> = self.sandboxes.read().values().cloned().collect();
        let mut stats: Vec<_> = all
            .iter()
            .filter(|sandbox| sandbox.state() == PodSandboxState::Ready)
            .map(|sandbox| sandbox.record.lock().clone())
            .filter(|record| {
                filter.id.as_ref().is_none_or(|id| *id == record.id)
                    && selects(&filter.label_selector, &record.config.labels)
            })
            .filter_map(|record| {
                let usage = self.hierarchies.at(&self.pod_cgroup(&record.config)).ok()?.usage();
                let of_pod = ContainerStatsFilter { pod_sandbox_id: Some(record.id.clone()), ..Default::default() };
                let own_network = record.config.linux.security_context.namespace_options.network != NamespaceMode::Node;
                Some(PodSandboxStats {
                    cpu: cpu(&usage),
                    memory: memory(&usage),
                    network: own_network.then(|| network(&self.paths.namespace(&record.id, "net"))).flatten(),
                    process: ProcessUsage { timestamp: now(), process_count: usage.processes },
                    containers: self.stats_of_containers(&of_pod),
                    attributes: PodSandboxAttributes {
                        id: record.id,
                        metadata: record.config.metadata,
                        labels: record.config.labels,
                        annotations: record.config.annotations,
                    },
                })
            })
            .collect();
        stats.sort_by(|a, b| a.attributes.id.cmp(&b.attributes.id));
        stats
    }
}

fn cpu(usage: &Usage) -> CpuUsage {
    CpuUsage { timestamp: now(), usage_core_nano_seconds: usage.cpu_nanoseconds }
}

fn memory(usage: &Usage) -> MemoryUsage {
    MemoryUsage {
        timestamp: now(),
        working_set_bytes: usage.working_set(),
        available_bytes: usage.available(),
        usage_bytes: usage.memory,
        rss_bytes: usage.rss,
        page_faults: usage.page_faults,
        major_page_faults: usage.major_page_faults,
    }
}

/// What a directory takes on its disk, each file counted once.
fn disk_usage(top: &Path) -> FilesystemUsage {
    let (mut bytes, mut inodes) = (0, 0);
    let mut linked: BTreeMap<(u64, u64), ()> = BTreeMap::new();
    let mut next = vec![top.to_owned()];
    while let Some(directory) = next.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.nlink() > 1
                && !metadata.is_dir()
                && linked.insert((metadata.dev(), metadata.ino()), ()).is_some()
            {
                continue;
            }
            bytes += metadata.blocks() * 512;
            inodes += 1;
            if metadata.is_dir() {
                next.push(entry.path());
            }
        }
    }
    FilesystemUsage {
        timestamp: now(),
        mountpoint: top.display().to_string(),
        used_bytes: Some(bytes),
        inodes_used: Some(inodes),
    }
}

fn network(namespace: &Path) -> Option<NetworkUsage> {
    let text = in_network(namespace, || fs::read_to_string("/proc/thread-self/net/dev")).ok()?;
    let mut interfaces = parse_interfaces(&text);
    let default = interfaces.iter().position(|interface| interface.name == "eth0").or(interfaces.first().map(|_| 0))?;
    Some(NetworkUsage { timestamp: now(), default_interface: Some(interfaces.remove(default)), interfaces })
}

/// From `/proc/net/dev`, without the loopback interface.
fn parse_interfaces(text: &str) -> Vec<NetworkInterfaceUsage> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| name.trim() != "lo")
        .filter_map(|(name, rest)| {
            let numbers: Vec<u64> = rest.split_whitespace().filter_map(|number| number.parse().ok()).collect();
            let [rx_bytes, _, rx_errors, _, _, _, _, _, tx_bytes, _, tx_errors, ..] = numbers[..] else { return None };
            Some(NetworkInterfaceUsage { name: name.trim().to_owned(), rx_bytes, rx_errors, tx_bytes, tx_errors })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read_without_the_loopback() {
        let text = "Inter-|   Receive   |  Transmit\n face |bytes packets errs|bytes\n\
                    \x20   lo:  10 1 0 0 0 0 0 0 10 1 0 0 0 0 0 0\n  eth0: 100 2 3 0 0 0 0 0 200 4 5 0 0 0 0 0\n";
        let expected =
            NetworkInterfaceUsage { name: "eth0".into(), rx_bytes: 100, rx_errors: 3, tx_bytes: 200, tx_errors: 5 };
        assert_eq!(parse_interfaces(text), [expected]);
    }
}
