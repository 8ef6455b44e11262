//! Messages about pod sandboxes and the security settings that sandboxes and containers share.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::LinuxContainerResources;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandboxMetadata {
    pub name: String,
    pub uid: String,
    pub namespace: String,
    pub attempt: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DNSConfig {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortMapping {
    pub protocol: Protocol,
    pub container_port: u16,
    /// 0 for none.
    pub host_port: u16,
    /// Empty for all addresses of the node.
    pub host_ip: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandboxConfig {
    pub metadata: PodSandboxMetadata,
    pub hostname: String,
    /// The directory below which containers' `log_path`s are.
    pub log_directory: String,
    /// Written to each container's `/etc/resolv.conf`; `None` gives the host's.
    pub dns_config: Option<DNSConfig>,
    pub port_mappings: Vec<PortMapping>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub linux: LinuxPodSandboxConfig,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxPodSandboxConfig {
    /// The pod's cgroup in the cgroupfs manner, below each hierarchy's root (or the runtime's own subtree, if it is not
    /// below it yet): `/kubepods/burstable/pod<uid>`.
    pub cgroup_parent: String,
    pub security_context: LinuxSandboxSecurityContext,
    pub sysctls: BTreeMap<String, String>,
    pub overhead: Option<LinuxContainerResources>,
    /// The sum of the containers' resources: the pod's own limits.
    pub resources: Option<LinuxContainerResources>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxSandboxSecurityContext {
    pub namespace_options: NamespaceOption,
    pub selinux_options: Option<SELinuxOption>,
    pub run_as_user: Option<i64>,
    pub run_as_group: Option<i64>,
    pub readonly_rootfs: bool,
    pub supplemental_groups: Vec<i64>,
    pub supplemental_groups_policy: SupplementalGroupsPolicy,
    pub privileged: bool,
    pub seccomp: Option<SecurityProfile>,
    pub apparmor: Option<SecurityProfile>,
}

/// Whose namespace a container gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    /// One that all containers of the pod share.
    #[default]
    Pod,
    /// One of its own.
    Container,
    /// The node's.
    Node,
    /// That of the container `target_id`.
    Target,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NamespaceOption {
    pub network: NamespaceMode,
    /// A kubelet asks for `Container` unless the pod says `shareProcessNamespace`.
    pub pid: NamespaceMode,
    pub ipc: NamespaceMode,
    pub target_id: String,
    /// `None` or mode `Node`: no user namespace.
    pub userns_options: Option<UserNamespace>,
}

impl NamespaceOption {
    /// The user namespace that is the pod's own.
    pub fn own_users(&self) -> Option<&UserNamespace> {
        self.userns_options.as_ref().filter(|users| users.mode == NamespaceMode::Pod)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UserNamespace {
    pub mode: NamespaceMode,
    pub uids: Vec<IDMapping>,
    pub gids: Vec<IDMapping>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IDMapping {
    pub host_id: u32,
    pub container_id: u32,
    pub length: u32,
}

/// Whom the host has for the id 0 of a namespace.
pub fn root_of(ranges: &[IDMapping]) -> Option<u32> {
    ranges.iter().find(|range| range.container_id == 0 && range.length > 0).map(|range| range.host_id)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SupplementalGroupsPolicy {
    /// The image's groups of the user and those that the pod names.
    #[default]
    Merge,
    /// Only those that the pod names.
    Strict,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProfileType {
    #[default]
    RuntimeDefault,
    Unconfined,
    Localhost,
}

/// A seccomp or AppArmor profile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SecurityProfile {
    pub profile_type: ProfileType,
    /// For `Localhost`: seccomp's absolute path of a file, AppArmor's name of a loaded profile.
    pub localhost_ref: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SELinuxOption {
    pub user: String,
    pub role: String,
    pub r#type: String,
    pub level: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodSandboxState {
    Ready,
    #[default]
    NotReady,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandboxStatus {
    pub id: String,
    pub metadata: PodSandboxMetadata,
    pub state: PodSandboxState,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// The pod's addresses, the primary one first; none with the node's network.
    pub ips: Vec<IpAddr>,
    pub namespace_options: NamespaceOption,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub runtime_handler: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandbox {
    pub id: String,
    pub metadata: PodSandboxMetadata,
    pub state: PodSandboxState,
    pub created_at: i64,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub runtime_handler: String,
}

/// All that is set must match.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandboxFilter {
    pub id: Option<String>,
    pub state: Option<PodSandboxState>,
    pub label_selector: BTreeMap<String, String>,
}
