//! What an object uses of a quota.

use api::Value;
use api::kind::Kind;
use api::kinds::pods::resources::{quantity, totals};
use api::quantity::{Format, Quantity};

use super::scopes::take_in;
use super::{Amounts, amounts, text};
use crate::clock;
use crate::rest::metadata;

/// Kinds of the core group whose count has a name of its own.
const COUNTED: &[&str] =
    &["services", "replicationcontrollers", "resourcequotas", "secrets", "configmaps", "persistentvolumeclaims"];
/// How many devices a request for all of them is taken to get, at most.
const ALL_DEVICES: i64 = 32;

fn count(n: i64) -> Quantity {
    Quantity::new(n, Format::DecimalSi)
}

/// What an object uses; nothing where it is none or the quota is not for it. `now` is in seconds since 1970.
pub fn of(kind: &Kind, quota: &Value, object: &Value, now: i64) -> Amounts {
    let mut used = Amounts::new();
    if !object.is_object() || !take_in(quota, kind, object) {
        return used;
    }
    let (group, plural) = (&*kind.group, &*kind.plural);
    used.insert(format!("count/{}", api::status::qualified(group, plural)), count(1));
    if group.is_empty() && COUNTED.contains(&plural) {
        used.insert(plural.to_owned(), count(1));
    }
    match (group, plural) {
        ("", "pods") if runs(object, now) => pod(object, &mut used),
        ("", "services") => service(object, &mut used),
        ("", "persistentvolumeclaims") => claim(object, &mut used),
        ("resource.k8s.io", "resourceclaims") => devices(object, &mut used),
        _ => {}
    }
    used
}

/// Whether it is pods that use the resource.
pub fn is_of_pods(resource: &str) -> bool {
    match resource.split_once('.') {
        Some(("requests", what)) => what != "storage",
        Some(("limits", _)) => true,
        Some(_) => false,
        None => {
            matches!(resource, "pods" | "count/pods" | "cpu" | "memory" | "ephemeral-storage")
                || resource.starts_with("hugepages-")
        }
    }
}

/// Whether a pod has neither ended nor should have ended.
fn runs(pod: &Value, now: i64) -> bool {
    !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) && !overdue(pod, now)
}

/// Whether a pod was to be gone by now: its node may be lost, and nobody is to wait for it.
pub fn overdue(pod: &Value, now: i64) -> bool {
    let grace = pod["metadata"]["deletionGracePeriodSeconds"].as_i64();
    let until = clock::parse(metadata::text(pod, "deletionTimestamp"));
    until.zip(grace).is_some_and(|(until, grace)| now > until.saturating_add(grace))
}

fn pod(pod: &Value, used: &mut Amounts) {
    used.insert("pods".to_owned(), count(1));
    let spec = &held(pod);
    let (mut requests, mut limits) = (totals(spec, "requests"), totals(spec, "limits"));
    for (name, amount) in amounts(&spec["overhead"]) {
        if let Some(limit) = limits.get_mut(&name).filter(|limit| !limit.is_zero()) {
            *limit += amount;
        }
        requests.entry(name).and_modify(|sum| *sum += amount).or_insert(amount);
    }
    for (name, amount) in requests {
        if !name.contains('/') {
            used.insert(name.clone(), amount);
        }
        used.insert(format!("requests.{name}"), amount);
    }
    used.extend(limits.into_iter().map(|(name, amount)| (format!("limits.{name}"), amount)));
}

/// The spec with what the containers hold: while they are resized the larger of what is wanted and what they have, and what they
/// have where their node can never give what is wanted.
fn held(pod: &Value) -> Value {
    let (mut spec, status) = (pod["spec"].clone(), &pod["status"]);
    let mut conditions = status["conditions"].as_array().into_iter().flatten();
    let never = conditions.any(|c| c["type"] == "PodResizePending" && c["reason"] == "Infeasible");
    for (containers, statuses) in [("containers", "containerStatuses"), ("initContainers", "initContainerStatuses")] {
        for container in spec[containers].as_array_mut().into_iter().flatten() {
            let mut statuses = status[statuses].as_array().into_iter().flatten();
            let Some(has) = statuses.find(|has| has["name"] == container["name"]) else { continue };
            if !has["resources"].is_object() {
                continue;
            }
            let resources = &has["resources"];
            for (field, given) in [
                ("requests", vec![&resources["requests"], &has["allocatedResources"]]),
                ("limits", vec![&resources["limits"]]),
            ] {
                let wanted = if never { Amounts::new() } else { amounts(&container["resources"][field]) };
                let most = given.into_iter().flat_map(amounts).fold(wanted, |mut most, (name, amount)| {
                    most.entry(name).and_modify(|most| *most = (*most).max(amount)).or_insert(amount);
                    most
                });
                container["resources"][field] = text(&most);
            }
        }
    }
    spec
}

fn service(service: &Value, used: &mut Amounts) {
    let spec = &service["spec"];
    let kind = spec["type"].as_str().unwrap_or("ClusterIP");
    let ports = || spec["ports"].as_array().into_iter().flatten();
    let all = i64::try_from(ports().count()).unwrap_or(i64::MAX);
    let chosen = ports().filter(|port| port["nodePort"].as_i64().unwrap_or(0) != 0).count();
    match kind {
        "LoadBalancer" => {
            let given = spec["allocateLoadBalancerNodePorts"] != false;
            let ports = if given { all } else { i64::try_from(chosen).unwrap_or(i64::MAX) };
            used.insert("services.nodeports".to_owned(), count(ports));
            used.insert("services.loadbalancers".to_owned(), count(1));
        }
        "NodePort" => drop(used.insert("services.nodeports".to_owned(), count(all))),
        _ => {}
    }
}

fn claim(claim: &Value, used: &mut Amounts) {
    let annotation = &claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"];
    let class = annotation.as_str().or(claim["spec"]["storageClassName"].as_str()).unwrap_or("");
    // Whole bytes.
    let whole = |amount: Quantity| Quantity::new(amount.value(), amount.format());
    let allocated = quantity(&claim["status"]["allocatedResources"]["storage"]);
    let asked = quantity(&claim["spec"]["resources"]["requests"]["storage"]);
    let size = asked.map(|asked| whole(allocated.map_or(asked, |allocated| allocated.max(asked))));
    let of_class = |resource: &str| format!("{class}.storageclass.storage.k8s.io/{resource}");
    if let Some(size) = size {
        used.insert("requests.storage".to_owned(), size);
    }
    if !class.is_empty() {
        used.insert(of_class("persistentvolumeclaims"), count(1));
        used.extend(size.map(|size| (of_class("requests.storage"), size)));
    }
}

/// The devices of each class that a resource claim may get.
fn devices(claim: &Value, used: &mut Amounts) {
    let of_request = |request: &Value| {
        let number = match request["allocationMode"].as_str() {
            Some("All") => ALL_DEVICES,
            _ => request["count"].as_i64().unwrap_or(1),
        };
        let class = request["deviceClassName"].as_str().unwrap_or("");
        (format!("{class}.deviceclass.resource.k8s.io/devices"), count(number))
    };
    for request in claim["spec"]["devices"]["requests"].as_array().into_iter().flatten() {
        let mut wanted = Amounts::new();
        match request["firstAvailable"].as_array().filter(|any| !any.is_empty()) {
            // Of alternatives the worst is counted, for each class.
            Some(any) => any.iter().map(of_request).for_each(|(class, number)| {
                wanted.entry(class).and_modify(|most| *most = (*most).max(number)).or_insert(number);
            }),
            None => wanted.extend([of_request(&request["exactly"])]),
        }
        for (class, number) in wanted {
            used.entry(class).and_modify(|sum| *sum += number).or_insert(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn used(path: &str, object: Value) -> Vec<String> {
        let (group, plural) = path.rsplit_once('/').unwrap_or(("", path));
        let registry = api::kind::Registry::builtin();
        let kind = registry.get(group, "v1", plural).expect("a kind");
        of(kind, &json!({}), &object, 1_000_000_000)
            .into_iter()
            .map(|(name, amount)| format!("{name}={amount}"))
            .collect()
    }

    #[test]
    fn pods_use_what_runs_at_once_until_they_have_ended_or_should_have() {
        let needs =
            |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu, "example.com/x": "1"}}});
        let pod = |status: Value, metadata: Value| {
            json!({"metadata": metadata, "status": status,
                "spec": {"overhead": {"cpu": "100m"}, "initContainers": [needs("3")], "containers": [needs("1"), needs("1")]}})
        };
        assert_eq!(
            used("pods", pod(json!({}), json!({}))),
            ["count/pods=1", "cpu=3100m", "limits.cpu=3100m", "limits.example.com/x=2", "pods=1", "requests.cpu=3100m"]
        );
        assert_eq!(used("pods", pod(json!({"phase": "Failed"}), json!({}))), ["count/pods=1"]);
        let late = json!({"deletionTimestamp": "2001-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30});
        assert_eq!(used("pods", pod(json!({"phase": "Running"}), late)), ["count/pods=1"]);
    }

    #[test]
    fn pods_that_are_resized_use_the_larger_of_what_they_want_and_have() {
        let cpu = |cpu: &str| json!({"requests": {"cpu": cpu}, "limits": {"cpu": cpu}});
        let pod = |conditions: Value| {
            json!({"spec": {"containers": [{"name": "a", "resources": cpu("1")}, {"name": "b", "resources": cpu("5")}]},
                "status": {"conditions": conditions, "containerStatuses": [
                    {"name": "a", "resources": cpu("2"), "allocatedResources": {"cpu": "3"}}, {"name": "b", "resources": cpu("4")}]}})
        };
        let uses = |conditions: Value| {
            (used("pods", pod(conditions.clone()))[1].clone(), used("pods", pod(conditions))[2].clone())
        };
        assert_eq!(uses(json!([])), ("cpu=8".to_owned(), "limits.cpu=7".to_owned()));
        let never = json!([{"type": "PodResizePending", "status": "True", "reason": "Infeasible"}]);
        assert_eq!(uses(never), ("cpu=7".to_owned(), "limits.cpu=6".to_owned()));
    }

    #[test]
    fn claims_services_and_devices_use_what_they_may_get() {
        let claim = json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1500m"}}},
            "status": {"allocatedResources": {"storage": "3"}}});
        assert_eq!(
            used("persistentvolumeclaims", claim),
            [
                "count/persistentvolumeclaims=1",
                "gold.storageclass.storage.k8s.io/persistentvolumeclaims=1",
                "gold.storageclass.storage.k8s.io/requests.storage=3",
                "persistentvolumeclaims=1",
                "requests.storage=3",
            ]
        );
        let service = json!({"spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
            "ports": [{"port": 1, "nodePort": 30001}, {"port": 2}]}});
        assert_eq!(
            used("services", service),
            ["count/services=1", "services=1", "services.loadbalancers=1", "services.nodeports=1"]
        );
        let claim = json!({"spec": {"devices": {"requests": [
            {"name": "a", "exactly": {"deviceClassName": "gpu", "count": 2}},
            {"name": "b", "exactly": {"deviceClassName": "nic", "allocationMode": "All"}},
            {"name": "c", "firstAvailable": [{"deviceClassName": "gpu", "count": 1}, {"deviceClassName": "gpu", "count": 4}]},
        ]}}});
        assert_eq!(
            used("resource.k8s.io/resourceclaims", claim),
            [
                "count/resourceclaims.resource.k8s.io=1",
                "gpu.deviceclass.resource.k8s.io/devices=6",
                "nic.deviceclass.resource.k8s.io/devices=32",
            ]
        );
    }
}
