//! The levels and schemas that every cluster has and nobody may change: `exempt` and `catch-all`.

use serde_json::{Value, json};

use crate::kinds::access::{at, list, text};
use crate::validation::{Errors, Path};

/// The fixed spec of a mandatory level.
fn level_spec(name: &str) -> Option<Value> {
    match name {
        "exempt" => Some(json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}})),
        "catch-all" => Some(json!({"type": "Limited", "limited": {
            "nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"}}})),
        _ => None,
    }
}

/// The fixed spec of a mandatory schema.
fn schema_spec(name: &str) -> Option<Value> {
    let group = |name: &str| json!({"kind": "Group", "group": {"name": name}});
    let rules = |subjects: Vec<Value>| {
        json!([{
            "subjects": subjects,
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        }])
    };
    let level = json!({"name": name});
    match name {
        "exempt" => Some(json!({"priorityLevelConfiguration": level, "matchingPrecedence": 1,
            "rules": rules(vec![group("system:masters")])})),
        "catch-all" => Some(json!({"priorityLevelConfiguration": level, "matchingPrecedence": 10_000,
            "distinguisherMethod": {"type": "ByUser"},
            "rules": rules(vec![group("system:unauthenticated"), group("system:authenticated")])})),
        _ => None,
    }
}

/// A mandatory level is as it is, but for what `exempt` lends.
pub fn level(object: &Value, errors: &mut Errors) {
    let name = text(object, "metadata.name");
    let Some(fixed) = level_spec(name) else { return };
    let rest = |spec: &Value| {
        let mut rest = spec.clone();
        if let Some(fields) = rest.as_object_mut().filter(|_| name == "exempt") {
            fields.remove("exempt");
        }
        rest
    };
    let spec = at(object, "spec");
    if rest(spec) != rest(&fixed) {
        let except = if name == "exempt" { " except the 'spec.exempt' field" } else { "" };
        errors.invalid("spec", spec, format!("spec of '{name}'{except} must equal the fixed value"));
    }
}

/// A mandatory schema is as it is.
pub fn schema(object: &Value, errors: &mut Errors) {
    let (name, spec) = (text(object, "metadata.name"), at(object, "spec"));
    if schema_spec(name).is_some_and(|fixed| fixed != *spec) {
        errors.invalid("spec", spec, format!("spec of '{name}' must equal the fixed value"));
    }
}

/// Conditions have types, each its own.
pub fn conditions(object: &Value, errors: &mut Errors) {
    let all = Path::new("status.conditions");
    let conditions = list(object, "status.conditions");
    for (index, condition) in conditions.iter().enumerate() {
        let (kind, at_condition) = (text(condition, "type"), all.index(index));
        let path = at_condition.child("type");
        if conditions[..index].iter().any(|other| text(other, "type") == kind) {
            errors.duplicate(path, kind);
        }
        if kind.is_empty() {
            errors.required(path, "must not be empty");
        }
    }
}
