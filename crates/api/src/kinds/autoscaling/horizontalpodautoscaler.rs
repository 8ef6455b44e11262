//! `autoscaling/v2 HorizontalPodAutoscaler`, the stored version.

use serde_json::{Value, json};

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, fill, list, number, section, text};
use crate::kinds::builder::Builder;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, Path};

pub fn kind() -> Kind {
    Builder::new("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
        .namespaced()
        .short(&["hpa"])
        .category("all")
        .status()
        .columns(COLUMNS)
        .strategy(HorizontalPodAutoscaler)
        .build()
}

pub const COLUMNS: &[Cell] = &[
    NAME,
    Cell::made("Reference", |o| {
        format!("{}/{}", text(o, "spec.scaleTargetRef.kind"), text(o, "spec.scaleTargetRef.name")).into()
    }),
    Cell::made("Targets", targets),
    Cell::made("MinPods", |o| match at(o, "spec.minReplicas").as_i64() {
        Some(least) => least.to_string().into(),
        None => "<unset>".into(),
    }),
    Cell::number("MaxPods", "spec.maxReplicas"),
    Cell::number("Replicas", "status.currentReplicas"),
    AGE,
];

/// Of each kind of metric, the field of its name and whether the row names it.
const METRICS: &[(&str, &str)] = &[
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
    ("Pods", "pods"),
    ("Object", "object"),
    ("External", "external"),
];

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn targets(autoscaler: &Value) -> Value {
    let current = list(autoscaler, "status.currentMetrics");
    let metrics = list(autoscaler, "spec.metrics");
    let texts: Vec<String> = metrics
        .iter()
        .enumerate()
        .take(2)
        .filter_map(|(index, metric)| {
            let (_, field) = METRICS.iter().find(|(kind, _)| *kind == text(metric, "type"))?;
            let (source, now) = (&metric[*field], current.get(index).map_or(&Value::Null, |c| &c[*field]));
            Some(target(source, at(now, "current"), field))
        })
        .collect();
    match metrics.len() {
        0 => "<none>".into(),
        1 | 2 => texts.join(", ").into(),
        more => format!("{} + {} more...", texts.join(", "), more - 2).into(),
    }
}

/// `cpu: 10%/80%`, `100m/1 (avg)`.
fn target(source: &Value, current: &Value, field: &str) -> String {
    let now = |name: &str| match at(current, name) {
        Value::Null => "<unknown>".to_owned(),
        value if name == "averageUtilization" => format!("{value}%"),
        value => shown(value),
    };
    let target = at(source, "target");
    let named = field.to_lowercase().contains("resource");
    let (kind, wanted) = if !at(target, "averageValue").is_null() {
        ("averageValue", shown(at(target, "averageValue")))
    } else if named {
        let wanted = at(target, "averageUtilization");
        ("averageUtilization", if wanted.is_null() { "<auto>".to_owned() } else { format!("{wanted}%") })
    } else {
        ("value", shown(at(target, "value")))
    };
    match (named, field, kind) {
        (true, ..) => format!("{}: {}/{wanted}", text(source, "name"), now(kind)),
        (_, "object" | "external", "averageValue") => format!("{}/{wanted} (avg)", now(kind)),
        _ => format!("{}/{wanted}", now(kind)),
    }
}

pub struct HorizontalPodAutoscaler;

impl Strategy for HorizontalPodAutoscaler {
    fn default(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec") else { return };
        fill(spec, "minReplicas", 1);
        if list(spec, "metrics").is_empty() {
            spec["metrics"] = json!([{"type": "Resource",
                "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]);
        }
        if spec.get("behavior").is_none_or(Value::is_null) {
            return;
        }
        if let Some(behavior) = section(spec, "behavior") {
            for (direction, policies) in [
                (
                    "scaleUp",
                    json!([{"type": "Pods", "value": 4, "periodSeconds": 15},
                    {"type": "Percent", "value": 100, "periodSeconds": 15}]),
                ),
                ("scaleDown", json!([{"type": "Percent", "value": 100, "periodSeconds": 15}])),
            ] {
                let rules = behavior.entry(direction).or_insert_with(|| json!({}));
                fill(rules, "selectPolicy", "Max");
                if direction == "scaleUp" {
                    fill(rules, "stabilizationWindowSeconds", 0);
                }
                if list(rules, "policies").is_empty() {
                    rules["policies"] = policies;
                }
            }
        }
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let (spec, path) = (at(object, "spec"), Path::new("spec"));
        let (least, most) = (number(spec, "minReplicas"), number(spec, "maxReplicas"));
        let scales_to_zero = list(spec, "metrics").iter().any(|m| matches!(text(m, "type"), "Object" | "External"));
        if least < 1 && !(least == 0 && scales_to_zero) {
            errors.invalid(path.child("minReplicas"), least, "must be greater than or equal to 1");
        }
        if most < 1 {
            errors.invalid(path.child("maxReplicas"), most, "must be greater than 0");
        }
        if least > most {
            errors.invalid(path.child("maxReplicas"), most, "must be greater than or equal to `minReplicas`");
        }
        for field in ["kind", "name"] {
            if text(at(spec, "scaleTargetRef"), field).is_empty() {
                errors.required(path.child("scaleTargetRef").child(field), "");
            }
        }
        let all = path.child("metrics");
        for (index, metric) in list(spec, "metrics").iter().enumerate() {
            validate_metric(metric, &all.index(index), errors);
        }
        for direction in ["scaleUp", "scaleDown"] {
            let (rules, path) = (&spec["behavior"][direction], path.child("behavior"));
            let path = path.child(direction);
            if rules.is_null() {
                continue;
            }
            let window = at(rules, "stabilizationWindowSeconds");
            errors.not_negative(path.child("stabilizationWindowSeconds"), window);
            if window.as_i64() > Some(3600) {
                let field = path.child("stabilizationWindowSeconds");
                errors.invalid(field, window, "must be less than or equal to 3600");
            }
            errors.one_of_if_set(path.child("selectPolicy"), at(rules, "selectPolicy"), &["Disabled", "Max", "Min"]);
            let all = path.child("policies");
            for (index, policy) in list(rules, "policies").iter().enumerate() {
                let path = all.index(index);
                errors.one_of_supported(path.child("type"), at(policy, "type"), &["Percent", "Pods"]);
                for field in ["value", "periodSeconds"] {
                    if number(policy, field) <= 0 {
                        errors.invalid(path.child(field), number(policy, field), "must be greater than zero");
                    }
                }
                if number(policy, "periodSeconds") > 1800 {
                    let field = path.child("periodSeconds");
                    errors.invalid(field, number(policy, "periodSeconds"), "must be less than or equal to 1800");
                }
            }
        }
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}

fn validate_metric(metric: &Value, path: &Path, errors: &mut Errors) {
    let kind = text(metric, "type");
    let Some((_, field)) = METRICS.iter().find(|(name, _)| *name == kind) else {
        let kinds: Vec<&str> = ["ContainerResource", "External", "Object", "Pods", "Resource"].to_vec();
        errors.one_of(path.child("type"), at(metric, "type"), &kinds);
        return;
    };
    let source = at(metric, field);
    let path = path.child(field);
    if source.is_null() {
        errors.required(path, "must populate information for the given metric source");
        return;
    }
    let target = at(source, "target");
    errors.one_of(path.child("target").child("type"), at(target, "type"), &["AverageValue", "Utilization", "Value"]);
    if field.to_lowercase().contains("resource") {
        if text(source, "name").is_empty() {
            errors.required(path.child("name"), "must specify a resource name");
        }
        if at(target, "averageUtilization").is_null() && at(target, "averageValue").is_null() {
            let why = "must set either a target raw value or a target utilization";
            errors.required(path.child("target").child("averageUtilization"), why);
        }
        if at(target, "averageUtilization").as_i64().is_some_and(|percent| percent < 1) {
            let value = at(target, "averageUtilization");
            errors.invalid(path.child("target").child("averageUtilization"), value, "must be greater than 0");
        }
    } else if text(source, "metric.name").is_empty() {
        errors.required(path.child("metric").child("name"), "must specify a metric name");
    }
}
