//! What upstream warns of in a pod or a template: what is deprecated, and what is allowed but surely a mistake.

use serde_json::Value;

use super::annotations::APP_ARMOR;
use super::defaults::CONTAINER_LISTS;
use super::resources::quantity;
use crate::kinds::access::{at, entries, has, list, number, text, texts};
use crate::validation::{Path, names};

/// Labels of nodes that have newer names.
const LABELS: &[(&str, &str, &str)] = &[
    ("beta.kubernetes.io/arch", "v1.14", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "v1.14", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "v1.17", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "v1.17", "topology.kubernetes.io/zone"),
    ("beta.kubernetes.io/instance-type", "v1.17", "node.kubernetes.io/instance-type"),
];

/// Kinds of volume that are going away.
pub const VOLUMES: &[(&str, &str)] = &[
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// Annotations that do nothing any more.
const ANNOTATIONS: &[(&str, &str)] = &[
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
];

const SECCOMP: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";

/// The warnings of a pod, or of a template at a path.
pub fn pod(pod: &Value, path: &Path, is_template: bool) -> Vec<String> {
    let mut out = Vec::new();
    let (spec, at_spec) = (at(pod, "spec"), path.child("spec"));
    let metadata = path.child("metadata");
    scheduling(spec, &at_spec, &mut out);
    annotations(pod, &metadata.child("annotations"), is_template, &mut out);
    volumes(spec, &at_spec, &mut out);
    repeated(spec, "hostAliases", "ip", &at_spec, &mut out);
    repeated(spec, "imagePullSecrets", "name", &at_spec, &mut out);
    let secrets = at_spec.child("imagePullSecrets");
    for (index, secret) in list(spec, "imagePullSecrets").iter().enumerate() {
        if text(secret, "name").is_empty() {
            out.push(format!("{}: invalid empty name \"\"", secrets.index(index).child("name")));
        }
    }
    fractions(at(spec, "overhead"), &at_spec.child("overhead"), &mut out);
    each_container(spec, &at_spec, |container, path| {
        for kind in ["limits", "requests"] {
            fractions(at(at(container, "resources"), kind), &path.child("resources").child(kind), &mut out);
        }
        hidden_variables(container, path, &mut out);
    });
    ports(spec, &at_spec, &mut out);
    if number(spec, "terminationGracePeriodSeconds") < 0 {
        let field = at_spec.child("terminationGracePeriodSeconds");
        out.push(format!("{field}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    out
}

/// What a new object whose name is no DNS label is warned of, since it becomes a part of something that must be one.
pub fn label_name(old: Option<&Value>, new: &Value, used: &str) -> Vec<String> {
    let messages = if old.is_none() { names::dns1123_label(text(new, "metadata.name")) } else { Vec::new() };
    if messages.is_empty() {
        return Vec::new();
    }
    let (why, all) = ("which can result in surprising behavior; a DNS label is recommended", messages.join(" "));
    vec![format!("metadata.name: this is used in {used}, {why}: [{all}]")]
}

fn each_container(spec: &Value, path: &Path, mut visit: impl FnMut(&Value, &Path)) {
    for name in CONTAINER_LISTS {
        let all = path.child(name);
        for (index, container) in list(spec, name).iter().enumerate() {
            visit(container, &all.index(index));
        }
    }
}

/// What is said of a node label's old name.
pub fn deprecated(label: &str) -> Option<String> {
    let (_, since, instead) = LABELS.iter().find(|(old, ..)| *old == label)?;
    Some(format!("deprecated since {since}; use {instead:?} instead"))
}

fn scheduling(spec: &Value, path: &Path, out: &mut Vec<String>) {
    let selector = path.child("nodeSelector");
    for (key, _) in entries(spec, "nodeSelector") {
        out.extend(deprecated(key).map(|why| format!("{}: {why}", selector.key(key))));
    }
    let affinity = path.child("affinity.nodeAffinity");
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let own = at(spec, "affinity.nodeAffinity");
    let all = affinity.child(REQUIRED);
    for (index, term) in list(own, REQUIRED).iter().enumerate() {
        expressions(term, &all.index(index), out);
    }
    let all = affinity.child(PREFERRED);
    for (index, term) in list(own, PREFERRED).iter().enumerate() {
        expressions(at(term, "preference"), &all.index(index).child("preference"), out);
    }
    let all = path.child("topologySpreadConstraints");
    for (index, constraint) in list(spec, "topologySpreadConstraints").iter().enumerate() {
        let path = all.index(index);
        let key = text(constraint, "topologyKey");
        out.extend(deprecated(key).map(|why| format!("{}: {key} is {why}", path.child("topologyKey"))));
        if !has(constraint, "labelSelector") {
            out.push(format!("{}: a null labelSelector results in matching no pod", path.child("labelSelector")));
        }
    }
}

/// Old names in a node selector's term.
fn expressions(term: &Value, path: &Path, out: &mut Vec<String>) {
    let all = path.child("matchExpressions");
    for (index, expression) in list(term, "matchExpressions").iter().enumerate() {
        let key = text(expression, "key");
        out.extend(deprecated(key).map(|why| format!("{}: {key} is {why}", all.index(index).child("key"))));
    }
}

fn annotations(pod: &Value, path: &Path, is_template: bool, out: &mut Vec<String>) {
    for (key, why) in ANNOTATIONS {
        if at(pod, "metadata.annotations").get(key).is_some() {
            out.push(format!("{}: {why}", path.key(key)));
        }
    }
    let spec = at(pod, "spec");
    let own = at(spec, "securityContext");
    for (key, _) in texts(pod, "metadata.annotations") {
        let of = |prefix: &str| -> Option<&Value> {
            let name = key.strip_prefix(prefix)?;
            CONTAINER_LISTS.iter().flat_map(|all| list(spec, all)).find(|c| text(c, "name") == name)
        };
        if key == "seccomp.security.alpha.kubernetes.io/pod" && !has(own, "seccompProfile") {
            out.push(format!("{}: {SECCOMP}", path.key(key)));
        }
        if of("container.seccomp.security.alpha.kubernetes.io/")
            .is_some_and(|c| !has(c, "securityContext.seccompProfile"))
        {
            out.push(format!("{}: {SECCOMP}", path.key(key)));
        }
        let bare = |c: &Value| !has(own, "appArmorProfile") && !has(c, "securityContext.appArmorProfile");
        if is_template && of(APP_ARMOR).is_some_and(bare) {
            out.push(format!("{}: deprecated since v1.30; use the \"appArmorProfile\" field instead", path.key(key)));
        }
    }
}

fn volumes(spec: &Value, path: &Path, out: &mut Vec<String>) {
    let all = path.child("volumes");
    for (index, volume) in list(spec, "volumes").iter().enumerate() {
        for (kind, since) in VOLUMES.iter().filter(|(kind, _)| volume.get(kind).is_some()) {
            out.push(format!("{}: {since}", all.index(index).child(kind)));
        }
    }
    let sources = || list(spec, "volumes").iter().flat_map(|volume| list(volume, "projected.sources"));
    let tokens: Vec<&str> =
        sources().map(|source| text(source, "serviceAccountToken.path")).filter(|path| !path.is_empty()).collect();
    for (index, volume) in list(spec, "volumes").iter().enumerate() {
        let at_volume = all.index(index);
        for (kind, word) in [("configMap", "configMap"), ("secret", "secrets"), ("downwardAPI", "downwardAPI")] {
            let field = at_volume.child("projected.sources").to_string() + "." + word;
            for source in list(volume, "projected.sources") {
                for (index, item) in list(at(source, kind), "items").iter().enumerate() {
                    let file = text(item, "path");
                    if tokens.contains(&file) {
                        out.push(format!("{field}[{index}]: has duplicated path with ServiceAccountToken {file:?}"));
                    }
                }
            }
        }
    }
}

/// Items of a list that have the same key.
fn repeated(spec: &Value, name: &str, key: &str, path: &Path, out: &mut Vec<String>) {
    let (all, items) = (path.child(name), list(spec, name));
    for (index, item) in items.iter().enumerate() {
        let own = text(item, key);
        if items[..index].iter().any(|other| text(other, key) == own) {
            out.push(format!("{}: duplicate {key} {own:?}", all.index(index).child(key)));
        }
    }
}

/// Bytes come whole.
fn fractions(resources: &Value, path: &Path, out: &mut Vec<String>) {
    for (name, value) in resources.as_object().into_iter().flatten() {
        let whole = matches!(name.as_str(), "memory" | "ephemeral-storage");
        if whole && quantity(value).is_some_and(|q| q.milli_value() < i64::MAX && q.milli_value() % 1000 != 0) {
            let shown = value.as_str().unwrap_or_default();
            out.push(format!("{}: fractional byte value {shown:?} is invalid, must be an integer", path.key(name)));
        }
    }
}

/// A variable that is defined again, unless the new value is made of the old.
fn hidden_variables(container: &Value, path: &Path, out: &mut Vec<String>) {
    let (env, all) = (list(container, "env"), path.child("env"));
    for (index, variable) in env.iter().enumerate() {
        let (name, value) = (text(variable, "name"), text(variable, "value"));
        let reference = format!("$({name})");
        let extends = !has(variable, "valueFrom") && value != reference && value.contains(&reference);
        if !extends && env[..index].iter().any(|other| text(other, "name") == name) {
            let what = format!("hides previous definition of {name:?}, which may be dropped when using apply");
            out.push(format!("{}: {what}", all.index(index)));
        }
    }
}

/// Ports that are the same or overlap, in whichever containers.
fn ports(spec: &Value, path: &Path, out: &mut Vec<String>) {
    let mut seen: Vec<(String, &Value)> = Vec::new();
    for name in CONTAINER_LISTS {
        let containers = path.child(name);
        for (index, container) in list(spec, name).iter().enumerate() {
            let at_container = containers.index(index);
            let all = at_container.child("ports");
            for (index, port) in list(container, "ports").iter().enumerate() {
                let field = all.index(index).to_string();
                for (first, other) in &seen {
                    out.extend(overlap(port, other).map(|how| format!("{field}: {how} port definition with {first}")));
                }
                seen.push((field, port));
            }
        }
    }
}

fn overlap(port: &Value, other: &Value) -> Option<&'static str> {
    let same = |field: &str| text(port, field) == text(other, field);
    if number(port, "containerPort") != number(other, "containerPort") || !same("protocol") {
        return None;
    }
    let (host, others) = (number(port, "hostPort"), number(other, "hostPort"));
    if same("hostIP") && host == others {
        Some("duplicate")
    } else if host == 0 || others == 0 {
        Some("overlapping")
    } else if host == others && (text(port, "hostIP").is_empty() || text(other, "hostIP").is_empty()) {
        Some("dangerously ambiguous")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn likely_mistakes_are_warned_of() {
        let spec = json!({
            "nodeSelector": {"beta.kubernetes.io/os": "linux"},
            "topologySpreadConstraints": [{"topologyKey": "failure-domain.beta.kubernetes.io/zone"}],
            "containers": [
                {"env": [{"name": "A"}, {"name": "A", "value": "x$(A)"}, {"name": "A", "value": "b"}],
                    "ports": [{"containerPort": 1}, {"containerPort": 1}], "resources": {"limits": {"memory": "100m"}}},
                {"ports": [{"containerPort": 1, "hostPort": 2}]}],
            "volumes": [{"name": "g", "gitRepo": {}}]});
        let metadata = json!({"annotations": {"scheduler.alpha.kubernetes.io/critical-pod": ""}});
        assert_eq!(
            pod(&json!({"metadata": metadata, "spec": spec}), &Path::new(""), false),
            [
                "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
                "spec.topologySpreadConstraints[0].topologyKey: failure-domain.beta.kubernetes.io/zone is deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
                "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
                "metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; use the \"priorityClassName\" field instead",
                "spec.volumes[0].gitRepo: deprecated in v1.11",
                "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
                "spec.containers[0].env[2]: hides previous definition of \"A\", which may be dropped when using apply",
                "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
                "spec.containers[1].ports[0]: overlapping port definition with spec.containers[0].ports[0]",
                "spec.containers[1].ports[0]: overlapping port definition with spec.containers[0].ports[1]",
            ]
        );
    }
}
