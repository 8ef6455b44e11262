//! `apiextensions.k8s.io/v1 CustomResourceDefinition`.

use serde_json::{Value, json};

use crate::kind::{Context, Kind, Strategy, keep};
use crate::kinds::access::{at, at_mut, fill, fill_text, flag, has, list, section, text};
use crate::kinds::admissionregistration::webhooks::client;
use crate::kinds::builder::Builder;
use crate::validation::{Errors, Path, names};

pub fn kind() -> Kind {
    Builder::new("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions")
        .short(&["crd", "crds"])
        .category("api-extensions")
        .prefix("apiextensions.k8s.io/customresourcedefinitions")
        .status()
        .strategy(CustomResourceDefinition)
        .build()
}

struct CustomResourceDefinition;

/// The version that is stored is remembered for as long as objects may be stored in it.
fn remember_stored(object: &mut Value) {
    let stored = list(object, "spec.versions").iter().find(|version| flag(version, "storage"));
    let Some(name) = stored.map(|version| at(version, "name").clone()) else { return };
    let mut versions = list(object, "status.storedVersions").to_vec();
    if !versions.contains(&name) {
        versions.push(name);
        if let Some(status) = section(object, "status") {
            status.insert("storedVersions".to_owned(), versions.into());
        }
    }
}

impl Strategy for CustomResourceDefinition {
    fn default(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec") else { return };
        let kind = text(spec, "names.kind").to_owned();
        if let Some(names) = at_mut(spec, "names").filter(|_| !kind.is_empty()) {
            fill_text(names, "singular", &kind.to_lowercase());
            fill_text(names, "listKind", &format!("{kind}List"));
        }
        section(spec, "conversion");
        fill_text(&mut spec["conversion"], "strategy", "None");
        if let Some(service) = at_mut(spec, "conversion.webhook.clientConfig.service") {
            fill(service, "port", 443);
        }
    }

    fn prepare_create(&self, object: &mut Value, _context: &Context) {
        object["status"] = json!({"conditions": [], "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": []});
        remember_stored(object);
    }

    fn prepare_update(&self, old: &Value, new: &mut Value, _context: &Context) {
        keep(old, new, "status");
        remember_stored(new);
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let (spec, path) = (at(object, "spec"), Path::new("spec"));
        let (group, plural) = (text(spec, "group"), text(spec, "names.plural"));
        let name = text(object, "metadata.name");
        if name != format!("{plural}.{group}") {
            errors.invalid("metadata.name", name, "must be spec.names.plural+\".\"+spec.group");
        }
        if group.is_empty() {
            errors.required(path.child("group"), "");
        } else {
            errors.all_invalid(path.child("group"), group, names::dns1123_subdomain(group));
            if !group.contains('.') {
                errors.invalid(path.child("group"), group, "should be a domain with at least one dot");
            }
        }
        errors.one_of(path.child("scope"), at(spec, "scope"), &["Cluster", "Namespaced"]);
        if flag(spec, "preserveUnknownFields") {
            let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema \
                       instead";
            errors.invalid(path.child("preserveUnknownFields"), at(spec, "preserveUnknownFields"), why);
        }
        all_names(at(spec, "names"), &path.child("names"), errors);
        versions(spec, &path, errors);
        conversion(at(spec, "conversion"), &path.child("conversion"), errors);
        let protected = group.ends_with(".k8s.io")
            || group.ends_with(".kubernetes.io")
            || matches!(group, "k8s.io" | "kubernetes.io");
        let approval = at(object, "metadata.annotations").get("api-approved.kubernetes.io");
        if protected && approval.is_none() {
            let why = "protected groups must have approval annotation \"api-approved.kubernetes.io\", see \
                       https://github.com/kubernetes/enhancements/pull/1111";
            errors.required("metadata.annotations[api-approved.kubernetes.io]", why);
        }
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        for field in ["group", "scope", "names.kind", "names.plural"] {
            errors.immutable(old, new, &format!("spec.{field}"));
        }
        let served: Vec<&Value> = list(new, "spec.versions").iter().map(|version| at(version, "name")).collect();
        for (index, stored) in list(new, "status.storedVersions").iter().enumerate() {
            if !served.contains(&stored) {
                let shown = stored.as_str().unwrap_or_default();
                let why = "missing from spec.versions; v1 was previously a storage version, and must remain in \
                           spec.versions until a storage migration ensures no data remains persisted in v1 and removes \
                           v1 from status.storedVersions";
                errors.invalid(format!("status.storedVersions[{index}]"), shown, why.replace("v1", shown));
            }
        }
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn conditional_update(&self) -> bool {
        true
    }
}

fn all_names(words: &Value, path: &Path, errors: &mut Errors) {
    for field in ["plural", "singular", "kind", "listKind"] {
        let name = text(words, field);
        if name.is_empty() {
            errors.required(path.child(field), "");
        } else {
            errors.all_invalid(path.child(field), name, names::dns1035_label(&name.to_lowercase()));
        }
    }
    for field in ["shortNames", "categories"] {
        let all = path.child(field);
        for (index, name) in list(words, field).iter().filter_map(Value::as_str).enumerate() {
            errors.all_invalid(all.index(index), name, names::dns1035_label(name));
        }
    }
    if !text(words, "kind").is_empty() && text(words, "kind") == text(words, "listKind") {
        errors.invalid(path.child("listKind"), at(words, "listKind"), "kind and listKind may not be the same");
    }
}

fn versions(spec: &Value, path: &Path, errors: &mut Errors) {
    let all = path.child("versions");
    let versions = list(spec, "versions");
    for (index, version) in versions.iter().enumerate() {
        let path = all.index(index);
        let name = text(version, "name");
        errors.all_invalid(path.child("name"), name, names::dns1035_label(name));
        if !has(version, "schema.openAPIV3Schema") {
            errors.required(path.child("schema.openAPIV3Schema"), "schemas are required");
        }
        let columns = path.child("additionalPrinterColumns");
        for (index, column) in list(version, "additionalPrinterColumns").iter().enumerate() {
            let path = columns.index(index);
            if text(column, "name").is_empty() {
                errors.required(path.child("name"), "");
            }
            const TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
            errors.one_of(path.child("type"), at(column, "type"), TYPES);
            if text(column, "jsonPath").is_empty() {
                errors.required(path.child("jsonPath"), "JSONPath is required");
            }
        }
        let scale = at(version, "subresources.scale");
        for field in ["specReplicasPath", "statusReplicasPath"] {
            if !scale.is_null() && text(scale, field).is_empty() {
                errors.required(path.child("subresources.scale").child(field), "");
            }
        }
        if versions[..index].iter().any(|other| text(other, "name") == name) {
            errors.invalid(all, at(spec, "versions"), "must contain unique version names");
        }
    }
    if versions.iter().filter(|version| flag(version, "storage")).count() != 1 {
        errors.invalid(all, at(spec, "versions"), "must have exactly one version marked as storage version");
    }
}

fn conversion(conversion: &Value, path: &Path, errors: &mut Errors) {
    errors.one_of(path.child("strategy"), at(conversion, "strategy"), &["None", "Webhook"]);
    if text(conversion, "strategy") != "Webhook" {
        if has(conversion, "webhook") {
            errors.forbidden(path.child("webhook"), "should not be set when strategy is not set to Webhook");
        }
        return;
    }
    let path = path.child("webhook");
    if !has(conversion, "webhook.clientConfig") {
        errors.required(path.child("clientConfig"), "required when strategy is set to Webhook");
    } else {
        client(at(conversion, "webhook.clientConfig"), &path.child("clientConfig"), errors);
    }
    if list(conversion, "webhook.conversionReviewVersions").is_empty() {
        errors.required(path.child("conversionReviewVersions"), "");
    }
}
