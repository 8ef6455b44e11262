//! The structured fields of the configuration.

use serde::{Deserialize, Serialize};

use super::{Duration, Texts};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CrashLoopBackOff {
    /// The longest that a crashed container waits, from 1 to 300 seconds.
    pub max_container_restart_period: Option<Duration>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct MemorySwap {
    pub swap_behavior: SwapBehavior,
}

/// Whether containers may be swapped out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SwapBehavior {
    #[default]
    #[serde(alias = "")]
    NoSwap,
    /// Burstable pods' containers, each by its part of the node's memory.
    LimitedSwap,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct MemoryReservation {
    pub numa_node: usize,
    pub limits: Texts,
}

/// How long pods of at least this priority have when the node shuts down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ShutdownByPriority {
    pub priority: i32,
    pub shutdown_grace_period_seconds: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct UserNamespaces {
    /// The ids of a pod of its own, a multiple of 65536.
    pub ids_per_pod: i64,
}

impl Default for UserNamespaces {
    fn default() -> UserNamespaces {
        UserNamespaces { ids_per_pod: 65_536 }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CpuManagerPolicy {
    #[default]
    #[serde(rename = "none", alias = "")]
    None,
    /// Containers of Guaranteed pods that ask for whole CPUs get some of their own.
    #[serde(rename = "static")]
    Static,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemoryManagerPolicy {
    #[default]
    #[serde(alias = "")]
    None,
    /// Containers of Guaranteed pods get memory of as few NUMA nodes as can be.
    Static,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TopologyManagerPolicy {
    #[default]
    #[serde(rename = "none", alias = "")]
    None,
    #[serde(rename = "best-effort")]
    BestEffort,
    #[serde(rename = "restricted")]
    Restricted,
    #[serde(rename = "single-numa-node")]
    SingleNumaNode,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TopologyManagerScope {
    #[default]
    #[serde(rename = "container", alias = "")]
    Container,
    #[serde(rename = "pod")]
    Pod,
}
