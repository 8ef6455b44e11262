//! What PodGroups and the templates for them in Workloads have in common: how their pods are scheduled.

use serde_json::Value;

use crate::kinds::access::{at, has, list, number, text};
use crate::validation::{Errors, Path, names};

/// Errors of `schedulingPolicy` and what stands beside it.
pub fn validate(spec: &Value, path: &Path, errors: &mut Errors) {
    let (policy, inside) = (at(spec, "schedulingPolicy"), path.child("schedulingPolicy"));
    match (has(policy, "basic"), has(policy, "gang")) {
        (true, true) => {
            errors.invalid(inside, "{`basic`, `gang`}", "must specify exactly one of: `basic`, `gang`");
        }
        (false, false) => errors.invalid(inside, "", "must specify one of: `basic`, `gang`"),
        (true, false) => {}
        (false, true) => {
            let gang = inside.child("gang");
            match at(policy, "gang.minCount") {
                Value::Null => errors.required(gang.child("minCount"), ""),
                count => errors.at_least(gang.child("minCount"), count, 1),
            }
        }
    }
    let topology = list(spec, "schedulingConstraints.topology");
    let constraints = path.child("schedulingConstraints");
    let at_topology = constraints.child("topology");
    if topology.len() > 1 {
        errors.too_many(at_topology, topology.len(), 1);
    }
    for (index, constraint) in topology.iter().enumerate() {
        let path = at_topology.index(index);
        match text(constraint, "key") {
            "" => errors.required(path.child("key"), ""),
            key => errors.all_invalid(path.child("key"), key, names::qualified_name(key)),
        }
    }
    errors.one_of_if_set(path.child("disruptionMode"), at(spec, "disruptionMode"), &["Pod", "PodGroup"]);
    claims(spec, path, errors);
    let class = text(spec, "priorityClassName");
    if !class.is_empty() {
        errors.all_invalid(path.child("priorityClassName"), class, names::dns1123_subdomain(class));
    }
    if number(spec, "priority") > 2_000_001_000 {
        errors.invalid(path.child("priority"), number(spec, "priority"), "must be less than or equal to 2000001000");
    }
}

fn claims(spec: &Value, path: &Path, errors: &mut Errors) {
    let all = path.child("resourceClaims");
    for (index, claim) in list(spec, "resourceClaims").iter().enumerate() {
        let path = all.index(index);
        match text(claim, "name") {
            "" => errors.required(path.child("name"), ""),
            name => errors.all_invalid(path.child("name"), name, names::dns1123_label(name)),
        }
        if has(claim, "resourceClaimName") == has(claim, "resourceClaimTemplateName") {
            let either = "must specify exactly one of: `resourceClaimName`, `resourceClaimTemplateName`";
            errors.invalid(path, "", either);
        }
    }
    errors.unique(spec, "resourceClaims", path, |claim| text(claim, "name"));
}
