//! Labels, annotations and label selectors.

use serde_json::Value;

use super::{Errors, Path, names};
use crate::kinds::access::{at, entries, list, text};

/// Annotations of an object may be this large together.
const ANNOTATIONS_MAX: usize = 256 * 1024;

/// A map of labels.
pub fn labels(map: &Value, path: &Path, errors: &mut Errors) {
    for (key, value) in map.as_object().into_iter().flatten() {
        label_key(key, path, errors);
        let value = value.as_str().unwrap_or_default();
        errors.all_invalid(path, value, names::label_value(value));
    }
}

/// The key of a label.
pub fn label_key(key: &str, path: &Path, errors: &mut Errors) {
    errors.all_invalid(path, key, names::qualified_name(key));
}

/// A map of annotations.
pub fn annotations(map: &Value, path: &Path, errors: &mut Errors) {
    let mut size = 0;
    for (key, value) in map.as_object().into_iter().flatten() {
        size += key.len() + value.as_str().map_or(0, str::len);
        if key.bytes().any(|b| b.is_ascii_uppercase()) {
            errors.all_invalid(path, key, names::qualified_name(&key.to_lowercase()));
        } else {
            errors.all_invalid(path, key, names::qualified_name(key));
        }
    }
    if size > ANNOTATIONS_MAX {
        errors.too_long(path, ANNOTATIONS_MAX);
    }
}

/// A `LabelSelector`.
pub fn label_selector(selector: &Value, path: &Path, errors: &mut Errors) {
    labels(at(selector, "matchLabels"), &path.child("matchLabels"), errors);
    let all = path.child("matchExpressions");
    for (index, expression) in list(selector, "matchExpressions").iter().enumerate() {
        let path = all.index(index);
        let values = list(expression, "values");
        match text(expression, "operator") {
            "In" | "NotIn" if values.is_empty() => {
                errors.required(path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.forbidden(
                    path.child("values"),
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                );
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(path.child("operator"), other, "not a valid selector operator"),
        }
        label_key(text(expression, "key"), &path.child("key"), errors);
        let at_values = path.child("values");
        for (index, value) in values.iter().filter_map(Value::as_str).enumerate() {
            errors.all_invalid(at_values.index(index), value, names::label_value(value));
        }
    }
}

/// Whether a `LabelSelector` says nothing.
pub fn selects_all(selector: &Value) -> bool {
    list(selector, "matchExpressions").is_empty() && entries(selector, "matchLabels").next().is_none()
}
