//! `v1 Namespace`.

use serde_json::{Value, json};

use crate::kind::{Context, Kind, Strategy, keep};
use crate::kinds::access::{at, has, keep_at, list, section, text};
use crate::kinds::builder::Builder;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, NameRule, Path, metadata};

pub fn kind() -> Kind {
    Builder::new("", "v1", "Namespace", "namespaces")
        .short(&["ns"])
        .verbs(&["create", "delete", "get", "list", "patch", "update", "watch"])
        .own("finalize", &["update"])
        .status()
        .selectable(&["status.phase"])
        .columns(COLUMNS)
        .strategy(Namespace)
        .build()
}

const COLUMNS: &[Cell] = &[NAME, Cell::text("Status", "status.phase"), AGE];

struct Namespace;

/// Every namespace can be selected by its name.
fn name_label(object: &mut Value) {
    let name = text(object, "metadata.name").to_owned();
    if !name.is_empty()
        && let Some(labels) = section(object, "metadata.labels")
    {
        labels.insert("kubernetes.io/metadata.name".to_owned(), name.into());
    }
}

impl Strategy for Namespace {
    fn default(&self, object: &mut Value) {
        name_label(object);
    }

    fn prepare_create(&self, object: &mut Value, _context: &Context) {
        name_label(object);
        object["status"] = json!({"phase": "Active"});
        let mut finalizers = list(object, "spec.finalizers").to_vec();
        if !finalizers.iter().any(|name| name == "kubernetes") {
            finalizers.push("kubernetes".into());
        }
        if let Some(spec) = section(object, "spec") {
            spec.insert("finalizers".to_owned(), finalizers.into());
        }
    }

    fn prepare_update(&self, old: &Value, new: &mut Value, _context: &Context) {
        keep_at(old, new, "spec.finalizers");
        keep(old, new, "status");
    }

    fn prepare_subresource_update(&self, subresource: &str, old: &Value, new: &mut Value, _context: &Context) {
        if subresource == "finalize" {
            keep(old, new, "status");
        } else {
            keep(old, new, "spec");
        }
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Label
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        metadata::finalizers(list(object, "spec.finalizers"), &Path::new("spec.finalizers"), errors);
    }

    fn validate_subresource_update(&self, subresource: &str, _old: &Value, new: &Value, errors: &mut Errors) {
        if subresource == "finalize" {
            self.validate(new, errors);
            return;
        }
        let phase = text(new, "status.phase");
        match (has(new, "metadata.deletionTimestamp"), phase) {
            (false, "Active") | (true, "Terminating") => {}
            (false, _) => {
                let why = "may only be 'Active' if `deletionTimestamp` is empty";
                errors.invalid("status.Phase", at(new, "status.phase"), why);
            }
            (true, _) => {
                let why = "may only be 'Terminating' if `deletionTimestamp` is not empty";
                errors.invalid("status.Phase", at(new, "status.phase"), why);
            }
        }
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}
