//! Validation of what volumes come from, in pods and in persistent volumes.

use serde_json::Value;

use super::containers::no_parent;
use crate::kinds::access::{at, entries, flag, has, list, number, text};
use crate::validation::{Errors, Path, domains, names};

/// Whose source it is.
#[derive(Clone, Copy)]
pub enum Owner<'a> {
    Pod,
    /// The volume's name.
    PersistentVolume(&'a str),
}

/// Fields of sources that must not be empty.
const REQUIRED: &[(&str, &[&str])] = &[
    ("awsElasticBlockStore", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("azureFile", &["secretName", "shareName"]),
    ("cinder", &["volumeID"]),
    ("configMap", &["name"]),
    ("flexVolume", &["driver"]),
    ("gcePersistentDisk", &["pdName"]),
    ("gitRepo", &["repository"]),
    ("glusterfs", &["endpoints", "path"]),
    ("hostPath", &["path"]),
    ("image", &["reference"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("local", &["path"]),
    ("nfs", &["server", "path"]),
    ("persistentVolumeClaim", &["claimName"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("quobyte", &["volume"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("secret", &["secretName"]),
    ("storageos", &["volumeName"]),
    ("vsphereVolume", &["volumePath"]),
];

/// The first of the sources in upstream's order is the one that is checked; the others are too many.
pub fn one_of<'v>(
    holder: &'v Value,
    order: &[&str],
    path: &Path,
    errors: &mut Errors,
    check: impl FnOnce(&str, &'v Value, &Path, &mut Errors),
) {
    let mut given = order.iter().filter(|kind| has(holder, kind));
    match given.next() {
        None => errors.required(path, "must specify a volume type"),
        Some(kind) => {
            let name = if *kind == "gcePersistentDisk" { "persistentDisk" } else { kind };
            check(kind, at(holder, kind), &path.child(name), errors);
        }
    }
    for kind in given {
        let name = if *kind == "cephfs" { "cephFS" } else { kind };
        errors.forbidden(path.child(name), "may not specify more than 1 volume type");
    }
}

/// What pods and persistent volumes check of a source alike, or nearly so.
pub fn common(kind: &str, source: &Value, owner: Owner, path: &Path, errors: &mut Errors) {
    for field in REQUIRED.iter().filter(|(name, _)| *name == kind).flat_map(|(_, fields)| *fields) {
        if text(source, field).is_empty() {
            errors.required(path.child(field), "");
        }
    }
    match kind {
        "hostPath" => host_path(source, path, errors),
        "local" => no_parent(text(source, "path"), &path.child("path"), errors),
        "nfs" if !text(source, "path").starts_with('/') => {
            errors.invalid(path.child("path"), text(source, "path"), "must be an absolute path");
        }
        "gcePersistentDisk" | "awsElasticBlockStore" => {
            let partition = number(source, "partition");
            if !(0..=255).contains(&partition) {
                let why = "must be between 0 and 255, inclusive: 0 means no partition";
                errors.invalid(path.child("partition"), partition, why);
            }
        }
        "iscsi" => iscsi(source, owner, path, errors),
        "fc" => fibre_channel(source, path, errors),
        "rbd" => {
            monitors(source, path, errors);
            if text(source, "image").is_empty() {
                errors.required(path.child("image"), "");
            }
        }
        "cephfs" => monitors(source, path, errors),
        "cinder" => secret(source, owner, path, errors),
        "storageos" => {
            for field in ["volumeName", "volumeNamespace"] {
                let name = text(source, field);
                if !name.is_empty() {
                    errors.all_invalid(path.child(field), name, names::dns1123_label(name));
                }
            }
            secret(source, owner, path, errors);
        }
        "flocker" => flocker(source, path, errors),
        "quobyte" => quobyte(source, path, errors),
        "glusterfs" => endpoints_namespace(at(source, "endpointsNamespace"), path, errors),
        "azureFile" if at(source, "secretNamespace") == "" => errors.required(path.child("secretNamespace"), ""),
        "azureDisk" => azure_disk(source, path, errors),
        "flexVolume" => flex(source, path, errors),
        _ => {}
    }
}

fn host_path(source: &Value, path: &Path, errors: &mut Errors) {
    const TYPES: &[&str] =
        &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    if text(source, "path").is_empty() {
        return;
    }
    no_parent(text(source, "path"), &path.child("path"), errors);
    errors.one_of_if_set(path.child("type"), at(source, "type"), TYPES);
}

fn monitors(source: &Value, path: &Path, errors: &mut Errors) {
    if list(source, "monitors").is_empty() {
        errors.required(path.child("monitors"), "");
    }
}

/// A reference to a secret, which a persistent volume must say the namespace of.
fn secret(source: &Value, owner: Owner, path: &Path, errors: &mut Errors) {
    if !has(source, "secretRef") {
        return;
    }
    let needed: &[&str] = if matches!(owner, Owner::Pod) { &["name"] } else { &["name", "namespace"] };
    for field in needed {
        if text(at(source, "secretRef"), field).is_empty() {
            errors.required(path.child("secretRef").child(field), "");
        }
    }
}

fn iscsi(source: &Value, owner: Owner, path: &Path, errors: &mut Errors) {
    let (start, portal) = match owner {
        Owner::Pod => ("must be valid format starting with iqn, eui, or naa", String::new()),
        Owner::PersistentVolume(name) => ("must be valid format", format!("{name}:{}", text(source, "targetPortal"))),
    };
    let initiator = at(source, "initiatorName").as_str();
    if initiator.is_some() && portal.len() > 64 {
        let why = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if \
                   iscsi.initiatorName is specified.";
        errors.invalid(path.child("targetportal"), text(source, "targetPortal"), why);
    }
    let mut qualified = |field: &str, name: &str| {
        if !["iqn", "eui", "naa"].iter().any(|kind| name.starts_with(kind)) {
            errors.invalid(path.child(field), name, start);
        } else if !is_qualified(name) {
            errors.invalid(path.child(field), name, "must be valid format");
        }
    };
    if !text(source, "iqn").is_empty() {
        qualified("iqn", text(source, "iqn"));
    }
    if let Some(name) = initiator {
        qualified("initiatorname", name);
    }
    unit(at(source, "lun"), path, errors);
    if (flag(source, "chapAuthDiscovery") || flag(source, "chapAuthSession")) && !has(source, "secretRef") {
        errors.required(path.child("secretRef"), "");
    }
    if has(source, "secretRef") && text(source, "secretRef.name").is_empty() {
        errors.required(path.child("secretRef").child("name"), "");
    }
}

/// `iqn.2015-02.example.com:test`, `eui.` with 16 or `naa.` with 32 letters or digits.
fn is_qualified(name: &str) -> bool {
    let all = |text: &str, count: usize| text.len() == count && text.bytes().all(|b| b.is_ascii_alphanumeric());
    if let Some(rest) = name.strip_prefix("eui.") {
        return all(rest, 16);
    }
    if let Some(rest) = name.strip_prefix("naa.") {
        return all(rest, 32);
    }
    let Some((date, rest)) = name.strip_prefix("iqn.").and_then(|rest| rest.split_at_checked(8)) else { return false };
    let dated = date.bytes().enumerate().all(|(at, byte)| match at {
        4 => byte == b'-',
        7 => byte == b'.',
        _ => byte.is_ascii_digit(),
    });
    rest.split_once(':').is_some_and(|(domain, own)| {
        dated
            && !domain.is_empty()
            && domain.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
            && !own.is_empty()
            && !own.contains(|c: char| ",;*&$|".contains(c) || c.is_whitespace())
    })
}

fn unit(lun: &Value, path: &Path, errors: &mut Errors) {
    if let Some(lun) = lun.as_i64()
        && !(0..=255).contains(&lun)
    {
        errors.invalid(path.child("lun"), lun, "must be between 0 and 255, inclusive");
    }
}

fn fibre_channel(source: &Value, path: &Path, errors: &mut Errors) {
    let (targets, wide) = (list(source, "targetWWNs"), list(source, "wwids"));
    let at_targets = path.child("targetWWNs");
    match (targets.is_empty(), wide.is_empty()) {
        (true, true) => errors.required(at_targets, "must specify either targetWWNs or wwids, but not both"),
        (false, false) => {
            let why = "targetWWNs and wwids can not be specified simultaneously";
            errors.invalid(at_targets, at(source, "targetWWNs"), why);
        }
        _ => {}
    }
    if !targets.is_empty() {
        if !has(source, "lun") {
            errors.required(path.child("lun"), "lun is required if targetWWNs is specified");
        }
        unit(at(source, "lun"), path, errors);
    }
}

fn flocker(source: &Value, path: &Path, errors: &mut Errors) {
    let name = text(source, "datasetName");
    match (name.is_empty(), text(source, "datasetUUID").is_empty()) {
        (true, true) => errors.required(path, "one of datasetName and datasetUUID is required"),
        (false, false) => {
            errors.invalid(path, "resource", "datasetName and datasetUUID can not be specified simultaneously");
        }
        _ => {}
    }
    if name.contains('/') {
        errors.invalid(path.child("datasetName"), name, "must not contain '/'");
    }
}

fn quobyte(source: &Value, path: &Path, errors: &mut Errors) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let registry = text(source, "registry");
    if registry.is_empty() {
        errors.required(path.child("registry"), PAIRS);
    } else if text(source, "tenant").len() >= 65 {
        errors.required(path.child("tenant"), "must be a UUID and may not exceed a length of 64 characters");
    } else {
        for pair in registry.split(',') {
            let host = pair.rsplit_once(':').map(|(host, _)| host);
            let bracketed = |host: &str| host.starts_with('[') && host.ends_with(']');
            if host.is_none_or(|host| host.contains(':') && !bracketed(host)) {
                errors.invalid(path.child("registry"), registry, PAIRS);
            }
        }
    }
}

fn endpoints_namespace(namespace: &Value, path: &Path, errors: &mut Errors) {
    let path = path.child("endpointsNamespace");
    match namespace.as_str() {
        None => {}
        Some("") => {
            errors.invalid(path, "", "if the endpointnamespace is set, it must be a valid namespace name");
        }
        Some(name) => errors.all_invalid(path, name, names::dns1123_label(name)),
    }
}

fn azure_disk(source: &Value, path: &Path, errors: &mut Errors) {
    const MANAGED: &str =
        "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
    const BLOB: &str = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
    errors.one_of_if_set(path.child("cachingMode"), at(source, "cachingMode"), &["None", "ReadOnly", "ReadWrite"]);
    errors.one_of_if_set(path.child("kind"), at(source, "kind"), &["Dedicated", "Managed", "Shared"]);
    let Some(kind) = at(source, "kind").as_str() else { return };
    let (start, form) = if kind == "Managed" { ("/subscriptions/", MANAGED) } else { ("https://", BLOB) };
    let disk = text(source, "diskURI");
    if !disk.starts_with(start) {
        errors.not_supported(path.child("diskURI"), disk, &[form]);
    }
}

fn flex(source: &Value, path: &Path, errors: &mut Errors) {
    for (key, _) in entries(source, "options") {
        let domain = format!(".{}", key.split('/').next().unwrap_or_default().to_lowercase());
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            let why = "kubernetes.io and k8s.io namespaces are reserved";
            errors.invalid(path.child("options").key(key), key.as_str(), why);
        }
    }
}

/// A volume that a pod says inline and a CSI driver makes.
pub fn inline_csi(source: &Value, path: &Path, errors: &mut Errors) {
    domains::driver(text(source, "driver"), &path.child("driver"), errors);
    if has(source, "nodePublishSecretRef") {
        match text(source, "nodePublishSecretRef.name") {
            "" => errors.required(path.child("nodePublishSecretRef").child("name"), ""),
            name => errors.all_invalid(path.child("name"), name, names::dns1123_subdomain(name)),
        }
    }
}

/// A persistent volume of a CSI driver.
pub fn persistent_csi(source: &Value, path: &Path, errors: &mut Errors) {
    domains::driver(text(source, "driver"), &path.child("driver"), errors);
    if text(source, "volumeHandle").is_empty() {
        errors.required(path.child("volumeHandle"), "");
    }
    const SECRETS: [&str; 4] =
        ["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"];
    for field in SECRETS.iter().filter(|field| has(source, field)) {
        let (reference, path) = (at(source, field), path.child(field));
        match text(reference, "name") {
            "" => errors.required(path.child("name"), ""),
            name => errors.all_invalid(path.child("name"), name, names::dns1123_subdomain(name)),
        }
        match text(reference, "namespace") {
            "" => errors.required(path.child("namespace"), ""),
            name => errors.all_invalid(path.child("namespace"), name, names::dns1123_label(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_iscsi_have_one_of_three_forms() {
        for right in ["iqn.2015-02.example.com:test", "eui.0123456789abcdef", "iqn.2015-02.a:b:c"] {
            assert!(is_qualified(right), "{right}");
        }
        for wrong in
            ["iqn.2015-02.example.com", "iqn.201-02.a:b", "eui.0", "naa.1", "iqn.2015-02.a:", "iqn.2015-02.a:b c"]
        {
            assert!(!is_qualified(wrong), "{wrong}");
        }
    }
}
