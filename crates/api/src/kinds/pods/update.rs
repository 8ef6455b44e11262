//! What an update may change of a pod's spec.

use serde_json::Value;

use super::defaults::CONTAINER_LISTS;
use super::tolerations;
use crate::kinds::access::{at, keep_at, list, number, section, text};
use crate::validation::Errors;

const ALLOWED: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
    tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Errors of an update of the pod itself.
pub fn validate(old: &Value, new: &Value, errors: &mut Errors) {
    for name in ["containers", "initContainers"] {
        if at(old, "spec")[name].as_array().map_or(0, Vec::len) != at(new, "spec")[name].as_array().map_or(0, Vec::len)
        {
            errors.forbidden(format!("spec.{name}"), "pod updates may not add or remove containers");
            return;
        }
    }
    if !deadline(old, new, errors) {
        return;
    }
    if !tolerations::only_added(at(old, "spec"), at(new, "spec")) {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        errors.forbidden("spec.tolerations", why);
    }
    let before = list(old, "spec.schedulingGates");
    for (index, gate) in list(new, "spec.schedulingGates").iter().enumerate().filter(|(_, gate)| !before.contains(gate))
    {
        let why = format!("only deletion is allowed, but found new scheduling gate '{}'", text(gate, "name"));
        errors.forbidden(format!("spec.schedulingGates[{index}].name"), why);
    }
    let mut allowed = new.clone();
    put_back(old, &mut allowed, errors);
    let mut changes = Vec::new();
    differences(at(old, "spec"), at(&allowed, "spec"), "spec".to_owned(), &mut changes);
    if !changes.is_empty() {
        errors.forbidden("spec", format!("{ALLOWED}\n{}\n", changes.join("\n")));
    }
}

/// The deadline comes nearer only. Answers whether it is worth looking further.
fn deadline(old: &Value, new: &Value, errors: &mut Errors) -> bool {
    const FIELD: &str = "spec.activeDeadlineSeconds";
    match (at(old, FIELD).as_i64(), at(new, FIELD).as_i64()) {
        (_, Some(new)) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            errors.invalid(FIELD, new, "must be between 0 and 2147483647, inclusive");
            return false;
        }
        (Some(old), Some(new)) if new > old => {
            errors.invalid(FIELD, new, "must be less than or equal to previous value");
            return false;
        }
        (Some(_), None) => errors.invalid(FIELD, &Value::Null, "must not update from a positive integer to nil value"),
        _ => {}
    }
    true
}

/// Puts what may change back as it was, so that any difference left is an error.
fn put_back(old: &Value, new: &mut Value, errors: &mut Errors) {
    for name in CONTAINER_LISTS {
        let before = at(old, "spec")[name].as_array();
        let Some(containers) = new["spec"].get_mut(name).and_then(Value::as_array_mut) else { continue };
        for (index, container) in containers.iter_mut().enumerate() {
            if let Some(old) = before.and_then(|before| before.get(index)) {
                if text(container, "image").is_empty() {
                    errors.required(format!("spec.{name}[{index}].image"), "");
                }
                keep_at(old, container, "image");
            }
        }
    }
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        keep_at(old, new, &format!("spec.{field}"));
    }
    if number(old, "spec.terminationGracePeriodSeconds") < 0 && number(new, "spec.terminationGracePeriodSeconds") == 1 {
        keep_at(old, new, "spec.terminationGracePeriodSeconds");
    }
    if !list(old, "spec.schedulingGates").is_empty() {
        gated(old, new, errors);
    }
}

/// While a pod is gated its node selector may be narrowed, and its node affinity set or narrowed.
fn gated(old: &Value, new: &mut Value, errors: &mut Errors) {
    let narrowed = {
        let (was, is) = (at(old, "spec.nodeSelector"), at(new, "spec.nodeSelector"));
        was.as_object().into_iter().flatten().all(|(key, value)| is.get(key) == Some(value))
    };
    if !narrowed {
        let why = "additions to the nodeSelector are allowed, but existing entries may not be changed or removed";
        errors.invalid("spec.nodeSelector", at(new, "spec.nodeSelector"), why);
    }
    keep_at(old, new, "spec.nodeSelector");
    const AFFINITY: &str = "spec.affinity.nodeAffinity";
    if at(old, AFFINITY).is_null() {
        if at(new, "spec.affinity").as_object().is_some_and(|a| a.keys().all(|key| key == "nodeAffinity"))
            && at(old, "spec.affinity").is_null()
        {
            keep_at(old, new, "spec.affinity");
        } else {
            keep_at(old, new, AFFINITY);
        }
        return;
    }
    const TERMS: &str = "requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    let (was, is) = (list(at(old, AFFINITY), TERMS), list(at(new, AFFINITY), TERMS));
    let includes = |is: &Value, was: &Value, field: &str| list(was, field).iter().all(|e| list(is, field).contains(e));
    let ok = was.is_empty()
        || (was.len() == is.len()
            && was
                .iter()
                .zip(is)
                .all(|(was, is)| includes(is, was, "matchExpressions") && includes(is, was, "matchFields")));
    if !ok {
        let why = "may only be narrowed while the pod is gated";
        errors.invalid(format!("{AFFINITY}.{TERMS}"), at(at(new, AFFINITY), TERMS), why);
    }
    let kept = at(old, AFFINITY).clone();
    if let Some(affinity) = section(new, "spec.affinity") {
        affinity.insert("nodeAffinity".to_owned(), kept);
    }
}

/// Each difference as a line with its path, the value before and the value after.
fn differences(old: &Value, new: &Value, path: String, out: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(before), Value::Object(after)) => {
            for (key, value) in before {
                differences(value, after.get(key).unwrap_or(&Value::Null), format!("{path}.{key}"), out);
            }
            for (key, value) in after.iter().filter(|(key, _)| !before.contains_key(*key)) {
                differences(&Value::Null, value, format!("{path}.{key}"), out);
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (index, (before, after)) in before.iter().zip(after).enumerate() {
                differences(before, after, format!("{path}[{index}]"), out);
            }
        }
        _ if old == new => {}
        _ => {
            if !old.is_null() {
                out.push(format!("- {path}: {old}"));
            }
            if !new.is_null() {
                out.push(format!("+ {path}: {new}"));
            }
        }
    }
}

/// Errors of an update of the ephemeral containers: those that are there stay as they are.
pub fn ephemeral_containers(old: &Value, new: &Value, errors: &mut Errors) {
    let (before, after) = (list(old, "spec.ephemeralContainers"), list(new, "spec.ephemeralContainers"));
    for container in before {
        let name = text(container, "name");
        match after.iter().find(|c| text(c, "name") == name) {
            None => errors.forbidden(
                "spec.ephemeralContainers",
                format!("existing ephemeral containers {name:?} may not be removed\n"),
            ),
            Some(now) if now != container => {
                let why = format!("existing ephemeral containers {name:?} may not be changed\n");
                errors.forbidden("spec.ephemeralContainers", why);
            }
            Some(_) => {}
        }
    }
}

/// Errors of a resize: only CPU and memory change, and the quality of service stays.
pub fn resize(old: &Value, new: &Value, errors: &mut Errors) {
    use super::resources::qos_class;
    let (was, is) = (at(old, "spec"), at(new, "spec"));
    if qos_class(was) != qos_class(is) {
        errors.invalid("spec", qos_class(is), "Pod QOS Class may not change as a result of resizing");
    }
    for name in ["containers", "initContainers"] {
        if list(was, name).len() != list(is, name).len() {
            errors.forbidden(format!("spec.{name}"), "containers may not be added or removed on resize");
            continue;
        }
        for (index, (old, new)) in list(was, name).iter().zip(list(is, name)).enumerate() {
            if text(old, "name") != text(new, "name") {
                let path = format!("spec.{name}[{index}].name");
                errors.forbidden(path, "containers may not be renamed or reordered on resize");
                continue;
            }
            if name == "initContainers" && text(old, "restartPolicy") != "Always" {
                if old["resources"] != new["resources"] {
                    let path = format!("spec.{name}[{index}].resources");
                    errors.forbidden(path, "resources for non-sidecar init containers are immutable");
                }
                continue;
            }
            for kind in ["limits", "requests"] {
                let (before, after) = (&old["resources"][kind], &new["resources"][kind]);
                let path = format!("spec.{name}[{index}].resources.{kind}");
                removed(before, after, &path, errors);
                let fixed = |map: &Value| -> Vec<(String, Value)> {
                    let entries = map.as_object().into_iter().flatten();
                    entries
                        .filter(|(k, _)| *k != "cpu" && *k != "memory")
                        .map(|(k, v)| (k.clone(), v.clone()))
                        .collect()
                };
                if fixed(before) != fixed(after) {
                    errors.forbidden(&path, "only cpu and memory resources are mutable");
                }
            }
        }
    }
}

fn removed(before: &Value, after: &Value, path: &str, errors: &mut Errors) {
    for name in ["cpu", "memory"] {
        if before.get(name).is_some() && after.get(name).is_none() {
            let what = if path.ends_with("limits") { "resource limits" } else { "resource requests" };
            errors.forbidden(path, format!("{what} cannot be removed"));
            return;
        }
    }
}
