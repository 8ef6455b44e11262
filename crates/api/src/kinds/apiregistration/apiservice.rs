//! `apiregistration.k8s.io/v1 APIService`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
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
            if authority {
                let bytes = STANDARD.decode(text(spec, "caBundle")).map_or(0, |bytes| bytes.len());
                let why = "local APIServices may not have a caBundle";
                errors.invalid(path.child("caBundle"), format!("{bytes} bytes").as_str(), why);
            }
            if insecure {
                let why = "local APIServices may not have insecureSkipTLSVerify";
                errors.invalid(path.child("insecureSkipTLSVerify"), &Value::Bool(true), why);
            }
            return;
        }
        let at_service = path.child("service");
        for field in ["namespace", "name"] {
            if text(at(spec, "service"), field).is_empty() {
                errors.required(at_service.child(field), "");
            }
        }
        let port = number(spec, "service.port");
        if !(1..=65535).contains(&port) {
            let why = "port is not valid: must be between 1 and 65535, inclusive";
            errors.invalid(at_service.child("port"), port, why);
        }
        if insecure && authority {
            let why = "may not be true if caBundle is present";
            errors.invalid(path.child("insecureSkipTLSVerify"), at(spec, "insecureSkipTLSVerify"), why);
        }
    }

    fn validate_subresource_update(&self, _subresource: &str, _old: &Value, new: &Value, errors: &mut Errors) {
        let all = Path::new("status.conditions");
        for (index, condition) in list(new, "status.conditions").iter().enumerate() {
            let path = all.index(index);
            errors.one_of_supported(path.child("status"), at(condition, "status"), &["False", "True", "Unknown"]);
        }
    }

    fn conditional_update(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}
