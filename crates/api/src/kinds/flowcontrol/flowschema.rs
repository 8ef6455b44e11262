//! `flowcontrol.apiserver.k8s.io/v1 FlowSchema`.

use serde_json::Value;

use super::mandatory;
use crate::kind::{ALL_METADATA, Kind, Strategy};
use crate::kinds::access::{at, fill, flag, has, list, number, text};
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
        mandatory::schema(object, errors);
        mandatory::conditions(object, errors);
    }

    fn validate_subresource_update(&self, _: &str, _old: &Value, new: &Value, errors: &mut Errors) {
        mandatory::conditions(new, errors);
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn conditional_update(&self) -> bool {
        true
    }

    fn kept_by_status(&self) -> &'static [&'static str] {
        ALL_METADATA
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
        validate_subject(subject, &all.index(index), errors);
    }
    if list(rule, "resourceRules").is_empty() && list(rule, "nonResourceRules").is_empty() {
        errors.required(path, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    let all = path.child("resourceRules");
    for (index, rule) in list(rule, "resourceRules").iter().enumerate() {
        resource_rule(rule, &all.index(index), errors);
    }
    let all = path.child("nonResourceRules");
    for (index, rule) in list(rule, "nonResourceRules").iter().enumerate() {
        path_rule(rule, &all.index(index), errors);
    }
}

/// Subjects: the kind, and the field that only that kind has.
const SUBJECTS: &[(&str, &str)] = &[("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];

fn validate_subject(subject: &Value, path: &Path, errors: &mut Errors) {
    let kind = text(subject, "kind");
    let Some((_, field)) = SUBJECTS.iter().find(|(known, _)| *known == kind) else {
        errors.not_supported(path.child("kind"), kind, &["Group", "ServiceAccount", "User"]);
        return;
    };
    let (own, at_own) = (at(subject, field), path.child(field));
    if own.is_null() {
        errors.required(at_own, format!("{field} is required when subject kind is '{kind}'"));
    } else {
        named(own, kind, &at_own, errors);
    }
    for (other, field) in SUBJECTS.iter().filter(|(known, field)| *known != kind && has(subject, field)) {
        errors.forbidden(path.child(field), format!("{field} is forbidden when subject kind is not '{other}'"));
    }
}

/// The name of a subject, and of an account its namespace.
fn named(subject: &Value, kind: &str, path: &Path, errors: &mut Errors) {
    let (name, namespace) = (text(subject, "name"), text(subject, "namespace"));
    if name.is_empty() {
        errors.required(path.child("name"), "");
    }
    if kind != "ServiceAccount" {
        return;
    }
    if !name.is_empty() && name != "*" {
        errors.all_invalid(path.child("name"), name, names::dns1123_subdomain(name));
    }
    if namespace.is_empty() {
        errors.required(path.child("namespace"), "must specify namespace for service account");
    } else {
        errors.all_invalid(path.child("namespace"), namespace, names::dns1123_label(namespace));
    }
}

const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

/// A list that may not be empty and in which `*` stands alone. False where it has `*`.
fn words(rule: &Value, field: &str, missing: &str, what: &str, path: &Path, errors: &mut Errors) -> bool {
    let all = list(rule, field);
    let wild = all.iter().any(|word| word == "*");
    if all.is_empty() {
        errors.required(path.child(field), missing);
    } else if wild && all.len() > 1 {
        let why = format!("if '*' is present, must not specify other {what}");
        errors.invalid(path.child(field), at(rule, field), why);
    }
    !wild
}

fn verbs(rule: &Value, path: &Path, errors: &mut Errors) {
    let named = words(rule, "verbs", "verbs must contain at least one value", "verbs", path, errors);
    let known = |verb: &Value| verb.as_str().is_some_and(|verb| VERBS.contains(&verb));
    if named && !list(rule, "verbs").iter().all(known) {
        errors.not_supported(path.child("verbs"), at(rule, "verbs"), VERBS);
    }
}

fn resource_rule(rule: &Value, path: &Path, errors: &mut Errors) {
    verbs(rule, path, errors);
    let missing = "resource rules must supply at least one api group";
    words(rule, "apiGroups", missing, "api groups", path, errors);
    let missing = "resource rules must supply at least one resource";
    words(rule, "resources", missing, "resources", path, errors);
    let namespaces = list(rule, "namespaces");
    if namespaces.is_empty() && flag(rule, "clusterScope") {
        return;
    }
    let missing = "resource rules that are not cluster scoped must supply at least one namespace";
    if words(rule, "namespaces", missing, "namespaces", path, errors) {
        let all = path.child("namespaces");
        for (index, name) in namespaces.iter().filter_map(Value::as_str).enumerate() {
            for why in names::dns1123_label(name) {
                let why = format!("each member of this list must be '*' or a DNS-1123 label; {why}");
                errors.invalid(all.index(index), name, why);
            }
        }
    }
}

fn path_rule(rule: &Value, path: &Path, errors: &mut Errors) {
    verbs(rule, path, errors);
    let missing = "nonResourceURLs must contain at least one value";
    if words(rule, "nonResourceURLs", missing, "non-resource URLs", path, errors) {
        let all = path.child("nonResourceURLs");
        for (index, url) in list(rule, "nonResourceURLs").iter().filter_map(Value::as_str).enumerate() {
            if let Some(why) = url_fault(url) {
                errors.invalid(all.index(index), url, why);
            }
        }
    }
}

/// What is wrong with a path outside of resources.
fn url_fault(url: &str) -> Option<&'static str> {
    let stars = url.matches('*').count();
    match url {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !url.starts_with('/') => Some("must start with slash"),
        _ if url.contains(' ') => Some("must not contain white-space"),
        _ if url.contains("//") => Some("must not contain double slash"),
        _ if stars > 1 || stars == 1 && !url.ends_with("/*") => Some("wildcard can only do suffix matching"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn errors_of(rule: Value) -> String {
        let mut errors = Errors::default();
        validate_rule(&rule, &Path::new("r"), &mut errors);
        let texts: Vec<String> =
            errors.causes().iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
        texts.join("; ")
    }

    #[test]
    fn rules_and_subjects_are_checked_as_upstream_checks_them() {
        let everything = || json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
        let user = || json!([{"kind": "User", "user": {"name": "*"}}]);
        let subject = |subject: Value| json!({"subjects": [subject], "nonResourceRules": everything()});
        let resource = |rule: Value| json!({"subjects": user(), "resourceRules": [rule]});
        let paths = |urls: Value| json!({"subjects": user(), "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": urls}]});
        let table = [
            (json!({"subjects": user(), "nonResourceRules": everything()}), ""),
            (
                subject(json!({"kind": "Group"})),
                "r.subjects[0].group: Required value: group is required when subject kind is 'Group'",
            ),
            (
                subject(json!({"kind": "User", "user": {"name": "a"}, "group": {"name": "b"}})),
                "r.subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'",
            ),
            (
                subject(json!({"kind": "ServiceAccount", "serviceAccount": {"name": "a"}})),
                "r.subjects[0].serviceAccount.namespace: Required value: must specify namespace for service account",
            ),
            (
                resource(json!({"verbs": ["eat"], "apiGroups": [""], "resources": ["pods"], "namespaces": ["*"]})),
                "r.resourceRules[0].verbs: Unsupported value: [\"eat\"]: supported values: \"create\", \"delete\", \"deletecollection\", \"get\", \"list\", \"patch\", \"proxy\", \"update\", \"watch\"",
            ),
            (
                resource(json!({"verbs": ["*", "get"], "apiGroups": [""], "resources": ["pods"], "namespaces": ["*"]})),
                "r.resourceRules[0].verbs: Invalid value: [\"*\",\"get\"]: if '*' is present, must not specify other verbs",
            ),
            (
                resource(json!({"verbs": ["*"], "apiGroups": [""], "resources": ["pods"]})),
                "r.resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped must supply at least one namespace",
            ),
            (resource(json!({"verbs": ["*"], "apiGroups": [""], "resources": ["nodes"], "clusterScope": true})), ""),
            (paths(json!(["/a/*", "/"])), ""),
            (
                paths(json!(["a"])),
                "r.nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"a\": must start with slash",
            ),
            (
                paths(json!(["/a*"])),
                "r.nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"/a*\": wildcard can only do suffix matching",
            ),
        ];
        for (rule, expected) in table {
            assert_eq!(errors_of(rule.clone()), expected, "{rule}");
        }
    }
}
