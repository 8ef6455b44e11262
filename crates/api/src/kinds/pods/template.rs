//! Pod templates inside workloads: defaults, validation and the selectors that must match them.

use serde_json::Value;

use super::defaults::pod_spec;
use super::spec::{self, Within};
use crate::kinds::access::{at, at_mut, has, list, text};
use crate::selector::LabelSelector;
use crate::validation::labels::{annotations, label_selector, labels, selects_all};
use crate::validation::{Errors, Path};

/// The defaults of the template at the dotted path.
pub fn defaults(object: &mut Value, path: &str) {
    if let Some(spec) = at_mut(object, path).and_then(|template| template.get_mut("spec")) {
        pod_spec(spec);
    }
}

/// Errors of a template.
pub fn validate(template: &Value, path: &Path, errors: &mut Errors) {
    let metadata = at(template, "metadata");
    let at_metadata = path.child("metadata");
    labels(at(metadata, "labels"), &at_metadata.child("labels"), errors);
    annotations(at(metadata, "annotations"), &at_metadata.child("annotations"), errors);
    let spec = at(template, "spec");
    let at_spec = path.child("spec");
    super::annotations::validate(metadata, spec, &at_metadata.child("annotations"), errors);
    if !list(spec, "ephemeralContainers").is_empty() {
        errors.forbidden(at_spec.child("ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
    spec::validate(spec, &at_spec, Within::Template, errors);
}

/// A new workload's name becomes a part of its pods' host names.
pub fn hostname(old: Option<&Value>, new: &Value) -> Vec<String> {
    super::warnings::label_name(old, new, "Pod names and hostnames")
}

/// What upstream warns of in the template at the dotted path.
pub fn warnings(object: &Value, path: &str) -> Vec<String> {
    super::warnings::pod(at(object, path), &Path::new(path), true)
}

/// Errors of `spec.selector` (a `LabelSelector`) and `spec.template` of a workload whose pods always restart.
/// `kind` is how upstream's message calls it: `deployment`.
pub fn workload(object: &Value, kind: &str, errors: &mut Errors) {
    let spec = Path::new("spec");
    let selector = at(object, "spec.selector");
    let at_selector = spec.child("selector");
    if selector.is_null() {
        errors.required(at_selector, "");
    } else {
        label_selector(selector, &at_selector, errors);
        if selects_all(selector) {
            errors.invalid(at_selector, selector, format!("empty selector is invalid for {kind}"));
        }
    }
    let template = at(object, "spec.template");
    let at_template = spec.child("template");
    match LabelSelector::from_object(selector) {
        Ok(parsed) => matched(&parsed, template, &at_template, errors),
        Err(_) if !selector.is_null() => errors.invalid(at_selector, selector, "invalid label selector"),
        Err(_) => {}
    }
    validate(template, &at_template, errors);
    always_restarts(template, &at_template, kind, errors);
}

/// The selector must select the template's labels.
pub fn matched(selector: &LabelSelector, template: &Value, path: &Path, errors: &mut Errors) {
    let labels = at(template, "metadata.labels");
    if !selector.is_empty() && !selector.matches(labels.as_object()) {
        errors.invalid(path.child("metadata.labels"), labels, "`selector` does not match template `labels`");
    }
}

/// Pods of a workload that keeps them running.
pub fn always_restarts(template: &Value, path: &Path, kind: &str, errors: &mut Errors) {
    let policy = text(template, "spec.restartPolicy");
    let at_spec = path.child("spec");
    if policy != "Always" {
        errors.not_supported(at_spec.child("restartPolicy"), policy, &["Always"]);
    }
    if has(template, "spec.activeDeadlineSeconds") {
        let what = match kind {
            "daemonset" => "DaemonSet",
            "statefulset" => "StatefulSet",
            "replicationcontroller" => "ReplicationController",
            _ => "ReplicaSet",
        };
        let why = format!("activeDeadlineSeconds in {what} is not Supported");
        errors.forbidden(at_spec.child("activeDeadlineSeconds"), why);
    }
}
