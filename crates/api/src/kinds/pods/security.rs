//! Validation of security contexts.

use serde_json::Value;

use crate::kinds::access::{at, flag, has, list, text};
use crate::validation::{Errors, Path};

/// A pod's.
pub fn pod(context: &Value, spec: &Value, path: &Path, errors: &mut Errors) {
    if flag(spec, "shareProcessNamespace") && flag(spec, "hostPID") {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(path.child("shareProcessNamespace"), at(spec, "shareProcessNamespace"), why);
    }
    ids(context, &["runAsUser", "runAsGroup", "fsGroup"], path, errors);
    let groups = path.child("supplementalGroups");
    for (index, group) in list(context, "supplementalGroups").iter().enumerate() {
        id(group, &groups.index(index), errors);
    }
    errors.one_of_if_set(
        path.child("fsGroupChangePolicy"),
        at(context, "fsGroupChangePolicy"),
        &["Always", "OnRootMismatch"],
    );
    errors.one_of_if_set(
        path.child("supplementalGroupsPolicy"),
        at(context, "supplementalGroupsPolicy"),
        &["Merge", "Strict"],
    );
    let sysctls = path.child("sysctls");
    for (index, sysctl) in list(context, "sysctls").iter().enumerate() {
        let name = text(sysctl, "name");
        let item = sysctls.index(index);
        let path = item.child("name");
        if name.is_empty() {
            errors.required(path, "");
        } else if !is_sysctl(name) {
            let why = "must have at most 253 characters and match regex \
                       ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errors.invalid(path, name, why);
        } else if list(context, "sysctls")[..index].iter().any(|other| text(other, "name") == name) {
            errors.duplicate(path, name);
        }
        if flag(spec, "hostNetwork") && name.starts_with("net.") {
            errors.invalid(path, name, "may not be specified when 'hostNetwork' is true");
        } else if flag(spec, "hostIPC") && is_of_ipc(name) {
            errors.invalid(path, name, "may not be specified when 'hostIPC' is true");
        }
    }
    if has(context, "seLinuxChangePolicy") {
        let policies = ["MountOption", "Recursive"];
        errors.one_of_supported(path.child("seLinuxChangePolicy"), at(context, "seLinuxChangePolicy"), &policies);
    }
    profiles(context, path, errors);
}

/// A container's.
pub fn container(context: &Value, spec: &Value, path: &Path, errors: &mut Errors) {
    if context.is_null() {
        return;
    }
    ids(context, &["runAsUser", "runAsGroup"], path, errors);
    errors.one_of_if_set(path.child("procMount"), at(context, "procMount"), &["Default", "Unmasked"]);
    if text(context, "procMount") == "Unmasked" && at(spec, "hostUsers") != &Value::Bool(false) {
        errors.invalid(path.child("procMount"), "Unmasked", "`hostUsers` must be false to use `Unmasked`");
    }
    if at(context, "allowPrivilegeEscalation") == &Value::Bool(false) {
        if flag(context, "privileged") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.invalid(path, context, why);
        }
        let admin = |capability: &Value| capability == "SYS_ADMIN" || capability == "CAP_SYS_ADMIN";
        if list(context, "capabilities.add").iter().any(admin) {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid(path, context, why);
        }
    }
    profiles(context, path, errors);
}

fn ids(context: &Value, fields: &[&str], path: &Path, errors: &mut Errors) {
    for field in fields {
        id(at(context, field), &path.child(field), errors);
    }
}

fn id(value: &Value, path: &Path, errors: &mut Errors) {
    if let Some(id) = value.as_i64()
        && !(0..=i64::from(i32::MAX)).contains(&id)
    {
        errors.invalid(path, id, "must be between 0 and 2147483647, inclusive");
    }
}

/// Whether a sysctl belongs to the IPC namespace.
fn is_of_ipc(name: &str) -> bool {
    let name = name.replace('/', ".");
    name.starts_with("kernel.shm")
        || name.starts_with("kernel.msg")
        || name == "kernel.sem"
        || name.starts_with("fs.mqueue.")
}

fn is_sysctl(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() <= 253
        && name.split(['.', '/']).all(|part| {
            let bytes = part.as_bytes();
            bytes.first().is_some_and(|b| inner(*b))
                && bytes.last().is_some_and(|b| inner(*b))
                && bytes.iter().all(|b| inner(*b) || matches!(b, b'-' | b'_'))
        })
}

fn profiles(context: &Value, path: &Path, errors: &mut Errors) {
    for (field, word) in [("seccompProfile", "seccomp"), ("appArmorProfile", "AppArmor")] {
        if has(context, field) {
            profile(at(context, field), word, &path.child(field), errors);
        }
    }
}

fn profile(profile: &Value, word: &str, path: &Path, errors: &mut Errors) {
    let (kind, local) = (text(profile, "type"), text(profile, "localhostProfile"));
    if kind.is_empty() {
        let field = if word == "seccomp" { "seccompProfile" } else { "appArmorProfile" };
        errors.required(path.child("type"), format!("type is required when {field} is set"));
        return;
    }
    errors.one_of(path.child("type"), at(profile, "type"), &["Localhost", "RuntimeDefault", "Unconfined"]);
    let path = path.child("localhostProfile");
    match kind {
        "Localhost" if local.is_empty() => {
            errors.required(path, format!("must be set when {word} type is Localhost"));
        }
        "Localhost" if word == "seccomp" => super::containers::descending(local, &path, errors),
        "Localhost" if local.trim() != local => errors.invalid(path, local, "must not be padded with whitespace"),
        "Localhost" if local.len() > 4095 => errors.too_long(path, 4095),
        "Localhost" => {}
        _ if has(profile, "localhostProfile") => {
            errors.invalid(path, local, format!("can only be set when {word} type is Localhost"));
        }
        _ => {}
    }
}
