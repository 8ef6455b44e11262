//! What the status of a claim says: which devices it got, who has reserved it, and how its devices are.

use serde_json::Value;

use super::requests::{self, MOST, allocated_configuration};
use super::syntax::{self, at_most, label, pool, raw, uid, unique};
use crate::kinds::access::{at, has, list, text};
use crate::kinds::pods::affinity;
use crate::validation::{Errors, Path, conditions, domains};

/// Errors of an update of a claim's status.
pub fn validate(old: &Value, new: &Value, errors: &mut Errors) {
    let status = Path::new("status");
    reserved(old, new, &status.child("reservedFor"), errors);
    let (devices, all) = (list(new, "status.devices"), status.child("devices"));
    let results = list(new, "status.allocation.devices.results");
    for (index, device) in devices.iter().enumerate() {
        state(device, results, &all.index(index), errors);
    }
    unique(devices, &all, errors, of, |device| device);
    let (was, is, path) = (at(old, "status.allocation"), at(new, "status.allocation"), status.child("allocation"));
    if !was.is_null() && !is.is_null() {
        errors.immutable(old, new, "status.allocation");
    } else if !is.is_null() {
        allocation(is, list(new, "spec.devices.requests"), &path, errors);
    }
}

fn reserved(old: &Value, new: &Value, path: &Path, errors: &mut Errors) {
    const MOST: usize = 256;
    let (before, users) = (list(old, "status.reservedFor"), list(new, "status.reservedFor"));
    if at_most(users, MOST, path, errors) {
        for (index, user) in users.iter().enumerate() {
            for field in ["resource", "name", "uid"] {
                if text(user, field).is_empty() {
                    errors.required(path.index(index).child(field), "");
                }
            }
        }
        unique(users, path, errors, |user| text(user, "uid"), |user| at(user, "uid"));
    }
    if users.is_empty() {
        return;
    }
    if !has(new, "status.allocation") {
        errors.forbidden(path, "may not be specified when `allocated` is not set");
    } else if has(new, "metadata.deletionTimestamp") && users.iter().any(|user| !before.contains(user)) {
        let why = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
        errors.forbidden(path, why);
    }
}

/// What tells a device, or a share of one, from all others.
fn of(device: &Value) -> [&str; 4] {
    ["driver", "pool", "device", "shareID"].map(|field| text(device, field))
}

fn state(device: &Value, results: &[Value], path: &Path, errors: &mut Errors) {
    const MOST: usize = 8;
    domains::driver(text(device, "driver"), &path.child("driver"), errors);
    pool(text(device, "pool"), &path.child("pool"), errors);
    label(text(device, "device"), &path.child("device"), errors);
    if has(device, "shareID") {
        uid(text(device, "shareID"), &path.child("shareID"), errors);
    }
    if !results.iter().any(|result| of(result) == of(device)) {
        let [driver, pool, device, share] = of(device);
        let mut shown = format!("{driver}/{pool}/{device}");
        if !share.is_empty() {
            shown = format!("{shown}/{share}");
        }
        errors.invalid(path, shown.as_str(), "must be an allocated device in the claim");
    }
    let (said, at_conditions) = (list(device, "conditions"), path.child("conditions"));
    at_most(said, MOST, &at_conditions, errors);
    conditions(said, &at_conditions, errors);
    if has(device, "data") {
        raw(at(device, "data"), &path.child("data"), errors);
    }
    network(at(device, "networkData"), &path.child("networkData"), errors);
}

fn network(network: &Value, path: &Path, errors: &mut Errors) {
    const MOST: usize = 16;
    for (field, longest) in [("interfaceName", 256), ("hardwareAddress", 128)] {
        if text(network, field).len() > longest {
            errors.too_long(path.child(field), longest);
        }
    }
    let (addresses, all) = (list(network, "ips"), path.child("ips"));
    if !at_most(addresses, MOST, &all, errors) {
        return;
    }
    for (index, address) in addresses.iter().filter_map(Value::as_str).enumerate() {
        let path = all.index(index);
        match address.parse::<ipnet::IpNet>() {
            Err(_) => {
                let why = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
                errors.invalid(path, address, why);
            }
            Ok(parsed) if parsed.to_string() != address => {
                errors.invalid(path, address, format!("must be in canonical form ({:?})", parsed.to_string()));
            }
            Ok(_) => {}
        }
    }
    unique(addresses, &all, errors, |address| address, |address| address);
}

fn allocation(allocation: &Value, requests: &[Value], path: &Path, errors: &mut Errors) {
    let at_devices = path.child("devices");
    let (results, all) = (list(allocation, "devices.results"), at_devices.child("results"));
    if at_most(results, MOST, &all, errors) {
        for (index, result) in results.iter().enumerate() {
            let path = all.index(index);
            requests::reference(text(result, "request"), requests, &path.child("request"), errors);
            domains::driver(text(result, "driver"), &path.child("driver"), errors);
            pool(text(result, "pool"), &path.child("pool"), errors);
            label(text(result, "device"), &path.child("device"), errors);
            syntax::binding_conditions(result, &path, errors);
            if has(result, "shareID") {
                uid(text(result, "shareID"), &path.child("shareID"), errors);
            }
        }
    }
    let (configs, all) = (list(allocation, "devices.config"), at_devices.child("config"));
    if at_most(configs, 2 * MOST, &all, errors) {
        for (index, config) in configs.iter().enumerate() {
            allocated_configuration(config, requests, &all.index(index), errors);
        }
    }
    if has(allocation, "nodeSelector") {
        affinity::node_selector(at(allocation, "nodeSelector"), &path.child("nodeSelector"), errors);
    }
}
