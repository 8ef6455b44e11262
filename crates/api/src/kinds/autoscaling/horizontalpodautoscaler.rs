//! `autoscaling/v2 HorizontalPodAutoscaler`, the stored version.

use serde_json::{Value, json};

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, fill, has, list, number, section, text};
use crate::kinds::builder::Builder;
use crate::kinds::pods::resources;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, NOT_NEGATIVE, Path, names};

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
        errors.not_negative(path.child("minReplicas"), at(spec, "minReplicas"));
        if most < 1 {
            errors.invalid(path.child("maxReplicas"), most, "must be greater than 0");
        }
        if least > most {
            errors.invalid(path.child("maxReplicas"), most, "must be greater than or equal to `minReplicas`");
        }
        reference(at(spec, "scaleTargetRef"), &path.child("scaleTargetRef"), errors);
        let all = path.child("metrics");
        for (index, metric) in list(spec, "metrics").iter().enumerate() {
            validate_metric(metric, &all.index(index), errors);
        }
        let scales_to_zero = list(spec, "metrics").iter().any(|m| matches!(text(m, "type"), "Object" | "External"));
        if at(spec, "minReplicas") == 0 && !scales_to_zero {
            let why = "must specify at least one Object or External metric to support scaling to zero replicas";
            errors.forbidden(all, why);
        }
        let behavior = path.child("behavior");
        for direction in ["scaleUp", "scaleDown"] {
            let rules = at(at(spec, "behavior"), direction);
            if !rules.is_null() {
                scaling(rules, &behavior.child(direction), errors);
            }
        }
    }

    fn validate_subresource_update(&self, _subresource: &str, _old: &Value, new: &Value, errors: &mut Errors) {
        for field in ["currentReplicas", "desiredReplicas"] {
            errors.not_negative(Path::new("status").child(field), at(at(new, "status"), field));
        }
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}

/// A reference to an object in whichever version.
fn reference(reference: &Value, path: &Path, errors: &mut Errors) {
    for field in ["kind", "name"] {
        match text(reference, field) {
            "" => errors.required(path.child(field), ""),
            name => errors.all_invalid(path.child(field), name, names::path_segment(name, false)),
        }
    }
}

fn scaling(rules: &Value, path: &Path, errors: &mut Errors) {
    const LONGEST_WINDOW: i64 = 3600;
    const LONGEST_PERIOD: i64 = 1800;
    let (window, at_window) = (number(rules, "stabilizationWindowSeconds"), path.child("stabilizationWindowSeconds"));
    if window < 0 {
        errors.invalid(at_window, window, "must be greater than or equal to zero");
    }
    if window > LONGEST_WINDOW {
        errors.invalid(at_window, window, format!("must be less than or equal to {LONGEST_WINDOW}"));
    }
    errors.one_of_if_set(path.child("selectPolicy"), at(rules, "selectPolicy"), &["Disabled", "Max", "Min"]);
    let all = path.child("policies");
    if list(rules, "policies").is_empty() {
        errors.required(all, "must specify at least one Policy");
    }
    for (index, policy) in list(rules, "policies").iter().enumerate() {
        let path = all.index(index);
        errors.one_of_supported(path.child("type"), at(policy, "type"), &["Percent", "Pods"]);
        for field in ["value", "periodSeconds"] {
            if number(policy, field) <= 0 {
                errors.invalid(path.child(field), number(policy, field), "must be greater than zero");
            }
        }
        let period = number(policy, "periodSeconds");
        if period > LONGEST_PERIOD {
            let why = format!("must be less than or equal to {LONGEST_PERIOD}");
            errors.invalid(path.child("periodSeconds"), period, why);
        }
    }
    if resources::negative(at(rules, "tolerance")) {
        let tolerance = resources::shown(at(rules, "tolerance"));
        errors.invalid(path.child("tolerance"), tolerance.as_str(), NOT_NEGATIVE);
    }
}

fn validate_metric(metric: &Value, path: &Path, errors: &mut Errors) {
    const KINDS: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];
    let kind = text(metric, "type");
    if kind.is_empty() {
        errors.required(path.child("type"), "must specify a metric source type");
    }
    if !KINDS.contains(&kind) {
        errors.not_supported(path.child("type"), kind, KINDS);
    }
    let given: Vec<&str> = SOURCES.iter().copied().filter(|source| has(metric, source)).collect();
    if let Some(first) = given.first() {
        source(first, at(metric, first), &path.child(first), errors);
    }
    match METRICS.iter().find(|(name, _)| *name == kind) {
        Some((_, field)) if !has(metric, field) => {
            errors.required(path.child(field), "must populate information for the given metric source");
        }
        Some(_) => {}
        None => errors.not_supported(path.child("type"), kind, KINDS),
    }
    if given.len() > 1 {
        let own = METRICS.iter().find(|(name, _)| *name == kind).map_or("", |(_, field)| field);
        for other in given.into_iter().filter(|other| *other != own) {
            errors.forbidden(path.child(other), "must populate the given metric source only");
        }
    }
}

/// The sources of metrics in the order in which upstream looks for them.
const SOURCES: &[&str] = &["object", "external", "pods", "resource", "containerResource"];

fn source(kind: &str, source: &Value, path: &Path, errors: &mut Errors) {
    let at_target = path.child("target");
    match kind {
        "resource" | "containerResource" => {
            if kind == "containerResource" && text(source, "container").is_empty() {
                errors.required(path.child("container"), "must specify a container");
            }
            if text(source, "name").is_empty() {
                errors.required(path.child("name"), "must specify a resource name");
            }
        }
        _ => {
            if kind == "object" {
                reference(at(source, "describedObject"), &path.child("describedObject"), errors);
            }
            let at_metric = path.child("metric");
            let at_name = at_metric.child("name");
            match text(source, "metric.name") {
                "" => errors.required(at_name, "must specify a metric name"),
                name => errors.all_invalid(at_name, name, names::path_segment(name, false)),
            }
        }
    }
    let wanted = at(source, "target");
    aim(wanted, &at_target, errors);
    let has = |field: &str| !at(wanted, field).is_null();
    let (value, average, utilization) = (has("value"), has("averageValue"), has("averageUtilization"));
    match kind {
        "object" if !value && !average => {
            errors.required(at_target.child("averageValue"), "must set either a target value or averageValue");
        }
        "external" if !value && !average => {
            let why = "must set either a target value for metric or a per-pod target";
            errors.required(at_target.child("averageValue"), why);
        }
        "external" if value && average => {
            let why = "may not set both a target value for metric and a per-pod target";
            errors.forbidden(at_target.child("value"), why);
        }
        "pods" if !average => {
            errors.required(at_target.child("averageValue"), "must specify a positive target averageValue");
        }
        "resource" | "containerResource" if !utilization && !average => {
            let why = "must set either a target raw value or a target utilization";
            errors.required(at_target.child("averageUtilization"), why);
        }
        "resource" | "containerResource" if utilization && average => {
            let why = "may not set both a target raw value and a target utilization";
            errors.forbidden(at_target.child("averageValue"), why);
        }
        _ => {}
    }
}

/// What a metric is to come to.
fn aim(target: &Value, path: &Path, errors: &mut Errors) {
    let kind = text(target, "type");
    if kind.is_empty() {
        errors.required(path.child("type"), "must specify a metric target type");
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        errors.invalid(path.child("type"), kind, "must be either Utilization, Value, or AverageValue");
    }
    for field in ["value", "averageValue"].into_iter().filter(|field| has(target, field)) {
        if !resources::positive(at(target, field)) {
            errors.invalid(path.child(field), resources::shown(at(target, field)).as_str(), "must be positive");
        }
    }
    if let Some(percent) = at(target, "averageUtilization").as_i64()
        && percent < 1
    {
        errors.invalid(path.child("averageUtilization"), percent, "must be greater than 0");
    }
}
