//! `v1 Node`.

use serde_json::{Value, json};

use crate::kind::{Context, Kind, Strategy, keep};
use crate::kinds::access::{at, fill, fill_text, flag, has, keep_at, list, text, texts};
use crate::kinds::builder::Builder;
use crate::kinds::pods::tolerations::EFFECTS;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, Path, names, net};

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
        taints(list(spec, "taints"), &path.child("taints"), errors);
        let all = path.child("podCIDRs");
        for (index, range) in list(spec, "podCIDRs").iter().filter_map(Value::as_str).enumerate() {
            net::cidr(all.index(index), range, errors);
        }
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        let (before, after) = (list(old, "spec.podCIDRs"), list(new, "spec.podCIDRs"));
        if !before.is_empty() && before != after {
            let why = "node updates may not change podCIDR except from \"\" to valid";
            errors.forbidden("spec.podCIDRs", why);
        }
        let before = text(old, "spec.providerID");
        if !before.is_empty() && before != text(new, "spec.providerID") {
            let why = "node updates may not change providerID except from \"\" to valid";
            errors.forbidden("spec.providerID", why);
        }
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
            errors.duplicate(path, taint);
        }
    }
}
