//! `KubeletConfiguration` of `kubelet.config.k8s.io/v1beta1`: the fields that are honoured, with upstream's defaults. Of those
//! that are not, `fields.rs` says which values are taken; all else is refused with its reason, as is what nobody knows.

mod duration;
mod fields;
mod parts;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Taint;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use duration::Duration;
pub use parts::{
    CpuManagerPolicy, CrashLoopBackOff, MemoryManagerPolicy, MemoryReservation, MemorySwap, ShutdownByPriority,
    SwapBehavior, TopologyManagerPolicy, TopologyManagerScope, UserNamespaces,
};

use crate::admission;
use crate::eviction::{self, Thresholds};
use crate::placement;

const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
const KIND: &str = "KubeletConfiguration";

/// Why a configuration cannot be used.
#[derive(Debug)]
pub struct ConfigError(pub String);

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// Amounts by resource or by eviction signal, as they are written.
pub type Texts = BTreeMap<String, String>;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Configuration {
    /// Where the HTTPS server listens; by default where the API does.
    pub address: Option<std::net::IpAddr>,
    /// By default 10250, or any free port where that is taken.
    pub port: Option<u16>,
    pub authentication: Authentication,
    pub authorization: Authorization,
    pub enable_debugging_handlers: bool,
    pub enable_system_log_handler: bool,
    pub max_pods: u32,
    /// Processes of one pod at most; none where it is not positive.
    pub pod_pids_limit: i64,
    pub eviction_hard: Option<Texts>,
    pub eviction_soft: Texts,
    pub eviction_soft_grace_period: BTreeMap<String, Duration>,
    pub eviction_minimum_reclaim: Texts,
    pub eviction_pressure_transition_period: Duration,
    pub eviction_max_pod_grace_period: i64,
    pub merge_default_eviction_settings: bool,
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub image_gc_high_threshold_percent: u64,
    #[serde(rename = "imageGCLowThresholdPercent")]
    pub image_gc_low_threshold_percent: u64,
    #[serde(rename = "imageMinimumGCAge")]
    pub image_minimum_gc_age: Duration,
    #[serde(rename = "imageMaximumGCAge")]
    pub image_maximum_gc_age: Duration,
    pub serialize_image_pulls: bool,
    pub max_parallel_image_pulls: Option<u32>,
    pub image_pull_credentials_verification_policy: Verification,
    pub system_reserved: Texts,
    pub kube_reserved: Texts,
    pub node_status_update_frequency: Duration,
    pub node_status_report_frequency: Duration,
    pub node_status_max_images: i32,
    pub node_lease_duration_seconds: u32,
    /// By default the command's directory of manifests.
    pub static_pod_path: Option<PathBuf>,
    /// Served where it is set.
    pub healthz_port: Option<u16>,
    pub healthz_bind_address: std::net::IpAddr,
    /// By default the cluster's own.
    #[serde(rename = "clusterDNS")]
    pub cluster_dns: Vec<std::net::IpAddr>,
    pub cluster_domain: Option<String>,
    /// The node's resolver settings; empty for none.
    pub resolv_conf: Option<PathBuf>,
    pub container_log_max_size: String,
    pub container_log_max_files: usize,
    pub container_log_monitor_interval: Duration,
    pub register_node: bool,
    pub register_with_taints: Vec<Taint>,
    #[serde(rename = "providerID")]
    pub provider_id: String,
    pub pods_per_core: u32,
    /// Whether containers that name no seccomp profile have the runtime's.
    pub seccomp_default: bool,
    pub allowed_unsafe_sysctls: Vec<String>,
    pub crash_loop_back_off: CrashLoopBackOff,
    #[serde(rename = "cpuCFSQuota")]
    pub cpu_cfs_quota: bool,
    #[serde(rename = "cpuCFSQuotaPeriod")]
    pub cpu_cfs_quota_period: Duration,
    pub memory_swap: MemorySwap,
    /// Whether a container goes on where one process of it is killed for want of memory.
    #[serde(rename = "singleProcessOOMKill")]
    pub single_process_oom_kill: Option<bool>,
    pub enforce_node_allocatable: Vec<String>,
    #[serde(rename = "reservedSystemCPUs")]
    pub reserved_system_cpus: String,
    pub cpu_manager_policy: CpuManagerPolicy,
    pub cpu_manager_policy_options: Texts,
    pub memory_manager_policy: MemoryManagerPolicy,
    pub reserved_memory: Vec<MemoryReservation>,
    pub topology_manager_policy: TopologyManagerPolicy,
    pub topology_manager_scope: TopologyManagerScope,
    pub topology_manager_policy_options: Texts,
    pub shutdown_grace_period: Duration,
    pub shutdown_grace_period_critical_pods: Duration,
    pub shutdown_grace_period_by_pod_priority: Vec<ShutdownByPriority>,
    pub user_namespaces: UserNamespaces,
}

impl Default for Configuration {
    fn default() -> Configuration {
        Configuration {
            address: None,
            port: None,
            authentication: Authentication::default(),
            authorization: Authorization::default(),
            enable_debugging_handlers: true,
            enable_system_log_handler: true,
            max_pods: 110,
            pod_pids_limit: -1,
            eviction_hard: None,
            eviction_soft: Texts::new(),
            eviction_soft_grace_period: BTreeMap::new(),
            eviction_minimum_reclaim: Texts::new(),
            eviction_pressure_transition_period: Duration::from_secs(300),
            eviction_max_pod_grace_period: 0,
            merge_default_eviction_settings: false,
            image_gc_high_threshold_percent: 85,
            image_gc_low_threshold_percent: 80,
            image_minimum_gc_age: Duration::from_secs(120),
            image_maximum_gc_age: Duration::from_secs(0),
            serialize_image_pulls: false,
            max_parallel_image_pulls: None,
            image_pull_credentials_verification_policy: Verification::default(),
            system_reserved: Texts::new(),
            kube_reserved: Texts::new(),
            node_status_update_frequency: Duration::from_secs(10),
            node_status_report_frequency: Duration::from_secs(300),
            node_status_max_images: 50,
            node_lease_duration_seconds: 40,
            static_pod_path: None,
            healthz_port: None,
            healthz_bind_address: std::net::Ipv4Addr::LOCALHOST.into(),
            cluster_dns: Vec::new(),
            cluster_domain: None,
            resolv_conf: None,
            container_log_max_size: "10Mi".to_owned(),
            container_log_max_files: 5,
            container_log_monitor_interval: Duration::from_secs(10),
            register_node: true,
            register_with_taints: Vec::new(),
            provider_id: String::new(),
            pods_per_core: 0,
            seccomp_default: false,
            allowed_unsafe_sysctls: Vec::new(),
            crash_loop_back_off: CrashLoopBackOff::default(),
            cpu_cfs_quota: true,
            cpu_cfs_quota_period: Duration(std::time::Duration::from_millis(100)),
            memory_swap: MemorySwap::default(),
            single_process_oom_kill: None,
            enforce_node_allocatable: vec!["pods".to_owned()],
            reserved_system_cpus: String::new(),
            cpu_manager_policy: CpuManagerPolicy::None,
            cpu_manager_policy_options: Texts::new(),
            memory_manager_policy: MemoryManagerPolicy::None,
            reserved_memory: Vec::new(),
            topology_manager_policy: TopologyManagerPolicy::None,
            topology_manager_scope: TopologyManagerScope::Container,
            topology_manager_policy_options: Texts::new(),
            shutdown_grace_period: Duration::from_secs(0),
            shutdown_grace_period_critical_pods: Duration::from_secs(0),
            shutdown_grace_period_by_pod_priority: Vec::new(),
            user_namespaces: UserNamespaces::default(),
        }
    }
}

/// Whether a pod must be able to pull an image that is present already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verification {
    NeverVerify,
    /// Only one that some pod's secret has opened.
    #[default]
    NeverVerifyPreloadedImages,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Authentication {
    pub anonymous: Anonymous,
    pub webhook: TokenWebhook,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Anonymous {
    pub enabled: bool,
}

/// Bearer tokens, which the API reviews.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TokenWebhook {
    pub enabled: bool,
    #[serde(rename = "cacheTTL")]
    pub cache_ttl: Duration,
}

impl Default for TokenWebhook {
    fn default() -> TokenWebhook {
        TokenWebhook { enabled: true, cache_ttl: Duration::from_secs(120) }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Authorization {
    pub mode: AuthorizationMode,
    pub webhook: AccessWebhook,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthorizationMode {
    AlwaysAllow,
    #[default]
    Webhook,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AccessWebhook {
    #[serde(rename = "cacheAuthorizedTTL")]
    pub cache_authorized_ttl: Duration,
    #[serde(rename = "cacheUnauthorizedTTL")]
    pub cache_unauthorized_ttl: Duration,
}

impl Default for AccessWebhook {
    fn default() -> AccessWebhook {
        AccessWebhook {
            cache_authorized_ttl: Duration::from_secs(300),
            cache_unauthorized_ttl: Duration::from_secs(30),
        }
    }
}

impl Configuration {
    /// Reads a file, and the `*.conf` files of a directory in the order of their names on top of it.
    pub fn load(file: Option<&Path>, drop_ins: Option<&Path>) -> Result<Configuration, ConfigError> {
        let mut files: Vec<_> = file.map(Path::to_owned).into_iter().collect();
        if let Some(directory) = drop_ins {
            let unreadable = |error| ConfigError(format!("cannot read {}: {error}", directory.display()));
            let mut found = Vec::new();
            for entry in std::fs::read_dir(directory).map_err(unreadable)? {
                found.push(entry.map_err(unreadable)?.path());
            }
            found.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
            found.sort();
            files.extend(found);
        }
        let mut merged = Value::Object(serde_json::Map::new());
        for path in files {
            let named = |error: String| ConfigError(format!("{}: {error}", path.display()));
            let text = std::fs::read_to_string(&path).map_err(|error| named(error.to_string()))?;
            merge(&mut merged, read(&text).map_err(|error| named(error.0))?);
        }
        from_value(merged)
    }

    /// Reads one document.
    pub fn parse(text: &str) -> Result<Configuration, ConfigError> {
        from_value(read(text)?)
    }

    /// What it says about evictions.
    pub fn thresholds(&self) -> Result<Thresholds, ConfigError> {
        Thresholds::new(self).map_err(invalid)
    }

    /// How many images may be pulled at once; `None` is without a limit.
    pub fn parallel_pulls(&self) -> Option<u32> {
        if self.serialize_image_pulls { Some(1) } else { self.max_parallel_image_pulls }
    }

    /// The size at which a container's log is rotated; zero where it is no size.
    pub fn log_max_bytes(&self) -> u64 {
        let quantity = api::quantity::Quantity::parse(&self.container_log_max_size);
        quantity.map_or(0, |size| u64::try_from(size.value()).unwrap_or(0))
    }

    /// The pods that the node takes.
    pub fn pods_on(&self, cpus: usize) -> u32 {
        let by_core = self.pods_per_core.saturating_mul(u32::try_from(cpus).unwrap_or(u32::MAX));
        if self.pods_per_core == 0 { self.max_pods } else { self.max_pods.min(by_core) }
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let (high, low) = (self.image_gc_high_threshold_percent, self.image_gc_low_threshold_percent);
        let pulls = self.max_parallel_image_pulls;
        let checks = [
            (high > 100, format!("imageGCHighThresholdPercent (--image-gc-high-threshold) {high} must be between 0 and 100, inclusive")),
            (low > 100, format!("imageGCLowThresholdPercent (--image-gc-low-threshold) {low} must be between 0 and 100, inclusive")),
            (
                low >= high,
                format!("imageGCLowThresholdPercent (--image-gc-low-threshold) {low} must be less than imageGCHighThresholdPercent (--image-gc-high-threshold) {high}"),
            ),
            (pulls == Some(0), "maxParallelImagePulls 0 must be a positive number".to_owned()),
            (
                self.serialize_image_pulls && pulls.is_some_and(|pulls| pulls > 1),
                "maxParallelImagePulls cannot be larger than 1 unless SerializeImagePulls (--serialize-image-pulls) set to false".to_owned(),
            ),
            (self.node_status_max_images < -1, "nodeStatusMaxImages (--node-status-max-images) must be -1 or greater".to_owned()),
            (self.node_lease_duration_seconds == 0, "nodeLeaseDurationSeconds must be greater than 0".to_owned()),
            (self.container_log_max_files < 2, "containerLogMaxFiles must be greater than 1".to_owned()),
            (
                self.container_log_monitor_interval < Duration::from_secs(3),
                "containerLogMonitorInterval must be a positive time duration greater than or equal to 3s".to_owned(),
            ),
            (self.log_max_bytes() == 0, format!("containerLogMaxSize {:?} must be a positive quantity", self.container_log_max_size)),
            (
                self.crash_loop_back_off.max_container_restart_period.is_some_and(|period| {
                    !(Duration::from_secs(1)..=Duration::from_secs(300)).contains(&period)
                }),
                "crashLoopBackOff.maxContainerRestartPeriod must be between 1s and 300s".to_owned(),
            ),
            (
                !(Duration(std::time::Duration::from_millis(1))..=Duration::from_secs(1)).contains(&self.cpu_cfs_quota_period),
                "cpuCFSQuotaPeriod (--cpu-cfs-quota-period) must be between 1ms and 1sec, inclusive".to_owned(),
            ),
            (
                self.shutdown_grace_period < self.shutdown_grace_period_critical_pods,
                "shutdownGracePeriodCriticalPods must be <= shutdownGracePeriod".to_owned(),
            ),
            (
                !self.shutdown_grace_period_by_pod_priority.is_empty() && self.shutdown_grace_period > Duration::from_secs(0),
                "cannot specify both shutdownGracePeriodByPodPriority and shutdownGracePeriod at the same time".to_owned(),
            ),
            (
                self.enforce_node_allocatable.iter().any(|part| !matches!(part.as_str(), "pods" | "none" | "")),
                "enforceNodeAllocatable takes \"pods\" and \"none\": the groups of the system and of the kubelet are not this kubelet's".to_owned(),
            ),
            (
                self.user_namespaces.ids_per_pod <= 0 || self.user_namespaces.ids_per_pod % 65_536 != 0,
                "userNamespaces.idsPerPod must be a multiple of 65536".to_owned(),
            ),
        ];
        let wrong: Vec<_> = checks.into_iter().filter(|(wrong, _)| *wrong).map(|(_, why)| why).collect();
        if !wrong.is_empty() {
            return Err(invalid(wrong.join("; ")));
        }
        placement::check(self).map_err(invalid)?;
        admission::sysctls::patterns(&self.allowed_unsafe_sysctls).map_err(invalid)?;
        for reserved in [&self.system_reserved, &self.kube_reserved] {
            eviction::reserved(reserved).map_err(invalid)?;
        }
        self.thresholds().map(|_| ())
    }
}

fn invalid(why: String) -> ConfigError {
    ConfigError(format!("invalid configuration: {why}"))
}

/// One document, checked for the names of its fields.
fn read(text: &str) -> Result<Value, ConfigError> {
    let value: Value = serde_saphyr::from_str(text).map_err(|error| ConfigError(error.to_string()))?;
    let Value::Object(mut object) = value else {
        return Err(ConfigError(format!("a {KIND} is wanted")));
    };
    for (name, wanted) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        if object.remove(name).as_ref().and_then(Value::as_str) != Some(wanted) {
            return Err(ConfigError(format!("{name} must be {wanted:?}")));
        }
    }
    let known = serde_json::to_value(Configuration::default()).unwrap_or_default();
    for (name, value) in object.iter().filter(|(name, _)| known.get(name.as_str()).is_none()) {
        let Some(taken) = fields::taken(name) else {
            return Err(ConfigError(format!("the field {name:?} is unknown")));
        };
        if let Err(why) = taken.check(value) {
            return Err(ConfigError(format!("the field {name:?} is not supported with the value {value}: {why}")));
        }
    }
    object.retain(|name, value| !value.is_null() && known.get(name.as_str()).is_some());
    Ok(Value::Object(object))
}

/// Lays a document over another: objects field by field, all else whole.
fn merge(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (name, value) in over {
                merge(under.entry(name).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over,
    }
}

fn from_value(value: Value) -> Result<Configuration, ConfigError> {
    let mut configuration: Configuration =
        serde_json::from_value(value).map_err(|error| ConfigError(error.to_string()))?;
    if configuration.container_log_monitor_interval == Duration::default() {
        // Upstream's zero is nothing said.
        configuration.container_log_monitor_interval = Configuration::default().container_log_monitor_interval;
    }
    configuration.validate()?;
    Ok(configuration)
}

#[cfg(test)]
mod tests;
