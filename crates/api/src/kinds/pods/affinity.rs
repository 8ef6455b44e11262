//! Validation of node affinity, pod affinity and node selectors, and the keys that a pod's own labels complete.

use serde_json::{Value, json};

use crate::kinds::access::{at, each_mut, has, list, number, section, text};
use crate::validation::labels::{label_key, label_selector};
use crate::validation::{Errors, Path, names};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub fn validate(affinity: &Value, path: &Path, errors: &mut Errors) {
    let node = at(affinity, "nodeAffinity");
    let at_node = path.child("nodeAffinity");
    if has(node, REQUIRED) {
        node_selector(at(node, REQUIRED), &at_node.child(REQUIRED), errors);
    }
    let all = at_node.child(PREFERRED);
    for (index, term) in list(node, PREFERRED).iter().enumerate() {
        let path = all.index(index);
        weight(term, &path, errors);
        preference(at(term, "preference"), &path.child("preference"), errors);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let (terms, path) = (at(affinity, kind), path.child(kind));
        let all = path.child(REQUIRED);
        for (index, term) in list(terms, REQUIRED).iter().enumerate() {
            pod_term(term, &all.index(index), errors);
        }
        let all = path.child(PREFERRED);
        for (index, term) in list(terms, PREFERRED).iter().enumerate() {
            let path = all.index(index);
            weight(term, &path, errors);
            pod_term(at(term, "podAffinityTerm"), &path.child("podAffinityTerm"), errors);
        }
    }
}

fn weight(term: &Value, path: &Path, errors: &mut Errors) {
    let weight = number(term, "weight");
    if !(1..=100).contains(&weight) {
        errors.invalid(path.child("weight"), weight, "must be in the range 1-100");
    }
}

/// A `NodeSelector`, as node affinity and persistent volumes have it.
pub fn node_selector(selector: &Value, path: &Path, errors: &mut Errors) {
    let terms = list(selector, "nodeSelectorTerms");
    let all = path.child("nodeSelectorTerms");
    if terms.is_empty() {
        errors.required(all, "must have at least one node selector term");
    }
    for (index, term) in terms.iter().enumerate() {
        node_selector_term(term, &all.index(index), errors);
    }
}

/// One term of a `NodeSelector`.
pub fn node_selector_term(term: &Value, path: &Path, errors: &mut Errors) {
    any_term(term, path, true, errors);
}

/// A term that is only preferred may name values that no label can have.
fn preference(term: &Value, path: &Path, errors: &mut Errors) {
    any_term(term, path, false, errors);
}

/// A volume's node affinity with the names that topology labels have today in place of the older ones.
pub fn in_new_names(affinity: &Value) -> Value {
    const NAMES: &[(&str, &str)] = &[
        ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
        ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
        ("beta.kubernetes.io/os", "kubernetes.io/os"),
        ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
        ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ];
    let mut affinity = affinity.clone();
    for term in each_mut(&mut affinity, "required.nodeSelectorTerms") {
        for expression in each_mut(term, "matchExpressions") {
            let name = NAMES.iter().find(|(old, _)| text(expression, "key") == *old);
            if let Some((_, new)) = name {
                expression["key"] = Value::from(*new);
            }
        }
    }
    affinity
}

fn any_term(term: &Value, path: &Path, strict: bool, errors: &mut Errors) {
    let all = path.child("matchExpressions");
    for (index, expression) in list(term, "matchExpressions").iter().enumerate() {
        let path = all.index(index);
        let count = list(expression, "values").len();
        let values = path.child("values");
        match text(expression, "operator") {
            "In" | "NotIn" if count == 0 => {
                errors.required(values, "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if count > 0 => {
                errors.forbidden(values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "Gt" | "Lt" if count != 1 => {
                errors.required(values, "must be specified single value when `operator` is 'Lt' or 'Gt'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => errors.invalid(path.child("operator"), other, "not a valid selector operator"),
        }
        label_key(text(expression, "key"), &path.child("key"), errors);
        if strict {
            for (index, value) in list(expression, "values").iter().filter_map(Value::as_str).enumerate() {
                errors.all_invalid(values.index(index), value, names::label_value(value));
            }
        }
    }
    let all = path.child("matchFields");
    for (index, expression) in list(term, "matchFields").iter().enumerate() {
        let path = all.index(index);
        let (operator, values) = (text(expression, "operator"), list(expression, "values"));
        if !matches!(operator, "In" | "NotIn") {
            errors.invalid(path.child("operator"), operator, "not a valid selector operator");
        } else if values.len() != 1 {
            errors.required(
                path.child("values"),
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
            );
        }
        let key = text(expression, "key");
        if key != "metadata.name" {
            errors.invalid(path.child("key"), key, "not a valid field selector key");
        } else {
            for (index, value) in values.iter().filter_map(Value::as_str).enumerate() {
                errors.all_invalid(path.child("values").index(index), value, names::dns1123_subdomain(value));
            }
        }
    }
}

fn pod_term(term: &Value, path: &Path, errors: &mut Errors) {
    label_selector(at(term, "labelSelector"), &path.child("labelSelector"), errors);
    label_selector(at(term, "namespaceSelector"), &path.child("namespaceSelector"), errors);
    for name in list(term, "namespaces").iter().filter_map(Value::as_str) {
        errors.all_invalid(path.child("namespace"), name, names::dns1123_label(name));
    }
    match_keys(term, path, errors);
    let key = text(term, "topologyKey");
    if key.is_empty() {
        errors.required(path.child("topologyKey"), "can not be empty");
    }
    errors.all_invalid(path.child("topologyKey"), key, names::qualified_name(key));
}

/// `matchLabelKeys` and `mismatchLabelKeys`: they complete a label selector and do not repeat one another.
fn match_keys(term: &Value, path: &Path, errors: &mut Errors) {
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        let all = path.child(field);
        if !list(term, field).is_empty() && !has(term, "labelSelector") {
            errors.forbidden(all, "must not be specified when labelSelector is not set");
        }
        for (index, key) in list(term, field).iter().filter_map(Value::as_str).enumerate() {
            label_key(key, &all.index(index), errors);
        }
    }
    let mismatched = list(term, "mismatchLabelKeys");
    for (index, key) in list(term, "matchLabelKeys").iter().enumerate() {
        if mismatched.contains(key) {
            errors.invalid(
                path.child("matchLabelKeys").index(index),
                key,
                "exists in both matchLabelKeys and mismatchLabelKeys",
            );
        }
    }
}

/// Writes what `matchLabelKeys` and `mismatchLabelKeys` mean for this pod's labels into the selectors, as upstream does when a
/// pod is created.
pub fn complete_label_keys(pod: &mut Value) {
    let labels = at(pod, "metadata.labels").clone();
    let Some(spec) = pod.get_mut("spec") else { return };
    for constraint in each_mut(spec, "topologySpreadConstraints") {
        add_expressions(constraint, &labels, "matchLabelKeys", "In");
    }
    for kind in ["affinity.podAffinity", "affinity.podAntiAffinity"] {
        if !has(spec, kind) {
            continue;
        }
        for term in each_mut(spec, &format!("{kind}.{REQUIRED}")) {
            complete_term(term, &labels);
        }
        for term in each_mut(spec, &format!("{kind}.{PREFERRED}")) {
            if let Some(term) = term.get_mut("podAffinityTerm") {
                complete_term(term, &labels);
            }
        }
    }
}

fn complete_term(term: &mut Value, labels: &Value) {
    add_expressions(term, labels, "matchLabelKeys", "In");
    add_expressions(term, labels, "mismatchLabelKeys", "NotIn");
}

fn add_expressions(term: &mut Value, labels: &Value, keys: &str, operator: &str) {
    let mut expressions: Vec<Value> = Vec::new();
    for key in list(term, keys).iter().filter_map(Value::as_str) {
        if let Some(value) = labels.get(key) {
            expressions.push(json!({"key": key, "operator": operator, "values": [value]}));
        }
    }
    let known = list(term, "labelSelector.matchExpressions").to_vec();
    expressions.retain(|expression| !known.contains(expression));
    if expressions.is_empty() || !has(term, "labelSelector") {
        return;
    }
    if let Some(selector) = section(term, "labelSelector") {
        selector.insert("matchExpressions".to_owned(), known.into_iter().chain(expressions).collect());
    }
}
