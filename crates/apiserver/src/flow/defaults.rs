//! The objects of priority and fairness that every cluster has, as upstream defines them: those that are mandatory, and those
//! that are kept up to date until somebody says otherwise.

use api::Value;
use serde_json::{Map, json};

const API_VERSION: &str = "flowcontrol.apiserver.k8s.io/v1";
/// While this annotation is `true` the spec is ours.
pub const AUTOUPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// An object that is always there.
pub struct Always {
    pub object: Value,
    /// Its spec is nobody else's to change.
    pub mandatory: bool,
}

/// Name, shares, lendable percent; queues, hand size and length of a queue.
const LEVELS: &[(&str, u32, u32, [u32; 3])] = &[
    ("system", 40, 50, [64, 6, 50]),
    ("node-high", 60, 50, [64, 6, 50]),
    ("leader-election", 50, 80, [16, 4, 50]),
    ("workload-high", 40, 50, [128, 6, 50]),
    ("workload-low", 40, 75, [128, 6, 50]),
    ("global-default", 10, 50, [128, 6, 50]),
];

/// Name, level, precedence, distinguisher, subjects, and what the rules allow: everything, or `verbs groups resources namespace`.
type Schema = (&'static str, &'static str, u32, &'static str, &'static [&'static str], &'static [&'static str]);

const EVERYTHING: &[&str] = &[];
const LEASES: &str = "get,create,update coordination.k8s.io leases *";
const SCHEMAS: &[Schema] = &[
    ("exempt", "exempt", 1, "", &["Group system:masters"], EVERYTHING),
    ("probes", "exempt", 2, "", ALL_USERS, &["get /healthz,/readyz,/livez"]),
    (
        "system-leader-election",
        "leader-election",
        100,
        "ByUser",
        &["User system:kube-controller-manager", "User system:kube-scheduler", "ServiceAccount *"],
        &[LEASES],
    ),
    (
        "endpoint-controller",
        "workload-high",
        150,
        "ByUser",
        &[
            "User system:kube-controller-manager",
            "ServiceAccount endpoint-controller",
            "ServiceAccount endpointslicemirroring-controller",
        ],
        &["get,create,update - endpoints *"],
    ),
    (
        "workload-leader-election",
        "leader-election",
        200,
        "ByUser",
        &["ServiceAccount *"],
        &["get,create,update - endpoints,configmaps *", LEASES],
    ),
    (
        "system-node-high",
        "node-high",
        400,
        "ByUser",
        &["Group system:nodes"],
        &["* - nodes,nodes/status * cluster", "* coordination.k8s.io leases *"],
    ),
    (
        "events",
        "event",
        450,
        "ByUser",
        &["Group system:authenticated"],
        &["create,update,patch,delete -,events.k8s.io events *"],
    ),
    ("system-nodes", "system", 500, "ByUser", &["Group system:nodes"], EVERYTHING),
    (
        "kube-controller-manager",
        "workload-high",
        800,
        "ByNamespace",
        &["User system:kube-controller-manager"],
        EVERYTHING,
    ),
    ("kube-scheduler", "workload-high", 800, "ByNamespace", &["User system:kube-scheduler"], EVERYTHING),
    ("kube-system-service-accounts", "workload-high", 900, "ByNamespace", &["ServiceAccount *"], EVERYTHING),
    ("service-accounts", "workload-low", 9000, "ByUser", &["Group system:serviceaccounts"], EVERYTHING),
    ("global-default", "global-default", 9900, "ByUser", ALL_USERS, EVERYTHING),
    ("catch-all", "catch-all", 10_000, "ByUser", ALL_USERS, EVERYTHING),
];
const ALL_USERS: &[&str] = &["Group system:unauthenticated", "Group system:authenticated"];

/// All of them, levels before the schemas that refer to them.
pub fn all() -> Vec<Always> {
    let queue = |shares: u32, lendable: u32, [queues, hand, length]: [u32; 3]| {
        json!({
            "nominalConcurrencyShares": shares, "lendablePercent": lendable,
            "limitResponse": {"type": "Queue", "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": length}},
        })
    };
    let limited = |limited: Value| json!({"type": "Limited", "limited": limited});
    let mut event = queue(5, 0, [31, 3, 50]);
    event["borrowingLimitPercent"] = 100.into();
    let reject = json!({"nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"}});
    let exempt = json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}});
    let mut levels = vec![("exempt", exempt), ("catch-all", limited(reject)), ("event", limited(event))];
    levels.extend(LEVELS.iter().map(|(name, shares, lendable, q)| (*name, limited(queue(*shares, *lendable, *q)))));
    let levels = levels.into_iter().map(|(name, spec)| object("PriorityLevelConfiguration", name, spec));
    levels.chain(SCHEMAS.iter().map(|schema| object("FlowSchema", schema.0, spec(schema)))).collect()
}

fn object(kind: &str, name: &str, spec: Value) -> Always {
    Always {
        object: json!({
            "apiVersion": API_VERSION, "kind": kind,
            "metadata": {"name": name, "annotations": {AUTOUPDATE: "true"}}, "spec": spec,
        }),
        mandatory: matches!(name, "exempt" | "catch-all"),
    }
}

fn spec((_, level, precedence, distinguisher, subjects, rules): &Schema) -> Value {
    let subject = |text: &&str| {
        let (kind, name) = text.split_once(' ').unwrap_or((text, ""));
        match kind {
            "User" => json!({"kind": kind, "user": {"name": name}}),
            "Group" => json!({"kind": kind, "group": {"name": name}}),
            _ => json!({"kind": kind, "serviceAccount": {"namespace": "kube-system", "name": name}}),
        }
    };
    let mut rule = Map::new();
    rule.insert("subjects".to_owned(), subjects.iter().map(subject).collect());
    let resources = if rules.is_empty() { &["* * * * cluster"][..] } else { rules };
    let paths = if rules.is_empty() { &["* *"][..] } else { rules };
    let words = |text: &&str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
    let list = |text: &str| -> Value { text.split(',').map(|t| if t == "-" { "" } else { t }).collect() };
    let resources = resources.iter().map(words).filter(|w| w.len() > 2).map(|w| {
        let mut rule =
            json!({"verbs": list(&w[0]), "apiGroups": list(&w[1]), "resources": list(&w[2]), "namespaces": list(&w[3])});
        if w.len() > 4 {
            rule["clusterScope"] = true.into();
        }
        rule
    });
    let paths = paths.iter().map(words).filter(|w| w.len() == 2);
    let paths = paths.map(|w| json!({"verbs": list(&w[0]), "nonResourceURLs": list(&w[1])}));
    for (field, rules) in [("resourceRules", resources.collect()), ("nonResourceRules", paths.collect::<Vec<_>>())] {
        if !rules.is_empty() {
            rule.insert(field.to_owned(), Value::Array(rules));
        }
    }
    let mut spec = json!({
        "priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": [rule],
    });
    if !distinguisher.is_empty() {
        spec["distinguisherMethod"] = json!({"type": distinguisher});
    }
    spec
}
