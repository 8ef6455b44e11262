//! `KubeletConfiguration` of `kubelet.config.k8s.io/v1beta1`: the fields that are honoured, with upstream's defaults. A field that
//! upstream knows and that is not honoured here is refused, as is one that nobody knows.

mod duration;
mod fields;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use duration::Duration;

use crate::eviction::{self, Thresholds};

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
        ];
        let wrong: Vec<_> = checks.into_iter().filter(|(wrong, _)| *wrong).map(|(_, why)| why).collect();
        if !wrong.is_empty() {
            return Err(invalid(wrong.join("; ")));
        }
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
    if let Some(name) = object.keys().find(|name| known.get(name.as_str()).is_none()) {
        let why = if fields::UNSUPPORTED.contains(&name.as_str()) { "is not supported" } else { "is unknown" };
        return Err(ConfigError(format!("the field {name:?} {why}")));
    }
    object.retain(|_, value| !value.is_null());
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
    let configuration: Configuration = serde_json::from_value(value).map_err(|error| ConfigError(error.to_string()))?;
    configuration.validate()?;
    Ok(configuration)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(fields: &str) -> Result<Configuration, String> {
        let text = format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{fields}");
        Configuration::parse(&text).map_err(|error| error.0)
    }

    #[test]
    fn fields_are_read_and_what_is_wrong_is_named() {
        let read = parse("maxPods: 7\nimageMinimumGCAge: 1m30s\nevictionHard: {memory.available: 5%}").unwrap();
        assert_eq!((read.max_pods, read.image_minimum_gc_age), (7, Duration::from_secs(90)));
        for (fields, part) in [
            ("maxPodz: 7", "\"maxPodz\" is unknown"),
            ("cgroupDriver: systemd", "\"cgroupDriver\" is not supported"),
            ("authentication: {x: {}}", "unknown field `x`"),
            ("imageGCHighThresholdPercent: 101", "between 0 and 100"),
            ("imageGCLowThresholdPercent: 90", "must be less than"),
            ("imageMinimumGCAge: 5", "expected a duration"),
            ("evictionHard: {memory: 5%}", "unknown eviction signal memory"),
            ("evictionSoft: {memory.available: 5%}", "grace period must be specified"),
            ("serializeImagePulls: true\nmaxParallelImagePulls: 3", "cannot be larger than 1"),
            ("systemReserved: {cpu: x}", "quantities"),
            ("enforceNodeAllocatable: [pods]", "is not supported"),
        ] {
            let error = parse(fields).err().unwrap_or_default();
            assert!(error.contains(part), "{fields}: {error}");
        }
        assert!(Configuration::parse("kind: Pod\napiVersion: v1").unwrap_err().0.contains("apiVersion must be"));
    }

    #[test]
    fn drop_ins_are_laid_over_in_the_order_of_their_names() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, fields: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{fields}")).unwrap();
            path
        };
        let file = write("base.yaml", "maxPods: 1\nevictionHard: {memory.available: 1Mi, pid.available: 1%}");
        write("20.conf", "maxPods: 3");
        write("10.conf", "maxPods: 2\nevictionHard: {memory.available: 2Mi}");
        write("30.txt", "maxPods: 4");
        let read = Configuration::load(Some(&file), Some(directory.path())).unwrap();
        let hard = read.eviction_hard.unwrap();
        assert_eq!(
            (read.max_pods, hard["memory.available"].as_str(), hard["pid.available"].as_str()),
            (3, "2Mi", "1%")
        );
    }
}
