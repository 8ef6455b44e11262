//! Webhook configurations: what the mutating and the validating kind share.

use serde_json::{Value, json};

use super::policies::{match_conditions, match_rules};
use crate::kind::Strategy;
use crate::kinds::access::{at, at_mut, each_mut, fill, has, list, text};
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, Path, domains, label_selector, names};

pub const COLUMNS: &[Cell] =
    &[NAME, Cell::made("Webhooks", |o| list(o, "webhooks").len().into()).typed("integer"), AGE];

pub struct Webhooks {
    pub mutating: bool,
}

impl Strategy for Webhooks {
    fn conditional_update(&self) -> bool {
        true
    }

    fn default(&self, object: &mut Value) {
        for webhook in each_mut(object, "webhooks") {
            fill(webhook, "failurePolicy", "Fail");
            fill(webhook, "matchPolicy", "Equivalent");
            fill(webhook, "namespaceSelector", json!({}));
            fill(webhook, "objectSelector", json!({}));
            fill(webhook, "timeoutSeconds", 10);
            if self.mutating {
                fill(webhook, "reinvocationPolicy", "Never");
            }
            if let Some(service) = at_mut(webhook, "clientConfig.service") {
                fill(service, "port", 443);
            }
            for rule in each_mut(webhook, "rules") {
                fill(rule, "scope", "*");
            }
        }
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let all = Path::new("webhooks");
        let webhooks = list(object, "webhooks");
        for (index, webhook) in webhooks.iter().enumerate() {
            let path = all.index(index);
            validate(webhook, &path, errors);
            let name = text(webhook, "name");
            if !name.is_empty() && webhooks[..index].iter().any(|other| text(other, "name") == name) {
                errors.duplicate(path.child("name"), name);
            }
        }
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}

fn validate(webhook: &Value, path: &Path, errors: &mut Errors) {
    const SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun"];
    domains::fully_qualified(text(webhook, "name"), &path.child("name"), errors);
    match_rules(list(webhook, "rules"), &path.child("rules"), errors);
    errors.one_of_if_set(path.child("failurePolicy"), at(webhook, "failurePolicy"), &["Fail", "Ignore"]);
    errors.one_of_if_set(path.child("matchPolicy"), at(webhook, "matchPolicy"), &["Equivalent", "Exact"]);
    if !has(webhook, "sideEffects") {
        errors.required(path.child("sideEffects"), "must specify one of None, NoneOnDryRun");
    }
    errors.one_of_if_set(path.child("sideEffects"), at(webhook, "sideEffects"), SIDE_EFFECTS);
    if let Some(seconds) = at(webhook, "timeoutSeconds").as_i64()
        && !(1..=30).contains(&seconds)
    {
        let why = "the timeout value must be between 1 and 30 seconds";
        errors.invalid(path.child("timeoutSeconds"), seconds, why);
    }
    for field in ["namespaceSelector", "objectSelector"] {
        label_selector(at(webhook, field), &path.child(field), errors);
    }
    errors.one_of_if_set(path.child("reinvocationPolicy"), at(webhook, "reinvocationPolicy"), &["IfNeeded", "Never"]);
    client(at(webhook, "clientConfig"), &path.child("clientConfig"), errors);
    match_conditions(list(webhook, "matchConditions"), &path.child("matchConditions"), errors);
    let (versions, at_versions) = (list(webhook, "admissionReviewVersions"), path.child("admissionReviewVersions"));
    if versions.is_empty() {
        errors.required(at_versions, "must specify one of v1, v1beta1");
    } else {
        review_versions(versions, &at_versions, errors);
    }
}

/// The versions of reviews that a webhook understands, of which the server must speak one.
pub fn review_versions(versions: &[Value], path: &Path, errors: &mut Errors) {
    for (index, version) in versions.iter().enumerate() {
        let (path, name) = (path.index(index), version.as_str().unwrap_or_default());
        if versions[..index].contains(version) {
            errors.invalid(path, name, "duplicate version");
        } else {
            errors.all_invalid(path, name, names::dns1035_label(name));
        }
    }
    if !versions.iter().any(|version| version == "v1" || version == "v1beta1") {
        errors.invalid(path, &Value::from(versions), "must include at least one of v1, v1beta1");
    }
}

/// Where a webhook is called: by exactly one of a URL and a service.
pub fn client(config: &Value, path: &Path, errors: &mut Errors) {
    match (at(config, "url").as_str(), at(config, "service")) {
        (Some(url), Value::Null) => address(url, &path.child("url"), errors),
        (None, service) if !service.is_null() => called(service, &path.child("service"), errors),
        _ => errors.required(path, "exactly one of url or service is required"),
    }
}

fn address(url: &str, path: &Path, errors: &mut Errors) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (url, fragment) = url.split_once('#').unwrap_or((url, ""));
    let (url, query) = url.split_once('?').unwrap_or((url, ""));
    let (scheme, rest) = url.split_once(':').unwrap_or(("", url));
    let authority = rest.strip_prefix("//").and_then(|rest| rest.split('/').next()).unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    if scheme != "https" {
        errors.invalid(path, scheme, format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if host.is_empty() {
        errors.invalid(path, host, format!("host must be specified{FORM}"));
    }
    if let Some(user) = user {
        errors.invalid(path, user, "user information is not permitted in the URL");
    }
    if !fragment.is_empty() {
        errors.invalid(path, fragment, "fragments are not permitted in the URL");
    }
    if !query.is_empty() {
        errors.invalid(path, query, "query parameters are not permitted in the URL");
    }
}

fn called(service: &Value, path: &Path, errors: &mut Errors) {
    for field in ["name", "namespace"] {
        if text(service, field).is_empty() {
            errors.required(path.child(field), format!("service {field} is required"));
        }
    }
    if let Some(port) = at(service, "port").as_i64()
        && !(1..=65535).contains(&port)
    {
        let why = "port is not valid: must be between 1 and 65535, inclusive";
        errors.invalid(path.child("port"), port, why);
    }
    let (route, path) = (text(service, "path"), path.child("path"));
    if matches!(route, "" | "/") {
        return;
    }
    if route == "//" {
        return errors.invalid(path, route, "segment[0] may not be empty");
    }
    if !route.starts_with('/') {
        errors.invalid(path, route, "must start with a '/'");
    }
    let mut rest = route.chars();
    rest.next();
    let rest = rest.as_str();
    for (index, step) in rest.strip_suffix('/').unwrap_or(rest).split('/').enumerate() {
        if step.is_empty() {
            errors.invalid(path, route, format!("segment[{index}] may not be empty"));
            continue;
        }
        for message in names::dns1123_subdomain(step) {
            errors.invalid(path, route, format!("segment[{index}]: {message}"));
        }
    }
}
