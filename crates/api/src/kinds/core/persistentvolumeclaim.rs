//! `v1 PersistentVolumeClaim`.

use std::cmp::Ordering;

use serde_json::{Value, json};

use crate::kind::{Context, Kind, Strategy};
use crate::kinds::access::{at, fill, has, keep_at, list, text};
use crate::kinds::builder::Builder;
use crate::kinds::pods::resources::{compare, negative, quantity};
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, Path, label_selector, names};

pub fn kind() -> Kind {
    Builder::new("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
        .namespaced()
        .short(&["pvc"])
        .status()
        .columns(COLUMNS)
        .strategy(PersistentVolumeClaim)
        .build()
}

const COLUMNS: &[Cell] = &[
    NAME,
    Cell::made("Status", |o| {
        if has(o, "metadata.deletionTimestamp") { "Terminating".into() } else { text(o, "status.phase").into() }
    }),
    Cell::text("Volume", "spec.volumeName"),
    Cell::made("Capacity", |o| if bound(o) { text(o, "status.capacity.storage").into() } else { "".into() }),
    Cell::made("Access Modes", |o| if bound(o) { access_modes_text(list(o, "status.accessModes")) } else { "".into() }),
    Cell::made("StorageClass", storage_class),
    Cell::made("VolumeAttributesClass", |o| unset(at(o, "spec.volumeAttributesClassName"))),
    AGE,
    Cell::made("VolumeMode", |o| unset(at(o, "spec.volumeMode"))).wide(),
];

fn bound(claim: &Value) -> bool {
    !text(claim, "spec.volumeName").is_empty()
}

/// The text, or `<unset>`.
pub fn unset(value: &Value) -> Value {
    value.as_str().unwrap_or("<unset>").into()
}

const MODES: &[(&str, &str)] =
    &[("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];

/// `RWO,ROX`.
pub fn access_modes_text(modes: &[Value]) -> Value {
    let short: Vec<&str> = MODES.iter().filter(|(name, _)| modes.iter().any(|m| m == name)).map(|(_, s)| *s).collect();
    short.join(",").into()
}

/// The storage class, which long ago was an annotation.
pub fn storage_class(object: &Value) -> Value {
    let annotation = at(object, "metadata.annotations").get("volume.beta.kubernetes.io/storage-class");
    annotation.and_then(Value::as_str).unwrap_or_else(|| text(object, "spec.storageClassName")).into()
}

/// Errors of `accessModes` in the spec of a volume or claim; `none` is what is said where there are none.
pub fn access_modes(spec: &Value, path: &Path, none: &str, errors: &mut Errors) {
    let path = path.child("accessModes");
    let modes = list(spec, "accessModes");
    if modes.is_empty() {
        errors.required(path, none);
    }
    for mode in modes {
        let known: Vec<&str> = MODES.iter().map(|(name, _)| *name).collect();
        if !known.iter().any(|name| mode == name) {
            errors.not_supported(path, mode, &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"]);
        }
    }
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        errors.forbidden(path, "may not use ReadWriteOncePod with other access modes");
    }
}

struct PersistentVolumeClaim;

impl Strategy for PersistentVolumeClaim {
    fn default(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec") else { return };
        fill(spec, "volumeMode", "Filesystem");
        fill(spec, "resources", json!({}));
        // The two ways to name a source say the same where the newer one stays in the namespace.
        if has(spec, "dataSource") && !has(spec, "dataSourceRef") {
            let source = at(spec, "dataSource").clone();
            fill(spec, "dataSourceRef", source);
        } else if has(spec, "dataSourceRef") && !has(spec, "dataSource") && !has(spec, "dataSourceRef.namespace") {
            let reference = at(spec, "dataSourceRef").clone();
            if matches!(text(&reference, "kind"), "PersistentVolumeClaim" | "VolumeSnapshot") {
                fill(spec, "dataSource", reference);
            }
        }
    }

    fn prepare_create(&self, object: &mut Value, _context: &Context) {
        object["status"] = json!({"phase": "Pending"});
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let (spec, path) = (at(object, "spec"), Path::new("spec"));
        access_modes(spec, &path, "at least 1 access mode is required", errors);
        if has(spec, "selector") {
            label_selector(at(spec, "selector"), &path.child("selector"), errors);
        }
        let storage = at(spec, "resources.requests.storage");
        if storage.is_null() {
            errors.required(path.child("resources").key("storage"), "");
        } else if negative(storage) || quantity(storage).is_some_and(|q| q.is_zero()) {
            let shown = storage.as_str().map_or_else(|| storage.to_string(), str::to_owned);
            errors.invalid(path.child("resources").key("storage"), shown.as_str(), "must be greater than zero");
        }
        for field in ["storageClassName", "volumeAttributesClassName"] {
            let class = text(spec, field);
            if !class.is_empty() {
                errors.all_invalid(path.child(field), class, names::dns1123_subdomain(class));
            }
        }
        errors.one_of_if_set(path.child("volumeMode"), at(spec, "volumeMode"), &["Block", "Filesystem"]);
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        let mut allowed = new.clone();
        // A claim is bound by its volume's name, once.
        if text(old, "spec.volumeName").is_empty() {
            keep_at(old, &mut allowed, "spec.volumeName");
        }
        if at(old, "spec.storageClassName").is_null() {
            keep_at(old, &mut allowed, "spec.storageClassName");
        }
        keep_at(old, &mut allowed, "spec.volumeAttributesClassName");
        let (was, is) = (at(old, "spec.resources.requests.storage"), at(new, "spec.resources.requests.storage"));
        if text(old, "status.phase") == "Bound" {
            keep_at(old, &mut allowed, "spec.resources.requests");
            let capacity = at(old, "status.capacity.storage");
            if compare(is, was) == Some(Ordering::Less)
                && (capacity.is_null() || compare(is, capacity) != Some(Ordering::Greater))
            {
                let why = "field can not be less than status.capacity";
                errors.forbidden("spec.resources.requests.storage", why);
            }
        }
        if at(old, "spec") != at(&allowed, "spec") {
            let why = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
            errors.forbidden("spec", why);
        }
    }

    fn warnings(&self, _old: Option<&Value>, new: &Value) -> Vec<String> {
        super::volume_warnings::claim(new)
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}
