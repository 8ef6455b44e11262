//! What upstream warns of in a pod's spec: what is deprecated, and what is allowed but surely a mistake.

use serde_json::Value;

use super::resources::quantity;
use crate::kinds::access::{at, entries, list, number, text};
use crate::validation::Path;

/// Labels of nodes that have newer names.
const LABELS: &[(&str, &str, &str)] = &[
    ("beta.kubernetes.io/arch", "v1.14", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "v1.14", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "v1.17", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "v1.17", "topology.kubernetes.io/zone"),
    ("beta.kubernetes.io/instance-type", "v1.17", "node.kubernetes.io/instance-type"),
];

/// Kinds of volume that are going away.
const VOLUMES: &[(&str, &str)] = &[
    ("gitRepo", "deprecated in v1.11"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// The warnings of a spec at a path.
pub fn pod_spec(spec: &Value, path: &Path) -> Vec<String> {
    let mut out = Vec::new();
    for (key, _) in entries(spec, "nodeSelector") {
        if let Some((_, since, instead)) = LABELS.iter().find(|(old, ..)| old == key) {
            out.push(format!(
                "{}: deprecated since {since}; use {instead:?} instead",
                path.child("nodeSelector").key(key)
            ));
        }
    }
    let all = path.child("volumes");
    for (index, volume) in list(spec, "volumes").iter().enumerate() {
        for (kind, since) in VOLUMES.iter().filter(|(kind, _)| volume.get(kind).is_some()) {
            out.push(format!("{}: {since}", all.index(index).child(kind)));
        }
    }
    let all = path.child("imagePullSecrets");
    let mut seen: Vec<&str> = Vec::new();
    for (index, secret) in list(spec, "imagePullSecrets").iter().enumerate() {
        let name = text(secret, "name");
        let field = all.index(index);
        if name.is_empty() {
            out.push(format!("{}: invalid empty name \"\"", field.child("name")));
        } else if seen.contains(&name) {
            out.push(format!("{}: duplicate name {name:?}", field.child("name")));
        }
        seen.push(name);
    }
    if number(spec, "terminationGracePeriodSeconds") < 0 {
        let field = path.child("terminationGracePeriodSeconds");
        out.push(format!("{field}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    for name in ["initContainers", "containers"] {
        let all = path.child(name);
        for (index, item) in list(spec, name).iter().enumerate() {
            container(item, &all.index(index), &mut out);
        }
    }
    out
}

fn container(container: &Value, path: &Path, out: &mut Vec<String>) {
    let (env, all) = (list(container, "env"), path.child("env"));
    for (index, variable) in env.iter().enumerate() {
        let name = text(variable, "name");
        if env[..index].iter().any(|other| text(other, "name") == name) {
            let what = format!("hides previous definition of {name:?}, which may be dropped when using apply");
            out.push(format!("{}: {what}", all.index(index)));
        }
    }
    let (ports, all) = (list(container, "ports"), path.child("ports"));
    for (index, port) in ports.iter().enumerate() {
        let same = |other: &Value| {
            ["containerPort", "hostPort"].iter().all(|field| number(other, field) == number(port, field))
                && ["protocol", "hostIP"].iter().all(|field| text(other, field) == text(port, field))
        };
        if let Some(first) = ports[..index].iter().position(same) {
            out.push(format!("{}: duplicate port definition with {}", all.index(index), all.index(first)));
        }
    }
    for kind in ["limits", "requests"] {
        let all = path.child("resources").child(kind).to_string();
        for (name, value) in entries(at(container, "resources"), kind) {
            let whole = matches!(name.as_str(), "memory" | "ephemeral-storage");
            if whole && quantity(value).is_some_and(|q| q.milli_value() < i64::MAX && q.milli_value() % 1000 != 0) {
                let shown = value.as_str().unwrap_or_default();
                out.push(format!("{all}[{name}]: fractional byte value {shown:?} is invalid, must be an integer"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn likely_mistakes_are_warned_of() {
        let spec = json!({"nodeSelector": {"beta.kubernetes.io/os": "linux"}, "containers": [{
            "env": [{"name": "A"}, {"name": "A"}], "ports": [{"containerPort": 1}, {"containerPort": 1}],
            "resources": {"limits": {"memory": "100m"}}}], "volumes": [{"name": "g", "gitRepo": {}}]});
        assert_eq!(
            pod_spec(&spec, &Path::new("spec")),
            [
                "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
                "spec.volumes[0].gitRepo: deprecated in v1.11",
                "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
                "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
                "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
            ]
        );
    }
}
