//! `v1 PersistentVolumeClaim`.

use std::cmp::Ordering;

use serde_json::{Value, json};

use crate::kind::{Context, Kind, Strategy};
use crate::kinds::access::{at, entries, fill, has, keep_at, list, text, texts};
use crate::kinds::builder::Builder;
use crate::kinds::pods::resources::{above_zero, basic, compare, is_native};
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, IMMUTABLE, Path, label_selector, names};

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
    let annotation = at(object, "metadata.annotations").get(CLASS);
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
        validate_spec(at(object, "spec"), &Path::new("spec"), errors);
    }

    fn validate_new(&self, object: &Value, errors: &mut Errors) {
        validate_groups(at(object, "spec"), &Path::new("spec"), errors);
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        if SOURCES.iter().all(|source| !has(at(at(old, "spec"), source), "apiGroup")) {
            validate_groups(at(new, "spec"), &Path::new("spec"), errors);
        }
        let mut allowed = new.clone();
        // A claim is bound by its volume's name, once.
        if text(old, "spec.volumeName").is_empty() {
            keep_at(old, &mut allowed, "spec.volumeName");
        }
        class_update(old, new, &mut allowed, errors);
        if text(new, "status.phase") == "Bound" && has(new, "spec.resources.requests") {
            keep_at(old, &mut allowed, "spec.resources.requests.storage");
        }
        keep_at(old, &mut allowed, "spec.volumeAttributesClassName");
        if at(old, "spec") != at(&allowed, "spec") {
            let why = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
            errors.forbidden("spec", why);
        }
        // Who asked for more than there is may ask for less again, but not for less than what is there.
        let (was, is) = (at(old, "spec.resources.requests.storage"), at(new, "spec.resources.requests.storage"));
        let capacity = at(old, "status.capacity.storage");
        if compare(is, was) == Some(Ordering::Less)
            && !capacity.is_null()
            && compare(is, capacity) != Some(Ordering::Greater)
        {
            errors.forbidden("spec.resources.requests.storage", "field can not be less than status.capacity");
        }
        if at(old, "spec.volumeMode") != at(new, "spec.volumeMode") {
            errors.invalid("volumeMode", at(new, "spec.volumeMode"), IMMUTABLE);
        }
        let attributes = "spec.volumeAttributesClassName";
        if has(old, attributes) && !has(new, attributes) {
            errors.forbidden(attributes, "update from non-nil value to nil is forbidden");
        } else if has(old, attributes) && at(old, attributes) != at(new, attributes) && text(new, attributes).is_empty()
        {
            errors.forbidden(attributes, "update from non-nil value to an empty string is forbidden");
        }
    }

    fn validate_subresource_update(&self, _subresource: &str, _old: &Value, new: &Value, errors: &mut Errors) {
        if list(new, "spec.accessModes").is_empty() {
            errors.required("Spec.accessModes", "");
        }
        let status = Path::new("status");
        let path = status.child("capacity");
        for (name, value) in entries(new, "status.capacity") {
            basic(value, &path.key(name), errors);
        }
        const RESIZES: &[&str] = &[
            "ControllerResizeFailed",
            "ControllerResizeInProgress",
            "NodeResizeFailed",
            "NodeResizeInProgress",
            "NodeResizePending",
        ];
        let path = status.child("allocatedResourceStatus");
        for (name, resize) in texts(new, "status.allocatedResourceStatuses") {
            resource_key(name, &path, errors);
            if !RESIZES.contains(&resize) {
                errors.not_supported(path, name, RESIZES);
            }
        }
        let path = status.child("allocatedResources");
        for (name, value) in entries(new, "status.allocatedResources") {
            if resource_key(name, &path, errors) {
                basic(value, &path.key(name), errors);
            }
        }
    }

    fn warnings(&self, _old: Option<&Value>, new: &Value) -> Vec<String> {
        super::volume_warnings::claim(new)
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}

/// The two ways to say what a claim's volume is filled with.
const SOURCES: [&str; 2] = ["dataSource", "dataSourceRef"];

/// Errors of a claim's spec, also of one that a pod brings along.
pub fn validate_spec(spec: &Value, path: &Path, errors: &mut Errors) {
    access_modes(spec, path, "at least 1 access mode is required", errors);
    if has(spec, "selector") {
        label_selector(at(spec, "selector"), &path.child("selector"), errors);
    }
    let (storage, resources) = (at(spec, "resources.requests.storage"), path.child("resources"));
    if storage.is_null() {
        errors.required(resources.key("storage"), "");
    } else {
        above_zero(storage, &resources.key("storage"), errors);
    }
    class_name(text(spec, "storageClassName"), &path.child("storageClassName"), errors);
    errors.one_of_if_set(path.child("volumeMode"), at(spec, "volumeMode"), &["Block", "Filesystem"]);
    for field in SOURCES.iter().filter(|field| has(spec, field)) {
        data_source(at(spec, field), &path.child(field), errors);
    }
    let (source, reference) = (at(spec, "dataSource"), at(spec, "dataSourceRef"));
    if !source.is_null() && !reference.is_null() {
        let same = ["apiGroup", "kind", "name"].iter().all(|field| source.get(field) == reference.get(field));
        if !text(reference, "namespace").is_empty() {
            errors.invalid(path, &json!({}), "may not be specified when dataSourceRef.namespace is specified");
        } else if !same {
            errors.invalid(path, &json!({}), "must match dataSourceRef");
        }
    }
    class_name(text(spec, "volumeAttributesClassName"), &path.child("volumeAttributesClassName"), errors);
}

/// The name of a class, if there is one.
pub fn class_name(name: &str, path: &Path, errors: &mut Errors) {
    if !name.is_empty() {
        errors.all_invalid(path, name, names::dns1123_subdomain(name));
    }
}

fn data_source(source: &Value, path: &Path, errors: &mut Errors) {
    for field in ["name", "kind"] {
        if text(source, field).is_empty() {
            errors.required(path.child(field), "");
        }
    }
    let kind = text(source, "kind");
    if text(source, "apiGroup").is_empty() && kind != "PersistentVolumeClaim" {
        errors.invalid(path, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup");
    }
    let namespace = text(source, "namespace");
    if !namespace.is_empty() {
        errors.all_invalid(path.child("namespace"), namespace, names::dns1123_label(namespace));
    }
}

/// The syntax of the groups of a claim's sources, which claims of long ago need not keep.
pub fn validate_groups(spec: &Value, path: &Path, errors: &mut Errors) {
    for field in SOURCES {
        let group = text(at(spec, field), "apiGroup");
        if !group.is_empty() {
            errors.all_invalid(path.child(field).child("apiGroup"), group, names::dns1123_subdomain(group));
        }
    }
}

/// A claim may be given a class where it had none; long ago the class was an annotation.
fn class_update(old: &Value, new: &Value, allowed: &mut Value, errors: &mut Errors) {
    let of = |claim: &Value| at(claim, "metadata.annotations").get(CLASS).and_then(Value::as_str).map(str::to_owned);
    let (was, is, class) = (of(old), of(new), at(new, "spec.storageClassName"));
    let none_before = at(old, "spec.storageClassName").is_null();
    let moved = was.is_some() && none_before && class.as_str() == was.as_deref() && (is.is_none() || is == was);
    if moved {
        keep_at(old, allowed, "spec.storageClassName");
        return;
    }
    if was.clone().unwrap_or_default() != is.clone().unwrap_or_default() {
        let field = Path::new("metadata");
        errors.invalid(field.child("annotations").key(CLASS), is.as_deref().unwrap_or_default(), IMMUTABLE);
    }
    if none_before && !class.is_null() && was.is_none_or(|was| class == was.as_str()) {
        keep_at(old, allowed, "spec.storageClassName");
    }
}

const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// Whether the name is one of those that a claim counts.
fn resource_key(name: &str, path: &Path, errors: &mut Errors) -> bool {
    let messages = names::qualified_name(name);
    let wrong = !messages.is_empty();
    errors.all_invalid(path, name, messages);
    let foreign = !wrong && is_native(name) && name != "storage";
    if foreign {
        errors.not_supported(path, name, &["storage"]);
    }
    !wrong && !foreign
}
