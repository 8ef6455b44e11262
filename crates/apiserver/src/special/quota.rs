//! ResourceQuota. What an object uses is added to its namespace's quotas in the transaction that stores the object, and taken from
//! them in the one that deletes it: quotas are exact at every revision, whichever server writes, and are never raced.

use std::collections::BTreeMap;

use api::quantity::{Format, Quantity};
use api::{Status, Value};
use bytes::Bytes;
use serde_json::json;
use store::{Entry, Expect, List, Op};

use super::reserve::Reservation;
use crate::rest::{Call, metadata, parse, store_error};

/// Kinds of the core group whose count has a name of its own.
const COUNTED: &[&str] = &[
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
];

/// Whose writes of a status have the quota counted.
const CONTROLLER: &str = "system:serviceaccount:kube-system:resourcequota-controller";

type Amounts = BTreeMap<String, Quantity>;

/// Charges the namespace's quotas with what `new` uses more than `old`.
pub fn reserve(call: &Call, old: Option<&Value>, new: &mut Value, reservation: &mut Reservation) -> Result<(), Status> {
    if !call.kind.namespaced {
        return Ok(());
    }
    if call.kind.group.is_empty() && call.kind.plural == "resourcequotas" && new.is_object() {
        // A status that a client writes stands until the controller has the quota counted again.
        let counts = call.info.subresource.is_empty() || call.user.name == CONTROLLER;
        return if counts { refresh(call, new) } else { Ok(()) };
    }
    let range = format!("/registry/resourcequotas/{}/", call.info.namespace);
    let page = call.server.store.list(&range, List::default()).map_err(store_error)?;
    if page.entries.is_empty() {
        return Ok(());
    }
    let nothing = Value::Null;
    let old = old.unwrap_or(&nothing);
    for entry in &page.entries {
        charge(call, entry, old, new, reservation)?;
    }
    Ok(())
}

fn charge(call: &Call, entry: &Entry, old: &Value, new: &Value, reservation: &mut Reservation) -> Result<(), Status> {
    let mut quota = parse(&entry.value)?;
    let hard = amounts(&quota["spec"]["hard"]);
    let (before, after) = (usage(call, &quota, old), usage(call, &quota, new));
    let mut used = amounts(&quota["status"]["used"]);
    let name = metadata::text(&quota, "name").to_owned();
    let (mut over, mut changed) = (Vec::new(), false);
    for (resource, limit) in &hard {
        let zero = Quantity::new(0, Format::DecimalSi);
        let more = after.get(resource).copied().unwrap_or(zero) - before.get(resource).copied().unwrap_or(zero);
        if more.is_zero() {
            continue;
        }
        let current = used.get(resource).copied().unwrap_or(zero);
        let next = current + more;
        if more.sign() > 0 && next > *limit {
            over.push((resource.clone(), more, current, *limit));
        }
        used.insert(resource.clone(), if next.sign() < 0 { zero } else { next });
        changed = true;
    }
    if !over.is_empty() {
        let list = |pick: fn(&(String, Quantity, Quantity, Quantity)) -> Quantity| {
            over.iter().map(|o| format!("{}={}", o.0, pick(o))).collect::<Vec<_>>().join(",")
        };
        let why = format!(
            "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
            list(|o| o.1),
            list(|o| o.2),
            list(|o| o.3)
        );
        return Err(Status::forbidden(&call.kind.group, &call.kind.plural, metadata::text(new, "name"), &why));
    }
    if old.is_null() && call.kind.plural == "pods" {
        specified(&name, &hard, &quota, new)?;
    }
    if changed {
        quota["status"]["hard"] = quota["spec"]["hard"].clone();
        quota["status"]["used"] = text(&used);
        let bytes = Bytes::from(api::codec::stored::encode(&quota));
        reservation.push(Expect::Modified(entry.modified), Op::put(entry.key.clone(), bytes));
    }
    Ok(())
}

/// A quota of a compute resource wants every container to say how much of it it needs.
fn specified(name: &str, hard: &Amounts, quota: &Value, pod: &Value) -> Result<(), Status> {
    if !applies(quota, pod) {
        return Ok(());
    }
    let mut missing = Vec::new();
    for resource in hard.keys() {
        let (field, plain) = match resource.split_once('.') {
            Some(("requests", rest)) => ("requests", rest),
            Some(("limits", rest)) => ("limits", rest),
            None if matches!(resource.as_str(), "cpu" | "memory") => ("requests", resource.as_str()),
            _ => continue,
        };
        if !matches!(plain, "cpu" | "memory") {
            continue;
        }
        let mut without = Vec::new();
        for container in pod["spec"]["containers"].as_array().into_iter().flatten() {
            if container["resources"][field].get(plain).is_none() {
                without.push(container["name"].as_str().unwrap_or(""));
            }
        }
        if !without.is_empty() {
            missing.push(format!("{resource} for: {}", without.join(",")));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let why = format!("failed quota: {name}: must specify {}", missing.join("; "));
    Err(Status::forbidden("", "pods", metadata::text(pod, "name"), &why))
}

/// A quota that is written is told what is used at that revision, whatever its status said.
fn refresh(call: &Call, quota: &mut Value) -> Result<(), Status> {
    let hard = amounts(&quota["spec"]["hard"]);
    let mut used: Amounts =
        hard.keys().map(|resource| (resource.clone(), Quantity::new(0, Format::DecimalSi))).collect();
    let catalog = call.server.catalog.load();
    for kind in catalog.iter().filter(|k| k.namespaced && k.has_verb("list") && catalog.stored(k).version == k.version)
    {
        let other = call.of(kind.clone(), &call.info.namespace, "");
        let page = call
            .server
            .store
            .list(&crate::rest::prefix(kind, &call.info.namespace), List::default())
            .map_err(store_error)?;
        for entry in page.entries {
            for (resource, amount) in usage(&other, quota, &parse(&entry.value)?) {
                if let Some(sum) = used.get_mut(&resource) {
                    *sum += amount;
                }
            }
        }
    }
    quota["status"]["hard"] = quota["spec"]["hard"].clone();
    quota["status"]["used"] = text(&used);
    Ok(())
}

fn amounts(list: &Value) -> Amounts {
    let parsed = list.as_object().into_iter().flatten();
    parsed.filter_map(|(name, value)| Some((name.clone(), quantity(value)?))).collect()
}

fn text(amounts: &Amounts) -> Value {
    amounts.iter().map(|(name, amount)| (name.clone(), json!(amount.to_string()))).collect()
}

fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
    }
}

/// What an object uses of a quota; nothing where it is none or the quota is not for it.
fn usage(call: &Call, quota: &Value, object: &Value) -> Amounts {
    let mut used = Amounts::new();
    if !object.is_object() {
        return used;
    }
    let (group, plural) = (&*call.kind.group, &*call.kind.plural);
    let one = Quantity::new(1, Format::DecimalSi);
    if plural == "pods" && group.is_empty() && !applies(quota, object) {
        return used;
    }
    if !group.is_empty() || plural != "pods" || !ended(object) {
        used.insert(format!("count/{}", api::status::qualified(group, plural)), one);
    }
    if !group.is_empty() {
        return used;
    }
    if COUNTED.contains(&plural) && (plural != "pods" || !ended(object)) {
        used.insert(plural.to_owned(), one);
    }
    match plural {
        "pods" if !ended(object) => pod(object, &mut used),
        "services" => service(object, &mut used),
        "persistentvolumeclaims" => claim(object, &mut used),
        _ => {}
    }
    used
}

fn ended(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

fn pod(pod: &Value, used: &mut Amounts) {
    for field in ["requests", "limits"] {
        let sum = |list: &Value| -> Amounts {
            let mut sums = Amounts::new();
            for container in list.as_array().into_iter().flatten() {
                for (name, amount) in amounts(&container["resources"][field]) {
                    sums.entry(name).and_modify(|sum| *sum += amount).or_insert(amount);
                }
            }
            sums
        };
        let mut all = sum(&pod["spec"]["containers"]);
        // Init containers run one after another, before the others.
        for container in pod["spec"]["initContainers"].as_array().into_iter().flatten() {
            for (name, amount) in amounts(&container["resources"][field]) {
                all.entry(name).and_modify(|sum| *sum = (*sum).max(amount)).or_insert(amount);
            }
        }
        for (name, amount) in amounts(&pod["spec"]["overhead"]) {
            all.entry(name).and_modify(|sum| *sum += amount).or_insert(amount);
        }
        for (name, amount) in all {
            if field == "requests" && !name.contains('/') {
                used.insert(name.clone(), amount);
            }
            used.insert(format!("{field}.{name}"), amount);
        }
    }
}

fn service(service: &Value, used: &mut Amounts) {
    let spec = &service["spec"];
    let kind = spec["type"].as_str().unwrap_or("ClusterIP");
    let ports = spec["ports"].as_array().map_or(0, Vec::len);
    let count = |n: usize| Quantity::new(i64::try_from(n).unwrap_or(i64::MAX), Format::DecimalSi);
    if kind == "LoadBalancer" {
        used.insert("services.loadbalancers".to_owned(), count(1));
    }
    if kind == "NodePort" || kind == "LoadBalancer" && spec["allocateLoadBalancerNodePorts"] != false {
        used.insert("services.nodeports".to_owned(), count(ports));
    }
}

fn claim(claim: &Value, used: &mut Amounts) {
    let class = claim["spec"]["storageClassName"].as_str().unwrap_or("");
    if let Some(amount) = quantity(&claim["spec"]["resources"]["requests"]["storage"]) {
        used.insert("requests.storage".to_owned(), amount);
        if !class.is_empty() {
            used.insert(format!("{class}.storageclass.storage.k8s.io/requests.storage"), amount);
        }
    }
    if !class.is_empty() {
        let name = format!("{class}.storageclass.storage.k8s.io/persistentvolumeclaims");
        used.insert(name, Quantity::new(1, Format::DecimalSi));
    }
}

/// Whether the quota's scopes take the pod in.
fn applies(quota: &Value, pod: &Value) -> bool {
    let spec = &pod["spec"];
    let best_effort = || {
        let mut containers = spec["containers"]
            .as_array()
            .into_iter()
            .flatten()
            .chain(spec["initContainers"].as_array().into_iter().flatten());
        containers
            .all(|c| ["requests", "limits"].iter().all(|f| c["resources"][*f].as_object().is_none_or(|m| m.is_empty())))
    };
    let is = |scope: &str| match scope {
        "Terminating" => spec["activeDeadlineSeconds"].as_i64().is_some_and(|s| s >= 0),
        "NotTerminating" => spec["activeDeadlineSeconds"].as_i64().is_none(),
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "CrossNamespacePodAffinity" => reaches_out(spec),
        "PriorityClass" => spec["priorityClassName"].as_str().is_some_and(|name| !name.is_empty()),
        _ => true,
    };
    let scopes = quota["spec"]["scopes"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let expressions = quota["spec"]["scopeSelector"]["matchExpressions"].as_array().into_iter().flatten();
    let holds = |expression: &Value| {
        let scope = expression["scopeName"].as_str().unwrap_or("");
        let class = spec["priorityClassName"].as_str().unwrap_or("");
        let listed = || expression["values"].as_array().into_iter().flatten().any(|v| v == class);
        match expression["operator"].as_str().unwrap_or("Exists") {
            "In" if scope == "PriorityClass" => listed(),
            "NotIn" if scope == "PriorityClass" => !listed(),
            "DoesNotExist" => !is(scope),
            _ => is(scope),
        }
    };
    scopes.into_iter().all(is) && expressions.into_iter().all(holds)
}

/// Whether a pod's rules of affinity look at pods of other namespaces.
fn reaches_out(spec: &Value) -> bool {
    let rules = ["podAffinity", "podAntiAffinity"].map(|kind| &spec["affinity"][kind]);
    let terms = rules.into_iter().flat_map(|rules| {
        let list = |field: &str| rules[field].as_array().into_iter().flatten();
        let preferred = list("preferredDuringSchedulingIgnoredDuringExecution").map(|term| &term["podAffinityTerm"]);
        list("requiredDuringSchedulingIgnoredDuringExecution").chain(preferred)
    });
    let reaches = |term: &Value| {
        term["namespaces"].as_array().is_some_and(|names| !names.is_empty()) || term["namespaceSelector"].is_object()
    };
    terms.into_iter().any(reaches)
}
