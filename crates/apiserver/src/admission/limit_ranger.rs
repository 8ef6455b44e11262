//! LimitRanger: a namespace's limit ranges give containers the requests and limits that they leave out, and refuse what lies
//! outside.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use api::{Status, Value};
use async_trait::async_trait;
use serde_json::json;
use store::List;

use super::{Attributes, Operation, Plugin};
use crate::rest::{parse, store_error};

/// Says which values the plugin has set.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

pub struct LimitRanger;

#[async_trait]
impl Plugin for LimitRanger {
    fn handles(&self, attributes: &Attributes) -> bool {
        let pod = attributes.is("", "pods") && attributes.operation == Operation::Create;
        pod || attributes.is("", "persistentvolumeclaims") && attributes.operation != Operation::Delete
    }

    async fn mutate(&self, attributes: &Attributes<'_>, _: Option<&Value>, object: &mut Value) -> Result<(), Status> {
        if !attributes.is("", "pods") {
            return Ok(());
        }
        let mut notes = Vec::new();
        for limit in limits(attributes)?.iter().filter(|limit| limit["type"] == "Container") {
            for (field, what) in [("containers", "container"), ("initContainers", "init container")] {
                for container in object["spec"].get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
                    fill(container, limit, what, &mut notes);
                }
            }
        }
        if !notes.is_empty() {
            object["metadata"]["annotations"][ANNOTATION] =
                format!("LimitRanger plugin set: {}", notes.join("; ")).into();
        }
        Ok(())
    }

    async fn validate(&self, attributes: &Attributes<'_>, _: Option<&Value>, object: &Value) -> Result<(), Status> {
        let mut errors = Vec::new();
        for limit in limits(attributes)? {
            match limit["type"].as_str().unwrap_or("") {
                "Container" if attributes.is("", "pods") => {
                    for field in ["initContainers", "containers"] {
                        for container in object["spec"][field].as_array().into_iter().flatten() {
                            check(&limit, "Container", &container["resources"], &mut errors);
                        }
                    }
                }
                "Pod" if attributes.is("", "pods") => check(&limit, "Pod", &total(object), &mut errors),
                "PersistentVolumeClaim" if attributes.is("", "persistentvolumeclaims") => {
                    check(&limit, "PersistentVolumeClaim", &object["spec"]["resources"], &mut errors);
                }
                _ => {}
            }
        }
        match errors.len() {
            0 => Ok(()),
            1 => Err(attributes.forbidden(object, &errors[0])),
            _ => Err(attributes.forbidden(object, format!("[{}]", errors.join(", ")))),
        }
    }
}

/// Every item of the namespace's limit ranges.
fn limits(attributes: &Attributes) -> Result<Vec<Value>, Status> {
    let range = format!("/registry/limitranges/{}/", attributes.call.info.namespace);
    let page = attributes.call.server.store.list(&range, List::default()).map_err(store_error)?;
    let mut limits = Vec::new();
    for entry in page.entries {
        if let Value::Array(items) = parse(&entry.value)?["spec"]["limits"].take() {
            limits.extend(items);
        }
    }
    Ok(limits)
}

/// Fills in requests and limits, and notes which. A request that is left out where a limit is given is that limit, which the
/// kind's own defaults have seen to before.
fn fill(container: &mut Value, limit: &Value, what: &str, notes: &mut Vec<String>) {
    for (field, defaults, word) in [("requests", "defaultRequest", "request"), ("limits", "default", "limit")] {
        let mut set = Vec::new();
        for (resource, quantity) in limit[defaults].as_object().into_iter().flatten() {
            if !container["resources"].is_object() {
                container["resources"] = json!({});
            }
            let target = &mut container["resources"][field];
            if !target.is_object() {
                *target = json!({});
            }
            if target.get(resource).is_none() {
                target[resource] = quantity.clone();
                set.push(resource.as_str());
            }
        }
        if !set.is_empty() {
            let name = container["name"].as_str().unwrap_or_default();
            notes.push(format!("{} {word} for {what} {name}", set.join(", ")));
        }
    }
}

fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
    }
}

/// What a pod needs of everything: its containers and sidecars together, or an init container beside the sidecars before it where that
/// is more.
fn total(pod: &Value) -> Value {
    let spec = &pod["spec"];
    let each = |list: &str| spec[list].as_array().into_iter().flatten();
    let mut total = json!({});
    for field in ["requests", "limits"] {
        let of = |container: &Value| -> BTreeMap<String, Quantity> {
            let all = container["resources"][field].as_object().into_iter().flatten();
            all.filter_map(|(resource, value)| Some((resource.clone(), quantity(value)?))).collect()
        };
        let mut peak: BTreeMap<String, Quantity> = BTreeMap::new();
        let mut running: BTreeMap<String, Quantity> = BTreeMap::new();
        for container in each("initContainers") {
            let stays = container["restartPolicy"] == "Always";
            for (resource, amount) in of(container) {
                let beside = running.get(&resource).map_or(amount, |sum| *sum + amount);
                peak.entry(resource.clone()).and_modify(|most| *most = (*most).max(beside)).or_insert(beside);
                if stays {
                    running.insert(resource, beside);
                }
            }
        }
        for container in each("containers") {
            for (resource, amount) in of(container) {
                running.entry(resource).and_modify(|sum| *sum += amount).or_insert(amount);
            }
        }
        for (resource, sum) in running {
            peak.entry(resource).and_modify(|most| *most = (*most).max(sum)).or_insert(sum);
        }
        total[field] = peak.into_iter().map(|(resource, sum)| (resource, json!(sum.to_string()))).collect();
    }
    total
}

fn check(limit: &Value, what: &str, resources: &Value, errors: &mut Vec<String>) {
    for (resource, bound) in limit["min"].as_object().into_iter().flatten() {
        let Some(least) = quantity(bound) else { continue };
        let request = quantity(&resources["requests"][resource]);
        match request {
            Some(request) if request < least => {
                errors.push(format!("minimum {resource} usage per {what} is {least}, but request is {request}"));
            }
            None => errors.push(format!("minimum {resource} usage per {what} is {least}.  No request is specified")),
            Some(_) => {}
        }
    }
    for (resource, bound) in limit["max"].as_object().into_iter().flatten() {
        let Some(most) = quantity(bound) else { continue };
        let (field, name) = if what == "PersistentVolumeClaim" { ("requests", "request") } else { ("limits", "limit") };
        match quantity(&resources[field][resource]) {
            Some(given) if given > most => {
                errors.push(format!("maximum {resource} usage per {what} is {most}, but {name} is {given}"));
            }
            None => errors.push(format!("maximum {resource} usage per {what} is {most}.  No {name} is specified")),
            Some(_) => {}
        }
    }
    for (resource, bound) in limit["maxLimitRequestRatio"].as_object().into_iter().flatten() {
        let (Some(most), Some(request), Some(given)) =
            (quantity(bound), quantity(&resources["requests"][resource]), quantity(&resources["limits"][resource]))
        else {
            continue;
        };
        let ratio = given.as_f64() / request.as_f64().max(f64::MIN_POSITIVE);
        if ratio > most.as_f64() {
            errors.push(format!(
                "{resource} max limit to request ratio per {what} is {most}, but provided ratio is {ratio:.6}"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_fill_in_and_refuse_in_upstreams_words() {
        let limit = json!({"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"},
            "max": {"memory": "1Gi"}, "min": {"cpu": "50m"}});
        let mut container =
            json!({"name": "c", "resources": {"requests": {"cpu": "10m"}, "limits": {"memory": "2Gi"}}});
        let mut notes = Vec::new();
        fill(&mut container, &limit, "container", &mut notes);
        assert_eq!(container["resources"]["limits"]["cpu"], "500m");
        assert_eq!(notes, ["cpu limit for container c"]);
        let mut errors = Vec::new();
        check(&limit, "Container", &container["resources"], &mut errors);
        assert_eq!(
            errors,
            [
                "minimum cpu usage per Container is 50m, but request is 10m",
                "maximum memory usage per Container is 1Gi, but limit is 2Gi",
            ]
        );
    }

    #[test]
    fn a_pod_needs_the_most_that_runs_at_once() {
        let with = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let mut sidecar = with("1");
        sidecar["restartPolicy"] = "Always".into();
        let pod =
            json!({"spec": {"initContainers": [with("2"), sidecar, with("5")], "containers": [with("3"), with("1")]}});
        assert_eq!(total(&pod)["requests"]["cpu"], "6");
    }
}
