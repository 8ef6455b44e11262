//! `resource.k8s.io/v1 ResourceSlice`.

use serde_json::Value;

use super::devices;
use super::syntax::{self, at_most, unique};
use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, flag, has, list, number, text};
use crate::kinds::builder::Builder;
use crate::kinds::pods::affinity;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, Path, domains, names};

pub fn kind() -> Kind {
    Builder::new("resource.k8s.io", "v1", "ResourceSlice", "resourceslices")
        .selectable(&["spec.driver", "spec.nodeName"])
        .columns(COLUMNS)
        .strategy(ResourceSlice)
        .build()
}

const COLUMNS: &[Cell] = &[
    NAME,
    Cell::made("Node", |o| match text(o, "spec.nodeName") {
        "" => "<unset>".into(),
        node => node.into(),
    }),
    Cell::text("Driver", "spec.driver"),
    Cell::text("Pool", "spec.pool.name"),
    AGE,
];

struct ResourceSlice;

impl Strategy for ResourceSlice {
    fn validate(&self, object: &Value, errors: &mut Errors) {
        validate(object, errors);
    }

    fn validate_new(&self, object: &Value, errors: &mut Errors) {
        taints(&[], object, errors);
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        taints(list(old, "spec.devices"), new, errors);
        for field in ["pool.name", "driver", "nodeName"] {
            errors.immutable(old, new, &format!("spec.{field}"));
        }
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}

/// Errors of taints that a device had not `before`.
fn taints(before: &[Value], slice: &Value, errors: &mut Errors) {
    let all = Path::new("spec.devices");
    for (index, device) in list(slice, "spec.devices").iter().enumerate() {
        let old = before.iter().find(|other| text(other, "name") == text(device, "name"));
        if old.is_none_or(|old| at(old, "taints") != at(device, "taints")) {
            devices::taints(device, &all.index(index), errors);
        }
    }
}

fn validate(slice: &Value, errors: &mut Errors) {
    const MOST_DEVICES: usize = 128;
    const MOST_COMPLEX: usize = 64;
    const MOST_SETS: usize = 8;
    let (spec, path) = (at(slice, "spec"), Path::new("spec"));
    domains::driver(text(spec, "driver"), &path.child("driver"), errors);
    let at_pool = path.child("pool");
    syntax::pool(text(spec, "pool.name"), &at_pool.child("name"), errors);
    let (count, generation) = (number(spec, "pool.resourceSliceCount"), number(spec, "pool.generation"));
    if count <= 0 {
        errors.invalid(at_pool.child("resourceSliceCount"), count, "must be greater than zero");
    }
    if generation < 0 {
        errors.invalid(at_pool.child("generation"), generation, "must be greater than or equal to zero");
    }
    place(spec, &path, errors);
    if has(spec, "sharedCounters") && has(spec, "devices") {
        errors.invalid(path, "", "only one of `sharedCounters` or `devices` is allowed");
    }
    let (given, all) = (list(spec, "devices"), path.child("devices"));
    let complex = |device: &Value| ["taints", "consumesCounters"].iter().any(|field| !list(device, field).is_empty());
    let most = if given.iter().any(complex) { MOST_COMPLEX } else { MOST_DEVICES };
    if at_most(given, most, &all, errors) {
        for (index, device) in given.iter().enumerate() {
            devices::validate(device, flag(spec, "perDeviceNodeSelection"), &all.index(index), errors);
        }
        unique(given, &all, errors, |device| text(device, "name"), |device| at(device, "name"));
    }
    let (sets, all) = (list(spec, "sharedCounters"), path.child("sharedCounters"));
    if at_most(sets, MOST_SETS, &all, errors) {
        for (index, set) in sets.iter().enumerate() {
            devices::counters(set, "name", &all.index(index), errors);
        }
        unique(sets, &all, errors, |set| text(set, "name"), |set| at(set, "name"));
    }
}

/// Where the devices are.
fn place(spec: &Value, path: &Path, errors: &mut Errors) {
    let mut given = Vec::new();
    match at(spec, "nodeName").as_str() {
        None => {}
        Some("") => errors.invalid(path.child("nodeName"), "", "must be either unset or set to a non-empty string"),
        Some(name) => {
            given.push("`nodeName`");
            errors.all_invalid(path.child("nodeName"), name, names::dns1123_subdomain(name));
        }
    }
    if has(spec, "nodeSelector") {
        given.push("`nodeSelector`");
        let (selector, path) = (at(spec, "nodeSelector"), path.child("nodeSelector"));
        affinity::node_selector(selector, &path, errors);
        if list(selector, "nodeSelectorTerms").len() != 1 {
            let terms = at(selector, "nodeSelectorTerms");
            errors.invalid(path.child("nodeSelectorTerms"), terms, "must have exactly one node selector term");
        }
    }
    for (field, shown) in [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")] {
        match at(spec, field) {
            Value::Bool(true) => given.push(shown),
            Value::Bool(false) => {
                errors.invalid(path.child(field), &Value::Bool(false), "must be either unset or set to true");
            }
            _ => {}
        }
    }
    let why = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match given.len() {
        0 => errors.required(path, why),
        1 => {}
        _ => {
            let why = format!("{why}, but multiple fields are set");
            errors.invalid(path, format!("{{{}}}", given.join(", ")).as_str(), why);
        }
    }
}
