//! `storage.k8s.io/v1 StorageClass`.

use serde_json::Value;

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, fill, flag, list, text};
use crate::kinds::builder::Builder;
use crate::kinds::pods::warnings::deprecated;
use crate::print::{self, AGE, Cell};
use crate::validation::{Errors, Path, names};

pub fn kind() -> Kind {
    Builder::new("storage.k8s.io", "v1", "StorageClass", "storageclasses")
        .short(&["sc"])
        .columns(COLUMNS)
        .strategy(StorageClass)
        .build()
}

const COLUMNS: &[Cell] = &[
    Cell::name_of(|o| {
        let annotations = at(o, "metadata.annotations");
        let is_default =
            ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"]
                .iter()
                .any(|name| annotations.get(name).is_some_and(|value| value == "true"));
        let name = text(o, "metadata.name");
        if is_default { format!("{name} (default)").into() } else { name.into() }
    }),
    Cell::text("Provisioner", "provisioner"),
    Cell::text("ReclaimPolicy", "reclaimPolicy"),
    Cell::text("VolumeBindingMode", "volumeBindingMode"),
    Cell::made("AllowVolumeExpansion", |o| flag(o, "allowVolumeExpansion").into()),
    AGE,
];

struct StorageClass;

impl Strategy for StorageClass {
    fn default(&self, object: &mut Value) {
        fill(object, "reclaimPolicy", "Delete");
        fill(object, "volumeBindingMode", "Immediate");
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let provisioner = text(object, "provisioner");
        if provisioner.is_empty() {
            errors.required("provisioner", "");
        } else {
            errors.all_invalid("provisioner", provisioner, names::qualified_name(&provisioner.to_lowercase()));
        }
        errors.one_of("reclaimPolicy", at(object, "reclaimPolicy"), &["Delete", "Retain"]);
        errors.one_of("volumeBindingMode", at(object, "volumeBindingMode"), &["Immediate", "WaitForFirstConsumer"]);
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        for field in ["parameters", "provisioner", "reclaimPolicy"] {
            if at(old, field) != at(new, field) {
                errors.forbidden(field, format!("updates to {field} are forbidden."));
            }
        }
        errors.immutable(old, new, "volumeBindingMode");
    }

    fn warnings(&self, _old: Option<&Value>, new: &Value) -> Vec<String> {
        let mut warnings = Vec::new();
        let all = Path::new("allowedTopologies");
        for (index, topology) in list(new, "allowedTopologies").iter().enumerate() {
            let at_topology = all.index(index);
            let expressions = at_topology.child("matchLabelExpressions");
            for (index, expression) in list(topology, "matchLabelExpressions").iter().enumerate() {
                let why = deprecated(text(expression, "key"));
                warnings.extend(why.map(|why| format!("{}: {why}", expressions.index(index).child("key"))));
            }
        }
        warnings
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}
