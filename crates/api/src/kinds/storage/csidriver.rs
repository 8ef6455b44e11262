//! `storage.k8s.io/v1 CSIDriver`.

use serde_json::{Value, json};

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, fill, flag, list, text};
use crate::kinds::builder::Builder;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, NameRule, names};

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

    fn name_rule(&self) -> NameRule {
        NameRule::Own
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let name = text(object, "metadata.name");
        if name.len() > 63 {
            errors.too_long("metadata.name", 63);
        }
        errors.all_invalid("metadata.name", name, names::dns1123_subdomain(&name.to_lowercase()));
        const POLICIES: &[&str] = &["File", "None", "ReadWriteOnceWithFSType"];
        errors.one_of_if_set("spec.fsGroupPolicy", at(object, "spec.fsGroupPolicy"), POLICIES);
        for mode in list(object, "spec.volumeLifecycleModes") {
            errors.one_of_supported("spec.volumeLifecycleModes", mode, &["Ephemeral", "Persistent"]);
        }
        for (index, token) in list(object, "spec.tokenRequests").iter().enumerate() {
            if let Some(seconds) = at(token, "expirationSeconds").as_i64()
                && seconds < 600
            {
                let field = format!("spec.tokenRequests[{index}].expirationSeconds");
                errors.invalid(field, seconds, "may not specify a duration less than 10 minutes");
            }
        }
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        for field in ["attachRequired", "volumeLifecycleModes", "fsGroupPolicy"] {
            errors.immutable(old, new, &format!("spec.{field}"));
        }
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
