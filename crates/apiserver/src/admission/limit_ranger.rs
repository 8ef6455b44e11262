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
        for limit in limits(attributes)?.iter().filter(|limit| limit["type"] == "Container") {
            for field in ["initContainers", "containers"] {
                for container in object["spec"].get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
                    fill(container, limit);
                }
            }
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

/// Fills in requests and limits. A request that is left out where a limit is given is that limit, which the kind's own
/// defaults have seen to before.
fn fill(container: &mut Value, limit: &Value) {
    for (field, defaults) in [("limits", "default"), ("requests", "defaultRequest")] {
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
            }
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

/// The sums over a pod's containers.
fn total(pod: &Value) -> Value {
    let mut total = json!({});
    for field in ["requests", "limits"] {
        let mut sums: BTreeMap<&str, Quantity> = BTreeMap::new();
        for container in pod["spec"]["containers"].as_array().into_iter().flatten() {
            for (resource, value) in container["resources"][field].as_object().into_iter().flatten() {
                let Some(quantity) = quantity(value) else { continue };
                sums.entry(resource).and_modify(|sum| *sum += quantity).or_insert(quantity);
            }
        }
        total[field] = sums.into_iter().map(|(resource, sum)| (resource.to_owned(), json!(sum.to_string()))).collect();
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
        fill(&mut container, &limit);
        assert_eq!(container["resources"]["limits"]["cpu"], "500m");
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
}
