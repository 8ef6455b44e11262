//! What a pod says of its operating system, and what goes with neither or only with the other.

use serde_json::Value;

use super::defaults::CONTAINER_LISTS;
use crate::kinds::access::{at, has, list, text};
use crate::validation::{Errors, Path};

const NOT_FOR_WINDOWS: &str = "cannot be set for a windows pod";

/// Fields of a pod's security context, in upstream's order, that Windows does not know; those with a dot are the spec's own.
const POD: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    ".hostUsers",
    ".hostPID",
    ".hostIPC",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    ".shareProcessNamespace",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
];
const CONTAINER: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

pub fn validate(spec: &Value, path: &Path, errors: &mut Errors) {
    if !has(spec, "os") {
        return;
    }
    match text(spec, "os.name") {
        "" => errors.required(path.child("os").child("name"), ""),
        "linux" => linux(spec, path, errors),
        "windows" => windows(spec, path, errors),
        other => errors.not_supported(path.child("os").child("name"), other, &["linux", "windows"]),
    }
}

/// The containers' security contexts.
fn each_context(spec: &Value, path: &Path, mut visit: impl FnMut(&Value, &Path)) {
    for name in CONTAINER_LISTS {
        let all = path.child(name);
        for (index, container) in list(spec, name).iter().enumerate() {
            visit(at(container, "securityContext"), &all.index(index).child("securityContext"));
        }
    }
}

fn linux(spec: &Value, path: &Path, errors: &mut Errors) {
    let why = "windows options cannot be set for a linux pod";
    if has(spec, "securityContext.windowsOptions") {
        errors.forbidden(path.child("securityContext").child("windowsOptions"), why);
    }
    each_context(spec, path, |context, path| {
        if has(context, "windowsOptions") {
            errors.forbidden(path.child("windowsOptions"), why);
        }
    });
}

fn windows(spec: &Value, path: &Path, errors: &mut Errors) {
    let at_context = path.child("securityContext");
    for field in POD {
        match field.strip_prefix('.') {
            Some(own) if has(spec, own) => errors.forbidden(path.child(own), NOT_FOR_WINDOWS),
            None if has(at(spec, "securityContext"), field) => {
                errors.forbidden(at_context.child(field), NOT_FOR_WINDOWS)
            }
            _ => {}
        }
    }
    each_context(spec, path, |context, path| {
        for field in CONTAINER.iter().filter(|field| has(context, field)) {
            errors.forbidden(path.child(field), NOT_FOR_WINDOWS);
        }
    });
}
