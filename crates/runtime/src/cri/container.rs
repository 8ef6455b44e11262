//! Messages about containers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    IDMapping, ImageSpec, NamespaceOption, PodSandboxStatus, SELinuxOption, SecurityProfile, SupplementalGroupsPolicy,
};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerMetadata {
    pub name: String,
    pub attempt: u32,
}

/// Linux resources. 0 or empty means unspecified, and in an update unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxContainerResources {
    /// Microseconds.
    pub cpu_period: i64,
    /// Microseconds a period; -1 for no limit.
    pub cpu_quota: i64,
    pub cpu_shares: i64,
    pub memory_limit_in_bytes: i64,
    pub oom_score_adj: i64,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    pub hugepage_limits: Vec<HugepageLimit>,
    /// Files of cgroup v2 and their contents.
    pub unified: BTreeMap<String, String>,
    /// Memory and swap together, as in cgroup v1.
    pub memory_swap_limit_in_bytes: i64,
    /// The most processes, 0 for no limit. Not in CRI, where the kubelet writes it to the pod's cgroup itself.
    pub pids_limit: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HugepageLimit {
    /// As in the cgroup's file names: `2MB`, `1GB`.
    pub page_size: String,
    pub limit: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountPropagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

/// A mount of a container. With `image` set it is an image volume and `host_path` is empty.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    pub container_path: String,
    /// Must exist; the runtime does not create it.
    pub host_path: String,
    pub readonly: bool,
    pub selinux_relabel: bool,
    pub propagation: MountPropagation,
    pub uid_mappings: Vec<IDMapping>,
    pub gid_mappings: Vec<IDMapping>,
    /// Needs `readonly` and propagation `Private`.
    pub recursive_read_only: bool,
    pub image: Option<ImageSpec>,
    pub image_sub_path: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    pub container_path: String,
    pub host_path: String,
    /// Of `r`, `w`, `m`.
    pub permissions: String,
}

/// A device by the name that the Container Device Interface gives it: `vendor.com/class=device`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CDIDevice {
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capability {
    /// With or without `CAP_`; `ALL` stands for all.
    pub add_capabilities: Vec<String>,
    pub drop_capabilities: Vec<String>,
    pub add_ambient_capabilities: Vec<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxContainerSecurityContext {
    pub capabilities: Capability,
    pub privileged: bool,
    pub namespace_options: NamespaceOption,
    pub selinux_options: Option<SELinuxOption>,
    pub run_as_user: Option<i64>,
    pub run_as_group: Option<i64>,
    /// A name in the image's `/etc/passwd`; `run_as_user` goes before it.
    pub run_as_username: String,
    pub readonly_rootfs: bool,
    pub supplemental_groups: Vec<i64>,
    pub supplemental_groups_policy: SupplementalGroupsPolicy,
    pub no_new_privs: bool,
    pub masked_paths: Vec<String>,
    pub readonly_paths: Vec<String>,
    /// `None` is unconfined, as in CRI.
    pub seccomp: Option<SecurityProfile>,
    pub apparmor: Option<SecurityProfile>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxContainerConfig {
    pub resources: LinuxContainerResources,
    pub security_context: LinuxContainerSecurityContext,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KeyValue {
    pub key: String,
    pub value: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    pub metadata: ContainerMetadata,
    pub image: ImageSpec,
    /// In place of the image's entrypoint (and then of its command too).
    pub command: Vec<String>,
    /// In place of the image's command.
    pub args: Vec<String>,
    pub working_dir: String,
    pub envs: Vec<KeyValue>,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    pub cdi_devices: Vec<CDIDevice>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// Below the sandbox's `log_directory`. Empty for no log.
    pub log_path: String,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    pub linux: LinuxContainerConfig,
    /// As `SIGTERM`; empty for the image's, which is SIGTERM by default.
    pub stop_signal: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    Created,
    Running,
    Exited,
    #[default]
    Unknown,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Container {
    pub id: String,
    pub pod_sandbox_id: String,
    pub metadata: ContainerMetadata,
    pub image: ImageSpec,
    /// The image's id.
    pub image_ref: String,
    pub image_id: String,
    pub state: ContainerState,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

/// All that is set must match.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerFilter {
    pub id: Option<String>,
    pub state: Option<ContainerState>,
    pub pod_sandbox_id: Option<String>,
    pub label_selector: BTreeMap<String, String>,
}

/// Who a container's first process is at its start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxContainerUser {
    pub uid: i64,
    pub gid: i64,
    pub supplemental_groups: Vec<i64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerStatus {
    pub id: String,
    pub pod_sandbox_id: String,
    pub metadata: ContainerMetadata,
    pub state: ContainerState,
    /// Nanoseconds since the epoch, as the two that follow; 0 where it has not happened.
    pub created_at: i64,
    pub started_at: i64,
    pub finished_at: i64,
    /// 128 + the signal's number where a signal ended it.
    pub exit_code: i32,
    pub image: ImageSpec,
    pub image_ref: String,
    pub image_id: String,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, or `Unknown` where its shim was killed.
    pub reason: String,
    pub message: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub mounts: Vec<Mount>,
    /// The absolute path of its log.
    pub log_path: String,
    pub resources: Option<LinuxContainerResources>,
    pub user: Option<LinuxContainerUser>,
    pub stop_signal: String,
    /// The first process as the host sees it, 0 if it does not run. CRI gives it in its verbose `info`.
    pub pid: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerEventType {
    Created,
    Started,
    Stopped,
    Deleted,
}

/// Something that happened to a container, or to a sandbox (then both ids are the sandbox's), and how the pod stands now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerEventResponse {
    pub container_id: String,
    pub container_event_type: ContainerEventType,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    pub pod_sandbox_status: Option<PodSandboxStatus>,
    pub containers_statuses: Vec<ContainerStatus>,
}
