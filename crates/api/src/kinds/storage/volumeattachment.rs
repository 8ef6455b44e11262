//! `storage.k8s.io/v1 VolumeAttachment`.

use serde_json::Value;

use crate::kind::{ALL_METADATA, Kind, Strategy};
use crate::kinds::access::{at, flag, has, text};
use crate::kinds::builder::Builder;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::Errors;

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
        for field in ["attacher", "nodeName"] {
            if text(at(object, "spec"), field).is_empty() {
                errors.required(format!("spec.{field}"), "");
            }
        }
        let source = at(object, "spec.source");
        match (has(source, "persistentVolumeName"), has(source, "inlineVolumeSpec")) {
            (false, false) => {
                errors.required("spec.source", "must specify one of inlineVolumeSpec and persistentVolumeName")
            }
            (true, true) => {
                errors.forbidden("spec.source", "inlineVolumeSpec and persistentVolumeName are mutually exclusive");
            }
            _ => {}
        }
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        errors.immutable(old, new, "spec");
    }

    fn conditional_update(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}
