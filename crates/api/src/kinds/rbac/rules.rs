//! Roles: what a `Role` and a `ClusterRole` share.

use serde_json::Value;

use crate::kind::Strategy;
use crate::kinds::access::{at, list};
use crate::validation::{Errors, NameRule, Path, label_selector};

pub struct Role {
    pub namespaced: bool,
}

impl Strategy for Role {
    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let all = Path::new("rules");
        for (index, item) in list(object, "rules").iter().enumerate() {
            rule(item, self.namespaced, &all.index(index), errors);
        }
        let aggregation = at(object, "aggregationRule");
        if aggregation.is_null() {
            return;
        }
        let path = Path::new("aggregationRule");
        let (all, selectors) = (path.child("clusterRoleSelectors"), list(aggregation, "clusterRoleSelectors"));
        if selectors.is_empty() {
            errors.required(all, "at least one clusterRoleSelector required if aggregationRule is non-nil");
        }
        for (index, selector) in selectors.iter().enumerate() {
            label_selector(selector, &all.index(index), errors);
        }
    }

    fn create_on_update(&self) -> bool {
        true
    }
}

fn rule(rule: &Value, namespaced: bool, path: &Path, errors: &mut Errors) {
    let given = |field: &str| !list(rule, field).is_empty();
    if !given("verbs") {
        errors.required(path.child("verbs"), "verbs must contain at least one value");
    }
    if given("nonResourceURLs") {
        let field = path.child("nonResourceURLs");
        if namespaced {
            errors.invalid(field, at(rule, "nonResourceURLs"), "namespaced rules cannot apply to non-resource URLs");
        }
        if given("apiGroups") || given("resources") || given("resourceNames") {
            let why = "rules cannot apply to both regular resources and non-resource URLs";
            errors.invalid(field, at(rule, "nonResourceURLs"), why);
        }
        return;
    }
    if !given("apiGroups") {
        errors.required(path.child("apiGroups"), "resource rules must supply at least one api group");
    }
    if !given("resources") {
        errors.required(path.child("resources"), "resource rules must supply at least one resource");
    }
}
