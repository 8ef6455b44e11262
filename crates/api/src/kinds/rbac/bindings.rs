//! Bindings: what a `RoleBinding` and a `ClusterRoleBinding` share.

use serde_json::Value;

use crate::kind::Strategy;
use crate::kinds::access::{at, each_mut, fill_text, list, text};
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, NameRule, Path, names};

pub const COLUMNS: &[Cell] = &[
    NAME,
    Cell::made("Role", |o| format!("{}/{}", text(o, "roleRef.kind"), text(o, "roleRef.name")).into()),
    AGE,
    Cell::made("Users", |o| subjects(o, "User")).wide(),
    Cell::made("Groups", |o| subjects(o, "Group")).wide(),
    Cell::made("ServiceAccounts", |o| subjects(o, "ServiceAccount")).wide(),
];

fn subjects(binding: &Value, kind: &str) -> Value {
    let names =
        list(binding, "subjects").iter().filter(|subject| text(subject, "kind") == kind).map(|subject| match kind {
            "ServiceAccount" => format!("{}/{}", text(subject, "namespace"), text(subject, "name")),
            _ => text(subject, "name").to_owned(),
        });
    names.collect::<Vec<_>>().join(", ").into()
}

const GROUP: &str = "rbac.authorization.k8s.io";

pub struct Binding {
    /// The kinds of role that it may refer to.
    pub roles: &'static [&'static str],
}

impl Strategy for Binding {
    fn default(&self, object: &mut Value) {
        if let Some(role) = object.get_mut("roleRef") {
            fill_text(role, "apiGroup", GROUP);
        }
        for subject in each_mut(object, "subjects") {
            if matches!(text(subject, "kind"), "User" | "Group") {
                fill_text(subject, "apiGroup", GROUP);
            }
        }
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let (role, path) = (at(object, "roleRef"), Path::new("roleRef"));
        if text(role, "apiGroup") != GROUP {
            errors.not_supported(path.child("apiGroup"), text(role, "apiGroup"), &[GROUP]);
        }
        if !self.roles.contains(&text(role, "kind")) {
            errors.not_supported(path.child("kind"), text(role, "kind"), self.roles);
        }
        let name = text(role, "name");
        if name.is_empty() {
            errors.required(path.child("name"), "");
        } else {
            errors.all_invalid(path.child("name"), name, names::path_segment(name, false));
        }
        let all = Path::new("subjects");
        for (index, item) in list(object, "subjects").iter().enumerate() {
            subject(item, &all.index(index), errors);
        }
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        if at(old, "roleRef") != at(new, "roleRef") {
            errors.invalid("roleRef", at(new, "roleRef"), "cannot change roleRef");
        }
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}

fn subject(subject: &Value, path: &Path, errors: &mut Errors) {
    let name = text(subject, "name");
    if name.is_empty() {
        errors.required(path.child("name"), "");
    }
    let group = text(subject, "apiGroup");
    match text(subject, "kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                errors.all_invalid(path.child("name"), name, names::dns1123_subdomain(name));
            }
            if !group.is_empty() {
                errors.not_supported(path.child("apiGroup"), group, &[""]);
            }
            if text(subject, "namespace").is_empty() {
                errors.required(path.child("namespace"), "");
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                errors.not_supported(path.child("apiGroup"), group, &[GROUP]);
            }
        }
        other => errors.not_supported(path.child("kind"), other, &["Group", "ServiceAccount", "User"]),
    }
}
