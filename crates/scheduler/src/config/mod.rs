//! `KubeSchedulerConfiguration` of `kubescheduler.config.k8s.io/v1`: read strictly, defaulted and validated as upstream does.
//!
//! Left without effect, because there is nothing here that they would change: `parallelism`, `clientConnection`,
//! `leaderElection`, `enableProfiling`, `enableContentionProfiling` and `delayCacheUntilActive`. They are still checked.

mod shape;
mod validate;

#[cfg(test)]
mod tests;

use serde::Deserialize;
use serde_json::Value;

use crate::pod::{RawNodeAffinity, RawSpread};

const GROUP_VERSION: &str = "kubescheduler.config.k8s.io/v1";
const KIND: &str = "KubeSchedulerConfiguration";

/// Why a configuration cannot be used, in upstream's words.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error("{0}")]
    Syntax(String),
    #[error("no kind \"{kind}\" is registered for version \"{version}\"")]
    Kind { kind: String, version: String },
    #[error("strict decoding error: {}", .0.join(", "))]
    Strict(Vec<String>),
    #[error("{}", aggregate(.0))]
    Invalid(Vec<String>),
}

/// Several errors as Go's aggregate prints them.
fn aggregate(errors: &[String]) -> String {
    match errors {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

/// How the scheduler is set up.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Configuration {
    pub parallelism: i32,
    pub leader_election: LeaderElection,
    pub percentage_of_nodes_to_score: Option<i32>,
    pub pod_initial_backoff_seconds: i64,
    pub pod_max_backoff_seconds: i64,
    pub profiles: Vec<Profile>,
    pub extenders: Vec<Extender>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct LeaderElection {
    pub leader_elect: bool,
    pub resource_lock: String,
}

impl Default for LeaderElection {
    fn default() -> Self {
        Self { leader_elect: true, resource_lock: "leases".into() }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Profile {
    pub scheduler_name: Option<String>,
    pub percentage_of_nodes_to_score: Option<i32>,
    pub plugins: Plugins,
    pub plugin_config: Vec<PluginConfig>,
}

/// What is enabled and disabled, by extension point; `multi_point` stands for all of them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Plugins {
    pub pre_enqueue: PluginSet,
    pub queue_sort: PluginSet,
    pub pre_filter: PluginSet,
    pub filter: PluginSet,
    pub post_filter: PluginSet,
    pub pre_score: PluginSet,
    pub score: PluginSet,
    pub reserve: PluginSet,
    pub permit: PluginSet,
    pub pre_bind: PluginSet,
    pub bind: PluginSet,
    pub post_bind: PluginSet,
    pub multi_point: PluginSet,
}

impl Plugins {
    /// All sets with the names of their extension points.
    pub fn sets(&self) -> [(&'static str, &PluginSet); 13] {
        [
            ("preEnqueue", &self.pre_enqueue),
            ("queueSort", &self.queue_sort),
            ("preFilter", &self.pre_filter),
            ("filter", &self.filter),
            ("postFilter", &self.post_filter),
            ("preScore", &self.pre_score),
            ("score", &self.score),
            ("reserve", &self.reserve),
            ("permit", &self.permit),
            ("preBind", &self.pre_bind),
            ("bind", &self.bind),
            ("postBind", &self.post_bind),
            ("multiPoint", &self.multi_point),
        ]
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct PluginSet {
    pub enabled: Vec<PluginEntry>,
    pub disabled: Vec<PluginEntry>,
}

impl PluginSet {
    pub fn enables(&self, name: &str) -> Option<&PluginEntry> {
        self.enabled.iter().find(|entry| entry.name == name)
    }

    pub fn disables(&self, name: &str) -> bool {
        self.disabled.iter().any(|entry| entry.name == name || entry.name == "*")
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct PluginEntry {
    pub name: String,
    pub weight: Option<i32>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct PluginConfig {
    pub name: String,
    pub args: Value,
}

impl PluginConfig {
    /// The arguments as one type; those left out have their defaults.
    fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, String> {
        let args = if self.args.is_null() { Value::Object(serde_json::Map::new()) } else { self.args.clone() };
        serde_json::from_value(args).map_err(|error| format!("decoding args for plugin {}: {error}", self.name))
    }
}

impl Profile {
    /// A plugin's arguments, those that are configured or the defaults.
    pub fn args<T: Default + serde::de::DeserializeOwned>(&self, plugin: &str) -> T {
        // What cannot be read was refused when the configuration was.
        let config = self.plugin_config.iter().find(|config| config.name == plugin);
        config.and_then(|config| config.read().ok()).unwrap_or_default()
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct DefaultPreemptionArgs {
    pub min_candidate_nodes_percentage: i32,
    pub min_candidate_nodes_absolute: i32,
}

impl Default for DefaultPreemptionArgs {
    fn default() -> Self {
        Self { min_candidate_nodes_percentage: 10, min_candidate_nodes_absolute: 100 }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct InterPodAffinityArgs {
    pub hard_pod_affinity_weight: i32,
    pub ignore_preferred_terms_of_existing_pods: bool,
}

impl Default for InterPodAffinityArgs {
    fn default() -> Self {
        Self { hard_pod_affinity_weight: 1, ignore_preferred_terms_of_existing_pods: false }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct NodeResourcesFitArgs {
    pub ignored_resources: Vec<String>,
    pub ignored_resource_groups: Vec<String>,
    pub scoring_strategy: ScoringStrategy,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ScoringStrategy {
    #[serde(rename = "type")]
    pub kind: String,
    pub resources: Vec<ResourceSpec>,
    pub requested_to_capacity_ratio: Option<Ratio>,
}

impl Default for ScoringStrategy {
    fn default() -> Self {
        Self { kind: "LeastAllocated".into(), resources: Vec::new(), requested_to_capacity_ratio: None }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Ratio {
    pub shape: Vec<ShapePoint>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ShapePoint {
    pub utilization: i32,
    pub score: i32,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ResourceSpec {
    pub name: String,
    pub weight: i64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NodeResourcesBalancedAllocationArgs {
    pub resources: Vec<ResourceSpec>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct NodeAffinityArgs {
    pub added_affinity: RawNodeAffinity,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PodTopologySpreadArgs {
    pub default_constraints: Vec<RawSpread>,
    pub defaulting_type: String,
}

impl Default for PodTopologySpreadArgs {
    fn default() -> Self {
        Self { default_constraints: Vec::new(), defaulting_type: "System".into() }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct VolumeBindingArgs {
    pub bind_timeout_seconds: i64,
    pub shape: Option<Vec<ShapePoint>>,
}

impl Default for VolumeBindingArgs {
    fn default() -> Self {
        Self { bind_timeout_seconds: 600, shape: None }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct DynamicResourcesArgs {
    pub filter_timeout: Option<String>,
    pub binding_timeout: Option<String>,
}

/// An HTTP service that has a say in decisions.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Extender {
    #[serde(rename = "urlPrefix")]
    pub url_prefix: String,
    pub filter_verb: String,
    pub preempt_verb: String,
    pub prioritize_verb: String,
    pub weight: i64,
    pub bind_verb: String,
    #[serde(rename = "enableHTTPS")]
    pub enable_https: bool,
    pub tls_config: Option<TlsConfig>,
    pub http_timeout: Option<String>,
    pub node_cache_capable: bool,
    pub managed_resources: Vec<ManagedResource>,
    pub ignorable: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct TlsConfig {
    pub insecure: bool,
    pub server_name: String,
    pub cert_file: String,
    pub key_file: String,
    pub ca_file: String,
    /// Base64.
    pub cert_data: String,
    pub key_data: String,
    pub ca_data: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ManagedResource {
    pub name: String,
    pub ignored_by_scheduler: bool,
}

impl Default for Configuration {
    fn default() -> Self {
        Self {
            parallelism: 16,
            leader_election: LeaderElection::default(),
            percentage_of_nodes_to_score: None,
            pod_initial_backoff_seconds: 1,
            pod_max_backoff_seconds: 10,
            profiles: vec![Profile { scheduler_name: Some("default-scheduler".into()), ..Profile::default() }],
            extenders: Vec::new(),
        }
    }
}

impl Configuration {
    /// Reads a configuration in YAML or JSON.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let value: Value = serde_saphyr::from_str(text).map_err(|error| ConfigError::Syntax(error.to_string()))?;
        let head = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (kind, version) = (head("kind"), head("apiVersion"));
        match (&*kind, &*version) {
            ("", _) => return Err(ConfigError::Syntax("Object 'Kind' is missing in the configuration".into())),
            (KIND, GROUP_VERSION) => {}
            _ => return Err(ConfigError::Kind { kind, version }),
        }
        let value = shape::without_nulls(value);
        let unknown = shape::unknown_fields(&value);
        let mut this: Self =
            serde_json::from_value(value).map_err(|error| ConfigError::Syntax(format!("{KIND}: {error}")))?;
        if !unknown.is_empty() {
            return Err(ConfigError::Strict(unknown));
        }
        if this.profiles.is_empty() {
            this.profiles.push(Profile::default());
        }
        if let [only] = &mut this.profiles[..] {
            only.scheduler_name.get_or_insert_with(|| "default-scheduler".into());
        }
        let errors = validate::configuration(&this);
        if errors.is_empty() { Ok(this) } else { Err(ConfigError::Invalid(errors)) }
    }
}
