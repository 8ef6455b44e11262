//! `networking.k8s.io/v1 IPAddress`.

use serde_json::Value;

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, text};
use crate::kinds::builder::Builder;
use crate::print::{self, Cell, NAME};
use crate::validation::{Errors, NameRule, Path, names};

pub fn kind() -> Kind {
    Builder::new("networking.k8s.io", "v1", "IPAddress", "ipaddresses")
        .short(&["ip"])
        .columns(COLUMNS)
        .strategy(IpAddress)
        .build()
}

const COLUMNS: &[Cell] = &[
    NAME,
    Cell::made("ParentRef", |o| {
        let part = |field: &str| text(at(o, "spec.parentRef"), field);
        let parts: Vec<&str> = [part("group"), part("resource"), part("namespace"), part("name")]
            .into_iter()
            .filter(|p| !p.is_empty())
            .collect();
        parts.join("/").into()
    }),
];

struct IpAddress;

impl Strategy for IpAddress {
    fn name_rule(&self) -> NameRule {
        NameRule::Own
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let name = text(object, "metadata.name");
        match name.parse::<std::net::IpAddr>() {
            Ok(ip) if ip.to_string() == name => {}
            Ok(ip) => {
                errors.invalid("metadata.name", name, format!("must be in canonical form ({:?})", ip.to_string()))
            }
            Err(_) => {
                errors.invalid("metadata.name", name, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
            }
        }
        let (parent, path) = (at(object, "spec.parentRef"), Path::new("spec.parentRef"));
        if parent.is_null() {
            return errors.required(path, "");
        }
        let group = text(parent, "group");
        if !group.is_empty() {
            errors.all_invalid(path.child("group"), group, names::dns1123_subdomain(group));
        }
        for field in ["resource", "name", "namespace"] {
            match text(parent, field) {
                "" if field == "namespace" => {}
                "" => errors.required(path.child(field), ""),
                name => errors.all_invalid(path.child(field), name, names::path_segment(name, false)),
            }
        }
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        errors.immutable(old, new, "spec.parentRef");
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}
