//! The conditions of a status.

use serde_json::Value;

use super::{Errors, Path, names};
use crate::kinds::access::{at, has, number, text};

const LONGEST_REASON: usize = 1024;
const LONGEST_MESSAGE: usize = 32 * 1024;

/// What upstream's `ValidateConditions` checks of a list of `metav1.Condition`.
pub fn conditions(conditions: &[Value], path: &Path, errors: &mut Errors) {
    for (index, condition) in conditions.iter().enumerate() {
        let path = path.index(index);
        let kind = text(condition, "type");
        errors.all_invalid(path.child("type"), kind, names::qualified_name(kind));
        if conditions[..index].iter().any(|other| text(other, "type") == kind) {
            errors.duplicate(path.child("type"), kind);
        }
        errors.one_of_supported(path.child("status"), at(condition, "status"), &["False", "True", "Unknown"]);
        errors.not_negative(path.child("observedGeneration"), &number(condition, "observedGeneration").into());
        if !has(condition, "lastTransitionTime") {
            errors.required(path.child("lastTransitionTime"), "must be set");
        }
        reason(text(condition, "reason"), &path.child("reason"), errors);
        if text(condition, "message").len() > LONGEST_MESSAGE {
            errors.too_long(path.child("message"), LONGEST_MESSAGE);
        }
    }
}

/// A word in CamelCase.
fn reason(reason: &str, path: &Path, errors: &mut Errors) {
    if reason.is_empty() {
        return errors.required(path, "");
    }
    let first = reason.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
    let last = reason.bytes().next_back().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !first || !last || !reason.bytes().all(|b| b.is_ascii_alphanumeric() || b"_,:".contains(&b)) {
        let why = "a condition reason must start with alphabetic character, optionally followed by a string of \
                   alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. \
                   'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used \
                   for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";
        errors.invalid(path, reason, why);
    }
    if reason.len() > LONGEST_REASON {
        errors.too_long(path, LONGEST_REASON);
    }
}
