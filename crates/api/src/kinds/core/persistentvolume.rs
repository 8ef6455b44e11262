//! `v1 PersistentVolume`.

use serde_json::{Value, json};

use super::persistentvolumeclaim::{access_modes, access_modes_text, class_name, storage_class, unset};
use crate::kind::{Context, Kind, Strategy};
use crate::kinds::access::{at, entries, fill, fill_text, has, keep_at, list, text};
use crate::kinds::builder::Builder;
use crate::kinds::pods::sources::{self, Owner};
use crate::kinds::pods::{affinity, defaults, resources};
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, IMMUTABLE, Path};

pub fn kind() -> Kind {
    Builder::new("", "v1", "PersistentVolume", "persistentvolumes")
        .short(&["pv"])
        .status()
        .columns(COLUMNS)
        .strategy(PersistentVolume)
        .build()
}

const COLUMNS: &[Cell] = &[
    NAME,
    Cell::text("Capacity", "spec.capacity.storage"),
    Cell::made("Access Modes", |o| access_modes_text(list(o, "spec.accessModes"))),
    Cell::text("Reclaim Policy", "spec.persistentVolumeReclaimPolicy"),
    Cell::made("Status", |o| {
        if has(o, "metadata.deletionTimestamp") { "Terminating".into() } else { text(o, "status.phase").into() }
    }),
    Cell::made("Claim", |o| match at(o, "spec.claimRef") {
        Value::Null => "".into(),
        claim => format!("{}/{}", text(claim, "namespace"), text(claim, "name")).into(),
    }),
    Cell::made("StorageClass", storage_class),
    Cell::made("VolumeAttributesClass", |o| unset(at(o, "spec.volumeAttributesClassName"))),
    Cell::text("Reason", "status.reason"),
    AGE,
    Cell::made("VolumeMode", |o| unset(at(o, "spec.volumeMode"))).wide(),
];

/// The sources in the order in which upstream looks for them.
const SOURCES: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

/// Sources that take no mount options.
const UNMOUNTED: &[&str] =
    &["hostPath", "flocker", "fc", "flexVolume", "portworxVolume", "scaleIO", "local", "storageos", "csi"];

const MOUNT_OPTIONS: &str = "volume.beta.kubernetes.io/mount-options";

struct PersistentVolume;

impl Strategy for PersistentVolume {
    fn default(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec") else { return };
        fill_text(spec, "persistentVolumeReclaimPolicy", "Retain");
        fill(spec, "volumeMode", "Filesystem");
        for (name, source) in spec.as_object_mut().into_iter().flatten() {
            match name.as_str() {
                "hostPath" => fill(source, "type", ""),
                "iscsi" => fill_text(source, "iscsiInterface", "default"),
                "rbd" => defaults::rbd(source),
                "azureDisk" => defaults::azure_disk(source),
                "scaleIO" => {
                    fill_text(source, "storageMode", "ThinProvisioned");
                    fill_text(source, "fsType", "xfs");
                }
                _ => {}
            }
        }
    }

    fn prepare_create(&self, object: &mut Value, context: &Context) {
        object["status"] = json!({"phase": "Pending", "lastPhaseTransitionTime": context.now});
    }

    fn prepare_subresource_update(&self, _subresource: &str, old: &Value, new: &mut Value, context: &Context) {
        crate::kind::keep(old, new, "spec");
        if text(old, "status.phase") != text(new, "status.phase")
            && at(old, "status.lastPhaseTransitionTime") == at(new, "status.lastPhaseTransitionTime")
            && let Some(status) = new.get_mut("status").and_then(Value::as_object_mut)
        {
            status.insert("lastPhaseTransitionTime".to_owned(), context.now.into());
        }
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let (spec, path) = (at(object, "spec"), Path::new("spec"));
        validate_spec(spec, text(object, "metadata.name"), &path, errors);
        if at(object, "metadata.annotations").get(MOUNT_OPTIONS).is_some()
            && UNMOUNTED.iter().any(|source| has(spec, source))
        {
            let field = Path::new("metadata.annotations");
            errors.forbidden(field.child(MOUNT_OPTIONS), "may not specify mount options for this volume type");
        }
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        let mut allowed = new.clone();
        let expand = "spec.csi.controllerExpandSecretRef";
        if has(old, "spec.csi") && !has(old, expand) && has(new, "spec.csi") {
            keep_at(old, &mut allowed, expand);
        }
        if SOURCES.iter().any(|source| at(at(old, "spec"), source) != at(at(&allowed, "spec"), source)) {
            errors.forbidden("spec.persistentvolumesource", "spec.persistentvolumesource is immutable after creation");
        }
        for field in ["volumeMode", "nodeAffinity"] {
            let (was, is) = (at(at(old, "spec"), field), at(at(new, "spec"), field));
            // A place may be said later, and in the names that labels have today.
            let may_change = field == "nodeAffinity" && (was.is_null() || affinity::in_new_names(was) == *is);
            if was != is && !may_change {
                errors.invalid(field, is, IMMUTABLE);
            }
        }
        let attributes = "spec.volumeAttributesClassName";
        if has(old, attributes) && !has(new, attributes) {
            errors.forbidden(attributes, "update from non-nil value to nil is forbidden");
        }
    }

    fn warnings(&self, _old: Option<&Value>, new: &Value) -> Vec<String> {
        super::volume_warnings::volume(new)
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}

/// Errors of what a volume of its own and one that an attachment brings along have in common.
fn source(kind: &str, source: &Value, name: &str, path: &Path, errors: &mut Errors) {
    sources::common(kind, source, Owner::PersistentVolume(name), path, errors);
    if kind == "csi" {
        sources::persistent_csi(source, path, errors);
    }
}

fn validate_spec(spec: &Value, name: &str, path: &Path, errors: &mut Errors) {
    access_modes(spec, path, "", errors);
    let at_capacity = path.child("capacity");
    if entries(spec, "capacity").next().is_none() {
        errors.required(at_capacity, "");
    }
    if at(spec, "capacity.storage").is_null() || entries(spec, "capacity").count() > 1 {
        errors.not_supported(at_capacity, at(spec, "capacity"), &["storage"]);
    }
    for (name, value) in entries(spec, "capacity") {
        resources::basic(value, &at_capacity.key(name), errors);
        resources::above_zero(value, &at_capacity.key(name), errors);
    }
    const POLICIES: &[&str] = &["Delete", "Recycle", "Retain"];
    let at_policy = path.child("persistentVolumeReclaimPolicy");
    errors.one_of_if_set(at_policy, at(spec, "persistentVolumeReclaimPolicy"), POLICIES);
    let at_affinity = path.child("nodeAffinity");
    match (at(spec, "nodeAffinity"), at(spec, "nodeAffinity.required")) {
        (Value::Null, _) => {}
        (_, Value::Null) => errors.required(at_affinity.child("required"), "must specify required node constraints"),
        (_, selector) => affinity::node_selector(selector, &at_affinity.child("required"), errors),
    }
    sources::one_of(spec, SOURCES, path, errors, |kind, given, path, errors| source(kind, given, name, path, errors));
    let first = SOURCES.iter().find(|source| has(spec, source));
    if first == Some(&"local") && !has(spec, "nodeAffinity") {
        errors.required(at_affinity, "Local volume requires node affinity");
    }
    let root = text(spec, "hostPath.path");
    if root.starts_with('/')
        && root.split('/').all(|part| matches!(part, "" | "."))
        && text(spec, "persistentVolumeReclaimPolicy") == "Recycle"
    {
        errors.forbidden(at_policy, "may not be 'recycle' for a hostPath mount of '/'");
    }
    class_name(text(spec, "storageClassName"), &path.child("storageClassName"), errors);
    errors.one_of_if_set(path.child("volumeMode"), at(spec, "volumeMode"), &["Block", "Filesystem"]);
    if let Some(attributes) = at(spec, "volumeAttributesClassName").as_str() {
        if attributes.is_empty() {
            errors.required(path.child("volumeAttributesClassName"), "an empty string is disallowed");
        }
        class_name(attributes, &path.child("volumeAttributesClassName"), errors);
        if !has(spec, "csi") {
            errors.required(path.child("csi"), "has to be specified when using volumeAttributesClassName");
        }
    }
}

/// Errors of a volume that an attachment brings along, which is always a CSI driver's.
pub fn validate_inline(spec: &Value, path: &Path, errors: &mut Errors) {
    const CONTEXT: &str = "in the context of inline volumes";
    for field in ["claimRef", "capacity"].into_iter().filter(|field| has(spec, field)) {
        errors.forbidden(path.child(field), format!("may not be specified {CONTEXT}"));
    }
    if !has(spec, "csi") {
        errors.required(path.child("csi"), format!("has to be specified {CONTEXT}"));
    }
    access_modes(spec, path, "", errors);
    let policy = text(spec, "persistentVolumeReclaimPolicy");
    if !policy.is_empty() && policy != "Retain" {
        errors.forbidden(path.child("persistentVolumeReclaimPolicy"), format!("may only be Retain {CONTEXT}"));
    }
    if has(spec, "nodeAffinity") {
        errors.forbidden(path.child("nodeAffinity"), format!("may not be specified {CONTEXT}"));
    }
    sources::one_of(spec, SOURCES, path, errors, |kind, given, path, errors| source(kind, given, "", path, errors));
    if !text(spec, "storageClassName").is_empty() {
        errors.forbidden(path.child("storageClassName"), format!("may not be specified {CONTEXT}"));
    }
    let mode = text(spec, "volumeMode");
    if !mode.is_empty() && mode != "Filesystem" {
        errors
            .forbidden(path.child("volumeMode"), format!("may not specify volumeMode other than Filesystem {CONTEXT}"));
    }
}
