//! Validation of a pod's volumes.

use serde_json::Value;

use super::containers::{descending, field_ref, resource_field_ref};
use super::resources::negative;
use super::sources::{self, Owner};
use crate::kinds::access::{at, has, list, text};
use crate::kinds::core::persistentvolumeclaim as claim;
use crate::validation::{Errors, Path, domains, label_selector, metadata, names};

/// What `fieldRef` may name in a downward file.
const FILE_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// The sources in the order in which upstream looks for them.
const ORDER: &[&str] = &[
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
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
        sources::one_of(volume, ORDER, &path, errors, source);
    }
}

fn source(kind: &str, source: &Value, path: &Path, errors: &mut Errors) {
    sources::common(kind, source, Owner::Pod, path, errors);
    match kind {
        "emptyDir" if negative(at(source, "sizeLimit")) => {
            errors.forbidden(path.child("sizeLimit"), "SizeLimit field must be a valid resource quantity");
        }
        "gitRepo" => descending(text(source, "directory"), &path.child("directory"), errors),
        "secret" | "configMap" => {
            mode(at(source, "defaultMode"), &path.child("defaultMode"), errors);
            items(source, path, errors);
        }
        "downwardAPI" => {
            mode(at(source, "defaultMode"), &path.child("defaultMode"), errors);
            downward(source, path, errors);
        }
        "projected" => projected(source, path, errors),
        "csi" => sources::inline_csi(source, path, errors),
        "ephemeral" => match at(source, "volumeClaimTemplate") {
            Value::Null => errors.required(path.child("volumeClaimTemplate"), ""),
            template => claim_template(template, &path.child("volumeClaimTemplate"), errors),
        },
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

/// The claim that a pod takes with it.
fn claim_template(template: &Value, path: &Path, errors: &mut Errors) {
    metadata::template_meta(at(template, "metadata"), &path.child("metadata"), errors);
    claim::validate_spec(at(template, "spec"), &path.child("spec"), errors);
    claim::validate_groups(at(template, "spec"), &path.child("spec"), errors);
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

/// Upstream tells of its files without their places in the list.
fn downward(source: &Value, path: &Path, errors: &mut Errors) {
    for item in list(source, "items") {
        file(item, path, errors);
        match (at(item, "fieldRef"), at(item, "resourceFieldRef")) {
            (Value::Null, Value::Null) => errors.required(path, "one of fieldRef and resourceFieldRef is required"),
            (field, Value::Null) => field_ref(field, FILE_FIELDS, &path.child("fieldRef"), errors),
            (Value::Null, resource) => resource_field_ref(resource, true, &path.child("resourceFieldRef"), errors),
            (field, _) => {
                field_ref(field, FILE_FIELDS, &path.child("fieldRef"), errors);
                errors.invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously");
            }
        }
        mode(at(item, "mode"), &path.child("mode"), errors);
    }
}

fn projected(source: &Value, path: &Path, errors: &mut Errors) {
    mode(at(source, "defaultMode"), &path.child("defaultMode"), errors);
    let all = path.child("sources");
    let mut files = Vec::new();
    for (index, part) in list(source, "sources").iter().enumerate() {
        let at_source = all.index(index);
        let mut once = |file: &'_ str, shown: &str, errors: &mut Errors| {
            if files.iter().any(|other| other == file) {
                errors.invalid(path, shown, "conflicting duplicate paths");
            } else if !file.is_empty() {
                files.push(file.to_owned());
            }
        };
        for kind in ["secret", "configMap"].into_iter().filter(|kind| has(part, kind)) {
            let (value, at_part) = (at(part, kind), at_source.child(kind));
            if text(value, "name").is_empty() {
                errors.required(at_part.child("name"), "");
            }
            items(value, &at_part, errors);
            for item in list(value, "items") {
                once(text(item, "path"), text(value, "name"), errors);
            }
        }
        if has(part, "downwardAPI") {
            downward(at(part, "downwardAPI"), &at_source.child("downwardAPI"), errors);
            for item in list(part, "downwardAPI.items") {
                once(text(item, "path"), text(item, "path"), errors);
            }
        }
        if has(part, "serviceAccountToken") {
            token(at(part, "serviceAccountToken"), path, &at_source.child("serviceAccountToken"), errors);
        }
        if has(part, "clusterTrustBundle") {
            let bundle = at(part, "clusterTrustBundle");
            trust_bundle(bundle, &at_source.child("clusterTrustBundlePEM"), errors);
            once(text(bundle, "path"), text(bundle, "path"), errors);
        }
        if part.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()).count() > 1 {
            errors.forbidden(at_source, "may not specify more than 1 volume type");
        }
    }
}

/// Upstream tells of the token's path as if it were the volume's.
fn token(token: &Value, volume: &Path, path: &Path, errors: &mut Errors) {
    if let Some(seconds) = at(token, "expirationSeconds").as_i64() {
        let path = path.child("expirationSeconds");
        if seconds < 600 {
            errors.invalid(path, seconds, "may not specify a duration less than 10 minutes");
        } else if seconds > 1 << 32 {
            errors.invalid(path, seconds, "may not specify a duration larger than 2^32 seconds");
        }
    }
    file(token, volume, errors);
}

fn trust_bundle(bundle: &Value, path: &Path, errors: &mut Errors) {
    let (name, signer) = (at(bundle, "name").as_str(), at(bundle, "signerName").as_str());
    match (name, signer) {
        (Some(_), Some(_)) => errors.invalid(path, bundle, "only one of name and signerName may be used"),
        (Some(name), None) => {
            if name.is_empty() {
                errors.required(path.child("name"), "must be a valid object name");
            }
            // What stands before the last colon is the signer's name.
            let own = name.rsplit_once(':').map_or(name, |(_, own)| own);
            for message in names::dns1123_subdomain(own) {
                errors.invalid(path.child("name"), name, format!("not a valid clustertrustbundlename: {message}"));
            }
            if has(bundle, "labelSelector") {
                let why = "labelSelector must be unset if name is specified";
                errors.invalid(path.child("labelSelector"), at(bundle, "labelSelector"), why);
            }
        }
        (None, Some(signer)) => {
            if signer.is_empty() {
                errors.required(path.child("signerName"), "must be a valid signer name");
            }
            domains::signer(signer, &path.child("signerName"), errors);
            label_selector(at(bundle, "labelSelector"), &path.child("labelSelector"), errors);
        }
        (None, None) => errors.required(path, "either name or signerName must be specified"),
    }
    file(bundle, path, errors);
}
