//! Requests, limits and the quality of service that follows from them.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde_json::Value;

use crate::kinds::access::{at, entries, has, list, section, text};
use crate::quantity::Quantity;
use crate::validation::{Errors, Path, names};

/// The quantity that a value holds; zero where it holds none.
pub fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
    }
}

/// Whether a quantity is above zero.
pub fn positive(value: &Value) -> bool {
    quantity(value).is_some_and(|q| !q.is_zero() && q.milli_value() >= 0)
}

/// Whether a quantity is below zero.
pub fn negative(value: &Value) -> bool {
    quantity(value).is_some_and(|q| q.value() < 0 || q.milli_value() < 0)
}

/// The sizes of two quantities compared, where both are quantities.
pub fn compare(left: &Value, right: &Value) -> Option<Ordering> {
    Some(quantity(left)?.cmp(&quantity(right)?))
}

/// `Guaranteed`, `Burstable` or `BestEffort`, from the requests and limits of CPU and memory.
pub fn qos_class(spec: &Value) -> &'static str {
    const COUNTED: [&str; 2] = ["cpu", "memory"];
    let level = at(spec, "resources");
    let owners: Vec<&Value> = if ["requests", "limits"].iter().any(|kind| entries(level, kind).next().is_some()) {
        vec![level]
    } else {
        ["containers", "initContainers"].iter().flat_map(|name| list(spec, name)).map(|c| at(c, "resources")).collect()
    };
    let of = |owner: &Value, kind: &str, name: &str| owner.get(kind).and_then(|k| k.get(name)).is_some_and(positive);
    let any =
        owners.iter().any(|owner| COUNTED.iter().any(|name| of(owner, "requests", name) || of(owner, "limits", name)));
    if !any {
        return "BestEffort";
    }
    let guaranteed = owners.iter().all(|owner| {
        COUNTED.iter().all(|name| {
            let limit = &owner["limits"][*name];
            let request = &owner["requests"][*name];
            positive(limit) && (request.is_null() || compare(request, limit) == Some(Ordering::Equal))
        })
    });
    if guaranteed { "Guaranteed" } else { "Burstable" }
}

/// What a pod requests of everything, or is limited to (`requests` or `limits`): its containers and sidecars together, or an init
/// container beside the sidecars before it where that is more; of what the pod itself says that. Without its overhead.
pub fn totals(spec: &Value, field: &str) -> BTreeMap<String, Quantity> {
    let of = |owner: &Value| -> Vec<(String, Quantity)> {
        let all = entries(at(owner, "resources"), field);
        all.filter_map(|(resource, value)| Some((resource.clone(), quantity(value)?))).collect()
    };
    let mut peak: BTreeMap<String, Quantity> = BTreeMap::new();
    let mut running: BTreeMap<String, Quantity> = BTreeMap::new();
    for container in list(spec, "initContainers") {
        let stays = text(container, "restartPolicy") == "Always";
        for (resource, amount) in of(container) {
            let beside = running.get(&resource).map_or(amount, |sum| *sum + amount);
            peak.entry(resource.clone()).and_modify(|most| *most = (*most).max(beside)).or_insert(beside);
            if stays {
                running.insert(resource, beside);
            }
        }
    }
    for (resource, amount) in list(spec, "containers").iter().flat_map(of) {
        running.entry(resource).and_modify(|sum| *sum += amount).or_insert(amount);
    }
    for (resource, sum) in running {
        peak.entry(resource).and_modify(|most| *most = (*most).max(sum)).or_insert(sum);
    }
    let of_pod = |resource: &str| matches!(resource, "cpu" | "memory") || resource.starts_with("hugepages-");
    peak.extend(of(spec).into_iter().filter(|(resource, _)| of_pod(resource)));
    peak
}

/// A pod's own limits, where it has any, give it requests: what its containers request together, else the limits.
pub fn default_pod_requests(spec: &mut Value) {
    if entries(spec, "resources.limits").next().is_none() {
        return;
    }
    let mut filled: Vec<(String, Value)> = Vec::new();
    for name in ["cpu", "memory"] {
        if has(spec, &format!("resources.requests.{name}")) {
            continue;
        }
        let requested = container_requests(spec, name);
        if let Some(total) = requested {
            filled.push((name.to_owned(), total.into()));
        } else if let Some(limit) = at(spec, "resources.limits").get(name) {
            filled.push((name.to_owned(), limit.clone()));
        }
    }
    for (name, limit) in entries(spec, "resources.limits").filter(|(name, _)| name.starts_with("hugepages-")) {
        if at(spec, "resources.requests").get(name).is_none() {
            filled.push((name.clone(), limit.clone()));
        }
    }
    if !filled.is_empty()
        && let Some(requests) = section(spec, "resources.requests")
    {
        requests.extend(filled);
    }
}

/// The effective request of all containers together: sidecars and containers run at once, another init container beside the
/// sidecars before it. `None` where nobody requests the resource.
fn container_requests(spec: &Value, name: &str) -> Option<String> {
    let of = |container: &Value| {
        let value = at(container, "resources.requests").get(name)?;
        let quantity = quantity(value)?;
        Some(if name == "cpu" { quantity.milli_value() } else { quantity.value() })
    };
    let all = || ["initContainers", "containers"].iter().flat_map(|list_name| list(spec, list_name));
    if !all().any(|container| of(container).is_some()) {
        return None;
    }
    let (mut sidecars, mut peak) = (0, 0);
    for container in list(spec, "initContainers") {
        let request = of(container).unwrap_or_default();
        if text(container, "restartPolicy") == "Always" {
            sidecars += request;
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars + request);
        }
    }
    let running: i64 = list(spec, "containers").iter().filter_map(of).sum();
    let total = peak.max(sidecars + running);
    Some(match name {
        "cpu" if total % 1000 != 0 => format!("{total}m"),
        "cpu" => (total / 1000).to_string(),
        _ => total.to_string(),
    })
}

/// Requests and limits of a container or of a pod.
pub fn requirements(resources: &Value, path: &Path, pod_level: bool, errors: &mut Errors) {
    let (at_limits, at_requests) = (path.child("limits"), path.child("requests"));
    for (at_kind, kind) in [(&at_limits, "limits"), (&at_requests, "requests")] {
        for (name, value) in entries(resources, kind) {
            let path = at_kind.key(name);
            resource_name(name, &path, pod_level, errors);
            amount(name, value, &path, errors);
        }
    }
    let limits = at(resources, "limits");
    for (name, request) in entries(resources, "requests") {
        let Some(limit) = limits.get(name) else {
            if !overcommits(name) {
                errors.required(at_limits, "Limit must be set for non overcommitable resources");
            }
            continue;
        };
        let order = compare(request, limit);
        if !overcommits(name) && order != Some(Ordering::Equal) {
            let shown = shown(request);
            errors.invalid(
                at_requests,
                shown.as_str(),
                format!("must be equal to {name} limit of {}", self::shown(limit)),
            );
        } else if order == Some(Ordering::Greater) {
            let shown = shown(request);
            let why = format!("must be less than or equal to {name} limit of {}", self::shown(limit));
            errors.invalid(at_requests, shown.as_str(), why);
        }
    }
    let huge = |kind: &str| entries(resources, kind).any(|(name, _)| name.starts_with("hugepages-"));
    let usual = |kind: &str| entries(resources, kind).any(|(name, _)| name == "cpu" || name == "memory");
    if (huge("limits") || huge("requests")) && !usual("limits") && !usual("requests") {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
}

/// A quantity as errors show it.
pub fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Whether more may be limited than is requested: so it is of upstream's own resources but huge pages.
fn overcommits(name: &str) -> bool {
    is_native(name) && !name.starts_with("hugepages-")
}

/// Whether a resource is one of Kubernetes' own: it has no domain, or kubernetes.io's.
pub fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn resource_name(name: &str, path: &Path, pod_level: bool, errors: &mut Errors) {
    if pod_level && !matches!(name, "cpu" | "memory") && !name.starts_with("hugepages-") {
        errors.not_supported(path, name, &["cpu", "hugepages-", "memory"]);
        return;
    }
    let messages = names::qualified_name(name);
    if !messages.is_empty() {
        errors.all_invalid(path, name, messages);
    } else if !name.contains('/')
        && !matches!(name, "cpu" | "memory" | "ephemeral-storage")
        && !name.starts_with("hugepages-")
    {
        errors.invalid(path, name, "must be a standard resource for containers");
    }
}

/// An entry of a list of resources that containers may have.
pub fn named_amount(name: &str, value: &Value, path: &Path, errors: &mut Errors) {
    resource_name(name, path, false, errors);
    amount(name, value, path, errors);
}

/// Upstream's `validateBasicResource`: not below zero.
pub fn basic(value: &Value, path: &Path, errors: &mut Errors) {
    if let Some(amount) = quantity(value).map(|q| q.value()).filter(|amount| *amount < 0) {
        errors.invalid(path, amount, "must be a valid resource quantity");
    }
}

/// A quantity above zero.
pub fn above_zero(value: &Value, path: &Path, errors: &mut Errors) {
    if !positive(value) {
        errors.invalid(path, shown(value).as_str(), "must be greater than zero");
    }
}

/// The amount of a resource; extended resources come whole.
pub fn amount(name: &str, value: &Value, path: &Path, errors: &mut Errors) {
    if negative(value) {
        errors.invalid(path, shown(value).as_str(), "must be greater than or equal to 0");
    }
    if !is_native(name) && quantity(value).is_some_and(|q| q.milli_value() % 1000 != 0) {
        errors.invalid(path, shown(value).as_str(), "must be an integer");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_needs_the_most_that_runs_at_once() {
        let with = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu, "example.com/x": "1"}}});
        let mut sidecar = with("1");
        sidecar["restartPolicy"] = "Always".into();
        let mut spec = json!({"initContainers": [with("2"), sidecar, with("5")], "containers": [with("3"), with("1")]});
        let texts = |spec: &Value| -> Vec<String> {
            totals(spec, "requests").into_iter().map(|(name, sum)| format!("{name}={sum}")).collect()
        };
        assert_eq!(texts(&spec), ["cpu=6", "example.com/x=3"]);
        spec["resources"] = json!({"requests": {"cpu": "4", "example.com/x": "9"}});
        assert_eq!(texts(&spec), ["cpu=4", "example.com/x=3"]);
    }
}
