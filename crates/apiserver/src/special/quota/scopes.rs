//! Which objects a quota's scopes take in.

use api::Value;
use api::kind::Kind;
use api::kinds::pods::resources::qos_class;

/// One of the quota's scopes.
struct Scope<'q> {
    name: &'q str,
    operator: &'q str,
    values: Vec<&'q str>,
}

impl Scope<'_> {
    /// Whether the names of classes that an object has are those that the scope wants.
    fn selects(&self, names: &[&str]) -> bool {
        let listed = names.iter().any(|name| self.values.contains(name));
        match self.operator {
            "In" => listed,
            "NotIn" => names.is_empty() || names.iter().any(|name| !self.values.contains(name)),
            "DoesNotExist" => names.is_empty(),
            _ => !names.is_empty(),
        }
    }
}

fn scopes(quota: &Value) -> Vec<Scope<'_>> {
    let spec = &quota["spec"];
    let plain = spec["scopes"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let plain = plain.map(|name| Scope { name, operator: "Exists", values: Vec::new() });
    let expressions = spec["scopeSelector"]["matchExpressions"].as_array().into_iter().flatten();
    let expressions = expressions.map(|expression| Scope {
        name: expression["scopeName"].as_str().unwrap_or(""),
        operator: expression["operator"].as_str().unwrap_or("Exists"),
        values: expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect(),
    });
    plain.chain(expressions).collect()
}

/// Whether the quota is for the object. Scopes are of pods and of claims; what is neither a quota with scopes does not count.
pub fn take_in(quota: &Value, kind: &Kind, object: &Value) -> bool {
    match (&*kind.group, &*kind.plural) {
        ("", "pods") => take_in_pod(quota, object),
        ("", "persistentvolumeclaims") => scopes(quota)
            .iter()
            .all(|scope| scope.name == "VolumeAttributesClass" && scope.selects(&attributes_classes(object))),
        _ => scopes(quota).is_empty(),
    }
}

/// The same for a pod.
pub fn take_in_pod(quota: &Value, pod: &Value) -> bool {
    let spec = &pod["spec"];
    let terminating = spec["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0);
    let best_effort = || match pod["status"]["qosClass"].as_str() {
        Some(class) => class == "BestEffort",
        None => qos_class(spec) == "BestEffort",
    };
    scopes(quota).iter().all(|scope| match scope.name {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "CrossNamespacePodAffinity" => reaches_out(spec),
        "PriorityClass" => {
            let class = spec["priorityClassName"].as_str().filter(|name| !name.is_empty());
            scope.selects(&class.into_iter().collect::<Vec<_>>())
        }
        _ => false,
    })
}

/// The classes of volume attributes that a claim has, wants or is on its way to.
fn attributes_classes(claim: &Value) -> Vec<&str> {
    let status = &claim["status"];
    let names = [
        &claim["spec"]["volumeAttributesClassName"],
        &status["currentVolumeAttributesClassName"],
        &status["modifyVolumeStatus"]["targetVolumeAttributesClassName"],
    ];
    names.into_iter().filter_map(Value::as_str).filter(|name| !name.is_empty()).collect()
}

/// Whether a pod's rules of affinity look at pods of other namespaces.
fn reaches_out(spec: &Value) -> bool {
    let rules = ["podAffinity", "podAntiAffinity"].map(|kind| &spec["affinity"][kind]);
    let terms = rules.into_iter().flat_map(|rules| {
        let list = |field: &str| rules[field].as_array().into_iter().flatten();
        let preferred = list("preferredDuringSchedulingIgnoredDuringExecution").map(|term| &term["podAffinityTerm"]);
        list("requiredDuringSchedulingIgnoredDuringExecution").chain(preferred)
    });
    let reaches = |term: &Value| {
        term["namespaces"].as_array().is_some_and(|names| !names.is_empty()) || term["namespaceSelector"].is_object()
    };
    terms.into_iter().any(reaches)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn quota(spec: Value) -> Value {
        json!({"spec": spec})
    }

    fn selector(scope: &str, operator: &str, values: &[&str]) -> Value {
        let expression = json!({"scopeName": scope, "operator": operator, "values": values});
        quota(json!({"scopeSelector": {"matchExpressions": [expression]}}))
    }

    #[test]
    fn pods_are_taken_in_by_what_they_are() {
        let plain = || json!({"spec": {"containers": [{"name": "c"}]}});
        let needy = || json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "1"}}}]}});
        let gone = || json!({"spec": {"activeDeadlineSeconds": 5}});
        let high = || json!({"spec": {"priorityClassName": "high"}});
        let table = [
            (quota(json!({})), plain(), true),
            (quota(json!({"scopes": ["BestEffort"]})), plain(), true),
            (quota(json!({"scopes": ["BestEffort"]})), needy(), false),
            (quota(json!({"scopes": ["NotBestEffort", "NotTerminating"]})), needy(), true),
            (quota(json!({"scopes": ["Terminating"]})), gone(), true),
            (quota(json!({"scopes": ["VolumeAttributesClass"]})), plain(), false),
            (selector("PriorityClass", "In", &["high"]), high(), true),
            (selector("PriorityClass", "NotIn", &["high"]), high(), false),
            (selector("PriorityClass", "NotIn", &["high"]), plain(), true),
            (selector("PriorityClass", "DoesNotExist", &[]), plain(), true),
            (selector("PriorityClass", "Exists", &[]), plain(), false),
        ];
        for (quota, pod, expected) in table {
            assert_eq!(take_in_pod(&quota, &pod), expected, "{quota} {pod}");
        }
    }

    #[test]
    fn claims_are_taken_in_by_their_classes_and_other_kinds_by_no_scope() {
        let registry = api::kind::Registry::builtin();
        let kind = |plural: &str| registry.get("", "v1", plural).expect("a kind").clone();
        let claim = json!({"spec": {"volumeAttributesClassName": "gold"}, "status": {"currentVolumeAttributesClassName": "silver"}});
        let claims = kind("persistentvolumeclaims");
        for (quota, expected) in [
            (selector("VolumeAttributesClass", "In", &["silver"]), true),
            (selector("VolumeAttributesClass", "In", &["bronze"]), false),
            (selector("VolumeAttributesClass", "Exists", &[]), true),
            (selector("PriorityClass", "Exists", &[]), false),
            (quota(json!({})), true),
        ] {
            assert_eq!(take_in(&quota, &claims, &claim), expected, "{quota}");
        }
        let services = kind("services");
        assert!(take_in(&quota(json!({})), &services, &json!({})));
        assert!(!take_in(&quota(json!({"scopes": ["NotTerminating"]})), &services, &json!({})));
    }
}
