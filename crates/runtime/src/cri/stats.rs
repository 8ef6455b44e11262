//! Messages about what sandboxes and containers use. A number that the kernel does not tell is `None`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ContainerMetadata, PodSandboxMetadata};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FilesystemUsage {
    /// Nanoseconds since the epoch, as in all of these messages.
    pub timestamp: i64,
    pub mountpoint: String,
    pub used_bytes: Option<u64>,
    pub inodes_used: Option<u64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuUsage {
    pub timestamp: i64,
    /// Nanoseconds since the cgroup was made.
    pub usage_core_nano_seconds: Option<u64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryUsage {
    pub timestamp: i64,
    pub working_set_bytes: Option<u64>,
    pub available_bytes: Option<u64>,
    pub usage_bytes: Option<u64>,
    pub rss_bytes: Option<u64>,
    pub page_faults: Option<u64>,
    pub major_page_faults: Option<u64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SwapUsage {
    pub timestamp: i64,
    pub swap_available_bytes: Option<u64>,
    pub swap_usage_bytes: Option<u64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessUsage {
    pub timestamp: i64,
    pub process_count: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkInterfaceUsage {
    pub name: String,
    pub rx_bytes: u64,
    pub rx_errors: u64,
    pub tx_bytes: u64,
    pub tx_errors: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkUsage {
    pub timestamp: i64,
    pub default_interface: Option<NetworkInterfaceUsage>,
    pub interfaces: Vec<NetworkInterfaceUsage>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerAttributes {
    pub id: String,
    pub metadata: ContainerMetadata,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerStats {
    pub attributes: ContainerAttributes,
    pub cpu: CpuUsage,
    pub memory: MemoryUsage,
    pub swap: SwapUsage,
    /// What the container wrote outside of its volumes.
    pub writable_layer: Option<FilesystemUsage>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerStatsFilter {
    pub id: Option<String>,
    pub pod_sandbox_id: Option<String>,
    pub label_selector: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandboxAttributes {
    pub id: String,
    pub metadata: PodSandboxMetadata,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandboxStats {
    pub attributes: PodSandboxAttributes,
    pub cpu: CpuUsage,
    pub memory: MemoryUsage,
    pub network: Option<NetworkUsage>,
    pub process: ProcessUsage,
    pub containers: Vec<ContainerStats>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandboxStatsFilter {
    pub id: Option<String>,
    pub label_selector: BTreeMap<String, String>,
}
