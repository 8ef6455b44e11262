//! Volumes and claims as those see them who bring them together: the binder, which takes any volume, and the scheduler, which
//! takes one that a node can reach.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::quantity::{Format, Quantity};
use crate::selector::LabelSelector;

/// On a claim: its binding was completed once. On a volume and on a claim: the other side was chosen by the binder, not by the user.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a volume: who made it.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On a claim: who is to make its volume, under its two names.
pub const PROVISIONERS: [&str; 2] =
    ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];
/// On a claim: the node whose pod waits for the volume.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Where the class was before it had a field.
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// The provisioner of classes whose volumes are all made by hand.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// The provisioner of this cluster's own default class: directories on the nodes' disks.
pub const LOCAL_PATH: &str = "regatta.dev/local-path";
/// On a node: the directory below which it keeps those.
pub const LOCAL_PATH_ROOT: &str = "regatta.dev/local-path-root";
/// Holds a volume until its node has removed the data.
pub const LOCAL_PATH_FINALIZER: &str = "regatta.dev/local-path";
/// The annotations that mark the class for claims that name none.
pub const DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Meta {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub resource_version: String,
    pub deletion_timestamp: Option<String>,
    pub creation_timestamp: Option<String>,
    pub labels: Map<String, Value>,
    pub annotations: BTreeMap<String, String>,
    pub finalizers: Vec<String>,
}

impl Meta {
    pub fn has(&self, annotation: &str) -> bool {
        self.annotations.contains_key(annotation)
    }

    pub fn is_deleting(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    /// Whether a class is the one for claims that name none.
    pub fn is_default_class(&self) -> bool {
        DEFAULT_CLASS.iter().any(|mark| self.annotations.get(*mark).is_some_and(|value| value == "true"))
    }
}

/// A PersistentVolume.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Volume {
    pub metadata: Meta,
    pub spec: VolumeSpec,
    pub status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VolumeSpec {
    pub storage_class_name: Option<String>,
    pub access_modes: Vec<String>,
    pub volume_mode: Option<String>,
    pub capacity: BTreeMap<String, Value>,
    pub claim_ref: Option<ClaimRef>,
    pub node_affinity: Option<NodeAffinity>,
    pub persistent_volume_reclaim_policy: String,
    pub volume_attributes_class_name: Option<String>,
    /// The volume's source by its kind, and all else.
    #[serde(flatten)]
    pub source: Map<String, Value>,
}

/// Whom a volume is for; without a uid, whoever has that name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ClaimRef {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeAffinity {
    pub required: Option<NodeSelector>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeSelector {
    pub node_selector_terms: Vec<NodeTerm>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeTerm {
    pub match_expressions: Vec<Value>,
    pub match_fields: Vec<Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Status {
    pub phase: String,
    pub access_modes: Vec<String>,
    pub capacity: BTreeMap<String, Value>,
    pub current_volume_attributes_class_name: Option<String>,
}

/// A PersistentVolumeClaim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Claim {
    pub metadata: Meta,
    pub spec: ClaimSpec,
    pub status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClaimSpec {
    pub storage_class_name: Option<String>,
    pub access_modes: Vec<String>,
    pub volume_mode: Option<String>,
    pub volume_name: String,
    pub selector: Option<Value>,
    pub resources: Resources,
    pub volume_attributes_class_name: Option<String>,
    pub data_source: Option<Value>,
    pub data_source_ref: Option<Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Resources {
    pub requests: BTreeMap<String, Value>,
}

/// The amount of storage in a list of resources; none counts as zero.
fn storage(amounts: &BTreeMap<String, Value>) -> Quantity {
    let parse = |value: &Value| match value {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
    };
    amounts.get("storage").and_then(parse).unwrap_or_else(|| Quantity::new(0, Format::BinarySi))
}

fn class<'a>(meta: &'a Meta, field: Option<&'a String>) -> &'a str {
    meta.annotations.get(CLASS).or(field).map(String::as_str).unwrap_or_default()
}

fn is_block(mode: Option<&String>) -> bool {
    mode.is_some_and(|mode| mode == "Block")
}

impl Volume {
    pub fn class(&self) -> &str {
        class(&self.metadata, self.spec.storage_class_name.as_ref())
    }

    pub fn capacity(&self) -> Quantity {
        storage(&self.spec.capacity)
    }

    pub fn is_block(&self) -> bool {
        is_block(self.spec.volume_mode.as_ref())
    }

    /// Whether it is meant for this very claim.
    pub fn is_for(&self, claim: &Claim) -> bool {
        let Meta { namespace, name, uid, .. } = &claim.metadata;
        self.spec.claim_ref.as_ref().is_some_and(|claim| {
            claim.name == *name && claim.namespace == *namespace && (claim.uid.is_empty() || claim.uid == *uid)
        })
    }

    /// Whether a node can reach it.
    pub fn reaches<'a>(&self, node: &str, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        let Some(selector) = self.spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref()) else {
            return true;
        };
        selector.admits(node, label)
    }
}

impl NodeSelector {
    /// Whether one of its terms chooses the node of that name with those labels.
    pub fn admits<'a>(&self, node: &str, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        let field = |key: &str| (key == "metadata.name").then_some(node);
        self.node_selector_terms.iter().any(|term| {
            !(term.match_expressions.is_empty() && term.match_fields.is_empty())
                && term.match_expressions.iter().all(|it| holds(it, &label))
                && term.match_fields.iter().all(|it| holds(it, field))
        })
    }
}

/// Whether a requirement of a node selector holds of a label or field.
fn holds<'a>(requirement: &Value, value_of: impl Fn(&str) -> Option<&'a str>) -> bool {
    let value = value_of(requirement["key"].as_str().unwrap_or_default());
    let values = || requirement["values"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let among = || value.is_some_and(|value| values().any(|known| known == value));
    let number = || Some((value?.parse::<i64>().ok()?, values().next()?.parse::<i64>().ok()?));
    match requirement["operator"].as_str() {
        Some("In") => among(),
        Some("NotIn") => !among(),
        Some("Exists") => value.is_some(),
        Some("DoesNotExist") => value.is_none(),
        Some("Gt") => number().is_some_and(|(value, bound)| value > bound),
        Some("Lt") => number().is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

impl Claim {
    pub fn class(&self) -> &str {
        class(&self.metadata, self.spec.storage_class_name.as_ref())
    }

    /// Whether it says anything of its class; the empty one is a choice too.
    pub fn names_class(&self) -> bool {
        self.spec.storage_class_name.is_some() || self.metadata.has(CLASS)
    }

    pub fn request(&self) -> Quantity {
        storage(&self.spec.resources.requests)
    }

    /// What it has, as its status tells.
    pub fn capacity(&self) -> Quantity {
        storage(&self.status.capacity)
    }

    pub fn is_block(&self) -> bool {
        is_block(self.spec.volume_mode.as_ref())
    }

    /// Whether binder and claim are done with each other.
    pub fn is_fully_bound(&self) -> bool {
        !self.spec.volume_name.is_empty() && self.metadata.has(BIND_COMPLETED)
    }

    /// Whether its volume allows all that the claim wants to do.
    fn may_access(&self, volume: &Volume) -> bool {
        self.spec.access_modes.iter().all(|mode| volume.spec.access_modes.contains(mode))
    }

    fn selects(&self, volume: &Volume) -> bool {
        match &self.spec.selector {
            None => true,
            Some(selector) => LabelSelector::from_object(selector)
                .is_ok_and(|selector| selector.matches(Some(&volume.metadata.labels))),
        }
    }

    /// Why the volume that the claim names is none for it, in upstream's words.
    pub fn mismatch(&self, volume: &Volume) -> Option<&'static str> {
        if volume.capacity() < self.request() {
            return Some("requested PV is too small");
        }
        if volume.class() != self.class() {
            return Some("storageClassName does not match");
        }
        let attributes = |name: &Option<String>| name.clone().unwrap_or_default();
        if attributes(&volume.spec.volume_attributes_class_name) != attributes(&self.spec.volume_attributes_class_name)
        {
            return Some("volumeAttributesClassName does not match");
        }
        if volume.is_block() != self.is_block() {
            return Some("incompatible volumeMode");
        }
        (!self.may_access(volume)).then_some("incompatible accessMode")
    }

    /// The volume that this claim is to have: the one that is meant for it, else, of those that allow the fewest modes beyond what
    /// it asks, the smallest that does.
    ///
    /// `reaches` says which volumes a node can reach. Without it only a volume that is meant for the claim is given where
    /// `delayed` is set, since the choice is then the scheduler's.
    pub fn best_match<'v>(
        &self,
        volumes: impl Iterator<Item = &'v Volume>,
        delayed: bool,
        reaches: Option<&dyn Fn(&Volume) -> bool>,
    ) -> Option<&'v Volume> {
        let mut best: Option<(usize, Quantity, &Volume)> = None;
        for volume in volumes {
            let mine = volume.is_for(self);
            if volume.spec.claim_ref.is_some() && !mine || volume.metadata.is_deleting() {
                continue;
            }
            let misfit = self.mismatch(volume);
            if mine {
                // Its maker chose the claim; class and modes are checked when they are bound.
                let fits = !matches!(
                    misfit,
                    Some(
                        "requested PV is too small"
                            | "incompatible volumeMode"
                            | "volumeAttributesClassName does not match"
                    )
                );
                if fits && reaches.is_none_or(|reaches| reaches(volume)) {
                    return Some(volume);
                }
                continue;
            }
            let free = volume.status.phase == "Available" && misfit.is_none() && self.selects(volume);
            let chosen_here = reaches.map_or(!delayed, |reaches| reaches(volume));
            if !free || !chosen_here {
                continue;
            }
            let key = (volume.spec.access_modes.len(), volume.capacity());
            if best.as_ref().is_none_or(|(modes, capacity, _)| key < (*modes, *capacity)) {
                best = Some((key.0, key.1, volume));
            }
        }
        best.map(|(_, _, volume)| volume)
    }
}

/// A StorageClass.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Class {
    pub metadata: Meta,
    pub provisioner: String,
    pub reclaim_policy: Option<String>,
    pub volume_binding_mode: Option<String>,
    pub allow_volume_expansion: bool,
    pub mount_options: Vec<String>,
    pub parameters: BTreeMap<String, String>,
    pub allowed_topologies: Vec<Topology>,
}

/// A term of `allowedTopologies`: all its label expressions must hold.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Topology {
    pub match_label_expressions: Vec<TopologyLabel>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TopologyLabel {
    pub key: String,
    pub values: Vec<String>,
}

impl Class {
    /// Whether volumes are chosen when the node is known.
    pub fn is_delayed(&self) -> bool {
        self.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
    }

    /// Whether volumes may be made for a node; without topologies, for any.
    pub fn allows<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        let term = |term: &Topology| {
            term.match_label_expressions
                .iter()
                .all(|it| label(&it.key).is_some_and(|value| it.values.iter().any(|known| known == value)))
        };
        self.allowed_topologies.is_empty() || self.allowed_topologies.iter().any(term)
    }
}

/// Whether a set of labels, as topologies and capacities name them, is selected; used where a selector object is given.
pub fn selects<'a>(selector: &Value, label: impl Fn(&str) -> Option<&'a str>) -> bool {
    LabelSelector::from_object(selector).is_ok_and(|selector| selector.matches_with(label))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn volume(name: &str, size: &str, more: Value) -> Volume {
        let object = json!({
            "metadata": {"name": name},
            "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "c"},
            "status": {"phase": "Available"},
        });
        serde_json::from_value(crate::patch::merge(&object, &more).unwrap()).unwrap()
    }

    fn claim(more: Value) -> Claim {
        let object = json!({
            "metadata": {"name": "data", "namespace": "n", "uid": "u"},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "c", "resources": {"requests": {"storage": "2Gi"}}},
        });
        serde_json::from_value(crate::patch::merge(&object, &more).unwrap()).unwrap()
    }

    #[test]
    fn the_smallest_volume_that_fits_is_taken_and_one_that_is_meant_for_the_claim_before_all() {
        let all = |extra: Value| {
            [
                volume("large", "9Gi", json!({})),
                volume("small", "1Gi", json!({})),
                volume("fits", "3Gi", json!({"metadata": {"labels": {"tier": "gold"}}})),
                volume("many", "2Gi", json!({"spec": {"accessModes": ["ReadWriteOnce", "ReadWriteMany"]}})),
                volume("other", "2Gi", json!({"spec": {"storageClassName": "d"}})),
                volume("block", "2Gi", json!({"spec": {"volumeMode": "Block"}})),
                volume("going", "2Gi", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})),
                volume("fresh", "2Gi", json!({"status": {"phase": "Pending"}})),
                volume("taken", "2Gi", json!({"spec": {"claimRef": {"namespace": "n", "name": "data", "uid": "old"}}})),
                volume("last", "20Gi", extra),
            ]
        };
        let none = json!({"spec": {"claimRef": {"namespace": "x", "name": "data"}}});
        let meant = json!({"spec": {"claimRef": {"namespace": "n", "name": "data"}}});
        let gold = json!({"spec": {"selector": {"matchLabels": {"tier": "gold"}}}});
        let lead = json!({"spec": {"selector": {"matchLabels": {"tier": "lead"}}}});
        let table = [
            ("smallest", json!({}), none.clone(), Some("fits")),
            ("meant for it", json!({}), meant, Some("last")),
            ("selected", gold, none.clone(), Some("fits")),
            ("none is selected", lead, none.clone(), None),
            ("all modes", json!({"spec": {"accessModes": ["ReadWriteMany"]}}), none.clone(), Some("many")),
            ("no such mode", json!({"spec": {"accessModes": ["ReadOnlyMany"]}}), none.clone(), None),
            ("block", json!({"spec": {"volumeMode": "Block"}}), none.clone(), Some("block")),
            ("another class", json!({"spec": {"storageClassName": "d"}}), none.clone(), Some("other")),
            ("no class", json!({"spec": {"storageClassName": ""}}), none.clone(), None),
            ("too large", json!({"spec": {"resources": {"requests": {"storage": "10Gi"}}}}), none, None),
        ];
        for (what, wanted, last, expected) in table {
            let all = all(last);
            let found = claim(wanted).best_match(all.iter(), false, None);
            assert_eq!(found.map(|volume| volume.metadata.name.as_str()), expected, "{what}");
        }
    }

    #[test]
    fn a_delayed_choice_is_made_for_a_node_alone() {
        let affinity = |node: &str| {
            json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "host", "operator": "In", "values": [node]}]}]}}}})
        };
        let all = [volume("here", "3Gi", affinity("a")), volume("there", "2Gi", affinity("b"))];
        let at = |node: &'static str| {
            move |volume: &Volume| volume.reaches(node, |key: &str| (key == "host").then_some(node))
        };
        let name = |found: Option<&Volume>| found.map(|volume| volume.metadata.name.clone());
        assert_eq!(name(claim(json!({})).best_match(all.iter(), true, None)), None);
        assert_eq!(name(claim(json!({})).best_match(all.iter(), true, Some(&at("a")))), Some("here".into()));
        assert_eq!(name(claim(json!({})).best_match(all.iter(), true, Some(&at("b")))), Some("there".into()));
        assert_eq!(name(claim(json!({})).best_match(all.iter(), true, Some(&at("c")))), None);
    }

    #[test]
    fn a_claim_that_names_a_volume_is_told_why_it_is_none_for_it() {
        let table = [
            (json!({}), None),
            (json!({"spec": {"capacity": {"storage": "1Gi"}}}), Some("requested PV is too small")),
            (json!({"spec": {"storageClassName": ""}}), Some("storageClassName does not match")),
            (json!({"spec": {"volumeMode": "Block"}}), Some("incompatible volumeMode")),
            (json!({"spec": {"accessModes": ["ReadOnlyMany"]}}), Some("incompatible accessMode")),
            (json!({"spec": {"volumeAttributesClassName": "fast"}}), Some("volumeAttributesClassName does not match")),
        ];
        for (more, expected) in table {
            assert_eq!(claim(json!({})).mismatch(&volume("v", "2Gi", more.clone())), expected, "{more}");
        }
    }
}
