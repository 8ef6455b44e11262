//! `autoscaling/v1 HorizontalPodAutoscaler`, stored as `autoscaling/v2`. What this version has no field for is kept in
//! annotations, so that a client of it loses nothing.

use serde_json::{Value, json};

use super::horizontalpodautoscaler::{COLUMNS, HorizontalPodAutoscaler as V2};
use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, fill, list, remove, section, text};
use crate::kinds::builder::Builder;
use crate::validation::Errors;

pub fn kind() -> Kind {
    Builder::new("autoscaling", "v1", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
        .namespaced()
        .short(&["hpa"])
        .category("all")
        .stored_as("autoscaling/v2")
        .status()
        .columns(COLUMNS)
        .strategy(HorizontalPodAutoscaler)
        .build()
}

/// Fields of v2 and the annotation that holds each in v1.
const KEPT: &[(&str, &str)] = &[
    ("spec.metrics", "autoscaling.alpha.kubernetes.io/metrics"),
    ("spec.behavior", "autoscaling.alpha.kubernetes.io/behavior"),
    ("status.currentMetrics", "autoscaling.alpha.kubernetes.io/current-metrics"),
    ("status.conditions", "autoscaling.alpha.kubernetes.io/conditions"),
];

/// The list of metrics, where this version has a percentage for the CPU's, and that one's path in an item.
const CPU: &[(&str, &str, &str)] = &[
    ("spec.metrics", "spec.targetCPUUtilizationPercentage", "resource.target.averageUtilization"),
    ("status.currentMetrics", "status.currentCPUUtilizationPercentage", "resource.current.averageUtilization"),
];

fn set(object: &mut Value, path: &str, value: Value) {
    if let Some((parent, key)) = path.rsplit_once('.')
        && let Some(map) = section(object, parent)
    {
        map.insert(key.to_owned(), value);
    }
}

fn stored(object: &Value) -> Value {
    let mut object = object.clone();
    HorizontalPodAutoscaler.to_storage(&mut object);
    object
}

struct HorizontalPodAutoscaler;

impl Strategy for HorizontalPodAutoscaler {
    fn default(&self, object: &mut Value) {
        let kept = at(object, "metadata.annotations").get(KEPT[0].1).is_some();
        if let Some(spec) = object.get_mut("spec") {
            fill(spec, "minReplicas", 1);
            if !kept {
                fill(spec, "targetCPUUtilizationPercentage", 80);
            }
        }
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let mut object = stored(object);
        V2.default(&mut object);
        V2.validate(&object, errors);
    }

    fn validate_subresource_update(&self, subresource: &str, old: &Value, new: &Value, errors: &mut Errors) {
        V2.validate_subresource_update(subresource, old, new, errors);
    }

    fn from_storage(&self, object: &mut Value) {
        object["apiVersion"] = "autoscaling/v1".into();
        for (metrics, percentage, path) in CPU {
            let mut all = list(object, metrics).to_vec();
            let cpu = all.iter().position(|m| text(m, "resource.name") == "cpu" && !at(m, path).is_null());
            if let Some(index) = cpu {
                let value = at(&all.remove(index), path).clone();
                set(object, percentage, value);
            }
            if all.is_empty() {
                remove(object, metrics);
            } else {
                set(object, metrics, all.into());
            }
        }
        for (path, annotation) in KEPT {
            if let Some(value) = remove(object, path)
                && let Some(annotations) = section(object, "metadata.annotations")
            {
                annotations.insert((*annotation).to_owned(), value.to_string().into());
            }
        }
    }

    fn to_storage(&self, object: &mut Value) {
        object["apiVersion"] = "autoscaling/v2".into();
        for (path, annotation) in KEPT {
            let Some(annotations) = object["metadata"].get_mut("annotations").and_then(Value::as_object_mut) else {
                break;
            };
            let kept = annotations.remove(*annotation);
            if annotations.is_empty() {
                remove(object, "metadata.annotations");
            }
            let value = kept.and_then(|text| serde_json::from_str(text.as_str().unwrap_or_default()).ok());
            if let Some(value) = value {
                set(object, path, value);
            }
        }
        for (metrics, percentage, path) in CPU {
            let Some(value) = remove(object, percentage) else { continue };
            let inner = if path.contains("target") {
                json!({"name": "cpu", "target": {"type": "Utilization", "averageUtilization": value}})
            } else {
                json!({"name": "cpu", "current": {"averageUtilization": value}})
            };
            let mut all = vec![json!({"type": "Resource", "resource": inner})];
            all.extend(list(object, metrics).iter().cloned());
            set(object, metrics, all.into());
        }
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        V2.cells(&stored(object), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_autoscaler_is_the_same_after_it_was_stored_or_read_in_the_older_version() {
        let v1 = json!({"apiVersion": "autoscaling/v1", "metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "minReplicas": 1, "targetCPUUtilizationPercentage": 50}});
        let mut object = v1.clone();
        HorizontalPodAutoscaler.to_storage(&mut object);
        assert_eq!(at(&object, "spec.metrics")[0]["resource"]["target"]["averageUtilization"], 50);
        HorizontalPodAutoscaler.from_storage(&mut object);
        assert_eq!(object, v1);

        let v2 = json!({"apiVersion": "autoscaling/v2", "metadata": {"name": "a"}, "spec": {"maxReplicas": 3,
            "metrics": [{"type": "Pods", "pods": {"metric": {"name": "x"}}}], "behavior": {"scaleUp": {}}},
            "status": {"currentReplicas": 1, "conditions": [{"type": "AbleToScale"}]}});
        let mut object = v2.clone();
        HorizontalPodAutoscaler.from_storage(&mut object);
        assert!(at(&object, "spec.metrics").is_null());
        HorizontalPodAutoscaler.to_storage(&mut object);
        assert_eq!(object, v2);
    }
}
