//! Which fields there are, so that an unknown one is refused by its path.

use serde_json::Value;

/// The form of a value.
enum Shape {
    Any,
    List(&'static Shape),
    Object(&'static [(&'static str, Shape)]),
    /// A plugin's name and its arguments.
    PluginConfig,
}

use Shape::{Any, List, Object, PluginConfig};

const RESOURCES: Shape = List(&Object(&[("name", Any), ("weight", Any)]));
const POINTS: Shape = List(&Object(&[("utilization", Any), ("score", Any)]));
const EXPRESSIONS: Shape = List(&Object(&[("key", Any), ("operator", Any), ("values", Any)]));
const TERM: Shape = Object(&[("matchExpressions", EXPRESSIONS), ("matchFields", EXPRESSIONS)]);
const NODE_AFFINITY: Shape = Object(&[
    ("requiredDuringSchedulingIgnoredDuringExecution", Object(&[("nodeSelectorTerms", List(&TERM))])),
    ("preferredDuringSchedulingIgnoredDuringExecution", List(&Object(&[("weight", Any), ("preference", TERM)]))),
]);
const SPREAD: Shape = Object(&[
    ("maxSkew", Any),
    ("topologyKey", Any),
    ("whenUnsatisfiable", Any),
    ("labelSelector", Any),
    ("minDomains", Any),
    ("nodeAffinityPolicy", Any),
    ("nodeTaintsPolicy", Any),
    ("matchLabelKeys", Any),
]);
const STRATEGY: Shape =
    Object(&[("type", Any), ("resources", RESOURCES), ("requestedToCapacityRatio", Object(&[("shape", POINTS)]))]);

/// The arguments of the plugins that have any; `kind` and `apiVersion` are always allowed.
const ARGS: [(&str, Shape); 8] = [
    ("DefaultPreemption", Object(&[("minCandidateNodesPercentage", Any), ("minCandidateNodesAbsolute", Any)])),
    ("DynamicResources", Object(&[("filterTimeout", Any), ("bindingTimeout", Any)])),
    ("InterPodAffinity", Object(&[("hardPodAffinityWeight", Any), ("ignorePreferredTermsOfExistingPods", Any)])),
    ("NodeAffinity", Object(&[("addedAffinity", NODE_AFFINITY)])),
    ("NodeResourcesBalancedAllocation", Object(&[("resources", RESOURCES)])),
    (
        "NodeResourcesFit",
        Object(&[("ignoredResources", Any), ("ignoredResourceGroups", Any), ("scoringStrategy", STRATEGY)]),
    ),
    ("PodTopologySpread", Object(&[("defaultConstraints", List(&SPREAD)), ("defaultingType", Any)])),
    ("VolumeBinding", Object(&[("bindTimeoutSeconds", Any), ("shape", POINTS)])),
];

const SET: Shape = Object(&[("enabled", ENTRIES), ("disabled", ENTRIES)]);
const ENTRIES: Shape = List(&Object(&[("name", Any), ("weight", Any)]));
const PLUGINS: Shape = Object(&[
    ("preEnqueue", SET),
    ("queueSort", SET),
    ("preFilter", SET),
    ("filter", SET),
    ("postFilter", SET),
    ("preScore", SET),
    ("score", SET),
    ("reserve", SET),
    ("permit", SET),
    ("preBind", SET),
    ("bind", SET),
    ("postBind", SET),
    ("multiPoint", SET),
]);
const PROFILE: Shape = Object(&[
    ("schedulerName", Any),
    ("percentageOfNodesToScore", Any),
    ("plugins", PLUGINS),
    ("pluginConfig", List(&PluginConfig)),
]);
const EXTENDER: Shape = Object(&[
    ("urlPrefix", Any),
    ("filterVerb", Any),
    ("preemptVerb", Any),
    ("prioritizeVerb", Any),
    ("weight", Any),
    ("bindVerb", Any),
    ("enableHTTPS", Any),
    (
        "tlsConfig",
        Object(&[
            ("insecure", Any),
            ("serverName", Any),
            ("certFile", Any),
            ("keyFile", Any),
            ("caFile", Any),
            ("certData", Any),
            ("keyData", Any),
            ("caData", Any),
        ]),
    ),
    ("httpTimeout", Any),
    ("nodeCacheCapable", Any),
    ("managedResources", List(&Object(&[("name", Any), ("ignoredByScheduler", Any)]))),
    ("ignorable", Any),
]);
const CONFIGURATION: Shape = Object(&[
    ("apiVersion", Any),
    ("kind", Any),
    ("parallelism", Any),
    (
        "leaderElection",
        Object(&[
            ("leaderElect", Any),
            ("leaseDuration", Any),
            ("renewDeadline", Any),
            ("retryPeriod", Any),
            ("resourceLock", Any),
            ("resourceName", Any),
            ("resourceNamespace", Any),
        ]),
    ),
    (
        "clientConnection",
        Object(&[("kubeconfig", Any), ("acceptContentTypes", Any), ("contentType", Any), ("qps", Any), ("burst", Any)]),
    ),
    ("enableProfiling", Any),
    ("enableContentionProfiling", Any),
    ("percentageOfNodesToScore", Any),
    ("podInitialBackoffSeconds", Any),
    ("podMaxBackoffSeconds", Any),
    ("profiles", List(&PROFILE)),
    ("extenders", List(&EXTENDER)),
    ("delayCacheUntilActive", Any),
]);

/// Whether a plugin of this name takes arguments.
pub(crate) fn has_args(plugin: &str) -> bool {
    ARGS.iter().any(|(name, _)| *name == plugin)
}

/// A message for each field that there is not.
pub(super) fn unknown_fields(configuration: &Value) -> Vec<String> {
    let mut unknown = Vec::new();
    walk(configuration, &CONFIGURATION, "", &mut unknown);
    unknown
}

fn walk(value: &Value, shape: &Shape, path: &str, unknown: &mut Vec<String>) {
    match (shape, value) {
        (List(of), Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                walk(item, of, &format!("{path}[{index}]"), unknown);
            }
        }
        (Object(fields), Value::Object(object)) => {
            for (name, value) in object {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match fields.iter().find(|(field, _)| field == name) {
                    Some((_, shape)) => walk(value, shape, &path, unknown),
                    None => unknown.push(format!("unknown field \"{path}\"")),
                }
            }
        }
        (PluginConfig, Value::Object(object)) => {
            for (name, value) in object {
                match &**name {
                    "name" => {}
                    "args" => walk_args(object.get("name").and_then(Value::as_str), value, path, unknown),
                    _ => unknown.push(format!("unknown field \"{path}.{name}\"")),
                }
            }
        }
        _ => {}
    }
}

/// Arguments of plugins that are not built in may be anything.
fn walk_args(plugin: Option<&str>, args: &Value, path: &str, unknown: &mut Vec<String>) {
    let Some((plugin, shape)) = plugin.and_then(|plugin| ARGS.iter().find(|(name, _)| *name == plugin)) else { return };
    let mut args = args.clone();
    if let Value::Object(args) = &mut args {
        args.retain(|name, _| name != "kind" && name != "apiVersion");
    }
    let mut found = Vec::new();
    walk(&args, shape, "", &mut found);
    unknown.extend(
        found
            .into_iter()
            .map(|it| format!("decoding .{path}: strict decoding error: decoding args for plugin {plugin}: {it}")),
    );
}

/// A null is as good as nothing.
pub(super) fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(object) => {
            let fields = object.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(fields.map(|(name, value)| (name, without_nulls(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}
