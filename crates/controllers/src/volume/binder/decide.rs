//! What is to become of a claim or a volume, as functions of what the caches show.

use api::volume::{BIND_COMPLETED, BOUND_BY_CONTROLLER, Claim, Class, PROVISIONED_BY, SELECTED_NODE, Volume};
use client::events::EventType::{self, Normal, Warning};

/// What a claim is told.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub kind: EventType,
    pub reason: &'static str,
    pub message: String,
}

fn said(kind: EventType, reason: &'static str, message: impl Into<String>) -> Option<Said> {
    Some(Said { kind, reason, message: message.into() })
}

/// What is to become of a claim.
#[derive(Debug)]
pub(super) enum OfClaim<'v> {
    /// It gets this volume, or has it and what is written of that is to be completed.
    Bind(&'v Volume),
    Wait(Option<Said>),
    /// A volume is to be made for it by its class.
    Provision,
    /// It names no class, and this is the default one.
    Classify(&'v str),
    Lost(Said),
}

/// Decides on a claim.
pub(super) fn claim<'v>(
    claim: &Claim,
    volumes: &'v [Volume],
    classes: &'v [Class],
    waiting_pods: impl FnOnce() -> Vec<String>,
) -> OfClaim<'v> {
    let named = || volumes.iter().find(|volume| volume.metadata.name == claim.spec.volume_name);
    let lost = |reason, message: &str| OfClaim::Lost(Said { kind: Warning, reason, message: message.to_owned() });
    if claim.metadata.has(BIND_COMPLETED) {
        if claim.spec.volume_name.is_empty() {
            return lost(
                "ClaimLost",
                "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
            );
        }
        return match named() {
            None => lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!"),
            Some(volume) if volume.spec.claim_ref.is_none() || volume.is_for(claim) => OfClaim::Bind(volume),
            Some(_) => lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly"),
        };
    }
    if claim.metadata.is_deleting() {
        return OfClaim::Wait(None);
    }
    if claim.spec.volume_name.is_empty() {
        return unnamed(claim, volumes, classes, waiting_pods);
    }
    let Some(volume) = named() else { return OfClaim::Wait(None) };
    if volume.spec.claim_ref.is_none() {
        let Some(why) = claim.mismatch(volume) else { return OfClaim::Bind(volume) };
        let message = format!("Cannot bind to requested volume {:?}: {why}", volume.metadata.name);
        return OfClaim::Wait(said(Warning, "VolumeMismatch", message));
    }
    if volume.is_for(claim) {
        return OfClaim::Bind(volume);
    }
    let message = format!("volume {:?} already bound to a different claim.", volume.metadata.name);
    OfClaim::Wait(said(Warning, "FailedBinding", message))
}

/// A claim that is content with any volume.
fn unnamed<'v>(
    claim: &Claim,
    volumes: &'v [Volume],
    classes: &'v [Class],
    waiting_pods: impl FnOnce() -> Vec<String>,
) -> OfClaim<'v> {
    if !claim.names_class()
        && let Some(class) = default_class(classes)
    {
        return OfClaim::Classify(class);
    }
    let class = classes.iter().find(|class| class.metadata.name == claim.class());
    let delayed = class.is_some_and(Class::is_delayed) && !claim.metadata.has(SELECTED_NODE);
    if let Some(volume) = claim.best_match(volumes.iter(), delayed, None) {
        return OfClaim::Bind(volume);
    }
    if delayed {
        let pods = waiting_pods();
        return OfClaim::Wait(match &pods[..] {
            [] => said(Normal, "WaitForFirstConsumer", "waiting for first consumer to be created before binding"),
            [pod] => said(Normal, "WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled")),
            pods => {
                let message = format!("waiting for pods {} to be scheduled", pods.join(","));
                said(Normal, "WaitForPodScheduled", message)
            }
        });
    }
    if claim.class().is_empty() {
        let message = "no persistent volumes available for this claim and no storage class is set";
        return OfClaim::Wait(said(Normal, "FailedBinding", message));
    }
    OfClaim::Provision
}

/// The newest class that is marked as default.
fn default_class(classes: &[Class]) -> Option<&str> {
    let marked = classes.iter().filter(|class| class.metadata.is_default_class());
    let newest = marked.min_by_key(|class| {
        (std::cmp::Reverse(class.metadata.creation_timestamp.clone()), class.metadata.name.clone())
    });
    newest.map(|class| class.metadata.name.as_str())
}

/// What is to become of a volume.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum OfVolume {
    /// Anybody may have it, or who is meant.
    Available,
    Bound,
    /// Its claim decides.
    Ask,
    /// Its claim cannot use it.
    Mismatch(String),
    /// Its claim has another volume: it is free again; with the user's own choice the claim is still the one of that name.
    Unbind,
    /// Its claim is gone: `Released`, then what its policy says.
    Release,
}

/// Decides on a volume. `claim` is the one of the name in its reference.
pub(super) fn volume(volume: &Volume, claim: Option<&Claim>) -> OfVolume {
    let Some(reference) = &volume.spec.claim_ref else { return OfVolume::Available };
    if reference.uid.is_empty() {
        return if claim.is_some() && !volume.metadata.is_deleting() { OfVolume::Ask } else { OfVolume::Available };
    }
    let Some(claim) = claim.filter(|claim| claim.metadata.uid == reference.uid) else { return OfVolume::Release };
    if claim.spec.volume_name.is_empty() {
        if claim.is_block() == volume.is_block() {
            return OfVolume::Ask;
        }
        return OfVolume::Mismatch(format!(
            "Cannot bind PersistentVolume {:?} to requested PersistentVolumeClaim {:?} due to incompatible volumeMode.",
            volume.metadata.name, claim.metadata.name
        ));
    }
    if claim.spec.volume_name == volume.metadata.name {
        return OfVolume::Bound;
    }
    let made_for_it = volume.metadata.has(PROVISIONED_BY) && volume.spec.persistent_volume_reclaim_policy == "Delete";
    if made_for_it { OfVolume::Release } else { OfVolume::Unbind }
}

/// Whether the binder chose the claim of a volume.
pub(super) fn chosen_here(volume: &Volume) -> bool {
    volume.metadata.has(BOUND_BY_CONTROLLER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn parse<T: serde::de::DeserializeOwned>(object: Value) -> T {
        serde_json::from_value(object).unwrap()
    }

    fn a_claim(annotations: Value, spec: Value) -> Claim {
        let mut object = json!({
            "metadata": {"name": "data", "namespace": "n", "uid": "u", "annotations": annotations},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        });
        object["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        parse(object)
    }

    fn a_volume(annotations: Value, reference: Value) -> Volume {
        parse(json!({
            "metadata": {"name": "v", "annotations": annotations},
            "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "claimRef": reference,
                "persistentVolumeReclaimPolicy": "Delete"},
            "status": {"phase": "Available"},
        }))
    }

    fn class(name: &str, mode: &str, default: bool) -> Class {
        parse(json!({"metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z",
            "annotations": {"storageclass.kubernetes.io/is-default-class": default.to_string()}}, "volumeBindingMode": mode}))
    }

    /// A decision in a few words.
    fn words(decision: OfClaim) -> String {
        match decision {
            OfClaim::Bind(volume) => format!("bind {}", volume.metadata.name),
            OfClaim::Wait(None) => "wait".to_owned(),
            OfClaim::Wait(Some(said)) | OfClaim::Lost(said) => format!("{}: {}", said.reason, said.message),
            OfClaim::Provision => "provision".to_owned(),
            OfClaim::Classify(class) => format!("class {class}"),
        }
    }

    #[test]
    fn claims_are_bound_wait_are_provisioned_or_lost() {
        let done = json!({BIND_COMPLETED: "yes"});
        let mine = json!({"namespace": "n", "name": "data", "uid": "u"});
        let others = json!({"namespace": "n", "name": "other", "uid": "o"});
        let named = json!({"volumeName": "v"});
        let none = json!({});
        let cheap = json!({"storageClassName": "cheap"});
        let late = json!({"storageClassName": "late"});
        let table = [
            (none.clone(), json!({"storageClassName": ""}), Some(Value::Null), "bind v"),
            (
                none.clone(),
                json!({"storageClassName": ""}),
                Some(others.clone()),
                "FailedBinding: no persistent volumes available for this claim and no storage class is set",
            ),
            (none.clone(), none.clone(), None, "class late"),
            (none.clone(), cheap.clone(), None, "provision"),
            (none.clone(), late.clone(), None, "WaitForPodScheduled: waiting for pod p to be scheduled"),
            (json!({SELECTED_NODE: "a"}), late, None, "provision"),
            (none.clone(), named.clone(), None, "wait"),
            (none.clone(), named.clone(), Some(Value::Null), "bind v"),
            (none.clone(), named.clone(), Some(mine.clone()), "bind v"),
            (
                none.clone(),
                named.clone(),
                Some(others.clone()),
                "FailedBinding: volume \"v\" already bound to a different claim.",
            ),
            (
                none.clone(),
                json!({"volumeName": "v", "accessModes": ["ReadOnlyMany"]}),
                Some(Value::Null),
                "VolumeMismatch: Cannot bind to requested volume \"v\": incompatible accessMode",
            ),
            (done.clone(), named.clone(), Some(mine), "bind v"),
            (done.clone(), named.clone(), Some(Value::Null), "bind v"),
            (
                done.clone(),
                named.clone(),
                Some(others),
                "ClaimMisbound: Two claims are bound to the same volume, this one is bound incorrectly",
            ),
            (
                done.clone(),
                named,
                None,
                "ClaimLost: Bound claim has lost its PersistentVolume. Data on the volume is lost!",
            ),
            (
                done,
                none,
                None,
                "ClaimLost: Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
            ),
        ];
        let classes = [class("cheap", "Immediate", false), class("late", "WaitForFirstConsumer", true)];
        for (annotations, spec, reference, expected) in table {
            let volumes: Vec<Volume> = reference.iter().map(|it| a_volume(json!({}), it.clone())).collect();
            let about = format!("{annotations} {spec} {reference:?}");
            let decision = claim(&a_claim(annotations, spec), &volumes, &classes, || vec!["p".to_owned()]);
            assert_eq!(words(decision), expected, "{about}");
        }
    }

    #[test]
    fn volumes_follow_their_claims() {
        let mine = || json!({"namespace": "n", "name": "data", "uid": "u"});
        let unbound = || Some(a_claim(json!({}), json!({})));
        let has = |name: &str| Some(a_claim(json!({}), json!({"volumeName": name})));
        let table = [
            (json!({}), Value::Null, None, OfVolume::Available),
            (json!({}), json!({"namespace": "n", "name": "data"}), None, OfVolume::Available),
            (json!({}), json!({"namespace": "n", "name": "data"}), unbound(), OfVolume::Ask),
            (json!({}), mine(), None, OfVolume::Release),
            (json!({}), mine(), unbound(), OfVolume::Ask),
            (json!({}), mine(), has("v"), OfVolume::Bound),
            (json!({}), mine(), has("w"), OfVolume::Unbind),
            (json!({PROVISIONED_BY: "x"}), mine(), has("w"), OfVolume::Release),
            (json!({}), json!({"namespace": "n", "name": "data", "uid": "before"}), unbound(), OfVolume::Release),
        ];
        for (annotations, reference, claim, expected) in table {
            let about = format!("{annotations} {reference} {claim:?}");
            assert_eq!(volume(&a_volume(annotations, reference), claim.as_ref()), expected, "{about}");
        }
    }
}
