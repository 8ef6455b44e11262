//! `flowcontrol.apiserver.k8s.io/v1 FlowSchema`.

use serde_json::Value;

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, fill, has, list, number, text};
use crate::kinds::builder::Builder;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, Path, names};

pub fn kind() -> Kind {
    Builder::new("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema", "flowschemas")
        .status()
        .columns(COLUMNS)
        .strategy(FlowSchema)
        .build()
}

const COLUMNS: &[Cell] = &[
    NAME,
    Cell::text("PriorityLevel", "spec.priorityLevelConfiguration.name"),
    Cell::number("MatchingPrecedence", "spec.matchingPrecedence"),
    Cell::made("DistinguisherMethod", |o| at(o, "spec.distinguisherMethod.type").as_str().unwrap_or("<none>").into()),
    AGE,
    Cell::made("MissingPL", |o| {
        let condition = list(o, "status.conditions").iter().find(|c| text(c, "type") == "Dangling");
        condition.map_or("?", |c| text(c, "status")).into()
    }),
];

struct FlowSchema;

impl Strategy for FlowSchema {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = object.get_mut("spec") {
            fill(spec, "matchingPrecedence", 1000);
        }
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let (spec, path) = (at(object, "spec"), Path::new("spec"));
        let precedence = number(spec, "matchingPrecedence");
        if precedence <= 0 {
            errors.invalid(path.child("matchingPrecedence"), precedence, "must be a positive value");
        } else if precedence > 10_000 {
            let why = "must not be greater than 10000";
            errors.invalid(path.child("matchingPrecedence"), precedence, why);
        } else if precedence == 1 && text(object, "metadata.name") != "exempt" {
            errors.invalid(
                path.child("matchingPrecedence"),
                precedence,
                "only the schema named 'exempt' may have matchingPrecedence 1",
            );
        }
        let level = text(spec, "priorityLevelConfiguration.name");
        let at_level = path.child("priorityLevelConfiguration").child("name").to_string();
        if level.is_empty() {
            errors.required(at_level, "must reference a priority level");
        } else {
            errors.all_invalid(at_level, level, names::dns1123_subdomain(level));
        }
        if has(spec, "distinguisherMethod") {
            let method = at(spec, "distinguisherMethod.type");
            errors.one_of_supported(
                path.child("distinguisherMethod").child("type"),
                method,
                &["ByNamespace", "ByUser"],
            );
        }
        let all = path.child("rules");
        for (index, rule) in list(spec, "rules").iter().enumerate() {
            validate_rule(rule, &all.index(index), errors);
        }
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}

fn validate_rule(rule: &Value, path: &Path, errors: &mut Errors) {
    let subjects = list(rule, "subjects");
    let all = path.child("subjects");
    if subjects.is_empty() {
        errors.required(all, "subjects must contain at least one value");
    }
    for (index, subject) in subjects.iter().enumerate() {
        let kinds = &["Group", "ServiceAccount", "User"];
        errors.one_of_supported(all.index(index).child("kind"), at(subject, "kind"), kinds);
    }
    if list(rule, "resourceRules").is_empty() && list(rule, "nonResourceRules").is_empty() {
        errors.required(path, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    for (kind, fields) in [
        ("resourceRules", &["verbs", "apiGroups", "resources"][..]),
        ("nonResourceRules", &["verbs", "nonResourceURLs"]),
    ] {
        let all = path.child(kind);
        for (index, item) in list(rule, kind).iter().enumerate() {
            for field in fields.iter().filter(|field| list(item, field).is_empty()) {
                errors.required(all.index(index).child(field), format!("{field} must contain at least one value"));
            }
        }
    }
}
