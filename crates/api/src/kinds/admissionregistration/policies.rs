//! Admission policies and their bindings: what the mutating and the validating kinds share.

use serde_json::{Value, json};

use crate::kind::{ALL_METADATA, Strategy};
use crate::kinds::access::{at, at_mut, each_mut, fill, has, list, text};
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, Path, label_selector};

pub const VALIDATING: &[Cell] = &[
    NAME,
    Cell::made("Validations", |o| list(o, "spec.validations").len().into()).typed("integer"),
    Cell::made("ParamKind", param_kind),
    AGE,
];

pub const MUTATING: &[Cell] = &[
    NAME,
    Cell::made("Mutations", |o| list(o, "spec.mutations").len().into()).typed("integer"),
    Cell::made("ParamKind", param_kind),
    AGE,
];

pub const BINDING: &[Cell] = &[
    NAME,
    Cell::text("PolicyName", "spec.policyName"),
    Cell::made("ParamRef", |o| {
        let parameters = at(o, "spec.paramRef");
        match (text(parameters, "namespace"), text(parameters, "name")) {
            _ if parameters.is_null() => "<unset>".into(),
            (_, "") => "*".into(),
            ("", name) => name.into(),
            (namespace, name) => format!("{namespace}/{name}").into(),
        }
    }),
    AGE,
];

fn param_kind(policy: &Value) -> Value {
    match at(policy, "spec.paramKind") {
        Value::Null => "<unset>".into(),
        kind => format!("{}/{}", text(kind, "apiVersion"), text(kind, "kind")).into(),
    }
}

/// A policy, or a binding of one.
pub struct Policy {
    pub columns: &'static [Cell],
    /// The list in which a policy says what it does; `None` for a binding.
    pub acts: Option<&'static str>,
}

impl Strategy for Policy {
    fn conditional_update(&self) -> bool {
        true
    }

    fn kept_by_status(&self) -> &'static [&'static str] {
        ALL_METADATA
    }

    fn default(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec") else { return };
        if self.acts.is_some() {
            fill(spec, "failurePolicy", "Fail");
        }
        for matches in ["matchConstraints", "matchResources"] {
            let Some(matches) = at_mut(spec, matches) else { continue };
            fill(matches, "matchPolicy", "Equivalent");
            fill(matches, "namespaceSelector", json!({}));
            fill(matches, "objectSelector", json!({}));
            for rules in ["resourceRules", "excludeResourceRules"] {
                for rule in each_mut(matches, rules) {
                    fill(rule, "scope", "*");
                }
            }
        }
        if let Some(parameters) = at_mut(spec, "paramRef") {
            fill(parameters, "parameterNotFoundAction", "Deny");
        }
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let (spec, path) = (at(object, "spec"), Path::new("spec"));
        for field in ["matchConstraints", "matchResources"] {
            let (matches, path) = (at(spec, field), path.child(field));
            for selector in ["namespaceSelector", "objectSelector"] {
                label_selector(at(matches, selector), &path.child(selector), errors);
            }
            for rules in ["resourceRules", "excludeResourceRules"] {
                match_rules(list(matches, rules), &path.child(rules), errors);
            }
            errors.one_of_if_set(path.child("matchPolicy"), at(matches, "matchPolicy"), &["Equivalent", "Exact"]);
        }
        match self.acts {
            Some(acts) => policy(spec, acts, &path, errors),
            None => binding(spec, &path, errors),
        }
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(self.columns, object, now)
    }
}

fn policy(spec: &Value, acts: &str, path: &Path, errors: &mut Errors) {
    errors.one_of_if_set(path.child("failurePolicy"), at(spec, "failurePolicy"), &["Fail", "Ignore"]);
    if !has(spec, "matchConstraints") {
        errors.required(path.child("matchConstraints"), "");
    } else if list(spec, "matchConstraints.resourceRules").is_empty() {
        errors.required(path.child("matchConstraints.resourceRules"), "");
    }
    if list(spec, acts).is_empty() && list(spec, "auditAnnotations").is_empty() {
        let why = if acts == "validations" { "validations or auditAnnotations must be specified" } else { "" };
        errors.required(path.child(acts), why);
    }
    for list_name in ["validations", "matchConditions", "variables"] {
        let all = path.child(list_name);
        for (index, item) in list(spec, list_name).iter().enumerate() {
            if text(item, "expression").trim().is_empty() {
                errors.required(all.index(index).child("expression"), "expression is not specified");
            }
            if list_name != "validations" && text(item, "name").is_empty() {
                errors.required(all.index(index).child("name"), "");
            }
        }
    }
}

fn binding(spec: &Value, path: &Path, errors: &mut Errors) {
    if text(spec, "policyName").is_empty() {
        errors.required(path.child("policyName"), "");
    }
    let parameters = at(spec, "paramRef");
    if has(parameters, "name") && has(parameters, "selector") {
        errors.forbidden(path.child("paramRef").child("name"), "name and selector are mutually exclusive");
    }
    let actions = list(spec, "validationActions");
    let all = path.child("validationActions");
    for (index, action) in actions.iter().enumerate() {
        errors.one_of_supported(all.index(index), action, &["Audit", "Deny", "Warn"]);
        if actions[..index].contains(action) {
            errors.duplicate(all.index(index), action);
        }
    }
    if actions.iter().any(|a| a == "Deny") && actions.iter().any(|a| a == "Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API \
                   response and headers serves no purpose)";
        errors.invalid(all, at(spec, "validationActions"), why);
    }
}

/// Rules that say which requests are meant.
pub fn match_rules(rules: &[Value], path: &Path, errors: &mut Errors) {
    const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
    for (index, rule) in rules.iter().enumerate() {
        let path = path.index(index);
        for field in ["operations", "apiGroups", "apiVersions", "resources"] {
            let (values, all) = (list(rule, field), path.child(field));
            if values.is_empty() {
                errors.required(all, "");
            }
            if values.len() > 1 && values.iter().any(|value| value == "*") && field != "resources" {
                let why = "if '*' is present, must not specify other ".to_owned()
                    + match field {
                        "operations" => "operations",
                        "apiGroups" => "API groups",
                        _ => "API versions",
                    };
                errors.invalid(all, at(rule, field), why);
            }
            if field == "operations" {
                for (index, operation) in values.iter().enumerate() {
                    errors.one_of_supported(all.index(index), operation, OPERATIONS);
                }
            }
        }
        errors.one_of_if_set(path.child("scope"), at(rule, "scope"), &["*", "Cluster", "Namespaced"]);
    }
}
