//! Requests for devices, in claims and in templates of claims.

use serde_json::Value;

use crate::kinds::access::{at, at_mut, each_mut, fill, list, number, text};
use crate::validation::{Errors, Path, names};

fn ask(request: &mut Value) {
    fill(request, "allocationMode", "ExactCount");
    if text(request, "allocationMode") == "ExactCount" && number(request, "count") == 0 {
        request["count"] = 1.into();
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
    let path = path.child("devices");
    let (requests, all) = (list(spec, "devices.requests"), path.child("requests"));
    if requests.len() > 32 {
        errors.too_many(all, requests.len(), 32);
    }
    for (index, request) in requests.iter().enumerate() {
        let path = all.index(index);
        name(request, &path, errors);
        if requests[..index].iter().any(|other| text(other, "name") == text(request, "name")) {
            errors.duplicate(path.child("name"), text(request, "name"));
        }
        let (exactly, alternatives) = (at(request, "exactly"), list(request, "firstAvailable"));
        match (exactly.is_null(), alternatives.is_empty()) {
            (true, true) => errors.required(path, "exactly one of `exactly` or `firstAvailable` is required"),
            (false, false) => {
                errors.invalid(
                    path,
                    &Value::Null,
                    "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
                );
            }
            (false, true) => asked(exactly, &path.child("exactly"), errors),
            (true, false) => {
                let all = path.child("firstAvailable");
                if alternatives.len() > 8 {
                    errors.too_many(all, alternatives.len(), 8);
                }
                for (index, alternative) in alternatives.iter().enumerate() {
                    name(alternative, &all.index(index), errors);
                    asked(alternative, &all.index(index), errors);
                }
            }
        }
    }
}

fn name(request: &Value, path: &Path, errors: &mut Errors) {
    match text(request, "name") {
        "" => errors.required(path.child("name"), ""),
        name => errors.all_invalid(path.child("name"), name, names::dns1123_label(name)),
    }
}

fn asked(request: &Value, path: &Path, errors: &mut Errors) {
    let class = text(request, "deviceClassName");
    if class.is_empty() {
        errors.required(path.child("deviceClassName"), "");
    } else {
        errors.all_invalid(path.child("deviceClassName"), class, names::dns1123_subdomain(class));
    }
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
    selectors(request, path, errors);
}

/// Selectors of devices, each an expression.
pub fn selectors(holder: &Value, path: &Path, errors: &mut Errors) {
    let (selectors, all) = (list(holder, "selectors"), path.child("selectors"));
    if selectors.len() > 32 {
        errors.too_many(all, selectors.len(), 32);
    }
    for (index, selector) in selectors.iter().enumerate() {
        let path = all.index(index);
        if at(selector, "cel").is_null() {
            errors.required(path.child("cel"), "");
        } else if text(selector, "cel.expression").is_empty() {
            errors.required(path.child("cel").child("expression"), "");
        }
    }
}
