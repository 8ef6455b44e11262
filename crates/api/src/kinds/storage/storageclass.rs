//! `storage.k8s.io/v1 StorageClass`.

use serde_json::Value;

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, fill, flag, list, text, texts};
use crate::kinds::builder::Builder;
use crate::kinds::pods::warnings::deprecated;
use crate::print::{self, AGE, Cell};
use crate::validation::labels::label_key;
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
        parameters(object, errors);
        if !text(object, "reclaimPolicy").is_empty() {
            errors.one_of("reclaimPolicy", at(object, "reclaimPolicy"), &["Delete", "Retain"]);
        }
        errors.one_of_supported(
            "volumeBindingMode",
            at(object, "volumeBindingMode"),
            &["Immediate", "WaitForFirstConsumer"],
        );
        topologies(list(object, "allowedTopologies"), errors);
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

/// Errors of what a class tells its driver.
pub fn parameters(class: &Value, errors: &mut Errors) {
    const MOST: usize = 512;
    const LARGEST: usize = 256 * 1024;
    let path = Path::new("parameters");
    let parameters = at(class, "parameters").as_object();
    if parameters.is_some_and(|map| map.len() > MOST) {
        return errors.too_long(path, MOST);
    }
    if parameters.is_some_and(|map| map.contains_key("")) {
        errors.invalid(path, "", "field can not be empty.");
    }
    if texts(class, "parameters").map(|(name, value)| name.len() + value.len()).sum::<usize>() > LARGEST {
        errors.too_long(path, LARGEST);
    }
}

fn topologies(topologies: &[Value], errors: &mut Errors) {
    let all = Path::new("allowedTopologies");
    // The order of keys and of values says nothing.
    let sorted = |term: &Value| -> Vec<(String, Vec<String>)> {
        let expressions = list(term, "matchLabelExpressions").iter().map(|expression| {
            let mut values: Vec<String> = list(expression, "values").iter().map(Value::to_string).collect();
            values.sort();
            (text(expression, "key").to_owned(), values)
        });
        let mut expressions: Vec<_> = expressions.collect();
        expressions.sort();
        expressions
    };
    for (index, term) in topologies.iter().enumerate() {
        let at_term = all.index(index);
        let path = at_term.child("matchLabelExpressions");
        let expressions = list(term, "matchLabelExpressions");
        for (index, expression) in expressions.iter().enumerate() {
            let path = path.index(index);
            let (values, at_values) = (list(expression, "values"), path.child("values"));
            if values.is_empty() {
                errors.required(at_values, "");
            }
            for (index, value) in values.iter().enumerate() {
                if values[..index].contains(value) {
                    errors.duplicate(at_values.index(index), value);
                }
            }
            let key = text(expression, "key");
            label_key(key, &path.child("key"), errors);
            if expressions[..index].iter().any(|other| text(other, "key") == key) {
                errors.duplicate(path.child("key"), key);
            }
        }
        if topologies[..index].iter().any(|other| sorted(other) == sorted(term)) {
            errors.duplicate(path, "");
        }
    }
}
