//! `v1 LimitRange`.

use std::cmp::Ordering;

use serde_json::{Map, Value};

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, each_mut, entries, list, section, text};
use crate::kinds::builder::Builder;
use crate::kinds::pods::resources::{compare, quantity};
use crate::validation::{Errors, Path, names};

pub fn kind() -> Kind {
    Builder::new("", "v1", "LimitRange", "limitranges").namespaced().short(&["limits"]).strategy(LimitRange).build()
}

struct LimitRange;

/// Copies what `to` has not from `from`.
fn inherit(limit: &mut Value, from: &str, to: &str) {
    let missing: Map<String, Value> = entries(limit, from)
        .filter(|(name, _)| at(limit, to).get(name.as_str()).is_none())
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if !missing.is_empty()
        && let Some(map) = section(limit, to)
    {
        map.extend(missing);
    }
}

/// A limit may be so many times the request: once at least, and no more than the bounds leave room for.
fn ratios(limit: &Value, path: &Path, errors: &mut Errors) {
    for (name, value) in entries(limit, "maxLimitRequestRatio") {
        let Some(ratio) = quantity(value) else { continue };
        let path = path.key(name);
        if ratio.as_f64() < 1.0 {
            errors.invalid(path, ratio.to_string().as_str(), format!("ratio {ratio} is less than 1"));
        }
        let bound = |field: &str| at(limit, field).get(name).and_then(quantity).map(|q| q.as_f64());
        if let (Some(min), Some(max)) = (bound("min"), bound("max"))
            && ratio.as_f64() > max / min
        {
            let why = format!("ratio {ratio} is greater than max/min = {:.6}", max / min);
            errors.invalid(path, ratio.to_string().as_str(), why);
        }
    }
}

impl Strategy for LimitRange {
    fn default(&self, object: &mut Value) {
        for limit in each_mut(object, "spec.limits").filter(|limit| text(limit, "type") == "Container") {
            inherit(limit, "max", "default");
            inherit(limit, "default", "defaultRequest");
            inherit(limit, "min", "defaultRequest");
        }
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let all = Path::new("spec.limits");
        let limits = list(object, "spec.limits");
        for (index, limit) in limits.iter().enumerate() {
            let path = all.index(index);
            let kind = text(limit, "type");
            if limits[..index].iter().any(|other| text(other, "type") == kind) {
                errors.duplicate(path.child("type"), kind);
            }
            errors.all_invalid(path.child("type"), kind, names::qualified_name(kind));
            if kind == "Pod" {
                for field in ["default", "defaultRequest"] {
                    if entries(limit, field).next().is_some() {
                        errors.forbidden(path.child(field), "may not be specified when `type` is 'Pod'");
                    }
                }
            }
            if kind == "PersistentVolumeClaim"
                && !["min", "max"].iter().any(|field| entries(limit, field).any(|(name, _)| name == "storage"))
            {
                let why = "either minimum or maximum storage value is required, but neither was provided";
                errors.required(path.child("limits"), why);
            }
            ratios(limit, &path.child("maxLimitRequestRatio"), errors);
            // Each of these may not be above the next.
            let order = [
                ("min", "max"),
                ("min", "defaultRequest"),
                ("min", "default"),
                ("defaultRequest", "max"),
                ("default", "max"),
                ("defaultRequest", "default"),
            ];
            for (less, more) in order {
                for (name, value) in entries(limit, less) {
                    let Some(other) = at(limit, more).get(name) else { continue };
                    if compare(value, other) == Some(Ordering::Greater) {
                        let (value, other) = (value.as_str().unwrap_or_default(), other.as_str().unwrap_or_default());
                        let word = |field: &str| match field {
                            "defaultRequest" => "default request".to_owned(),
                            field => field.to_owned(),
                        };
                        let why = format!("{} value {value} is greater than {} value {other}", word(less), word(more));
                        errors.invalid(path.child(less).key(name), value, why);
                    }
                }
            }
        }
    }

    fn create_on_update(&self) -> bool {
        true
    }
}
