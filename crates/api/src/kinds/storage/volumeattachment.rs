//! `storage.k8s.io/v1 VolumeAttachment`.

use serde_json::Value;

use crate::kind::{ALL_METADATA, Kind, Strategy};
use crate::kinds::access::{at, flag, number, text, texts};
use crate::kinds::builder::Builder;
use crate::kinds::core::persistentvolume;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, Path, domains, names};

pub fn kind() -> Kind {
    Builder::new("storage.k8s.io", "v1", "VolumeAttachment", "volumeattachments")
        .status()
        .columns(COLUMNS)
        .strategy(VolumeAttachment)
        .build()
}

const COLUMNS: &[Cell] = &[
    NAME,
    Cell::text("Attacher", "spec.attacher"),
    Cell::text("PV", "spec.source.persistentVolumeName"),
    Cell::text("Node", "spec.nodeName"),
    Cell::made("Attached", |o| flag(o, "status.attached").into()).typed("boolean"),
    AGE,
];

struct VolumeAttachment;

impl Strategy for VolumeAttachment {
    fn kept_by_status(&self) -> &'static [&'static str] {
        ALL_METADATA
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let (spec, path) = (at(object, "spec"), Path::new("spec"));
        if text(spec, "attacher").is_empty() {
            errors.required(path.child("attacher"), "");
        }
        source(at(spec, "source"), &path.child("source"), errors);
        let node = text(spec, "nodeName");
        errors.all_invalid(path.child("nodeName"), node, names::dns1123_subdomain(node));
        status(at(object, "status"), errors);
    }

    fn validate_new(&self, object: &Value, errors: &mut Errors) {
        domains::driver(text(object, "spec.attacher"), &Path::new("spec.attacher"), errors);
        if let Some(name) = at(object, "spec.source.persistentVolumeName").as_str() {
            errors.all_invalid("spec.source.persistentVolumeName", name, names::dns1123_subdomain(name));
        }
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        errors.immutable(old, new, "spec");
    }

    fn validate_subresource_update(&self, _subresource: &str, _old: &Value, new: &Value, errors: &mut Errors) {
        self.validate(new, errors);
    }

    fn conditional_update(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}

fn source(source: &Value, path: &Path, errors: &mut Errors) {
    const ONE: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (at(source, "inlineVolumeSpec"), at(source, "persistentVolumeName")) {
        (Value::Null, Value::Null) => errors.required(path, ONE),
        (Value::Null, name) => {
            if name == "" {
                let why = "must specify non empty persistentVolumeName";
                errors.required(path.child("persistentVolumeName"), why);
            }
        }
        (spec, Value::Null) => persistentvolume::validate_inline(spec, &path.child("inlineVolumeSpec"), errors),
        _ => errors.forbidden(path, ONE),
    }
}

fn status(status: &Value, errors: &mut Errors) {
    const METADATA_MAX: usize = 256 * 1024;
    const MESSAGE_MAX: usize = 1024;
    let path = Path::new("status");
    if texts(status, "attachmentMetadata").map(|(name, value)| name.len() + value.len()).sum::<usize>() > METADATA_MAX {
        errors.too_long(path.child("attachmentMetadata"), METADATA_MAX);
    }
    for field in ["attachError", "detachError"] {
        let (error, path) = (at(status, field), path.child(field));
        if text(error, "message").len() > MESSAGE_MAX {
            errors.too_long(path.child("message"), METADATA_MAX);
        }
        if number(error, "errorCode") < 0 {
            let why = format!("must be between 0 and {}, inclusive", i32::MAX);
            errors.invalid(path.child("errorCode"), number(error, "errorCode"), why);
        }
    }
}
