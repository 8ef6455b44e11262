//! `storage.k8s.io/v1 CSIDriver`.

use serde_json::{Value, json};

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, fill, flag, list, text};
use crate::kinds::builder::Builder;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, IMMUTABLE, Path};

pub fn kind() -> Kind {
    Builder::new("storage.k8s.io", "v1", "CSIDriver", "csidrivers").columns(COLUMNS).strategy(CsiDriver).build()
}

const COLUMNS: &[Cell] = &[
    NAME,
    Cell::made("AttachRequired", |o| flag(o, "spec.attachRequired").into()).typed("boolean"),
    Cell::made("PodInfoOnMount", |o| flag(o, "spec.podInfoOnMount").into()).typed("boolean"),
    Cell::made("StorageCapacity", |o| flag(o, "spec.storageCapacity").into()).typed("boolean"),
    Cell::made("TokenRequests", |o| {
        let audiences: Vec<&str> = list(o, "spec.tokenRequests").iter().map(|token| text(token, "audience")).collect();
        if audiences.is_empty() { "<unset>".into() } else { audiences.join(",").into() }
    }),
    Cell::made("RequiresRepublish", |o| flag(o, "spec.requiresRepublish").into()).typed("boolean"),
    Cell::made("Modes", |o| {
        let modes: Vec<&str> = list(o, "spec.volumeLifecycleModes").iter().filter_map(Value::as_str).collect();
        print::joined(&modes, ",").into()
    }),
    AGE,
];

struct CsiDriver;

impl Strategy for CsiDriver {
    fn default(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec") else { return };
        fill(spec, "attachRequired", true);
        fill(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        for field in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
            fill(spec, field, false);
        }
        if list(spec, "volumeLifecycleModes").is_empty() {
            spec["volumeLifecycleModes"] = json!(["Persistent"]);
        }
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        const POLICIES: &[&str] = &["File", "None", "ReadWriteOnceWithFSType"];
        let (spec, path) = (at(object, "spec"), Path::new("spec"));
        errors.one_of_if_set(path.child("fsGroupPolicy"), at(spec, "fsGroupPolicy"), POLICIES);
        let (tokens, all) = (list(spec, "tokenRequests"), path.child("tokenRequests"));
        for (index, token) in tokens.iter().enumerate() {
            let path = all.index(index);
            if tokens[..index].iter().any(|other| text(other, "audience") == text(token, "audience")) {
                errors.duplicate(path.child("audience"), text(token, "audience"));
                continue;
            }
            let Some(seconds) = at(token, "expirationSeconds").as_i64() else { continue };
            if seconds < 600 {
                let why = "may not specify a duration less than 10 minutes";
                errors.invalid(path.child("expirationSeconds"), seconds, why);
            }
            if seconds > 1 << 32 {
                let why = "may not specify a duration larger than 2^32 seconds";
                errors.invalid(path.child("expirationSeconds"), seconds, why);
            }
        }
        for mode in list(spec, "volumeLifecycleModes") {
            errors.one_of_supported(path.child("volumeLifecycleModes"), mode, &["Ephemeral", "Persistent"]);
        }
        let period = "nodeAllocatableUpdatePeriodSeconds";
        if let Some(seconds) = at(spec, period).as_i64()
            && seconds < 10
        {
            errors.invalid(path.child(period), seconds, "must be greater than or equal to 10 seconds");
        }
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        let (was, is) = (at(old, "spec.attachRequired"), at(new, "spec.attachRequired"));
        if was != is {
            errors.invalid("spec.attachedRequired", is, IMMUTABLE);
        }
        errors.immutable(old, new, "spec.volumeLifecycleModes");
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn conditional_update(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}
