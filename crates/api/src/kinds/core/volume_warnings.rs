//! What upstream warns of in volumes and claims.

use serde_json::Value;

use crate::kinds::access::{at, has, list, text};
use crate::kinds::pods::resources::quantity;
use crate::kinds::pods::warnings::{VOLUMES, deprecated};
use crate::quantity::Quantity;
use crate::validation::Path;

const CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const MOUNT_OPTIONS: &str = "volume.beta.kubernetes.io/mount-options";

/// Annotations that fields have replaced.
fn annotations(object: &Value, replaced: &[(&str, &str, &str)], out: &mut Vec<String>) {
    for (name, since, field) in replaced {
        if at(object, "metadata.annotations").get(name).is_some() {
            let path = Path::new("metadata.annotations");
            out.push(format!("{}: deprecated since {since}; use {field:?} attribute instead", path.key(name)));
        }
    }
}

/// The warnings of a PersistentVolume.
pub fn volume(volume: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let replaced = [(CLASS, "v1.8", "storageClassName"), (MOUNT_OPTIONS, "v1.31", "mountOptions")];
    annotations(volume, &replaced, &mut out);
    let (spec, path) = (at(volume, "spec"), Path::new("spec"));
    if text(spec, "persistentVolumeReclaimPolicy") == "Recycle" {
        let why = "The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.";
        out.push(format!("{}: {why}", path.child("persistentVolumeReclaimPolicy")));
    }
    for (source, why) in VOLUMES.iter().filter(|(source, _)| has(spec, source)) {
        out.push(format!("{}: {why}", path.child(source)));
    }
    let terms = path.child("nodeAffinity.required.nodeSelectorTerms");
    for (index, term) in list(spec, "nodeAffinity.required.nodeSelectorTerms").iter().enumerate() {
        let at_term = terms.index(index);
        let expressions = at_term.child("matchExpressions");
        for (index, expression) in list(term, "matchExpressions").iter().enumerate() {
            let key = text(expression, "key");
            out.extend(deprecated(key).map(|why| format!("{}: {key} is {why}", expressions.index(index).child("key"))));
        }
    }
    out
}

/// The warnings of a PersistentVolumeClaim.
pub fn claim(claim: &Value) -> Vec<String> {
    let mut out = Vec::new();
    annotations(claim, &[(CLASS, "v1.8", "storageClassName")], &mut out);
    out.extend(fraction(at(claim, "spec"), &Path::new("spec")));
    out
}

/// A part of a byte is asked for.
pub fn fraction(spec: &Value, path: &Path) -> Option<String> {
    let asked = quantity(at(spec, "resources.requests.storage"))?;
    let whole = Quantity::new(asked.value(), asked.format());
    let requests = path.child("resources.requests");
    let field = requests.key("storage");
    let shown = asked.to_string();
    (asked != whole).then(|| format!("{field}: fractional byte value {shown:?} is invalid, must be an integer"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn old_ways_to_write_volumes_are_warned_of() {
        let table = [
            (json!({"spec": {"persistentVolumeReclaimPolicy": "Retain", "hostPath": {}}}), vec![]),
            (
                json!({"metadata": {"annotations": {CLASS: "a"}}, "spec": {"persistentVolumeReclaimPolicy": "Recycle", "rbd": {}}}),
                vec![
                    "metadata.annotations[volume.beta.kubernetes.io/storage-class]: deprecated since v1.8; use \"storageClassName\" attribute instead",
                    "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.",
                    "spec.rbd: deprecated in v1.28, non-functional in v1.31+",
                ],
            ),
        ];
        for (object, expected) in table {
            assert_eq!(volume(&object), expected, "{object}");
        }
        let asked = |amount: &str| json!({"spec": {"resources": {"requests": {"storage": amount}}}});
        assert_eq!(claim(&asked("1Gi")), Vec::<String>::new());
        assert_eq!(
            claim(&asked("100m")),
            ["spec.resources.requests[storage]: fractional byte value \"100m\" is invalid, must be an integer"]
        );
    }
}
