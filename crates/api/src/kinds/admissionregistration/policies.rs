//! Admission policies and their bindings: what the mutating and the validating kinds share.

use serde_json::{Value, json};

use crate::kind::{ALL_METADATA, Strategy};
use crate::kinds::access::{at, at_mut, each_mut, fill, has, list, text};
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, Path, conditions, label_selector, names};

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

/// Which of the four kinds it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Validating,
    Mutating,
    ValidatingBinding,
    MutatingBinding,
}

impl Role {
    fn is_binding(self) -> bool {
        matches!(self, Role::ValidatingBinding | Role::MutatingBinding)
    }
}

/// A policy, or a binding of one.
pub struct Policy {
    pub columns: &'static [Cell],
    pub role: Role,
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
        if !self.role.is_binding() {
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
        if self.role.is_binding() {
            binding(spec, self.role, &path, errors);
        } else {
            policy(object, spec, self.role, &path, errors);
        }
    }

    fn validate_subresource_update(&self, _subresource: &str, _old: &Value, new: &Value, errors: &mut Errors) {
        let status = Path::new("status");
        let all = Path::new("status.typeChecking.expressionWarnings");
        for (index, warning) in list(new, "status.typeChecking.expressionWarnings").iter().enumerate() {
            for field in ["warning", "fieldRef"] {
                if text(warning, field).trim().is_empty() {
                    errors.required(all.index(index).child(field), "");
                }
            }
        }
        conditions(list(new, "status.conditions"), &status.child("conditions"), errors);
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(self.columns, object, now)
    }
}

fn policy(object: &Value, spec: &Value, role: Role, path: &Path, errors: &mut Errors) {
    errors.one_of(path.child("failurePolicy"), at(spec, "failurePolicy"), &["Fail", "Ignore"]);
    if has(spec, "paramKind") {
        parameters(at(spec, "paramKind"), &path.child("paramKind"), errors);
    }
    let at_constraints = path.child("matchConstraints");
    if has(spec, "matchConstraints") {
        match_resources(at(spec, "matchConstraints"), &at_constraints, errors);
        if list(spec, "matchConstraints.resourceRules").is_empty() {
            errors.required(at_constraints.child("resourceRules"), "");
        }
    } else {
        errors.required(at_constraints, "");
    }
    match_conditions(list(spec, "matchConditions"), &path.child("matchConditions"), errors);
    variables(list(spec, "variables"), &path.child("variables"), errors);
    if role == Role::Mutating {
        let all = path.child("mutations");
        if list(spec, "mutations").is_empty() {
            errors.required(all, "mutations must contain at least one item");
        }
        for (index, mutation) in list(spec, "mutations").iter().enumerate() {
            mutates(mutation, &all.index(index), errors);
        }
        errors.one_of(path.child("reinvocationPolicy"), at(spec, "reinvocationPolicy"), &["IfNeeded", "Never"]);
        return;
    }
    let (validations, annotations) = (list(spec, "validations"), list(spec, "auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        for field in ["validations", "auditAnnotations"] {
            errors.required(path.child(field), "validations or auditAnnotations must contain at least one item");
        }
    }
    let all = path.child("validations");
    for (index, validation) in validations.iter().enumerate() {
        validates(validation, &all.index(index), errors);
    }
    audits(text(object, "metadata.name"), annotations, &path.child("auditAnnotations"), errors);
}

fn parameters(kind: &Value, path: &Path, errors: &mut Errors) {
    let (version, at_version) = (text(kind, "apiVersion"), path.child("apiVersion"));
    let mut joined = |value: &str, start: &str, path: Path, messages: Vec<String>| {
        if !messages.is_empty() {
            errors.invalid(path, value, format!("{start}{}", messages.join(",")));
        }
    };
    let name = text(kind, "kind");
    let (group, own) = version.split_once('/').unwrap_or(("", version));
    if !version.is_empty() && !own.contains('/') {
        if !group.is_empty() {
            joined(group, "", at_version, names::dns1123_subdomain(group));
        }
        if !own.is_empty() {
            joined(own, "", at_version, names::dns1035_label(own));
        }
    }
    if !name.is_empty() {
        let start = "may have mixed case, but should otherwise match: ";
        joined(name, start, path.child("kind"), names::dns1035_label(&name.to_lowercase()));
    }
    if version.is_empty() {
        errors.required(at_version, "");
    } else if own.contains('/') {
        errors.invalid(at_version, version, format!("unexpected GroupVersion string: {version}"));
    } else if own.is_empty() {
        errors.invalid(at_version, version, "version must be specified");
    }
    if name.is_empty() {
        errors.required(path.child("kind"), "");
    }
}

fn match_resources(matches: &Value, path: &Path, errors: &mut Errors) {
    errors.one_of(path.child("matchPolicy"), at(matches, "matchPolicy"), &["Equivalent", "Exact"]);
    for field in ["namespaceSelector", "objectSelector"] {
        match at(matches, field) {
            Value::Null => errors.required(path.child(field), ""),
            selector => label_selector(selector, &path.child(field), errors),
        }
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        let all = path.child(field);
        for (index, rule) in list(matches, field).iter().enumerate() {
            let path = all.index(index);
            let (names, at_names) = (list(rule, "resourceNames"), path.child("resourceNames"));
            for (index, name) in names.iter().enumerate() {
                let text = name.as_str().unwrap_or_default();
                errors.all_invalid(at_names.index(index), text, names::path_segment(text, false));
                if names[..index].contains(name) {
                    errors.duplicate(at_names.index(index), name);
                }
            }
        }
        match_rules(list(matches, field), &all, errors);
    }
}

/// Conditions under which a request is looked at.
pub fn match_conditions(conditions: &[Value], path: &Path, errors: &mut Errors) {
    const MOST: usize = 64;
    if conditions.len() > MOST {
        errors.too_many(path, conditions.len(), MOST);
    }
    for (index, condition) in conditions.iter().enumerate() {
        let path = path.index(index);
        if text(condition, "expression").trim().is_empty() {
            errors.required(path.child("expression"), "");
        }
        match text(condition, "name") {
            "" => errors.required(path.child("name"), ""),
            name => {
                errors.all_invalid(path.child("name"), name, names::qualified_name(name));
                if conditions[..index].iter().any(|other| text(other, "name") == name) {
                    errors.duplicate(path.child("name"), name);
                }
            }
        }
    }
}

fn variables(variables: &[Value], path: &Path, errors: &mut Errors) {
    for (index, variable) in variables.iter().enumerate() {
        let path = path.index(index);
        let name = text(variable, "name");
        if name.trim().is_empty() {
            errors.required(path.child("name"), "name is not specified");
        } else if !is_identifier(name) {
            errors.invalid(path.child("name"), name, "name is not a valid CEL identifier");
        }
        if text(variable, "expression").trim().is_empty() {
            errors.required(path.child("expression"), "expression is not specified");
        }
    }
}

fn is_identifier(name: &str) -> bool {
    const RESERVED: &[&str] = &[
        "as",
        "break",
        "const",
        "continue",
        "else",
        "false",
        "for",
        "function",
        "if",
        "import",
        "in",
        "let",
        "loop",
        "namespace",
        "null",
        "package",
        "return",
        "true",
        "var",
        "void",
        "while",
    ];
    let word = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    word && !name.starts_with(|c: char| c.is_ascii_digit()) && !RESERVED.contains(&name)
}

fn validates(validation: &Value, path: &Path, errors: &mut Errors) {
    const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge"];
    if text(validation, "expression").trim().is_empty() {
        errors.required(path.child("expression"), "expression is not specified");
    }
    let made = text(validation, "messageExpression");
    if !made.is_empty() && made.trim().is_empty() {
        errors.invalid(path.child("messageExpression"), made, "must be non-empty if specified");
    }
    let message = text(validation, "message");
    if !message.is_empty() && message.trim().is_empty() {
        errors.invalid(path.child("message"), message, "message must be non-empty if specified");
    } else if message.trim().contains(['\n', '\r']) {
        errors.invalid(path.child("message"), message, "message must not contain line breaks");
    }
    errors.one_of_if_set(path.child("reason"), at(validation, "reason"), REASONS);
}

fn audits(policy: &str, annotations: &[Value], path: &Path, errors: &mut Errors) {
    const MOST: usize = 20;
    const LONGEST: usize = 5 * 1024;
    if annotations.len() > MOST {
        let why = format!("must not have more than {MOST} auditAnnotations");
        errors.invalid(path, &Value::from(annotations), why);
    }
    for (index, annotation) in annotations.iter().enumerate() {
        let path = path.index(index);
        let key = text(annotation, "key");
        let name = format!("{policy}/{key}");
        if policy.is_empty() {
            errors.invalid(path.child("key"), key, "requires metadata.name be non-empty");
        } else {
            errors.all_invalid(path.child("key"), &name, names::qualified_name(&name));
        }
        let expression = text(annotation, "valueExpression").trim();
        if expression.is_empty() {
            errors.required(path.child("valueExpression"), "valueExpression is not specified");
        } else if expression.len() > LONGEST {
            errors.required(path.child("valueExpression"), format!("must not exceed {LONGEST} bytes in length"));
        }
        if annotations[..index].iter().any(|other| text(other, "key") == key) {
            errors.duplicate(path.child("key"), key);
        }
    }
}

fn mutates(mutation: &Value, path: &Path, errors: &mut Errors) {
    const TYPES: &[&str] = &["ApplyConfiguration", "JSONPatch"];
    errors.one_of(path.child("patchType"), at(mutation, "patchType"), TYPES);
    let (own, other) = match text(mutation, "patchType") {
        "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
        "JSONPatch" => ("jsonPatch", "applyConfiguration"),
        _ => return,
    };
    let kind = text(mutation, "patchType");
    if !has(mutation, own) {
        errors.required(path.child(own), format!("must be specified when patchType is {kind}"));
    } else if text(at(mutation, own), "expression").trim().is_empty() {
        errors.required(path.child(own).child("expression"), "expression is not specified");
    }
    if has(mutation, other) {
        errors.forbidden(path.child(other), format!("must not be specified when patchType is {kind}"));
    }
}

fn binding(spec: &Value, role: Role, path: &Path, errors: &mut Errors) {
    match text(spec, "policyName") {
        "" => errors.required(path.child("policyName"), ""),
        name => errors.all_invalid(path.child("policyName"), name, names::dns1123_subdomain(name)),
    }
    if has(spec, "paramRef") {
        parameter_reference(at(spec, "paramRef"), &path.child("paramRef"), errors);
    }
    if has(spec, "matchResources") {
        match_resources(at(spec, "matchResources"), &path.child("matchResources"), errors);
    }
    if role == Role::MutatingBinding {
        return;
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
    if actions.is_empty() {
        errors.required(all, "at least one validation action is required");
    }
}

fn parameter_reference(reference: &Value, path: &Path, errors: &mut Errors) {
    const EITHER: &str = "name and selector are mutually exclusive";
    let (name, selector) = (text(reference, "name"), at(reference, "selector"));
    if !name.is_empty() {
        errors.all_invalid(path.child("name"), name, names::path_segment(name, false));
        if !selector.is_null() {
            errors.forbidden(path.child("name"), EITHER);
        }
    }
    if !selector.is_null() {
        label_selector(selector, &path.child("selector"), errors);
        if !name.is_empty() {
            errors.forbidden(path.child("selector"), EITHER);
        }
    }
    if name.is_empty() && selector.is_null() {
        errors.required(path, "one of name or selector must be specified");
    }
    let action = "parameterNotFoundAction";
    errors.one_of(path.child(action), at(reference, action), &["Deny", "Allow"]);
}

/// Rules that say which requests are meant.
pub fn match_rules(rules: &[Value], path: &Path, errors: &mut Errors) {
    const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
    for (index, rule) in rules.iter().enumerate() {
        let path = path.index(index);
        for (field, others) in
            [("operations", "operations"), ("apiGroups", "API groups"), ("apiVersions", "API versions")]
        {
            let (values, all) = (list(rule, field), path.child(field));
            if values.is_empty() {
                errors.required(all, "");
            }
            if values.len() > 1 && values.iter().any(|value| value == "*") {
                let why = format!("if '*' is present, must not specify other {others}");
                errors.invalid(all, at(rule, field), why);
            }
            for (index, value) in values.iter().enumerate() {
                if field == "operations" {
                    errors.one_of_supported(all.index(index), value, OPERATIONS);
                } else if field == "apiVersions" && value == "" {
                    errors.required(all.index(index), "");
                }
            }
        }
        resources(at(rule, "resources"), &path.child("resources"), errors);
        errors.one_of_if_set(path.child("scope"), at(rule, "scope"), &["*", "Cluster", "Namespaced"]);
    }
}

/// Resources and subresources, of which a wildcard leaves no others to be named.
fn resources(given: &Value, path: &Path, errors: &mut Errors) {
    let names: Vec<&str> = given.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if names.is_empty() {
        errors.required(path, "");
    }
    for (index, name) in names.iter().enumerate() {
        if name.is_empty() {
            errors.required(path.index(index), "");
        }
        let Some((resource, sub)) = name.split_once('/') else { continue };
        for wildcard in [format!("{resource}/*"), format!("*/{sub}")] {
            if names[..index].contains(&wildcard.as_str()) {
                let why = format!("if '{wildcard}' is present, must not specify {name}");
                errors.invalid(path.index(index), *name, why);
            }
        }
    }
    if names.len() > 1 && names.contains(&"*/*") {
        errors.invalid(path, given, "if '*/*' is present, must not specify other resources");
    }
    let last_alone = names.iter().rev().find(|name| !name.is_empty() && !name.contains('/'));
    if names.contains(&"*") && last_alone.is_some_and(|name| *name != "*") {
        errors.invalid(path, given, "if '*' is present, must not specify other resources without subresources");
    }
}
