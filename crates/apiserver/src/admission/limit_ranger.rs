//! LimitRanger: a namespace's limit ranges give containers the requests and limits that they leave out, and refuse what lies
//! outside.

use api::kinds::pods::resources::{quantity, totals};
use api::quantity::Quantity;
use api::{Status, Value};
use async_trait::async_trait;
use serde_json::json;
use store::List;

use super::{Attributes, Operation, Plugin};
use crate::rest::metadata::is_deleting;
use crate::rest::{parse, store_error};

/// Says which values the plugin has set.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

pub struct LimitRanger;

#[async_trait]
impl Plugin for LimitRanger {
    fn handles(&self, attributes: &Attributes) -> bool {
        is_pod(attributes)
            || attributes.is("", "persistentvolumeclaims")
                && matches!(attributes.operation, Operation::Create | Operation::Update)
    }

    async fn mutate(&self, attributes: &Attributes<'_>, _: Option<&Value>, object: &mut Value) -> Result<(), Status> {
        if !is_pod(attributes) || is_deleting(object) {
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
        if is_deleting(object) {
            return Ok(());
        }
        let mut errors = Vec::new();
        for limit in limits(attributes)? {
            match limit["type"].as_str().unwrap_or("") {
                "Container" if is_pod(attributes) => {
                    for field in ["initContainers", "containers"] {
                        for container in object["spec"][field].as_array().into_iter().flatten() {
                            check(&limit, "Container", &container["resources"], &mut errors);
                        }
                    }
                }
                "Pod" if is_pod(attributes) => check(&limit, "Pod", &total(object), &mut errors),
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

/// Whether it is a pod whose resources are set: when it is made, and when it is resized.
fn is_pod(attributes: &Attributes) -> bool {
    match attributes.operation {
        Operation::Create => attributes.is("", "pods"),
        Operation::Update => attributes.is_of("", "pods", "resize"),
        _ => false,
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

/// What a pod needs of everything.
fn total(pod: &Value) -> Value {
    let mut total = json!({});
    for field in ["requests", "limits"] {
        let sums = totals(&pod["spec"], field).into_iter();
        total[field] = sums.map(|(resource, sum)| (resource, json!(sum.to_string()))).collect();
    }
    total
}

/// A bound of a limit, and what is given of its resource.
struct Bound<'a> {
    what: &'a str,
    resource: &'a str,
    bound: Quantity,
    request: Option<Quantity>,
    limit: Option<Quantity>,
}

impl Bound<'_> {
    fn min(&self) -> Option<String> {
        let Bound { what, resource, bound, .. } = self;
        let about = format!("minimum {resource} usage per {what} is {bound}");
        match (self.request, self.limit) {
            (None, _) => Some(format!("{about}.  No request is specified")),
            (Some(request), _) if request < *bound => Some(format!("{about}, but request is {request}")),
            (_, Some(limit)) if limit < *bound => Some(format!("{about}, but limit is {limit}")),
            _ => None,
        }
    }

    fn max(&self) -> Option<String> {
        let Bound { what, resource, bound, .. } = self;
        let about = format!("maximum {resource} usage per {what} is {bound}");
        // A claim has requests only.
        let claim = *what == CLAIM;
        match (self.request, self.limit) {
            (None, _) if claim => Some(format!("{about}.  No request is specified")),
            (_, None) if !claim => Some(format!("{about}.  No limit is specified")),
            (_, Some(limit)) if limit > *bound && !claim => Some(format!("{about}, but limit is {limit}")),
            (Some(request), _) if request > *bound => Some(format!("{about}, but request is {request}")),
            _ => None,
        }
    }

    fn ratio(&self) -> Option<String> {
        let Bound { what, resource, bound, .. } = self;
        let about = format!("{resource} max limit to request ratio per {what} is {bound}");
        let Some(request) = self.request.filter(|request| !request.is_zero()) else {
            return Some(format!("{about}, but no request is specified or request is 0"));
        };
        let Some(limit) = self.limit.filter(|limit| !limit.is_zero()) else {
            return Some(format!("{about}, but no limit is specified or limit is 0"));
        };
        let ratio = limit.as_f64() / request.as_f64();
        (ratio > bound.as_f64()).then(|| format!("{about}, but provided ratio is {ratio:.6}"))
    }
}

/// What is said of a bound that is broken.
type Rule = fn(&Bound) -> Option<String>;

const CLAIM: &str = "PersistentVolumeClaim";

fn check(limit: &Value, what: &str, resources: &Value, errors: &mut Vec<String>) {
    let rules: [(&str, Rule); 3] =
        [("min", |bound| bound.min()), ("max", |bound| bound.max()), ("maxLimitRequestRatio", |bound| bound.ratio())];
    for (field, broken) in rules {
        for (resource, bound) in limit[field].as_object().into_iter().flatten() {
            let Some(bound) = quantity(bound) else { continue };
            let given = |kind: &str| quantity(&resources[kind][resource]);
            let (request, limit) = (given("requests"), given("limits"));
            errors.extend(broken(&Bound { what, resource, bound, request, limit }));
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
    fn bounds_hold_for_requests_and_limits_alike() {
        let table = [
            (
                json!({"min": {"cpu": "1"}}),
                json!({"requests": {"cpu": "1"}, "limits": {"cpu": "500m"}}),
                "minimum cpu usage per Pod is 1, but limit is 500m",
            ),
            (json!({"min": {"cpu": "1"}}), json!({}), "minimum cpu usage per Pod is 1.  No request is specified"),
            (
                json!({"max": {"cpu": "1"}}),
                json!({"requests": {"cpu": "2"}}),
                "maximum cpu usage per Pod is 1.  No limit is specified",
            ),
            (
                json!({"max": {"cpu": "1"}}),
                json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}),
                "maximum cpu usage per Pod is 1, but request is 2",
            ),
            (
                json!({"maxLimitRequestRatio": {"cpu": "2"}}),
                json!({"limits": {"cpu": "1"}}),
                "cpu max limit to request ratio per Pod is 2, but no request is specified or request is 0",
            ),
            (
                json!({"maxLimitRequestRatio": {"cpu": "2"}}),
                json!({"requests": {"cpu": "1"}}),
                "cpu max limit to request ratio per Pod is 2, but no limit is specified or limit is 0",
            ),
            (
                json!({"maxLimitRequestRatio": {"cpu": "2"}}),
                json!({"requests": {"cpu": "1"}, "limits": {"cpu": "3"}}),
                "cpu max limit to request ratio per Pod is 2, but provided ratio is 3.000000",
            ),
        ];
        for (limit, resources, expected) in table {
            let mut errors = Vec::new();
            check(&limit, "Pod", &resources, &mut errors);
            assert_eq!(errors, [expected], "{limit} {resources}");
        }
        let mut errors = Vec::new();
        let of = |size: &str| json!({"requests": {"storage": size}});
        check(&json!({"max": {"storage": "1Gi"}}), CLAIM, &of("1Gi"), &mut errors);
        assert_eq!(errors, Vec::<String>::new());
        check(&json!({"max": {"storage": "1Gi"}}), CLAIM, &of("2Gi"), &mut errors);
        assert_eq!(errors, ["maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi"]);
    }
}
