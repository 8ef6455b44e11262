//! Annotations of pods that mean something: mirror pods, the cost of a deletion, and security profiles from before they were fields.

use serde_json::Value;

use super::containers::descending;
use super::defaults::CONTAINER_LISTS;
use crate::kinds::access::{at, list, text, texts};
use crate::validation::{Errors, Path};

const MIRROR: &str = "kubernetes.io/config.mirror";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
pub const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Errors of a pod's annotations, or of those of a template.
pub fn validate(metadata: &Value, spec: &Value, path: &Path, errors: &mut Errors) {
    for (key, value) in texts(metadata, "annotations") {
        let at_key = path.key(key);
        if key == MIRROR && text(spec, "nodeName").is_empty() {
            errors.invalid(at_key, value, "must set spec.nodeName if mirror pod annotation is set");
        }
        if key == DELETION_COST && !is_cost(value) {
            errors.invalid(at_key, value, "must be a 32bit integer");
        }
        if key == SECCOMP_POD || key.starts_with(SECCOMP_CONTAINER) {
            seccomp(value, &path.child(key), errors);
        }
        if let Some(container) = key.strip_prefix(APP_ARMOR) {
            if !CONTAINER_LISTS.iter().any(|name| list(spec, name).iter().any(|c| text(c, "name") == container)) {
                errors.invalid(at_key, container, "container not found");
            }
            if !value.is_empty()
                && !matches!(value, "runtime/default" | "unconfined")
                && !value.starts_with("localhost/")
            {
                errors.invalid(at_key, value, format!("invalid AppArmor profile name: {value:?}"));
            }
        }
    }
}

/// A number without a sign before it that is positive, and without zeros in front.
fn is_cost(value: &str) -> bool {
    let digits = value.strip_prefix('-').unwrap_or(value);
    let plain = digits == "0" && value == "0" || !digits.starts_with('0');
    plain && !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) && value.parse::<i32>().is_ok()
}

fn seccomp(profile: &str, path: &Path, errors: &mut Errors) {
    match profile.strip_prefix("localhost/") {
        Some(local) => descending(local, path, errors),
        None if matches!(profile, "runtime/default" | "docker/default" | "unconfined") => {}
        None => errors.invalid(path, profile, "must be a valid seccomp profile"),
    }
}

/// What an update may not do to them.
pub fn validate_update(old: &Value, new: &Value, errors: &mut Errors) {
    let path = Path::new("metadata.annotations");
    let (was, is) = (at(old, "metadata.annotations"), at(new, "metadata.annotations"));
    for (key, value) in texts(old, "metadata.annotations") {
        if is.get(key).and_then(Value::as_str) == Some(value) {
            continue;
        }
        if key.starts_with(APP_ARMOR) {
            errors.forbidden(path.key(key), "may not remove or update AppArmor annotations");
        }
        if key == MIRROR {
            errors.forbidden(path.key(key), "may not remove or update mirror pod annotation");
        }
    }
    for (key, _) in texts(new, "metadata.annotations").filter(|(key, _)| was.get(*key).is_none()) {
        if key.starts_with(APP_ARMOR) {
            errors.forbidden(path.key(key), "may not add AppArmor annotations");
        }
        if key == MIRROR {
            errors.forbidden(path.key(key), "may not add mirror pod annotation");
        }
    }
}

/// Where a profile is given as an annotation and as a field, both must say the same.
pub fn agree_with_fields(pod: &Value, errors: &mut Errors) {
    let (spec, path) = (at(pod, "spec"), Path::new("spec"));
    let annotation = |key: &str| at(pod, "metadata.annotations").get(key).and_then(Value::as_str);
    let own = at(spec, "securityContext");
    if let Some(value) = annotation(SECCOMP_POD) {
        same("seccomp", at(own, "seccompProfile"), value, &path.child("securityContext.seccompProfile"), errors);
    }
    for name in CONTAINER_LISTS {
        let all = path.child(name);
        for (index, container) in list(spec, name).iter().enumerate() {
            let at_context = all.index(index);
            let at_context = at_context.child("securityContext");
            let context = at(container, "securityContext");
            let name = text(container, "name");
            if let Some(value) = annotation(&format!("{SECCOMP_CONTAINER}{name}")) {
                same("seccomp", at(context, "seccompProfile"), value, &at_context.child("seccompProfile"), errors);
            }
            let profile = match at(context, "appArmorProfile") {
                Value::Null => at(own, "appArmorProfile"),
                profile => profile,
            };
            if let Some(value) = annotation(&format!("{APP_ARMOR}{name}"))
                && text(spec, "os.name") != "windows"
            {
                same("apparmor", profile, value, &at_context.child("appArmorProfile"), errors);
            }
        }
    }
}

fn same(word: &str, profile: &Value, annotation: &str, path: &Path, errors: &mut Errors) {
    let kind = match text(profile, "type") {
        "" => return,
        "Unconfined" => annotation == "unconfined",
        "RuntimeDefault" => annotation == "runtime/default" || (word == "seccomp" && annotation == "docker/default"),
        _ => annotation.starts_with("localhost/"),
    };
    if !kind {
        errors.forbidden(path.child("type"), format!("{word} type in annotation and field must match"));
    } else if let Some(local) = annotation.strip_prefix("localhost/")
        && text(profile, "localhostProfile") != local
    {
        errors.forbidden(path.child("localhostProfile"), format!("{word} profile in annotation and field must match"));
    }
}
