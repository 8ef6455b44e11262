//! `v1 Node`.

use serde_json::{Value, json};

use crate::kind::{Context, Kind, Strategy, keep};
use crate::kinds::access::{at, entries, fill, fill_text, flag, has, keep_at, list, text, texts};
use crate::kinds::builder::Builder;
use crate::kinds::pods::resources;
use crate::kinds::pods::tolerations::EFFECTS;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, NOT_NEGATIVE, Path, names, net};

pub fn kind() -> Kind {
    Builder::new("", "v1", "Node", "nodes")
        .short(&["no"])
        .prefix("minions")
        .subresource("proxy", ("", "", "NodeProxyOptions"), &["create", "delete", "get", "patch", "update"])
        .status()
        .selectable(&["spec.unschedulable=false"])
        .columns(COLUMNS)
        .strategy(Node)
        .build()
}

const COLUMNS: &[Cell] = &[
    NAME,
    Cell::made("Status", state),
    Cell::made("Roles", roles),
    AGE,
    Cell::text("Version", "status.nodeInfo.kubeletVersion"),
    Cell::made("Internal-IP", |o| address(o, "InternalIP")).wide(),
    Cell::made("External-IP", |o| address(o, "ExternalIP")).wide(),
    Cell::made("OS-Image", |o| info(o, "status.nodeInfo.osImage")).wide(),
    Cell::made("Kernel-Version", |o| info(o, "status.nodeInfo.kernelVersion")).wide(),
    Cell::made("Container-Runtime", |o| info(o, "status.nodeInfo.containerRuntimeVersion")).wide(),
];

fn state(node: &Value) -> Value {
    let ready = list(node, "status.conditions").iter().find(|condition| text(condition, "type") == "Ready");
    let word = match ready.map(|condition| text(condition, "status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    if flag(node, "spec.unschedulable") { format!("{word},SchedulingDisabled").into() } else { word.into() }
}

fn roles(node: &Value) -> Value {
    let mut roles: Vec<&str> = texts(node, "metadata.labels")
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => Some(role),
            _ => (key == "kubernetes.io/role" && !value.is_empty()).then_some(value),
        })
        .collect();
    roles.sort_unstable();
    roles.dedup();
    print::joined(&roles, ",").into()
}

fn address(node: &Value, kind: &str) -> Value {
    let found = list(node, "status.addresses").iter().find(|address| text(address, "type") == kind);
    found.map_or("<none>", |address| text(address, "address")).into()
}

fn info(node: &Value, path: &str) -> Value {
    match text(node, path) {
        "" => "<unknown>".into(),
        text => text.into(),
    }
}

struct Node;

impl Strategy for Node {
    fn default(&self, object: &mut Value) {
        if let Some(status) = object.get_mut("status")
            && has(status, "capacity")
        {
            let capacity = at(status, "capacity").clone();
            fill(status, "allocatable", capacity);
        }
        if let Some(spec) = object.get_mut("spec") {
            let (single, all) = (text(spec, "podCIDR").to_owned(), list(spec, "podCIDRs").first().cloned());
            match all {
                None if !single.is_empty() => fill(spec, "podCIDRs", json!([single])),
                Some(Value::String(first)) => fill_text(spec, "podCIDR", &first),
                _ => {}
            }
        }
    }

    /// A kubelet registers its node together with its status.
    fn prepare_create(&self, _object: &mut Value, _context: &Context) {}

    fn prepare_subresource_update(&self, _subresource: &str, old: &Value, new: &mut Value, _context: &Context) {
        keep(old, new, "spec");
        keep_at(old, new, "metadata.deletionTimestamp");
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let (spec, path) = (at(object, "spec"), Path::new("spec"));
        taints(list(spec, "taints"), &Path::new("metadata.taints"), errors);
        resources_of(object, errors);
        let (ranges, all) = (list(spec, "podCIDRs"), path.child("podCIDRs"));
        let parsed: Vec<_> = ranges
            .iter()
            .filter_map(Value::as_str)
            .enumerate()
            .filter_map(|(index, range)| net::cidr(all.index(index), range, errors))
            .collect();
        if ranges.len() > 1 && parsed.len() == ranges.len() {
            let dual = parsed.iter().any(|r| r.addr().is_ipv4()) && parsed.iter().any(|r| r.addr().is_ipv6());
            if !dual || ranges.len() > 2 {
                let why = "may specify no more than one CIDR for each IP family";
                errors.invalid(all, at(spec, "podCIDRs"), why);
            }
        }
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        unchanged(old, new, errors);
    }

    fn validate_subresource_update(&self, _subresource: &str, old: &Value, new: &Value, errors: &mut Errors) {
        resources_of(new, errors);
        unchanged(old, new, errors);
    }

    fn warnings(&self, _old: Option<&Value>, new: &Value) -> Vec<String> {
        let mut warnings = Vec::new();
        if has(new, "spec.configSource") {
            warnings.push("spec.configSource: the feature is removed".to_owned());
        }
        if !text(new, "spec.externalID").is_empty() {
            let why = "this field is deprecated, and is unused by Kubernetes";
            warnings.push(format!("spec.externalID: {why}"));
        }
        warnings
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}

fn taints(taints: &[Value], path: &Path, errors: &mut Errors) {
    for (index, taint) in taints.iter().enumerate() {
        let path = path.index(index);
        let (key, value) = (text(taint, "key"), text(taint, "value"));
        errors.all_invalid(path.child("key"), key, names::qualified_name(key));
        errors.all_invalid(path.child("value"), value, names::label_value(value));
        errors.one_of(path.child("effect"), at(taint, "effect"), EFFECTS);
        let same = |other: &Value| text(other, "key") == key && text(other, "effect") == text(taint, "effect");
        if taints[..index].iter().any(same) {
            let why = "taints must be unique by key and effect pair";
            errors.push("FieldValueDuplicate", &path.to_string(), format!("Duplicate value: {taint}: {why}"));
        }
    }
}

/// Errors of what a node says that it has.
fn resources_of(node: &Value, errors: &mut Errors) {
    let status = Path::new("status");
    for field in ["capacity", "allocatable"] {
        let path = status.child(field);
        for (name, value) in entries(at(node, "status"), field) {
            let path = path.child(name);
            if resources::negative(value) {
                errors.invalid(path, resources::shown(value).as_str(), NOT_NEGATIVE);
            }
            // What is counted comes whole.
            let counted = !name.contains('/') && !OF_A_NODE.contains(&name.as_str()) && !name.starts_with("hugepages-");
            if counted && resources::quantity(value).is_some_and(|q| q.milli_value() % 1000 != 0) {
                errors.invalid(path, resources::shown(value).as_str(), "must be an integer");
            }
        }
    }
}

/// Resources that come in parts.
const OF_A_NODE: &[&str] = &["cpu", "memory", "ephemeral-storage", "storage"];

/// What no update of a node may change, of its status neither.
fn unchanged(old: &Value, new: &Value, errors: &mut Errors) {
    let addresses = list(new, "status.addresses");
    for (index, address) in addresses.iter().enumerate() {
        if addresses[..index].contains(address) {
            errors.duplicate(Path::new("status.addresses").index(index), address);
        }
    }
    let (before, after) = (list(old, "spec.podCIDRs"), list(new, "spec.podCIDRs"));
    if !before.is_empty() && before != after {
        errors.forbidden("spec.podCIDRs", "node updates may not change podCIDR except from \"\" to valid");
    }
    let before = text(old, "spec.providerID");
    if !before.is_empty() && before != text(new, "spec.providerID") {
        let why = "node updates may not change providerID except from \"\" to valid";
        errors.forbidden("spec.providerID", why);
    }
    let mut allowed = new.clone();
    for field in ["unschedulable", "taints", "podCIDR", "podCIDRs", "providerID", "configSource"] {
        keep_at(old, &mut allowed, &format!("spec.{field}"));
    }
    let spec = |node: &Value| at(node, "spec").as_object().cloned().unwrap_or_default();
    if spec(old) != spec(&allowed) {
        let why = "node updates may only change labels, taints, or capacity (or configSource, if the \
                   DynamicKubeletConfig feature gate is enabled)";
        errors.forbidden("", why);
    }
}
