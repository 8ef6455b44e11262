//! `apiregistration.k8s.io/v1 APIService`.

use serde_json::Value;

use crate::kind::{ALL_METADATA, Kind, Strategy};
use crate::kinds::access::{at, at_mut, fill, flag, has, list, number, text};
use crate::kinds::builder::Builder;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, NameRule, Path, names};

pub fn kind() -> Kind {
    Builder::new("apiregistration.k8s.io", "v1", "APIService", "apiservices")
        .category("api-extensions")
        .prefix("apiregistration.k8s.io/apiservices")
        .status()
        .columns(COLUMNS)
        .strategy(ApiService)
        .build()
}

const COLUMNS: &[Cell] = &[
    NAME,
    Cell::made("Service", |o| match at(o, "spec.service") {
        Value::Null => "Local".into(),
        service => format!("{}/{}", text(service, "namespace"), text(service, "name")).into(),
    }),
    Cell::made("Available", |o| {
        let condition = list(o, "status.conditions").iter().find(|c| text(c, "type") == "Available");
        match condition.map(|c| (text(c, "status"), text(c, "reason"))) {
            None => "Unknown".into(),
            Some(("True", _)) => "True".into(),
            Some((status, reason)) => format!("{status} ({reason})").into(),
        }
    }),
    AGE,
];

struct ApiService;

impl Strategy for ApiService {
    fn kept_by_status(&self) -> &'static [&'static str] {
        ALL_METADATA
    }

    fn default(&self, object: &mut Value) {
        if let Some(service) = at_mut(object, "spec.service") {
            fill(service, "port", 443);
        }
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let (spec, path) = (at(object, "spec"), Path::new("spec"));
        let (group, version) = (text(spec, "group"), text(spec, "version"));
        let (name, wanted) = (text(object, "metadata.name"), format!("{version}.{group}"));
        if name != wanted {
            let why = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
            errors.invalid("metadata.name", name, why);
        }
        if group.is_empty() {
            if version != "v1" {
                errors.required(path.child("group"), "only v1 may have an empty group and it better be legacy kube");
            }
        } else {
            errors.all_invalid(path.child("group"), group, names::dns1123_subdomain(group));
        }
        errors.all_invalid(path.child("version"), version, names::dns1035_label(version));
        for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1_000)] {
            let value = number(spec, field);
            if !(1..=most).contains(&value) {
                errors.invalid(path.child(field), value, format!("must be positive and less than {most}"));
            }
        }
        let authority = !text(spec, "caBundle").is_empty();
        let insecure = flag(spec, "insecureSkipTLSVerify");
        if !has(spec, "service") {
            for (given, field) in [(authority, "caBundle"), (insecure, "insecureSkipTLSVerify")] {
                if given {
                    errors.invalid(
                        path.child(field),
                        at(spec, field),
                        "local APIServices may not have a ".to_owned() + field,
                    );
                }
            }
            return;
        }
        for field in ["namespace", "name"] {
            if text(at(spec, "service"), field).is_empty() {
                errors.required(path.child("service").child(field), "");
            }
        }
        if insecure && authority {
            let why = "may not be true if caBundle is present";
            errors.invalid(path.child("insecureSkipTLSVerify"), at(spec, "insecureSkipTLSVerify"), why);
        }
    }

    fn conditional_update(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}
