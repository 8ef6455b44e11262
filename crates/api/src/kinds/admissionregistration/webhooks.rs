//! Webhook configurations: what the mutating and the validating kind share.

use serde_json::{Value, json};

use super::policies::match_rules;
use crate::kind::Strategy;
use crate::kinds::access::{at, at_mut, each_mut, fill, has, list, text};
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, Path, label_selector, names};

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
            if webhooks[..index].iter().any(|other| text(other, "name") == name) {
                errors.duplicate(path.child("name"), name);
            }
            errors.one_of_if_set(
                path.child("reinvocationPolicy"),
                at(webhook, "reinvocationPolicy"),
                &["IfNeeded", "Never"],
            );
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
    let name = text(webhook, "name");
    if name.is_empty() {
        errors.required(path.child("name"), "");
    } else {
        errors.all_invalid(path.child("name"), name, names::dns1123_subdomain(name));
        if name.split('.').count() < 3 {
            let why = "should be a domain with at least three segments separated by dots";
            errors.invalid(path.child("name"), name, why);
        }
    }
    let versions = list(webhook, "admissionReviewVersions");
    if versions.is_empty() {
        errors.required(path.child("admissionReviewVersions"), "must specify one of v1, v1beta1");
    } else if !versions.iter().any(|version| version == "v1" || version == "v1beta1") {
        let why = "must include at least one of v1, v1beta1";
        errors.invalid(path.child("admissionReviewVersions"), at(webhook, "admissionReviewVersions"), why);
    }
    errors.one_of_if_set(path.child("failurePolicy"), at(webhook, "failurePolicy"), &["Fail", "Ignore"]);
    errors.one_of_if_set(path.child("matchPolicy"), at(webhook, "matchPolicy"), &["Equivalent", "Exact"]);
    errors.one_of(path.child("sideEffects"), at(webhook, "sideEffects"), &["None", "NoneOnDryRun"]);
    if let Some(seconds) = at(webhook, "timeoutSeconds").as_i64()
        && !(1..=30).contains(&seconds)
    {
        let why = "the timeout value must be between 1 and 30 seconds";
        errors.invalid(path.child("timeoutSeconds"), seconds, why);
    }
    for field in ["namespaceSelector", "objectSelector"] {
        label_selector(at(webhook, field), &path.child(field), errors);
    }
    match_rules(list(webhook, "rules"), &path.child("rules"), errors);
    client(at(webhook, "clientConfig"), &path.child("clientConfig"), errors);
}

/// Where a webhook is called: by exactly one of a URL and a service.
pub fn client(config: &Value, path: &Path, errors: &mut Errors) {
    if has(config, "url") == has(config, "service") {
        errors.required(path, "exactly one of url or service is required");
        return;
    }
    if has(config, "url") {
        let (url, path) = (text(config, "url"), path.child("url"));
        match url.split_once("://") {
            Some(("https", rest)) => {
                let host = rest.split('/').next().unwrap_or_default();
                if host.is_empty() {
                    errors.invalid(path, url, "host must be specified");
                }
                for (mark, what) in [
                    ('@', "user information is not permitted in the URL"),
                    ('#', "fragments are not permitted in the URL"),
                    ('?', "query parameters are not permitted in the URL"),
                ] {
                    if rest.contains(mark) {
                        errors.invalid(path, url, what);
                    }
                }
            }
            _ => {
                errors.invalid(path, url, "'https' is the only allowed URL scheme; desired format: https://host[/path]")
            }
        }
        return;
    }
    let (service, path) = (at(config, "service"), path.child("service"));
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
    let route = text(service, "path");
    if !route.is_empty() && !route.starts_with('/') {
        errors.invalid(path.child("path"), route, "must start with a '/'");
    }
}
