//! `apiextensions.k8s.io/v1 CustomResourceDefinition`.

use serde_json::{Value, json};

use super::{paths, schema};
use crate::kind::{Context, Kind, Strategy, keep};
use crate::kinds::access::{at, at_mut, fill, fill_text, flag, has, list, section, text};
use crate::kinds::admissionregistration::webhooks;
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
        let group = text(spec, "group");
        let name = text(object, "metadata.name");
        if name != format!("{}.{group}", text(spec, "names.plural")) {
            errors.invalid("metadata.name", name, "must be spec.names.plural+\".\"+spec.group");
        }
        let domain = names::dns1123_subdomain(group);
        if group.is_empty() {
            errors.required(path.child("group"), "");
        } else if !domain.is_empty() {
            errors.invalid(path.child("group"), group, domain.join(","));
        } else if !group.contains('.') {
            errors.invalid(path.child("group"), group, "should be a domain with at least one dot");
        }
        errors.one_of(path.child("scope"), at(spec, "scope"), &["Cluster", "Namespaced"]);
        versions(spec, &path, errors);
        let at_names = path.child("names");
        for field in ["plural", "singular", "kind", "listKind"] {
            if text(at(spec, "names"), field).is_empty() {
                errors.required(at_names.child(field), "");
            }
        }
        all_names(at(spec, "names"), &at_names, errors);
        shared(spec, &path, errors);
        conversion(at(spec, "conversion"), &path.child("conversion"), errors);
        let status = Path::new("status");
        all_names(at(object, "status.acceptedNames"), &status.child("acceptedNames"), errors);
        stored_versions(object, &status.child("storedVersions"), errors);
        approval(object, errors);
        if flag(spec, "preserveUnknownFields") {
            let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema \
                       instead";
            errors.invalid(path.child("preserveUnknownFields"), at(spec, "preserveUnknownFields"), why);
        }
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        if established(old) {
            errors.immutable(old, new, "spec.scope");
            errors.immutable(old, new, "spec.names.kind");
        }
        errors.immutable(old, new, "spec.group");
        errors.immutable(old, new, "spec.names.plural");
    }

    fn validate_subresource_update(&self, _subresource: &str, _old: &Value, new: &Value, errors: &mut Errors) {
        let status = Path::new("status");
        all_names(at(new, "status.acceptedNames"), &status.child("acceptedNames"), errors);
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn conditional_update(&self) -> bool {
        true
    }
}

fn established(definition: &Value) -> bool {
    list(definition, "status.conditions")
        .iter()
        .any(|c| text(c, "type") == "Established" && text(c, "status") == "True")
}

/// Errors of the words by which a kind is known, of those that are there.
fn all_names(words: &Value, path: &Path, errors: &mut Errors) {
    for field in ["plural", "singular", "kind", "listKind"] {
        let name = text(words, field);
        let mixed = matches!(field, "kind" | "listKind");
        let messages = names::dns1035_label(&if mixed { name.to_lowercase() } else { name.to_owned() });
        if !name.is_empty() && !messages.is_empty() {
            let start = if mixed { "may have mixed case, but should otherwise match: " } else { "" };
            errors.invalid(path.child(field), name, format!("{start}{}", messages.join(",")));
        }
    }
    let labels = |field: &str, errors: &mut Errors| {
        let all = path.child(field);
        for (index, name) in list(words, field).iter().filter_map(Value::as_str).enumerate() {
            let messages = names::dns1035_label(name);
            if !messages.is_empty() {
                errors.invalid(all.index(index), name, messages.join(","));
            }
        }
    };
    labels("shortNames", errors);
    if !text(words, "kind").is_empty() && text(words, "kind") == text(words, "listKind") {
        errors.invalid(path.child("listKind"), at(words, "listKind"), "kind and listKind may not be the same");
    }
    labels("categories", errors);
}

/// What versions may each say for themselves. Upstream sees what they all say alike as said of the whole.
const PER_VERSION: &[&str] = &["schema", "subresources", "additionalPrinterColumns", "selectableFields"];

fn is_shared(spec: &Value, field: &str) -> bool {
    let versions = list(spec, "versions");
    versions.iter().all(|version| version.get(field) == versions[0].get(field))
}

fn versions(spec: &Value, path: &Path, errors: &mut Errors) {
    let all = path.child("versions");
    let versions = list(spec, "versions");
    for (index, version) in versions.iter().enumerate() {
        if !has(version, "schema.openAPIV3Schema") {
            errors.required(all.index(index).child("schema").child("openAPIV3Schema"), "schemas are required");
        }
    }
    for (index, version) in versions.iter().enumerate() {
        let path = all.index(index);
        let name = text(version, "name");
        let messages = names::dns1035_label(name);
        if !messages.is_empty() {
            errors.invalid(path.child("name"), name, messages.join(","));
        }
        deprecation(version, &path, errors);
        for field in PER_VERSION.iter().filter(|field| !is_shared(spec, field)) {
            part(version, field, has(version, "subresources.status"), &path, errors);
        }
    }
    let unique = versions
        .iter()
        .enumerate()
        .all(|(index, version)| !versions[..index].iter().any(|other| text(other, "name") == text(version, "name")));
    if !unique {
        errors.invalid(all, at(spec, "versions"), "must contain unique version names");
    }
    if versions.iter().filter(|version| flag(version, "storage")).count() != 1 {
        errors.invalid(all, at(spec, "versions"), "must have exactly one version marked as storage version");
    }
}

/// What all versions say alike.
fn shared(spec: &Value, path: &Path, errors: &mut Errors) {
    let Some(version) = list(spec, "versions").first() else { return };
    let has_status = list(spec, "versions").iter().any(|version| has(version, "subresources.status"));
    for field in PER_VERSION.iter().filter(|field| is_shared(spec, field)) {
        part(version, field, has_status, path, errors);
    }
}

fn part(version: &Value, field: &str, has_status: bool, path: &Path, errors: &mut Errors) {
    match field {
        "schema" => {
            let schema = at(version, "schema.openAPIV3Schema");
            // A version has it as `schema`, the whole as `validation`.
            let name = if path.to_string() == "spec" { "validation" } else { "schema" };
            if !schema.is_null() {
                schema::validate(schema, has_status, &path.child(name), errors);
            }
        }
        "subresources" => scale(at(version, "subresources.scale"), &path.child("subresources"), errors),
        "additionalPrinterColumns" => {
            let all = path.child(field);
            for (index, column) in list(version, field).iter().enumerate() {
                printed(column, &all.index(index), errors);
            }
        }
        _ => selectable(version, &path.child(field), errors),
    }
}

fn deprecation(version: &Value, path: &Path, errors: &mut Errors) {
    let Some(warning) = at(version, "deprecationWarning").as_str() else { return };
    let path = path.child("deprecationWarning");
    if !flag(version, "deprecated") {
        return errors.invalid(path, warning, "can only be set for deprecated versions");
    }
    if warning.len() > 256 {
        errors.invalid(path, warning, "must be <= 256 characters long");
    }
    if warning.is_empty() {
        errors.invalid(path, warning, "must not be an empty string");
    }
    if let Some((index, _)) = warning.char_indices().find(|(_, c)| c.is_control() || (c.is_whitespace() && *c != ' ')) {
        let why = "must only contain printable UTF-8 characters; non-printable character found at index";
        errors.invalid(path, warning, format!("{why} {index}"));
    }
}

fn scale(scale: &Value, path: &Path, errors: &mut Errors) {
    if scale.is_null() {
        return;
    }
    for (field, start) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
        let (route, name) = (text(scale, field), format!("scale.{field}"));
        let path = path.child(&name);
        if route.is_empty() {
            errors.required(path, "");
        } else if paths::simple(route, &path, errors) && !route.starts_with(start) {
            let under = start.trim_end_matches('.');
            errors.invalid(path, route, format!("should be a json path under {under}"));
        }
    }
    let (route, path) = (text(scale, "labelSelectorPath"), path.child("scale.labelSelectorPath"));
    if !route.is_empty()
        && paths::simple(route, &path, errors)
        && ![".spec.", ".status."].iter().any(|start| route.starts_with(start))
    {
        errors.invalid(path, route, "should be a json path under either .spec or .status");
    }
}

fn printed(column: &Value, path: &Path, errors: &mut Errors) {
    const TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
    const FORMATS: &[&str] = &["binary", "byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
    if text(column, "name").is_empty() {
        errors.required(path.child("name"), "");
    }
    let (kind, why) = (text(column, "type"), format!("must be one of {}", TYPES.join(",")));
    if kind.is_empty() {
        errors.required(path.child("type"), why);
    } else if !TYPES.contains(&kind) {
        errors.invalid(path.child("type"), kind, why);
    }
    let format = text(column, "format");
    if !format.is_empty() && !FORMATS.contains(&format) {
        errors.invalid(path.child("format"), format, format!("must be one of {}", FORMATS.join(",")));
    }
    match text(column, "jsonPath") {
        "" => errors.required(path.child("JSONPath"), ""),
        route => drop(paths::simple(route, &path.child("JSONPath"), errors)),
    }
}

fn selectable(version: &Value, all: &Path, errors: &mut Errors) {
    const MOST: usize = 8;
    let schema = at(version, "schema.openAPIV3Schema");
    let mut seen: Vec<Vec<String>> = Vec::new();
    for (index, field) in list(version, "selectableFields").iter().enumerate() {
        let item = all.index(index);
        let (route, path) = (text(field, "jsonPath"), item.child("jsonPath"));
        if route.is_empty() {
            errors.required(path, "");
            continue;
        }
        let (steps, found) = match paths::find(route, schema, false) {
            Ok(found) => found,
            Err(why) => {
                errors.invalid(path, route, format!("is an invalid path: {why}"));
                continue;
            }
        };
        if steps.first().is_some_and(|first| first == "metadata") {
            errors.invalid(path, route, "must not point to fields in metadata");
        }
        if !matches!(text(found, "type"), "string" | "boolean" | "integer") {
            let why = "must point to a field of type string, boolean or integer. Enum string fields and strings with \
                       formats are allowed.";
            errors.invalid(path, route, why);
        }
        if seen.contains(&steps) {
            errors.duplicate(path, route);
        } else {
            seen.push(steps);
        }
    }
    if seen.len() > MOST {
        errors.too_many(all, seen.len(), MOST);
    }
}

fn conversion(conversion: &Value, path: &Path, errors: &mut Errors) {
    errors.one_of(path.child("strategy"), at(conversion, "strategy"), &["None", "Webhook"]);
    let (at_client, at_versions) = (path.child("webhookClientConfig"), path.child("conversionReviewVersions"));
    let (config, versions) =
        (at(conversion, "webhook.clientConfig"), list(conversion, "webhook.conversionReviewVersions"));
    if text(conversion, "strategy") != "Webhook" {
        let why = "should not be set when strategy is not set to Webhook";
        if !config.is_null() {
            errors.forbidden(at_client, why);
        }
        if !versions.is_empty() {
            errors.forbidden(at_versions, why);
        }
        return;
    }
    if config.is_null() {
        errors.required(at_client, "required when strategy is set to Webhook");
    } else {
        webhooks::client(config, &at_client, errors);
    }
    if versions.is_empty() {
        errors.required(at_versions, "");
    } else {
        webhooks::review_versions(versions, &at_versions, errors);
    }
}

fn stored_versions(definition: &Value, path: &Path, errors: &mut Errors) {
    let (stored, shown) = (list(definition, "status.storedVersions"), at(definition, "status.storedVersions"));
    if stored.is_empty() {
        return errors.invalid(path, shown, "must have at least one stored version");
    }
    let versions = list(definition, "spec.versions");
    for version in versions.iter().filter(|version| flag(version, "storage")) {
        if !stored.contains(at(version, "name")) {
            let why = format!("must have the storage version {}", text(version, "name"));
            errors.invalid(path, shown, why);
        }
    }
    for (index, name) in stored.iter().filter_map(Value::as_str).enumerate() {
        if !versions.iter().any(|version| text(version, "name") == name) {
            let why = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions \
                 until a storage migration ensures no data remains persisted in {name} and removes {name} from \
                 status.storedVersions"
            );
            errors.invalid(path.index(index), name, why);
        }
    }
}

/// Groups of Kubernetes itself are for definitions that it has approved.
fn approval(definition: &Value, errors: &mut Errors) {
    const ANNOTATION: &str = "api-approved.kubernetes.io";
    let group = text(definition, "spec.group");
    let protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|domain| group == *domain || group.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')));
    if !protected {
        return;
    }
    let path = Path::new("metadata.annotations");
    let at_annotation = path.key(ANNOTATION);
    let why = "protected groups must have approval annotation \"api-approved.kubernetes.io\", see \
               https://github.com/kubernetes/enhancements/pull/1111";
    match at(definition, "metadata.annotations").get(ANNOTATION).and_then(Value::as_str) {
        None | Some("") => errors.required(at_annotation, why),
        Some(value) if value.starts_with("unapproved") => {}
        Some(value) => {
            let address = value.split_once("://").is_some_and(|(scheme, rest)| {
                !scheme.is_empty() && rest.split('/').next().is_some_and(|host| !host.is_empty())
            });
            if !address {
                let why = "protected groups must have approval annotation \"api-approved.kubernetes.io\" with either a \
                           URL or a reason starting with \"unapproved\", see \
                           https://github.com/kubernetes/enhancements/pull/1111";
                errors.invalid(at_annotation, value, why);
            }
        }
    }
}
