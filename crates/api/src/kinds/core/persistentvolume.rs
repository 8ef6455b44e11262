//! `v1 PersistentVolume`.

use serde_json::{Value, json};

use super::persistentvolumeclaim::{access_modes, access_modes_text, storage_class, unset};
use crate::kind::{Context, Kind, Strategy};
use crate::kinds::access::{at, entries, fill, fill_text, has, list, text};
use crate::kinds::builder::Builder;
use crate::kinds::pods::{affinity, defaults, resources, volumes};
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, Path};

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

/// Fields of the spec that are not the volume's source.
const OWN: &[&str] = &[
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

fn source(spec: &Value) -> impl Iterator<Item = (&String, &Value)> {
    spec.as_object().into_iter().flatten().filter(|(name, value)| !OWN.contains(&name.as_str()) && !value.is_null())
}

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
        access_modes(spec, &path, "", errors);
        if entries(spec, "capacity").next().is_none() {
            errors.required(path.child("capacity"), "");
        }
        if at(spec, "capacity.storage").is_null() || entries(spec, "capacity").count() > 1 {
            errors.not_supported(path.child("capacity"), at(spec, "capacity"), &["storage"]);
        }
        for (name, value) in entries(spec, "capacity") {
            resources::amount(name, value, &path.child("capacity").key(name), errors);
        }
        const POLICIES: &[&str] = &["Delete", "Recycle", "Retain"];
        let at_policy = path.child("persistentVolumeReclaimPolicy");
        errors.one_of_if_set(at_policy, at(spec, "persistentVolumeReclaimPolicy"), POLICIES);
        errors.one_of_if_set(path.child("volumeMode"), at(spec, "volumeMode"), &["Block", "Filesystem"]);
        let mut sources = source(spec);
        match sources.next() {
            None => errors.required(path, "must specify a volume type"),
            Some((name, value)) => volumes::source(name, value, &path.child(name), errors),
        }
        for (kind, field) in [("csi", "volumeHandle"), ("local", "path")] {
            if has(spec, kind) && text(at(spec, kind), field).is_empty() {
                errors.required(path.child(kind).child(field), "");
            }
        }
        for (name, _) in sources {
            errors.forbidden(path.child(name), "may not specify more than 1 volume type");
        }
        if has(spec, "nodeAffinity.required") {
            affinity::node_selector(at(spec, "nodeAffinity.required"), &path.child("nodeAffinity.required"), errors);
        }
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        if !source(at(old, "spec")).eq(source(at(new, "spec"))) {
            errors.forbidden("spec.persistentvolumesource", "spec.persistentvolumesource is immutable after creation");
        }
        errors.immutable(old, new, "spec.volumeMode");
        if has(old, "spec.nodeAffinity") {
            errors.immutable(old, new, "spec.nodeAffinity");
        }
    }

    fn warnings(&self, _old: Option<&Value>, new: &Value) -> Vec<String> {
        super::volume_warnings::volume(new)
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}
