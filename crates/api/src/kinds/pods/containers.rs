//! Validation of containers, init containers and ephemeral containers.

use serde_json::Value;

use super::spec::Within;
use super::{probes, resources, security};
use crate::kinds::access::{at, flag, has, list, number, text};
use crate::validation::{Errors, Path, names, net};

/// Which list a container is in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Main,
    Init,
    /// An init container with `restartPolicy: Always`.
    Sidecar,
    Ephemeral,
}

/// All the containers of a spec.
pub fn validate_all(spec: &Value, path: &Path, within: Within, errors: &mut Errors) {
    let main = list(spec, "containers");
    if main.is_empty() {
        errors.required(path.child("containers"), "");
    }
    let mut seen: Vec<&str> = Vec::new();
    for name in ["containers", "initContainers", "ephemeralContainers"] {
        let at_list = path.child(name);
        for (index, container) in list(spec, name).iter().enumerate() {
            let path = at_list.index(index);
            let role = match name {
                "containers" => Role::Main,
                "ephemeralContainers" => Role::Ephemeral,
                _ if text(container, "restartPolicy") == "Always" => Role::Sidecar,
                _ => Role::Init,
            };
            validate(container, role, spec, &path, errors);
            let image = text(container, "image");
            if image.trim() != image && (within == Within::Pod || role == Role::Ephemeral) {
                errors.invalid(path.child("image"), image, "must not have leading or trailing whitespace");
            }
            let name = text(container, "name");
            if !name.is_empty() && seen.contains(&name) {
                errors.duplicate(path.child("name"), name);
            }
            seen.push(name);
        }
    }
}

fn validate(container: &Value, role: Role, spec: &Value, path: &Path, errors: &mut Errors) {
    let name = text(container, "name");
    if name.is_empty() {
        errors.required(path.child("name"), "");
    } else {
        errors.all_invalid(path.child("name"), name, names::dns1123_label(name));
    }
    if text(container, "image").is_empty() {
        errors.required(path.child("image"), "");
    }
    let policies = ["Always", "IfNotPresent", "Never"];
    errors.one_of(path.child("imagePullPolicy"), at(container, "imagePullPolicy"), &policies);
    let policies = ["File", "FallbackToLogsOnError"];
    errors.one_of(path.child("terminationMessagePolicy"), at(container, "terminationMessagePolicy"), &policies);
    ports(container, path, errors);
    env(container, path, errors);
    env_from(container, path, errors);
    mounts(container, spec, path, errors);
    resources::requirements(at(container, "resources"), &path.child("resources"), false, errors);
    claims(container, spec, path, errors);
    security::container(at(container, "securityContext"), spec, &path.child("securityContext"), errors);
    handlers(container, role, spec, path, errors);
    restart_policy(container, role, path, errors);
    resize_policy(container, spec, path, errors);
    if role == Role::Ephemeral {
        ephemeral(container, spec, path, errors);
    }
}

fn ports(container: &Value, path: &Path, errors: &mut Errors) {
    let all = path.child("ports");
    for (index, port) in list(container, "ports").iter().enumerate() {
        let path = all.index(index);
        let name = text(port, "name");
        if !name.is_empty() {
            errors.all_invalid(path.child("name"), name, names::port_name(name));
        }
        match number(port, "containerPort") {
            0 => errors.required(path.child("containerPort"), ""),
            own => net::port(path.child("containerPort"), own, errors),
        }
        let host = number(port, "hostPort");
        if host != 0 {
            net::port(path.child("hostPort"), host, errors);
        }
        errors.one_of(path.child("protocol"), at(port, "protocol"), &["SCTP", "TCP", "UDP"]);
    }
    errors.unique(container, "ports", path, |port| text(port, "name"));
}

/// A field of a source of a variable, and the one of its fields that must be set.
const ENV_SOURCES: [&str; 5] = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];

/// What `fieldRef` may name in a variable.
const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

fn env(container: &Value, path: &Path, errors: &mut Errors) {
    let all = path.child("env");
    for (index, variable) in list(container, "env").iter().enumerate() {
        let path = all.index(index);
        let name = text(variable, "name");
        if name.is_empty() {
            errors.required(path.child("name"), "");
        } else {
            errors.all_invalid(path.child("name"), name, names::env_name(name));
        }
        let source = at(variable, "valueFrom");
        if source.is_null() {
            continue;
        }
        let path = path.child("valueFrom");
        let given: Vec<&str> = ENV_SOURCES.into_iter().filter(|name| has(source, name)).collect();
        if !text(variable, "value").is_empty() && !given.is_empty() {
            errors.invalid(path, "", "may not be specified when `value` is not empty");
        }
        match given.as_slice() {
            [] => {
                let why = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or \
                           `fileKeyRef`";
                errors.invalid(path, "", why);
            }
            [one] => value_from(one, at(source, one), &path.child(one), errors),
            _ => errors.invalid(path, "", "may not have more than one field specified at a time"),
        }
    }
}

fn value_from(kind: &str, source: &Value, path: &Path, errors: &mut Errors) {
    match kind {
        "fieldRef" => field_ref(source, ENV_FIELDS, path, errors),
        "resourceFieldRef" => resource_field_ref(source, false, path, errors),
        "fileKeyRef" => {
            for field in ["volumeName", "path", "key"] {
                if text(source, field).is_empty() {
                    errors.required(path.child(field), "");
                }
            }
        }
        _ => {
            if text(source, "name").is_empty() {
                errors.required(path.child("name"), "");
            }
            let key = text(source, "key");
            if key.is_empty() {
                errors.required(path.child("key"), "");
            } else {
                errors.all_invalid(path.child("key"), key, names::config_key(key));
            }
        }
    }
}

/// A reference to a field of the pod; `allowed` are the ones without a key in brackets.
pub fn field_ref(source: &Value, allowed: &[&str], path: &Path, errors: &mut Errors) {
    if text(source, "apiVersion").is_empty() {
        errors.required(path.child("apiVersion"), "");
    }
    let field = text(source, "fieldPath");
    let at_field = path.child("fieldPath");
    if field.is_empty() {
        errors.required(at_field, "");
        return;
    }
    if let Some((map, key)) = field.strip_suffix("']").and_then(|field| field.split_once("['")) {
        match map {
            "metadata.labels" => errors.all_invalid(at_field, key, names::qualified_name(key)),
            "metadata.annotations" => errors.all_invalid(at_field, key, names::qualified_name(&key.to_lowercase())),
            _ => errors.invalid(at_field, field, format!("\"{map}\" does not support subscript")),
        }
    } else if !known_field(field) {
        let why = format!("error converting fieldPath: field label not supported: {field}");
        errors.invalid(at_field, field, why);
    } else if !allowed.contains(&field) {
        errors.not_supported(at_field, field, allowed);
    }
}

fn known_field(field: &str) -> bool {
    ENV_FIELDS.contains(&field)
        || matches!(
            field,
            "metadata.annotations" | "metadata.labels" | "spec.restartPolicy" | "spec.schedulerName" | "status.phase"
        )
}

/// A reference to a container's request or limit.
pub fn resource_field_ref(source: &Value, volume: bool, path: &Path, errors: &mut Errors) {
    const RESOURCES: &[&str] = &[
        "limits.cpu",
        "limits.ephemeral-storage",
        "limits.memory",
        "requests.cpu",
        "requests.ephemeral-storage",
        "requests.memory",
    ];
    if volume && text(source, "containerName").is_empty() {
        errors.required(path.child("containerName"), "");
    }
    let resource = text(source, "resource");
    let huge = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if resource.is_empty() {
        errors.required(path.child("resource"), "");
    } else if !huge && !RESOURCES.contains(&resource) {
        errors.not_supported(path.child("resource"), resource, RESOURCES);
    }
}

fn env_from(container: &Value, path: &Path, errors: &mut Errors) {
    let all = path.child("envFrom");
    for (index, source) in list(container, "envFrom").iter().enumerate() {
        let path = all.index(index);
        let prefix = text(source, "prefix");
        if !prefix.is_empty() {
            errors.all_invalid(path.child("prefix"), prefix, names::env_name(prefix));
        }
        let given: Vec<&str> = ["configMapRef", "secretRef"].into_iter().filter(|name| has(source, name)).collect();
        match given.as_slice() {
            [] => errors.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"),
            [one] if text(at(source, one), "name").is_empty() => errors.required(path.child(one).child("name"), ""),
            [_] => {}
            _ => errors.invalid(path, "", "may not have more than one field specified at a time"),
        }
    }
}

fn mounts(container: &Value, spec: &Value, path: &Path, errors: &mut Errors) {
    let volumes = list(spec, "volumes");
    let all = path.child("volumeMounts");
    let mounts = list(container, "volumeMounts");
    for (index, mount) in mounts.iter().enumerate() {
        let path = all.index(index);
        let name = text(mount, "name");
        if name.is_empty() {
            errors.required(path.child("name"), "");
        }
        if !volumes.iter().any(|volume| text(volume, "name") == name) {
            errors.not_found(path.child("name"), name);
        }
        let target = text(mount, "mountPath");
        if target.is_empty() {
            errors.required(path.child("mountPath"), "");
        } else if mounts[..index].iter().any(|other| text(other, "mountPath") == target) {
            errors.invalid(path.child("mountPath"), target, "must be unique");
        }
        let (sub, expression) = (text(mount, "subPath"), text(mount, "subPathExpr"));
        descending(sub, &path.child("subPath"), errors);
        descending(expression, &path.child("subPathExpr"), errors);
        if !sub.is_empty() && !expression.is_empty() {
            errors.invalid(path.child("subPathExpr"), expression, "subPathExpr and subPath are mutually exclusive");
        }
        const PROPAGATIONS: &[&str] = &["Bidirectional", "HostToContainer", "None"];
        errors.one_of_if_set(path.child("mountPropagation"), at(mount, "mountPropagation"), PROPAGATIONS);
        if text(mount, "mountPropagation") == "Bidirectional" && !flag(container, "securityContext.privileged") {
            let why = "Bidirectional mount propagation is available only to privileged containers";
            errors.forbidden(path.child("mountPropagation"), why);
        }
        recursive_read_only(mount, &path, errors);
    }
    let all = path.child("volumeDevices");
    for (index, device) in list(container, "volumeDevices").iter().enumerate() {
        let path = all.index(index);
        let (name, target) = (text(device, "name"), text(device, "devicePath"));
        if name.is_empty() {
            errors.required(path.child("name"), "");
        }
        match volumes.iter().find(|volume| text(volume, "name") == name) {
            None => errors.not_found(path.child("name"), name),
            Some(volume) if !has(volume, "persistentVolumeClaim") && !has(volume, "ephemeral") => {
                let why = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.invalid(path.child("name"), name, why);
            }
            Some(_) => {}
        }
        if target.is_empty() {
            errors.required(path.child("devicePath"), "");
        }
        if mounts.iter().any(|mount| text(mount, "name") == name) {
            errors.invalid(path.child("name"), name, "must not already exist in volumeMounts");
        }
    }
}

fn recursive_read_only(mount: &Value, path: &Path, errors: &mut Errors) {
    let mode = text(mount, "recursiveReadOnly");
    let path = path.child("recursiveReadOnly");
    errors.one_of_if_set(path, at(mount, "recursiveReadOnly"), &["Disabled", "Enabled", "IfPossible"]);
    if !matches!(mode, "Enabled" | "IfPossible") {
        return;
    }
    if !flag(mount, "readOnly") {
        errors.forbidden(path, "may only be specified when readOnly is true");
    }
    if !matches!(text(mount, "mountPropagation"), "" | "None") {
        errors.forbidden(path, "may only be specified when mountPropagation is None or not specified");
    }
}

/// A path below something: relative and without `..`.
pub fn descending(relative: &str, path: &Path, errors: &mut Errors) {
    if relative.starts_with('/') {
        errors.invalid(path, relative, "must be a relative path");
    }
    no_parent(relative, path, errors);
}

/// A path without `..` as one of its parts.
pub fn no_parent(text: &str, path: &Path, errors: &mut Errors) {
    if text.split('/').any(|part| part == "..") {
        errors.invalid(path, text, "must not contain '..'");
    }
}

fn claims(container: &Value, spec: &Value, path: &Path, errors: &mut Errors) {
    let at_resources = path.child("resources");
    let all = at_resources.child("claims");
    for (index, claim) in list(container, "resources.claims").iter().enumerate() {
        let name = text(claim, "name");
        if name.is_empty() {
            errors.required(all.index(index).child("name"), "");
        } else if !list(spec, "resourceClaims").iter().any(|c| text(c, "name") == name) {
            errors.not_found(all.index(index), name);
        }
    }
}

fn handlers(container: &Value, role: Role, spec: &Value, path: &Path, errors: &mut Errors) {
    const FIELDS: [&str; 4] = ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"];
    if matches!(role, Role::Init | Role::Ephemeral) {
        let why = if role == Role::Init {
            "may not be set for init containers without restartPolicy=Always"
        } else {
            "cannot be set for an Ephemeral Container"
        };
        for field in FIELDS.into_iter().filter(|field| has(container, field)) {
            errors.forbidden(path.child(field), why);
        }
        return;
    }
    let grace = number(spec, "terminationGracePeriodSeconds");
    for hook in ["postStart", "preStop"] {
        let handler = at(container, "lifecycle").get(hook).unwrap_or(&Value::Null);
        if !handler.is_null() {
            probes::handler(handler, &path.child("lifecycle").child(hook), probes::Of::Hook { grace }, errors);
        }
    }
    for kind in &FIELDS[1..] {
        let probe = at(container, kind);
        if !probe.is_null() {
            probes::probe(kind, probe, &path.child(kind), errors);
        }
    }
}

fn restart_policy(container: &Value, role: Role, at_container: &Path, errors: &mut Errors) {
    let path = at_container.child("restartPolicy");
    match role {
        Role::Ephemeral if has(container, "restartPolicy") => {
            errors.forbidden(path, "cannot be set for an Ephemeral Container");
        }
        _ => errors.one_of_if_set(path, at(container, "restartPolicy"), &["Always", "Never", "OnFailure"]),
    }
    restart_rules(container, at_container, errors);
}

/// Upstream's `validateContainerRestartPolicyRules`.
fn restart_rules(container: &Value, path: &Path, errors: &mut Errors) {
    let rules = list(container, "restartPolicyRules");
    let all = path.child("restartPolicyRules");
    if !rules.is_empty() && !has(container, "restartPolicy") {
        errors.required(path.child("restartPolicy"), "must specify restartPolicy when restart rules are used");
    }
    if rules.len() > 20 {
        errors.too_many(all, rules.len(), 20);
    }
    for (index, rule) in rules.iter().enumerate() {
        let path = all.index(index);
        errors.one_of_supported(path.child("action"), at(rule, "action"), &["Restart", "RestartAllContainers"]);
        let codes = at(rule, "exitCodes");
        let at_codes = path.child("exitCodes");
        if codes.is_null() {
            errors.required(at_codes, "must be specified");
            continue;
        }
        errors.one_of_supported(at_codes.child("operator"), at(codes, "operator"), &["In", "NotIn"]);
        let values = list(codes, "values");
        if values.len() > 255 {
            errors.too_many(at_codes.child("values"), values.len(), 255);
        }
    }
}

fn resize_policy(container: &Value, spec: &Value, path: &Path, errors: &mut Errors) {
    let all = path.child("resizePolicy");
    let policies = list(container, "resizePolicy");
    for (index, policy) in policies.iter().enumerate() {
        let name = text(policy, "resourceName");
        if policies[..index].iter().any(|other| text(other, "resourceName") == name) {
            errors.duplicate(all.index(index), name);
        }
        errors.one_of(all, at(policy, "resourceName"), &["cpu", "memory"]);
        errors.one_of(all, at(policy, "restartPolicy"), &["NotRequired", "RestartContainer"]);
        let restart = text(policy, "restartPolicy");
        if text(spec, "restartPolicy") == "Never" && restart != "NotRequired" {
            errors.invalid(all, restart, "must be 'NotRequired' when `restartPolicy` is 'Never'");
        }
    }
}

fn ephemeral(container: &Value, spec: &Value, path: &Path, errors: &mut Errors) {
    for field in ["ports", "resizePolicy"] {
        if !list(container, field).is_empty() {
            errors.forbidden(path.child(field), "cannot be set for an Ephemeral Container");
        }
    }
    for kind in ["limits", "requests"] {
        if has(at(container, "resources"), kind) {
            errors.forbidden(path.child("resources"), "cannot be set for an Ephemeral Container");
        }
    }
    let target = text(container, "targetContainerName");
    let known = ["containers", "initContainers"].iter().flat_map(|name| list(spec, name));
    if !target.is_empty() && !known.into_iter().any(|c| text(c, "name") == target) {
        errors.not_found(path.child("targetContainerName"), target);
    }
    for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
        for field in ["subPath", "subPathExpr"] {
            if !text(mount, field).is_empty() {
                let why = "cannot be set for an Ephemeral Container";
                errors.forbidden(path.child("volumeMounts").index(index).child(field), why);
            }
        }
    }
}
