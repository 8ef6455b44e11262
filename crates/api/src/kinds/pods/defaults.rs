//! Upstream's `SetDefaults_*` of a pod's spec and of what is in it.

use serde_json::{Map, Value, json};

use crate::kinds::access::{at, at_mut, each_mut, fill, fill_text, flag, has, list, section, text};

/// The lists of containers that a pod's spec may have.
pub const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// The defaults of a spec, as they are for pods and for templates alike.
pub fn pod_spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    fill_text(spec, "dnsPolicy", "ClusterFirst");
    fill_text(spec, "restartPolicy", "Always");
    fill_text(spec, "schedulerName", "default-scheduler");
    fill(spec, "terminationGracePeriodSeconds", 30);
    fill(spec, "securityContext", Map::new());
    service_account(spec);
    for name in CONTAINER_LISTS {
        each_mut(spec, name).for_each(container);
    }
    each_mut(spec, "volumes").for_each(volume);
}

/// What is filled in for pods but not for templates.
pub fn pod(pod: &mut Value) {
    let Some(spec) = at_mut(pod, "spec") else { return };
    pod_spec(spec);
    fill(spec, "enableServiceLinks", true);
    let host_network = flag(spec, "hostNetwork");
    for name in ["initContainers", "containers"] {
        for container in each_mut(spec, name) {
            if host_network {
                host_ports(container);
            }
            requests_from_limits(container);
        }
    }
    super::resources::default_pod_requests(spec);
    if let Some(status) = at_mut(pod, "status") {
        addresses(status, "podIP", "podIPs");
        addresses(status, "hostIP", "hostIPs");
    }
}

/// The older name of the field says the same as the newer.
fn service_account(spec: &mut Value) {
    let name = match text(spec, "serviceAccountName") {
        "" => text(spec, "serviceAccount"),
        name => name,
    };
    if name.is_empty() || (name == text(spec, "serviceAccount") && has(spec, "serviceAccountName")) {
        return;
    }
    let name = name.to_owned();
    if let Some(map) = spec.as_object_mut() {
        map.insert("serviceAccount".to_owned(), name.clone().into());
        map.insert("serviceAccountName".to_owned(), name.into());
    }
}

/// The single address and the list of addresses agree on the first.
fn addresses(status: &mut Value, single: &str, all: &str) {
    let first = list(status, all).first().map(|first| text(first, "ip").to_owned());
    match (text(status, single), first) {
        ("", Some(first)) if !first.is_empty() => fill_text(status, single, &first),
        (ip, None) if !ip.is_empty() => fill(status, all, json!([{"ip": ip}])),
        _ => {}
    }
}

/// A container of any of the three lists.
pub fn container(container: &mut Value) {
    if !has(container, "imagePullPolicy") || text(container, "imagePullPolicy").is_empty() {
        let policy = if is_latest(text(container, "image")) { "Always" } else { "IfNotPresent" };
        fill_text(container, "imagePullPolicy", policy);
    }
    fill_text(container, "terminationMessagePath", "/dev/termination-log");
    fill_text(container, "terminationMessagePolicy", "File");
    fill(container, "resources", Map::new());
    for port in each_mut(container, "ports") {
        fill_text(port, "protocol", "TCP");
    }
    for variable in each_mut(container, "env") {
        if let Some(source) = at_mut(variable, "valueFrom") {
            value_source(source);
            if let Some(key) = at_mut(source, "fileKeyRef") {
                fill(key, "optional", false);
            }
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(value) = at_mut(container, name) {
            probe(value);
        }
    }
    for hook in ["lifecycle.postStart.httpGet", "lifecycle.preStop.httpGet"] {
        if let Some(get) = at_mut(container, hook) {
            http_get(get);
        }
    }
}

/// An image without a tag and without a digest is `latest`.
fn is_latest(image: &str) -> bool {
    let image = match image.split_once('@') {
        Some(_) => return false,
        None => image,
    };
    match image.rsplit('/').next().unwrap_or(image).split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => !image.is_empty(),
    }
}

fn probe(probe: &mut Value) {
    for (name, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        if at(probe, name).as_i64().unwrap_or_default() == 0
            && let Some(map) = probe.as_object_mut()
        {
            map.insert(name.to_owned(), value.into());
        }
    }
    if let Some(get) = at_mut(probe, "httpGet") {
        http_get(get);
    }
    if let Some(grpc) = at_mut(probe, "grpc") {
        fill(grpc, "service", "");
    }
}

fn http_get(get: &mut Value) {
    fill_text(get, "path", "/");
    fill_text(get, "scheme", "HTTP");
}

/// `fieldRef` and `resourceFieldRef` of a variable or of a downward file.
fn value_source(source: &mut Value) {
    if let Some(reference) = at_mut(source, "fieldRef") {
        fill_text(reference, "apiVersion", "v1");
    }
    if let Some(reference) = at_mut(source, "resourceFieldRef") {
        fill(reference, "divisor", "0");
    }
}

fn host_ports(container: &mut Value) {
    for port in each_mut(container, "ports") {
        let number = at(port, "containerPort").clone();
        if at(port, "hostPort").as_i64().unwrap_or_default() == 0
            && let Some(map) = port.as_object_mut()
        {
            map.insert("hostPort".to_owned(), number);
        }
    }
}

/// A limit without a request is the request too.
fn requests_from_limits(container: &mut Value) {
    let Some(limits) = at(container, "resources.limits").as_object() else { return };
    let requests = at(container, "resources.requests");
    let missing: Vec<(String, Value)> = limits
        .iter()
        .filter(|(name, _)| requests.get(name.as_str()).is_none())
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if !missing.is_empty()
        && let Some(requests) = section(container, "resources.requests")
    {
        requests.extend(missing);
    }
}

/// A volume; one that names no source is an empty directory.
pub fn volume(volume: &mut Value) {
    let Some(map) = volume.as_object_mut() else { return };
    if map.iter().all(|(name, source)| name == "name" || source.is_null()) {
        map.insert("emptyDir".to_owned(), Value::Object(Map::new()));
        return;
    }
    for (name, source) in map.iter_mut().filter(|(_, source)| source.is_object()) {
        match name.as_str() {
            "secret" | "configMap" => fill(source, "defaultMode", 0o644),
            "downwardAPI" => {
                fill(source, "defaultMode", 0o644);
                each_mut(source, "items").for_each(value_source);
            }
            "projected" => projected(source),
            "hostPath" => fill(source, "type", ""),
            "iscsi" => fill_text(source, "iscsiInterface", "default"),
            "rbd" => rbd(source),
            "azureDisk" => azure_disk(source),
            "scaleIO" => {
                fill_text(source, "storageMode", "ThinProvisioned");
                fill_text(source, "fsType", "xfs");
            }
            "ephemeral" => {
                if let Some(spec) = at_mut(source, "volumeClaimTemplate.spec") {
                    fill(spec, "volumeMode", "Filesystem");
                }
            }
            "image" => {
                let policy = if is_latest(text(source, "reference")) { "Always" } else { "IfNotPresent" };
                fill_text(source, "pullPolicy", policy);
            }
            _ => {}
        }
    }
}

pub fn rbd(source: &mut Value) {
    fill_text(source, "pool", "rbd");
    fill_text(source, "user", "admin");
    fill_text(source, "keyring", "/etc/ceph/keyring");
}

pub fn azure_disk(source: &mut Value) {
    fill(source, "cachingMode", "ReadWrite");
    fill(source, "kind", "Shared");
    fill(source, "fsType", "ext4");
    fill(source, "readOnly", false);
}

fn projected(source: &mut Value) {
    fill(source, "defaultMode", 0o644);
    for part in each_mut(source, "sources") {
        if let Some(token) = at_mut(part, "serviceAccountToken") {
            fill(token, "expirationSeconds", 3600);
        }
        each_mut(part, "downwardAPI.items").for_each(value_source);
    }
}

#[cfg(test)]
mod tests {
    use super::is_latest;

    #[test]
    fn an_image_without_tag_and_digest_is_latest() {
        for (image, latest) in [
            ("nginx", true),
            ("nginx:latest", true),
            ("host:5000/nginx", true),
            ("host:5000/nginx:1.27", false),
            ("nginx@sha256:abc", false),
            ("nginx:latest@sha256:abc", false),
            ("", false),
        ] {
            assert_eq!(is_latest(image), latest, "{image}");
        }
    }
}
