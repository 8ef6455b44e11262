//! `v1 ResourceQuota`.

use serde_json::Value;

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, entries, list, text};
use crate::kinds::builder::Builder;
use crate::kinds::pods::resources;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, Path, names};

pub fn kind() -> Kind {
    Builder::new("", "v1", "ResourceQuota", "resourcequotas")
        .namespaced()
        .short(&["quota"])
        .status()
        .columns(COLUMNS)
        .strategy(ResourceQuota)
        .build()
}

const COLUMNS: &[Cell] =
    &[NAME, Cell::made("Request", |o| used(o, false)), Cell::made("Limit", |o| used(o, true)), AGE];

/// `name: used/hard` of each limit, or of everything else.
fn used(quota: &Value, limits: bool) -> Value {
    let mut all: Vec<(&str, String)> = entries(quota, "status.hard")
        .filter(|(name, _)| name.starts_with("limits") == limits)
        .map(|(name, hard)| {
            let used = at(quota, "status.used").get(name).and_then(Value::as_str).unwrap_or("0");
            (name.as_str(), format!("{name}: {used}/{}", hard.as_str().unwrap_or_default()))
        })
        .collect();
    all.sort_unstable();
    all.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(", ").into()
}

const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

struct ResourceQuota;

impl Strategy for ResourceQuota {
    fn validate(&self, object: &Value, errors: &mut Errors) {
        hard(at(object, "spec.hard"), &Path::new("spec.hard"), errors);
        scopes(object, errors);
        let all = Path::new("spec.scopeSelector.matchExpressions");
        for (index, expression) in list(object, "spec.scopeSelector.matchExpressions").iter().enumerate() {
            let path = all.index(index);
            let (scope, values) = (text(expression, "scopeName"), list(expression, "values"));
            if !SCOPES.contains(&scope) {
                errors.invalid(path.child("scopeName"), scope, "unsupported scope");
            } else if entries(object, "spec.hard").any(|(name, _)| !counts(scope, name)) {
                errors.invalid(all, scope, "unsupported scope applied to resource");
            }
            if scope != "PriorityClass" && scope != "VolumeAttributesClass" && text(expression, "operator") != "Exists"
            {
                let why = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, \
                           ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
                           ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
                errors.invalid(path.child("operator"), at(expression, "operator"), why);
            }
            match text(expression, "operator") {
                "In" | "NotIn" if values.is_empty() => {
                    let why = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                    errors.required(path.child("values"), why);
                }
                "Exists" | "DoesNotExist" if !values.is_empty() => {
                    let why = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                    errors.invalid(path.child("values"), at(expression, "values"), why);
                }
                "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
                other => errors.invalid(path.child("operator"), other, "not a valid selector operator"),
            }
        }
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        errors.immutable(old, new, "spec.scopes");
    }

    fn validate_subresource_update(&self, _subresource: &str, _old: &Value, new: &Value, errors: &mut Errors) {
        hard(at(new, "status.hard"), &Path::new("status.hard"), errors);
        hard(at(new, "status.used"), &Path::new("status.used"), errors);
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}

/// `spec.scopes`: known, for what the quota limits, and not against one another.
fn scopes(object: &Value, errors: &mut Errors) {
    let (path, all) = (Path::new("spec.scopes"), at(object, "spec.scopes"));
    let given: Vec<&str> = list(object, "spec.scopes").iter().filter_map(Value::as_str).collect();
    for scope in &given {
        if !SCOPES.contains(scope) {
            errors.invalid(path, all, "unsupported scope");
        }
        for _ in entries(object, "spec.hard").filter(|(name, _)| !counts(scope, name)) {
            errors.invalid(path, all, "unsupported scope applied to resource");
        }
    }
    for pair in [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]] {
        if pair.iter().all(|scope| given.contains(scope)) {
            errors.invalid(path, all, "conflicting scopes");
        }
    }
}

/// Whether objects of a scope use that resource; what is not upstream's own may always be.
fn counts(scope: &str, resource: &str) -> bool {
    const COMPUTE: &[&str] = &["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
    if !is_standard(resource) {
        return true;
    }
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        _ if SCOPES.contains(&scope) => resource == "pods" || COMPUTE.contains(&resource),
        _ => true,
    }
}

/// What a quota may limit without a domain.
fn is_standard(name: &str) -> bool {
    const NAMES: &[&str] = &[
        "configmaps",
        "cpu",
        "ephemeral-storage",
        "limits.cpu",
        "limits.ephemeral-storage",
        "limits.memory",
        "memory",
        "persistentvolumeclaims",
        "pods",
        "replicationcontrollers",
        "requests.cpu",
        "requests.ephemeral-storage",
        "requests.memory",
        "requests.storage",
        "resourcequotas",
        "secrets",
        "services",
        "services.loadbalancers",
        "services.nodeports",
    ];
    NAMES.contains(&name) || name.starts_with("hugepages-") || name.starts_with("requests.hugepages-")
}

fn hard(map: &Value, path: &Path, errors: &mut Errors) {
    for (name, amount) in map.as_object().into_iter().flatten() {
        let path = path.key(name);
        let messages = names::qualified_name(name);
        if messages.is_empty() && !name.contains('/') && !is_standard(name) {
            errors.invalid(path, name.as_str(), "must be a standard resource type or fully qualified");
            errors.invalid(path, name.as_str(), "must be a standard resource for quota");
        }
        errors.all_invalid(path, name, messages);
        resources::amount(name, amount, &path, errors);
    }
}
