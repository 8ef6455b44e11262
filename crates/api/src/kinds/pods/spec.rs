//! Validation of a pod's spec.

use serde_json::Value;

use super::{affinity, containers, os, resources, security, tolerations, volumes};
use crate::kinds::access::{at, entries, flag, has, list, number, text};
use crate::validation::labels::{label_selector, labels};
use crate::validation::{Errors, Path, names, net};

/// What the spec is part of; some rules are for pods only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Within {
    Pod,
    Template,
}

/// All of a spec.
pub fn validate(spec: &Value, path: &Path, within: Within, errors: &mut Errors) {
    volumes::validate_all(list(spec, "volumes"), &path.child("volumes"), errors);
    containers::validate_all(spec, path, within, errors);
    host_ports(spec, path, within, errors);
    errors.one_of(path.child("restartPolicy"), at(spec, "restartPolicy"), &["Always", "OnFailure", "Never"]);
    dns(spec, path, errors);
    if let Some(seconds) = at(spec, "activeDeadlineSeconds").as_i64()
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        errors.invalid(path.child("activeDeadlineSeconds"), seconds, "must be between 1 and 2147483647, inclusive");
    }
    labels(at(spec, "nodeSelector"), &path.child("nodeSelector"), errors);
    security::pod(at(spec, "securityContext"), spec, &path.child("securityContext"), errors);
    affinity::validate(at(spec, "affinity"), &path.child("affinity"), errors);
    tolerations::validate_all(list(spec, "tolerations"), &path.child("tolerations"), errors);
    topology_spread(spec, path, errors);
    gates(spec, path, errors);
    for (field, check) in NAMES {
        let name = text(spec, field);
        if !name.is_empty() {
            errors.all_invalid(path.child(field), name, check(name));
        }
    }
    let aliases = path.child("hostAliases");
    for (index, alias) in list(spec, "hostAliases").iter().enumerate() {
        let path = aliases.index(index);
        net::ip(path.child("ip"), text(alias, "ip"), errors);
        for (index, name) in list(alias, "hostnames").iter().filter_map(Value::as_str).enumerate() {
            errors.all_invalid(path.child("hostnames").index(index), name, names::dns1123_subdomain(name));
        }
    }
    claims(spec, path, errors);
    if has(spec, "resources") {
        resources::requirements(at(spec, "resources"), &path.child("resources"), true, errors);
    }
    os::validate(spec, path, errors);
    if has(spec, "preemptionPolicy") {
        const POLICIES: &[&str] = &["PreemptLowerPriority", "Never"];
        errors.one_of(path.child("preemptionPolicy"), at(spec, "preemptionPolicy"), POLICIES);
    }
    let overhead = path.child("overhead");
    for (name, amount) in entries(spec, "overhead") {
        resources::named_amount(name, amount, &overhead.child("limits").key(name), errors);
    }
    host_users(spec, path, errors);
}

/// A user namespace of its own goes with no other namespace of the host's.
fn host_users(spec: &Value, path: &Path, errors: &mut Errors) {
    if at(spec, "hostUsers") != &Value::Bool(false) {
        return;
    }
    for (field, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if flag(spec, field) {
            errors.forbidden(path.child(shown), "when `pod.Spec.HostUsers` is false");
        }
    }
}

type Check = fn(&str) -> Vec<String>;

/// Fields of a spec that are names of some kind.
const NAMES: &[(&str, Check)] = &[
    ("serviceAccountName", names::dns1123_subdomain),
    ("nodeName", names::dns1123_subdomain),
    ("hostname", names::dns1123_label),
    ("subdomain", names::dns1123_label),
    ("hostnameOverride", names::dns1123_subdomain),
    ("priorityClassName", names::dns1123_subdomain),
    ("runtimeClassName", names::dns1123_subdomain),
];

fn dns(spec: &Value, path: &Path, errors: &mut Errors) {
    const POLICIES: &[&str] = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    errors.one_of(path.child("dnsPolicy"), at(spec, "dnsPolicy"), POLICIES);
    let config = at(spec, "dnsConfig");
    let (at_config, servers) = (path.child("dnsConfig"), list(config, "nameservers"));
    if text(spec, "dnsPolicy") == "None" && servers.is_empty() {
        if config.is_null() {
            errors.required(at_config, "must provide `dnsConfig` when `dnsPolicy` is None");
        } else {
            let path = at_config.child("nameservers");
            errors.required(path, "must provide at least one DNS nameserver when `dnsPolicy` is None");
        }
        return;
    }
    if servers.len() > 3 {
        errors.invalid(
            at_config.child("nameservers"),
            at(config, "nameservers"),
            "must not have more than 3 nameservers",
        );
    }
    for (index, server) in servers.iter().filter_map(Value::as_str).enumerate() {
        net::ip(at_config.child("nameservers").index(index), server, errors);
    }
    let searches = list(config, "searches");
    if searches.len() > 32 {
        let path = at_config.child("searches");
        errors.invalid(path, at(config, "searches"), "must not have more than 32 search paths");
    }
    let length: usize = searches.iter().filter_map(Value::as_str).map(|search| search.len() + 1).sum();
    if length > 2049 {
        let why = "must not have more than 2048 characters (including spaces) in the search list";
        errors.invalid(at_config.child("searches"), at(config, "searches"), why);
    }
    for (index, search) in searches.iter().filter_map(Value::as_str).enumerate() {
        // A trailing dot and underscores are fine here.
        let name = search.strip_suffix('.').unwrap_or(search).replace('_', "-x");
        if search != "." && !names::dns1123_subdomain(&name.replace("-x", "x")).is_empty() {
            errors.all_invalid(at_config.child("searches").index(index), search, names::dns1123_subdomain(search));
        }
    }
    for (index, option) in list(config, "options").iter().enumerate() {
        if text(option, "name").is_empty() {
            errors.required(at_config.child("options").index(index), "must not be empty");
        }
    }
}

fn host_ports(spec: &Value, path: &Path, within: Within, errors: &mut Errors) {
    let host_network = flag(spec, "hostNetwork");
    let mut taken: Vec<String> = Vec::new();
    for name in ["containers", "initContainers"] {
        let at_list = path.child(name);
        for (index, container) in list(spec, name).iter().enumerate() {
            let at_container = at_list.index(index);
            let at_ports = at_container.child("ports");
            for (index, port) in list(container, "ports").iter().enumerate() {
                let (host, own) = (number(port, "hostPort"), number(port, "containerPort"));
                let at_port = at_ports.index(index);
                if host_network && host != own && (within == Within::Pod || host != 0) {
                    let why = "must match `containerPort` when `hostNetwork` is true";
                    errors.invalid(at_port.child("hostPort"), host, why);
                }
                let shared = name == "initContainers" && text(container, "restartPolicy") != "Always";
                if host == 0 || shared {
                    continue;
                }
                let key = format!("{}/{}/{host}", text(port, "protocol"), text(port, "hostIP"));
                if taken.contains(&key) {
                    errors.duplicate(at_port.child("hostPort"), key.as_str());
                } else {
                    taken.push(key);
                }
            }
        }
    }
}

fn topology_spread(spec: &Value, path: &Path, errors: &mut Errors) {
    const WHEN: &[&str] = &["DoNotSchedule", "ScheduleAnyway"];
    let all = path.child("topologySpreadConstraints");
    let constraints = list(spec, "topologySpreadConstraints");
    for (index, constraint) in constraints.iter().enumerate() {
        let path = all.index(index);
        if number(constraint, "maxSkew") <= 0 {
            errors.invalid(path.child("maxSkew"), number(constraint, "maxSkew"), "must be greater than zero");
        }
        let key = text(constraint, "topologyKey");
        if key.is_empty() {
            errors.required(path.child("topologyKey"), "can not be empty");
        } else {
            errors.all_invalid(path.child("topologyKey"), key, names::qualified_name(key));
        }
        errors.one_of_supported(path.child("whenUnsatisfiable"), at(constraint, "whenUnsatisfiable"), WHEN);
        if constraints[..index].iter().any(|other| {
            text(other, "topologyKey") == key && at(other, "whenUnsatisfiable") == at(constraint, "whenUnsatisfiable")
        }) {
            let pair = format!("{{{key}, {}}}", text(constraint, "whenUnsatisfiable"));
            errors.duplicate(path.child("{topologyKey, whenUnsatisfiable}"), pair.as_str());
        }
        if let Some(domains) = at(constraint, "minDomains").as_i64() {
            if domains <= 0 {
                errors.invalid(path.child("minDomains"), domains, "must be greater than zero");
            }
            if text(constraint, "whenUnsatisfiable") != "DoNotSchedule" {
                let why = format!(
                    "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {}",
                    text(constraint, "whenUnsatisfiable")
                );
                errors.invalid(path.child("minDomains"), domains, why);
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            errors.one_of_if_set(path.child(field), at(constraint, field), &["Honor", "Ignore"]);
        }
        label_selector(at(constraint, "labelSelector"), &path.child("labelSelector"), errors);
    }
}

fn gates(spec: &Value, path: &Path, errors: &mut Errors) {
    let all = path.child("readinessGates");
    for (index, gate) in list(spec, "readinessGates").iter().enumerate() {
        let name = text(gate, "conditionType");
        errors.all_invalid(all.index(index).child("conditionType"), name, names::qualified_name(name));
    }
    let all = path.child("schedulingGates");
    for (index, gate) in list(spec, "schedulingGates").iter().enumerate() {
        let name = text(gate, "name");
        errors.all_invalid(all.index(index), name, names::qualified_name(name));
    }
    errors.unique(spec, "schedulingGates", path, |gate| text(gate, "name"));
}

fn claims(spec: &Value, path: &Path, errors: &mut Errors) {
    let all = path.child("resourceClaims");
    for (index, claim) in list(spec, "resourceClaims").iter().enumerate() {
        let path = all.index(index);
        let name = text(claim, "name");
        if name.is_empty() {
            errors.required(path.child("name"), "");
        } else {
            errors.all_invalid(path.child("name"), name, names::dns1123_label(name));
        }
        match (has(claim, "resourceClaimName"), has(claim, "resourceClaimTemplateName")) {
            (true, true) => {
                errors.invalid(
                    path,
                    claim,
                    "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
                );
            }
            (false, false) => {
                errors.invalid(path, claim, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`");
            }
            _ => {}
        }
    }
    errors.unique(spec, "resourceClaims", path, |claim| text(claim, "name"));
}
