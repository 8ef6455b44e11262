//! The devices of a slice: their attributes and capacities, what they take from counters, and where they are.

use std::cmp::Ordering;

use serde_json::Value;

use super::syntax::{self, at_most, is_version, label, qualified, unique};
use crate::kinds::access::{at, entries, flag, has, list, text};
use crate::kinds::pods::affinity;
use crate::kinds::pods::resources::{compare, quantity, shown};
use crate::validation::{Errors, Path, names};

/// Entries of a map's key in a path are cut to this, the longest domain, a slash and the longest name.
const LONGEST_KEY: usize = 63 + 1 + 32;

/// Upstream cuts long keys out of the middle.
fn cut(key: &str, longest: usize) -> String {
    if key.len() <= longest || !key.is_ascii() {
        return key.to_owned();
    }
    let rest = longest - 3;
    format!("{}...{}", &key[..rest.div_ceil(2)], &key[key.len() - rest / 2..])
}

/// Errors of a device but its taints'.
pub fn validate(device: &Value, per_device: bool, path: &Path, errors: &mut Errors) {
    const MOST: usize = 32;
    label(text(device, "name"), &path.child("name"), errors);
    let count = entries(device, "attributes").count() + entries(device, "capacity").count();
    if count > MOST {
        let why = format!("the total number of attributes and capacities must not exceed {MOST}");
        errors.invalid(path, count as i64, why);
    }
    let all = path.child("attributes");
    for (name, value) in entries(device, "attributes") {
        let key = cut(name, LONGEST_KEY);
        let path = all.key(&key);
        qualified(name, &path, errors);
        attribute(value, &path, errors);
    }
    let all = path.child("capacity");
    for (name, value) in entries(device, "capacity") {
        let key = cut(name, LONGEST_KEY);
        let path = all.key(&key);
        qualified(name, &path, errors);
        if !has(value, "requestPolicy") {
            continue;
        }
        let path = path.child("requestPolicy");
        if flag(device, "allowMultipleAllocations") {
            policy(at(value, "requestPolicy"), at(value, "value"), &path, errors);
        } else {
            errors.forbidden(path, "allowMultipleAllocations must be true");
        }
    }
    consumed(list(device, "consumesCounters"), &path.child("consumesCounters"), errors);
    place(device, per_device, path, errors);
    syntax::binding_conditions(device, path, errors);
}

/// Errors of a device's taints.
pub fn taints(device: &Value, path: &Path, errors: &mut Errors) {
    const MOST: usize = 16;
    let (taints, all) = (list(device, "taints"), path.child("taints"));
    if !at_most(taints, MOST, &all, errors) {
        return;
    }
    for (index, taint) in taints.iter().enumerate() {
        syntax::taint(taint, &all.index(index), errors);
    }
}

fn attribute(attribute: &Value, path: &Path, errors: &mut Errors) {
    const LONGEST: usize = 64;
    let version = at(attribute, "version").as_str();
    if let Some(version) = version.filter(|version| !is_version(version)) {
        errors.invalid(path.child("version"), version, "must be a string compatible with semver.org spec 2.0.0");
    }
    for field in ["string", "version"].into_iter().filter(|field| text(attribute, field).len() > LONGEST) {
        errors.too_long(path.child(field), LONGEST);
    }
    const VALUES: &[&str] = &["bool", "int", "string", "version", "bools", "ints", "strings", "versions"];
    match VALUES.iter().filter(|field| has(attribute, field)).count() {
        0 => errors.invalid(path, "", "exactly one value must be specified"),
        1 => {}
        _ => errors.invalid(path, attribute, "exactly one value must be specified"),
    }
}

/// How much of a capacity a request may take.
fn policy(policy: &Value, capacity: &Value, path: &Path, errors: &mut Errors) {
    let (values, range) = (list(policy, "validValues"), at(policy, "validRange"));
    if !values.is_empty() && !range.is_null() {
        let why =
            "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
        return errors.forbidden(path, why);
    }
    let default = at(policy, "default");
    let kind = match (values.is_empty(), range.is_null()) {
        (false, _) => "validValues",
        (true, false) => "validRange",
        (true, true) => return,
    };
    if default.is_null() {
        errors.required(path.child("default"), format!("required when {kind} is defined"));
    } else if kind == "validValues" {
        options(values, default, capacity, &path.child(kind), errors);
    } else {
        span(range, default, capacity, &path.child(kind), errors);
    }
}

fn options(values: &[Value], default: &Value, capacity: &Value, path: &Path, errors: &mut Errors) {
    const MOST: usize = 10;
    for (index, pair) in values.windows(2).enumerate() {
        if compare(&pair[0], &pair[1]) == Some(Ordering::Greater) {
            let why = "values must be sorted in ascending order";
            errors.invalid(path.index(index + 1), shown(&pair[1]).as_str(), why);
        }
    }
    let mut found = false;
    if at_most(values, MOST, path, errors) {
        for (index, value) in values.iter().enumerate() {
            if compare(value, capacity) == Some(Ordering::Greater) {
                let why = format!("option is larger than capacity value: {}", shown(capacity));
                errors.invalid(path.index(index), shown(value).as_str(), why);
            }
            found |= compare(value, default) == Some(Ordering::Equal);
        }
        unique(values, path, errors, |value| quantity(value).map(|q| q.value()), |value| value);
    }
    if !found {
        let why = "default value is not valid according to the requestPolicy";
        errors.invalid(path, shown(default).as_str(), why);
    }
}

fn span(range: &Value, default: &Value, capacity: &Value, path: &Path, errors: &mut Errors) {
    let (least, most, step) = (at(range, "min"), at(range, "max"), at(range, "step"));
    if least.is_null() {
        return errors.required(path.child("min"), "required when validRange is defined");
    }
    let mut refuse = |field: &str, value: &Value, why: String| {
        errors.invalid(path.child(field), shown(value).as_str(), why);
    };
    let above = |a: &Value, b: &Value| compare(a, b) == Some(Ordering::Greater);
    if above(least, capacity) {
        refuse("min", least, format!("min is larger than capacity value: {}", shown(capacity)));
    }
    if above(least, default) {
        refuse("min", default, format!("default is less than min: {}", shown(least)));
    }
    if !most.is_null() {
        if above(least, most) {
            refuse("max", least, format!("min is larger than max: {}", shown(most)));
        }
        if above(most, capacity) {
            refuse("max", most, format!("max is larger than capacity value: {}", shown(capacity)));
        }
        if above(default, most) {
            refuse("max", default, format!("default is more than max: {}", shown(most)));
        }
    }
    let (Some(least_amount), Some(step_amount), Some(whole)) = (quantity(least), quantity(step), quantity(capacity))
    else {
        return;
    };
    let first = least_amount + step_amount;
    if first > whole {
        refuse("step", step, format!("one step {first} is larger than capacity value: {}", shown(capacity)));
    }
    for value in [default, most].into_iter().filter(|value| !value.is_null()) {
        let over = quantity(value).map_or(0, |q| q.value()) - least_amount.value();
        if step_amount.value() == 0 || over % step_amount.value() != 0 {
            let why = format!("value is not a multiple of a given step ({}) from ({})", shown(step), shown(least));
            refuse("step", value, why);
        }
    }
}

/// What a device takes from the counters that it shares with others.
fn consumed(consumptions: &[Value], all: &Path, errors: &mut Errors) {
    const MOST: usize = 2;
    if !at_most(consumptions, MOST, all, errors) {
        return;
    }
    for (index, consumption) in consumptions.iter().enumerate() {
        counters(consumption, "counterSet", &all.index(index), errors);
    }
    unique(consumptions, all, errors, |one| text(one, "counterSet"), |one| at(one, "counterSet"));
}

/// A set of counters, or what is taken from one.
pub fn counters(set: &Value, name: &str, path: &Path, errors: &mut Errors) {
    const MOST: usize = 32;
    match text(set, name) {
        "" => errors.required(path.child(name), ""),
        given => label(given, &path.child(name), errors),
    }
    let (count, all) = (entries(set, "counters").count(), path.child("counters"));
    if count == 0 {
        errors.required(all, "");
    } else if count > MOST {
        errors.too_many(all, count, MOST);
    } else {
        for (name, _) in entries(set, "counters") {
            label(name, &all.key(&cut(name, 63)), errors);
        }
    }
}

/// Where a device is, where the slice leaves that to its devices.
fn place(device: &Value, per_device: bool, path: &Path, errors: &mut Errors) {
    const PLACES: [&str; 3] = ["nodeName", "nodeSelector", "allNodes"];
    if !per_device {
        if PLACES.iter().any(|field| has(device, field)) {
            let why = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to \
                       true in the ResourceSlice spec";
            errors.invalid(path, "null", why);
        }
        return;
    }
    let mut given = Vec::new();
    match at(device, "nodeName").as_str() {
        None => {}
        Some("") => errors.invalid(path.child("nodeName"), "", "must not be empty"),
        Some(name) => {
            given.push("`nodeName`");
            errors.all_invalid(path.child("nodeName"), name, names::dns1123_subdomain(name));
        }
    }
    if has(device, "nodeSelector") {
        given.push("`nodeSelector`");
        affinity::node_selector(at(device, "nodeSelector"), &path.child("nodeSelector"), errors);
    }
    match at(device, "allNodes") {
        Value::Bool(true) => given.push("`allNodes`"),
        Value::Bool(false) => {
            errors.invalid(path.child("allNodes"), &Value::Bool(false), "must be either unset or set to true");
        }
        _ => {}
    }
    let why = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set \
               to true in the ResourceSlice spec";
    match given.len() {
        0 => errors.required(path, why),
        1 => {}
        _ => errors.invalid(path, format!("{{{}}}", given.join(", ")).as_str(), why),
    }
}
