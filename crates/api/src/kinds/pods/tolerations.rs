//! Validation of tolerations, and what an update may do to them.

use serde_json::Value;

use crate::kinds::access::{at, has, list, text};
use crate::validation::{Errors, Path, names};

pub const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub fn validate_all(tolerations: &[Value], path: &Path, errors: &mut Errors) {
    for (index, toleration) in tolerations.iter().enumerate() {
        let path = path.index(index);
        let (key, value) = (text(toleration, "key"), text(toleration, "value"));
        let (operator, effect) = (text(toleration, "operator"), text(toleration, "effect"));
        if key.is_empty() {
            if operator != "Exists" {
                let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
                errors.invalid(path.child("operator"), operator, why);
            }
        } else {
            errors.all_invalid(path.child("key"), key, names::qualified_name(key));
        }
        if has(toleration, "tolerationSeconds") && effect != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.invalid(path.child("effect"), effect, why);
        }
        match operator {
            "" | "Equal" => {
                let messages = names::label_value(value);
                if !messages.is_empty() {
                    errors.invalid(path.child("operator"), value, messages.join(";"));
                }
            }
            "Exists" if !value.is_empty() => {
                let why = "value must be empty when `operator` is 'Exists'";
                errors.invalid(path.child("operator"), at(toleration, "value"), why);
            }
            "Exists" => {}
            _ => errors.not_supported(path.child("operator"), operator, &["Equal", "Exists"]),
        }
        if !effect.is_empty() && !EFFECTS.contains(&effect) {
            errors.not_supported(path.child("effect"), effect, EFFECTS);
        }
    }
}

/// Whether every toleration that was there still is, but for its `tolerationSeconds`.
pub fn only_added(old: &Value, new: &Value) -> bool {
    let same = |a: &Value, b: &Value| ["key", "operator", "value", "effect"].iter().all(|f| text(a, f) == text(b, f));
    list(old, "tolerations").iter().all(|old| list(new, "tolerations").iter().any(|new| same(old, new)))
}
