//! Requests for devices, in claims and in templates of claims.

use serde_json::Value;

use super::syntax::{self, at_most, configuration, fully_qualified, label, unique};
use crate::kinds::access::{at, at_mut, each_mut, fill, fill_text, has, list, number, text};
use crate::validation::{Errors, Path, names};

/// As many requests, constraints, configurations and selectors there may be.
pub const MOST: usize = 32;

fn ask(request: &mut Value) {
    fill(request, "allocationMode", "ExactCount");
    if text(request, "allocationMode") == "ExactCount" && number(request, "count") == 0 {
        request["count"] = 1.into();
    }
    for toleration in each_mut(request, "tolerations") {
        fill_text(toleration, "operator", "Equal");
    }
}

/// The defaults of a claim's spec.
pub fn defaults(spec: &mut Value) {
    for request in each_mut(spec, "devices.requests") {
        if let Some(exactly) = at_mut(request, "exactly") {
            ask(exactly);
        }
        each_mut(request, "firstAvailable").for_each(ask);
    }
}

/// Errors of a claim's spec.
pub fn validate(spec: &Value, path: &Path, errors: &mut Errors) {
    let (devices, path) = (at(spec, "devices"), path.child("devices"));
    let (requests, all) = (list(devices, "requests"), path.child("requests"));
    if at_most(requests, MOST, &all, errors) {
        for (index, request) in requests.iter().enumerate() {
            asked(request, &all.index(index), errors);
        }
        unique(requests, &all, errors, |request| text(request, "name"), |request| at(request, "name"));
    }
    let (constraints, all) = (list(devices, "constraints"), path.child("constraints"));
    if at_most(constraints, MOST, &all, errors) {
        for (index, constraint) in constraints.iter().enumerate() {
            alike(constraint, requests, &all.index(index), errors);
        }
    }
    let (configs, all) = (list(devices, "config"), path.child("config"));
    if at_most(configs, MOST, &all, errors) {
        for (index, config) in configs.iter().enumerate() {
            let path = all.index(index);
            references(list(config, "requests"), requests, &path.child("requests"), errors);
            configuration(config, &path, errors);
        }
    }
}

/// One request: for devices of a class, or for the first of several classes that has them.
fn asked(request: &Value, path: &Path, errors: &mut Errors) {
    const FIRST: usize = 8;
    label(text(request, "name"), &path.child("name"), errors);
    let (exactly, alternatives) = (at(request, "exactly"), list(request, "firstAvailable"));
    match (exactly.is_null(), alternatives.is_empty()) {
        (true, true) => errors.required(path, "exactly one of `exactly` or `firstAvailable` is required"),
        (false, false) => {
            let why = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            errors.invalid(path, "null", why);
        }
        (false, true) => wanted(exactly, &path.child("exactly"), errors),
        (true, false) => {
            let all = path.child("firstAvailable");
            if !at_most(alternatives, FIRST, &all, errors) {
                return;
            }
            for (index, alternative) in alternatives.iter().enumerate() {
                let path = all.index(index);
                label(text(alternative, "name"), &path.child("name"), errors);
                wanted(alternative, &path, errors);
            }
            unique(alternatives, &all, errors, |one| text(one, "name"), |one| at(one, "name"));
        }
    }
}

fn wanted(request: &Value, path: &Path, errors: &mut Errors) {
    match text(request, "deviceClassName") {
        "" => errors.required(path.child("deviceClassName"), ""),
        class => errors.all_invalid(path.child("deviceClassName"), class, names::dns1123_subdomain(class)),
    }
    selectors(request, path, errors);
    match text(request, "allocationMode") {
        "All" if number(request, "count") != 0 => {
            let why = "must not be specified when allocationMode is 'All'";
            errors.invalid(path.child("count"), number(request, "count"), why);
        }
        "ExactCount" if number(request, "count") <= 0 => {
            errors.invalid(path.child("count"), number(request, "count"), "must be greater than zero");
        }
        "All" | "ExactCount" => {}
        other => errors.not_supported(path.child("allocationMode"), other, &["All", "ExactCount"]),
    }
    syntax::tolerations(request, path, errors);
}

/// Selectors of devices, each an expression. What the expressions mean is not looked at.
pub fn selectors(holder: &Value, path: &Path, errors: &mut Errors) {
    const LONGEST: usize = 10 * 1024;
    let (selectors, all) = (list(holder, "selectors"), path.child("selectors"));
    if !at_most(selectors, MOST, &all, errors) {
        return;
    }
    for (index, selector) in selectors.iter().enumerate() {
        let item = all.index(index);
        let path = item.child("cel");
        let expression = text(selector, "cel.expression");
        if at(selector, "cel").is_null() {
            errors.required(path, "");
        } else if expression.is_empty() {
            errors.required(path.child("expression"), "");
        } else if expression.len() > LONGEST {
            errors.too_long(path.child("expression"), LONGEST);
        }
    }
}

/// A constraint on what devices have in common, or have not.
fn alike(constraint: &Value, requests: &[Value], path: &Path, errors: &mut Errors) {
    references(list(constraint, "requests"), requests, &path.child("requests"), errors);
    let one = ["matchAttribute", "distinctAttribute"].into_iter().find(|field| has(constraint, field));
    match one {
        Some(field) => fully_qualified(text(constraint, field), &path.child(field), errors),
        None => {
            let why =
                "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
            errors.required(path, why);
        }
    }
}

/// Names of requests, or of alternatives within them, that must be in the claim.
fn references(names: &[Value], requests: &[Value], path: &Path, errors: &mut Errors) {
    if !at_most(names, MOST, path, errors) {
        return;
    }
    for (index, name) in names.iter().filter_map(Value::as_str).enumerate() {
        reference(name, requests, &path.index(index), errors);
    }
    unique(names, path, errors, |name| name, |name| name);
}

/// `request` or `request/alternative`.
pub fn reference(name: &str, requests: &[Value], path: &Path, errors: &mut Errors) {
    const WHY: &str =
        "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
    let mut parts = name.split('/');
    let (main, sub) = (parts.next().unwrap_or_default(), parts.next());
    if parts.next().is_some() {
        return errors.invalid(path, name, WHY);
    }
    for part in name.split('/') {
        label(part, path, errors);
    }
    let request = requests.iter().find(|request| text(request, "name") == main);
    let there = request.is_some_and(|request| {
        sub.is_none_or(|sub| list(request, "firstAvailable").iter().any(|one| text(one, "name") == sub))
    });
    if !there {
        errors.invalid(path, name, WHY);
    }
}

/// The configuration that came with an allocation, from the class or from the claim.
pub fn allocated_configuration(config: &Value, requests: &[Value], path: &Path, errors: &mut Errors) {
    errors.one_of(path.child("source"), at(config, "source"), &["FromClaim", "FromClass"]);
    references(list(config, "requests"), requests, &path.child("requests"), errors);
    configuration(config, path, errors);
}
