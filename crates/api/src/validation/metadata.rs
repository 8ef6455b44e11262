//! `metadata` of any object.

use std::fmt::Display;

use serde_json::Value;

use super::labels::{annotations, labels};
use super::{Errors, NameRule, Path, names};
use crate::kinds::access::{at, flag, list, number, text};

/// Finalizers that need no domain.
const STANDARD_FINALIZERS: &[&str] = &["kubernetes", "orphan", "foregroundDeletion"];

/// What upstream's `ValidateObjectMeta` checks. `generateName` must have become a name by now, or both are checked.
pub fn object_meta(object: &Value, namespaced: bool, rule: NameRule, errors: &mut Errors) {
    meta(at(object, "metadata"), &Path::new("metadata"), namespaced, rule, errors);
}

fn meta(meta: &Value, path: &Path, namespaced: bool, rule: NameRule, errors: &mut Errors) {
    let (name, prefix, namespace) = (text(meta, "name"), text(meta, "generateName"), text(meta, "namespace"));
    if !prefix.is_empty() {
        errors.all_invalid(path.child("generateName"), prefix, rule.check(prefix, true));
    }
    if name.is_empty() {
        errors.required(path.child("name"), "name or generateName is required");
    } else {
        errors.all_invalid(path.child("name"), name, rule.check(name, false));
    }
    match (namespaced, namespace) {
        (true, "") => errors.required(path.child("namespace"), ""),
        (true, namespace) => errors.all_invalid(path.child("namespace"), namespace, names::dns1123_label(namespace)),
        (false, "") => {}
        (false, _) => errors.forbidden(path.child("namespace"), "not allowed on this type"),
    }
    errors.not_negative(path.child("generation"), at(meta, "generation"));
    labels(at(meta, "labels"), &path.child("labels"), errors);
    annotations(at(meta, "annotations"), &path.child("annotations"), errors);
    owners(meta, &path.child("ownerReferences"), errors);
    finalizers(list(meta, "finalizers"), &path.child("finalizers"), errors);
}

/// The metadata of a template of objects that has labels and annotations only, as a claim's in a pod.
pub fn template_meta(meta: &Value, path: &Path, errors: &mut Errors) {
    annotations(at(meta, "annotations"), &path.child("annotations"), errors);
    labels(at(meta, "labels"), &path.child("labels"), errors);
    for (name, value) in meta.as_object().into_iter().flatten() {
        if !matches!(name.as_str(), "annotations" | "labels") && !value.is_null() {
            // Upstream lowers the first letter of the field's name in Go.
            let name = if name == "uid" { "uID" } else { name };
            errors.forbidden(path.child(name), "cannot be set");
        }
    }
}

fn owners(meta: &Value, path: &Path, errors: &mut Errors) {
    let mut controller = None;
    for owner in list(meta, "ownerReferences") {
        let api_version = text(owner, "apiVersion");
        if api_version.rsplit('/').next().unwrap_or_default().is_empty() {
            errors.invalid(path.child("apiVersion"), api_version, "version must not be empty");
        }
        for field in ["kind", "name", "uid"] {
            if text(owner, field).is_empty() {
                errors.invalid(path.child(field), "", "must not be empty");
            }
        }
        if api_version == "v1" && text(owner, "kind") == "Event" {
            errors.invalid(path, owner, "/v1, Kind=Event is disallowed from being an owner");
        }
        if flag(owner, "controller") {
            if let Some(first) = controller {
                let both = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {}",
                    text(owner, "name")
                );
                errors.invalid(path, at(meta, "ownerReferences"), both);
            } else {
                controller = Some(text(owner, "name"));
            }
        }
    }
}

/// The finalizers of an object.
pub fn finalizers(all: &[Value], path: &Path, errors: &mut Errors) {
    for name in all.iter().filter_map(Value::as_str) {
        errors.all_invalid(path, name, names::qualified_name(name));
        if !name.contains('/') && !STANDARD_FINALIZERS.contains(&name) {
            errors.invalid(path, name, "name is neither a standard finalizer name nor is it fully qualified");
        }
    }
    if ["orphan", "foregroundDeletion"].iter().all(|wanted| all.iter().any(|name| name == wanted)) {
        let shown = Value::from(all.to_vec());
        errors.invalid(path, &shown, "finalizer orphan and foregroundDeletion cannot be both set");
    }
}

/// What upstream's `ValidateManagedFields` checks of entries that a client sends.
pub fn managed_fields(object: &Value, errors: &mut Errors) {
    const LONGEST_SUBRESOURCE: usize = 256;
    let all = Path::new("metadata.managedFields");
    let entries = list(object, "metadata.managedFields");
    // One empty entry asks for all to go.
    if matches!(entries, [Value::Object(entry)] if entry.is_empty()) {
        return;
    }
    for (index, entry) in entries.iter().enumerate() {
        let path = all.index(index);
        let (operation, kind) = (text(entry, "operation"), text(entry, "fieldsType"));
        if !matches!(operation, "Apply" | "Update") {
            errors.invalid(path.child("operation"), operation, "must be `Apply` or `Update`");
        }
        if !matches!(kind, "" | "FieldsV1") {
            errors.invalid(path.child("fieldsType"), kind, "must be `FieldsV1`");
        }
        manager(text(entry, "manager"), path.child("manager"), errors);
        if text(entry, "subresource").len() > LONGEST_SUBRESOURCE {
            errors.too_long(path.child("subresource"), LONGEST_SUBRESOURCE);
        }
    }
}

/// A manager's name is short and printable.
pub fn manager(manager: &str, field: impl Display, errors: &mut Errors) {
    const LONGEST: usize = 128;
    if manager.len() > LONGEST {
        errors.too_long(&field, LONGEST);
    }
    for (at, c) in manager.char_indices().filter(|(_, c)| c.is_control() || (c.is_whitespace() && *c != ' ')) {
        errors.invalid(&field, manager, format!("invalid character U+{:04X} (at position {at})", u32::from(c)));
    }
}

/// What upstream's `ValidateObjectMetaUpdate` checks.
pub fn object_meta_update(old: &Value, new: &Value, errors: &mut Errors) {
    const FIXED: &[&str] = &[
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "metadata.creationTimestamp",
        "metadata.deletionTimestamp",
        "metadata.deletionGracePeriodSeconds",
    ];
    for field in FIXED {
        errors.immutable(old, new, field);
    }
    if number(new, "metadata.generation") < number(old, "metadata.generation") {
        errors.invalid("metadata.generation", number(new, "metadata.generation"), "must not be decremented");
    }
    if text(old, "metadata.deletionTimestamp").is_empty() {
        return;
    }
    let before = list(old, "metadata.finalizers");
    let added: Vec<String> = list(new, "metadata.finalizers")
        .iter()
        .filter(|name| !before.contains(name))
        .filter_map(|name| name.as_str().map(|name| format!("{name:?}")))
        .collect();
    if !added.is_empty() {
        let what = "no new finalizers can be added if the object is being deleted, found new finalizers";
        errors.forbidden("metadata.finalizers", format!("{what} []string{{{}}}", added.join(", ")));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn managed_fields_of_clients_are_checked() {
        let entry = |operation: &str, kind: &str, manager: &str| json!({"operation": operation, "fieldsType": kind, "manager": manager});
        let object = json!({"metadata": {"managedFields": [
            entry("Apply", "FieldsV1", "m"), entry("Take", "FieldsV2", "a\nb"), entry("Update", "", &"x".repeat(129))]}});
        let mut errors = Errors::default();
        managed_fields(&object, &mut errors);
        let texts: Vec<String> = errors.causes().iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        assert_eq!(
            texts,
            [
                "metadata.managedFields[1].operation: Invalid value: \"Take\": must be `Apply` or `Update`",
                "metadata.managedFields[1].fieldsType: Invalid value: \"FieldsV2\": must be `FieldsV1`",
                "metadata.managedFields[1].manager: Invalid value: \"a\\nb\": invalid character U+000A (at position 1)",
                "metadata.managedFields[2].manager: Too long: may not be more than 128 bytes",
            ]
        );
    }

    fn texts(object: Value, namespaced: bool) -> Vec<String> {
        let mut errors = Errors::default();
        object_meta(&object, namespaced, NameRule::Subdomain, &mut errors);
        errors.causes().iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
    }

    #[test]
    fn metadata_is_checked_as_upstream_does() {
        assert_eq!(texts(json!({"metadata": {"name": "a", "namespace": "b"}}), true), [""; 0]);
        assert_eq!(
            texts(json!({"metadata": {"namespace": "b"}}), false),
            [
                "metadata.name: Required value: name or generateName is required",
                "metadata.namespace: Forbidden: not allowed on this type",
            ]
        );
        let bad = texts(
            json!({"metadata": {"name": "a", "labels": {"k": "-"}, "finalizers": ["x"], "ownerReferences": [
                {"apiVersion": "v1", "kind": "Pod", "name": "p"}]}}),
            false,
        );
        assert!(bad[0].starts_with("metadata.labels: Invalid value: \"-\": a valid label must be"));
        assert_eq!(bad[1], "metadata.ownerReferences.uid: Invalid value: \"\": must not be empty");
        assert!(bad[2].ends_with("name is neither a standard finalizer name nor is it fully qualified"));
    }

    #[test]
    fn an_object_that_is_deleted_takes_no_new_finalizers() {
        let old =
            json!({"metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["a/b"]}});
        let mut new = old.clone();
        new["metadata"]["finalizers"] = json!(["a/b", "c/d"]);
        let mut errors = Errors::default();
        object_meta_update(&old, &new, &mut errors);
        assert_eq!(
            errors.causes()[0].message,
            "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers \
             []string{\"c/d\"}"
        );
    }
}
