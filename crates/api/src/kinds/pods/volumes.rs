//! Validation of a pod's volumes.

use serde_json::Value;

use super::containers::{descending, field_ref, no_parent, resource_field_ref};
use super::resources::negative;
use crate::kinds::access::{at, has, list, text};
use crate::validation::{Errors, Path, names};

/// What `fieldRef` may name in a downward file.
const FILE_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// Fields of sources that must not be empty.
const REQUIRED: &[(&str, &[&str])] = &[
    ("secret", &["secretName"]),
    ("configMap", &["name"]),
    ("persistentVolumeClaim", &["claimName"]),
    ("hostPath", &["path"]),
    ("nfs", &["server", "path"]),
    ("csi", &["driver"]),
    ("image", &["reference"]),
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("gitRepo", &["repository"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("glusterfs", &["endpoints", "path"]),
    ("flexVolume", &["driver"]),
    ("rbd", &["image"]),
    ("cinder", &["volumeID"]),
    ("azureFile", &["secretName", "shareName"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("vsphereVolume", &["volumePath"]),
    ("quobyte", &["registry", "volume"]),
    ("portworxVolume", &["volumeID"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("storageos", &["volumeName"]),
];

pub fn validate_all(volumes: &[Value], path: &Path, errors: &mut Errors) {
    for (index, volume) in volumes.iter().enumerate() {
        let path = path.index(index);
        let name = text(volume, "name");
        if name.is_empty() {
            errors.required(path.child("name"), "");
        } else {
            errors.all_invalid(path.child("name"), name, names::dns1123_label(name));
            if volumes[..index].iter().any(|other| text(other, "name") == name) {
                errors.duplicate(path.child("name"), name);
            }
        }
        let mut sources =
            volume.as_object().into_iter().flatten().filter(|(name, source)| *name != "name" && !source.is_null());
        match sources.next() {
            None => errors.required(path, "must specify a volume type"),
            Some((kind, given)) => source(kind, given, &path.child(kind), errors),
        }
        for (kind, _) in sources {
            errors.forbidden(path.child(kind), "may not specify more than 1 volume type");
        }
    }
}

/// One source, of a pod's volume or of a persistent one.
pub fn source(kind: &str, source: &Value, path: &Path, errors: &mut Errors) {
    for field in REQUIRED.iter().filter(|(name, _)| *name == kind).flat_map(|(_, fields)| *fields) {
        if text(source, field).is_empty() {
            errors.required(path.child(field), "");
        }
    }
    match kind {
        "emptyDir" if negative(at(source, "sizeLimit")) => {
            errors.forbidden(path.child("sizeLimit"), "SizeLimit field must be a valid resource quantity");
        }
        "hostPath" => host_path(source, path, errors),
        "nfs" => {
            let directory = text(source, "path");
            if !directory.is_empty() && !directory.starts_with('/') {
                errors.invalid(path.child("path"), directory, "must be an absolute path");
            }
        }
        "secret" | "configMap" => {
            mode(at(source, "defaultMode"), &path.child("defaultMode"), errors);
            items(source, path, errors);
        }
        "downwardAPI" => {
            mode(at(source, "defaultMode"), &path.child("defaultMode"), errors);
            downward(source, path, errors);
        }
        "projected" => projected(source, path, errors),
        "ephemeral" if !has(source, "volumeClaimTemplate") => errors.required(path.child("volumeClaimTemplate"), ""),
        "image" => {
            errors.one_of_if_set(
                path.child("pullPolicy"),
                at(source, "pullPolicy"),
                &["Always", "IfNotPresent", "Never"],
            );
        }
        _ => {}
    }
}

fn host_path(source: &Value, path: &Path, errors: &mut Errors) {
    const TYPES: &[&str] =
        &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    no_parent(text(source, "path"), &path.child("path"), errors);
    errors.one_of_if_set(path.child("type"), at(source, "type"), TYPES);
}

fn mode(value: &Value, path: &Path, errors: &mut Errors) {
    if let Some(mode) = value.as_i64()
        && !(0..=0o777).contains(&mode)
    {
        errors.invalid(path, mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

fn items(source: &Value, path: &Path, errors: &mut Errors) {
    let all = path.child("items");
    for (index, item) in list(source, "items").iter().enumerate() {
        let path = all.index(index);
        if text(item, "key").is_empty() {
            errors.required(path.child("key"), "");
        }
        file(item, &path, errors);
        mode(at(item, "mode"), &path.child("mode"), errors);
    }
}

/// The path of a file in a volume: relative, below it, and its first part does not begin with `..`.
fn file(item: &Value, path: &Path, errors: &mut Errors) {
    let name = text(item, "path");
    let path = path.child("path");
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    descending(name, &path, errors);
    if name.starts_with("..") && !name.starts_with("../") && name != ".." {
        errors.invalid(path, name, "must not start with '..'");
    }
}

fn downward(source: &Value, path: &Path, errors: &mut Errors) {
    let all = path.child("items");
    for (index, item) in list(source, "items").iter().enumerate() {
        let path = all.index(index);
        file(item, &path, errors);
        mode(at(item, "mode"), &path.child("mode"), errors);
        match (at(item, "fieldRef"), at(item, "resourceFieldRef")) {
            (Value::Null, Value::Null) => {
                errors.required(path.child("fieldRef"), "one of fieldRef and resourceFieldRef is required");
            }
            (field, Value::Null) => field_ref(field, FILE_FIELDS, &path.child("fieldRef"), errors),
            (Value::Null, resource) => resource_field_ref(resource, true, &path.child("resourceFieldRef"), errors),
            _ => errors.invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"),
        }
    }
}

fn projected(source: &Value, path: &Path, errors: &mut Errors) {
    mode(at(source, "defaultMode"), &path.child("defaultMode"), errors);
    let all = path.child("sources");
    for (index, part) in list(source, "sources").iter().enumerate() {
        let path = all.index(index);
        let mut given = part.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
        let Some((kind, value)) = given.next() else { continue };
        let at_part = path.child(kind);
        match kind.as_str() {
            "secret" | "configMap" => {
                if text(value, "name").is_empty() {
                    errors.required(at_part.child("name"), "");
                }
                items(value, &at_part, errors);
            }
            "downwardAPI" => downward(value, &at_part, errors),
            "serviceAccountToken" => token(value, &at_part, errors),
            "clusterTrustBundle" => file(value, &at_part, errors),
            _ => {}
        }
        for (kind, _) in given {
            errors.forbidden(path.child(kind), "may not specify more than 1 volume type");
        }
    }
}

fn token(token: &Value, path: &Path, errors: &mut Errors) {
    if let Some(seconds) = at(token, "expirationSeconds").as_i64() {
        let path = path.child("expirationSeconds");
        if seconds < 600 {
            errors.invalid(path, seconds, "may not specify a duration less than 10 minutes");
        } else if seconds > 1 << 32 {
            errors.invalid(path, seconds, "may not specify a duration larger than 2^32 seconds");
        }
    }
    file(token, path, errors);
}
