//! Upstream's fields that change nothing here: what is taken of them, and why all else is refused.

use serde_json::Value;

/// What is made of a field that has no part in [`super::Configuration`].
#[derive(Clone, Copy, Debug)]
pub enum Taken {
    /// Any value: what it tunes is not there, or does not need it.
    Any,
    /// Only these values, as JSON: they say what is so here. The text says why no other can be.
    Only(&'static [&'static str], &'static str),
}

use Taken::{Any, Only};

/// What a field that is not configured here means, if upstream has it.
pub fn taken(name: &str) -> Option<Taken> {
    OTHERS.iter().find(|(field, _)| *field == name).map(|(_, taken)| *taken)
}

impl Taken {
    /// Why the value cannot be taken.
    pub fn check(self, value: &Value) -> Result<(), &'static str> {
        let Only(values, why) = self else { return Ok(()) };
        let is = |text: &&str| serde_json::from_str::<Value>(text).is_ok_and(|known| known == *value);
        if value.is_null() || values.iter().any(is) { Ok(()) } else { Err(why) }
    }
}

const NONE: &[&str] = &[r#""""#, "[]", "{}"];
const COMMAND: &str = "it is an option of the command";

/// In upstream's order.
const OTHERS: &[(&str, Taken)] = &[
    ("enableServer", Only(&["true"], "the API server needs the kubelet's server")),
    ("podLogsDir", Only(&[r#""/var/log/pods""#], "logs are kept in the data directory")),
    ("syncFrequency", Any),
    ("fileCheckFrequency", Any),
    ("httpCheckFrequency", Any),
    ("staticPodURL", Only(NONE, "static pods are read from a directory only")),
    ("staticPodURLHeader", Only(NONE, "static pods are read from a directory only")),
    ("readOnlyPort", Only(&["0"], "there is no server without authentication")),
    ("tlsCertFile", Only(NONE, "the cluster's own authority signs the server's certificate")),
    ("tlsPrivateKeyFile", Only(NONE, "the cluster's own authority signs the server's certificate")),
    ("tlsCipherSuites", Only(NONE, "only safe suites are served")),
    ("tlsCurvePreferences", Only(NONE, "only safe curves are served")),
    ("tlsMinVersion", Only(&[r#""""#, r#""VersionTLS12""#], "TLS 1.2 is the least that is served")),
    ("rotateCertificates", Any),
    ("serverTLSBootstrap", Only(&["false"], "the cluster's own authority signs the server's certificate")),
    ("registryPullQPS", Any),
    ("registryBurst", Any),
    ("preloadedImagesVerificationAllowlist", Only(NONE, "there is no list of images that are not verified")),
    ("eventRecordQPS", Any),
    ("eventBurst", Any),
    ("enableContentionProfiling", Any),
    ("enableProfilingHandler", Any),
    ("enableDebugFlagsHandler", Any),
    ("enableSystemLogQuery", Only(&["false"], "the system's journal is not read")),
    ("oomScoreAdj", Any),
    ("streamingConnectionIdleTimeout", Any),
    ("volumeStatsAggPeriod", Any),
    ("kubeletCgroups", Only(NONE, "the kubelet stays in the group that it was started in")),
    ("systemCgroups", Only(NONE, "the system's processes stay in the groups that they are in")),
    ("cgroupRoot", Only(&[r#""""#, r#""/""#], "pods' groups are below the cluster's own")),
    ("cgroupsPerQOS", Only(&["true"], "pods have groups by their quality of service")),
    ("cgroupDriver", Only(&[r#""cgroupfs""#], "groups are made without systemd")),
    ("cpuManagerReconcilePeriod", Any),
    ("qosReserved", Only(NONE, "memory is not reserved by quality of service")),
    ("runtimeRequestTimeout", Any),
    ("hairpinMode", Any),
    ("podCIDR", Only(NONE, COMMAND)),
    ("runOnce", Only(&["false"], "the kubelet does not end by itself")),
    ("maxOpenFiles", Any),
    ("contentType", Any),
    ("kubeAPIQPS", Any),
    ("kubeAPIBurst", Any),
    ("enableControllerAttachDetach", Only(&["true"], "controllers attach volumes")),
    ("protectKernelDefaults", Only(&["false"], "the kernel's settings are not judged")),
    ("makeIPTablesUtilChains", Any),
    ("iptablesMasqueradeBit", Any),
    ("iptablesDropBit", Any),
    ("featureGates", Any),
    ("failSwapOn", Any),
    ("containerLogMaxWorkers", Any),
    ("configMapAndSecretChangeDetectionStrategy", Any),
    ("systemReservedCgroup", Any),
    ("kubeReservedCgroup", Any),
    ("showHiddenMetricsForVersion", Any),
    ("volumePluginDir", Any),
    ("kernelMemcgNotification", Any),
    ("logging", Any),
    ("memoryThrottlingFactor", Any),
    ("tracing", Only(NONE, "there are no traces")),
    ("localStorageCapacityIsolation", Only(&["true"], "local storage is always counted")),
    ("containerRuntimeEndpoint", Only(NONE, COMMAND)),
    ("imageServiceEndpoint", Only(NONE, COMMAND)),
];
