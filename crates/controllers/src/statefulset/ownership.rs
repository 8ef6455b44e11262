//! Who owns a member's claims, by which the garbage collector deletes them or not. Functions of values.

use client::{Item, Owner};
use k8s_openapi::{
    api::{apps::v1::StatefulSet, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};

use super::decide::Desired;
use crate::owner::{Named, controller_reference};

/// What a claim's owner references should be.
#[derive(Debug, PartialEq)]
pub(super) enum Ownership {
    /// What they are, or nothing that we may change.
    Fits,
    /// These.
    Becomes(Vec<OwnerReference>),
    /// These, without ours, since somebody else manages the claim.
    Conflicts(Vec<OwnerReference>),
}

/// The pod that a claim is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member<'a> {
    pub ordinal: i32,
    pub name: &'a str,
    /// None for a pod that is yet to be made.
    pub uid: Option<&'a str>,
}

/// Whether claims go when the set is deleted, and when it shrinks.
fn policy(set: &StatefulSet) -> (bool, bool) {
    let policy = set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
    let deletes = |policy: Option<&String>| policy.is_some_and(|policy| policy == "Delete");
    let (deleted, scaled) = policy.map(|policy| (&policy.when_deleted, &policy.when_scaled)).unzip();
    (deletes(deleted.and_then(Option::as_ref)), deletes(scaled.and_then(Option::as_ref)))
}

/// Whether a reference names the set, of whichever uid.
fn names_set(owner: &Owner, set: &StatefulSet) -> bool {
    &*owner.api_version == "apps/v1" && &*owner.kind == "StatefulSet" && *owner.name == *set.name()
}

/// Whether a reference names the pod, of whichever uid.
fn names_pod(owner: &Owner, pod: &Member<'_>) -> bool {
    &*owner.api_version == "v1" && &*owner.kind == "Pod" && *owner.name == *pod.name
}

/// Whether a claim is to go with a pod that is gone already, so that the next pod has to wait for another claim.
pub(super) fn is_stale(set: &StatefulSet, pod: &Member<'_>, claim: &Item) -> bool {
    let (_, scaled) = policy(set);
    let owner = claim.owners.iter().find(|owner| names_pod(owner, pod));
    scaled && owner.is_some_and(|owner| Some(&*owner.uid) != pod.uid)
}

/// A claim that is to go with the set is owned by it, and one that is to go when the set shrinks by its condemned pod.
/// Claims that were a predecessor's are left to the garbage collector.
pub(super) fn ownership(set: &StatefulSet, desired: &Desired, pod: &Member<'_>, claim: &Item) -> Ownership {
    let is_set = |owner: &Owner| *owner.uid == *set.uid();
    let is_pod = |owner: &Owner| Some(&*owner.uid) == pod.uid;
    let owners = || claim.owners.iter();
    let first_set = owners().find(|owner| names_set(owner, set));
    let first_pod = owners().find(|owner| names_pod(owner, pod));
    if first_set.is_some_and(|owner| !is_set(owner)) || first_pod.is_some_and(|owner| !is_pod(owner)) {
        return Ownership::Fits;
    }
    let (deleted, scaled) = policy(set);
    let (has_set, has_pod) = (owners().any(is_set), owners().any(is_pod));
    let others: Vec<OwnerReference> =
        owners().filter(|owner| !names_set(owner, set) && !names_pod(owner, pod)).map(reference).collect();
    let ours = |owner: &Owner| (names_set(owner, set) && is_set(owner)) || (names_pod(owner, pod) && is_pod(owner));
    if (deleted || scaled) && owners().any(|owner| owner.controller && !ours(owner)) {
        return if has_set || has_pod { Ownership::Conflicts(others) } else { Ownership::Fits };
    }
    let condemned = !desired.ordinals().contains(&pod.ordinal);
    let pod_owns = scaled && condemned;
    let set_owns = deleted && !pod_owns;
    let manage = owners().filter(|owner| is_set(owner) || is_pod(owner)).all(|owner| owner.controller);
    if manage && (has_set, has_pod) == (set_owns, pod_owns) {
        return Ownership::Fits;
    }
    let mut owners = others;
    if set_owns {
        owners.push(controller_reference(set));
    }
    if let Some(uid) = pod.uid.filter(|_| pod_owns) {
        let mut pod_of_this_name = Pod::default();
        pod_of_this_name.metadata.name = Some(pod.name.to_owned());
        pod_of_this_name.metadata.uid = Some(uid.to_owned());
        owners.push(controller_reference(&pod_of_this_name));
    }
    Ownership::Becomes(owners)
}

/// What is told of a claim that somebody else manages, misspelt as upstream has it.
pub(super) fn conflict(claim: &str) -> String {
    format!(
        "PersistentVolumeClaim {claim} has a conflicting OwnerReference that acts as a manging controller, the retention \
         policy is ignored for this claim"
    )
}

fn reference(owner: &Owner) -> OwnerReference {
    OwnerReference {
        api_version: owner.api_version.to_string(),
        kind: owner.kind.to_string(),
        name: owner.name.to_string(),
        uid: owner.uid.to_string(),
        controller: owner.controller.then_some(true),
        block_owner_deletion: owner.block_owner_deletion.then_some(true),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::pods::tests::item;

    /// A reference from `StatefulSet/db/u`, with `*` at the end of one that manages.
    fn owner(text: &str) -> Value {
        let parts: Vec<&str> = text.trim_end_matches('*').split('/').collect();
        let version = if parts[0] == "Pod" { "v1" } else { "apps/v1" };
        json!({"apiVersion": version, "kind": parts[0], "name": parts[1], "uid": parts[2],
            "controller": text.ends_with('*'), "blockOwnerDeletion": text.ends_with('*')})
    }

    fn claim(owners: &str) -> std::sync::Arc<Item> {
        let owners: Vec<Value> = owners.split_whitespace().map(owner).collect();
        item(json!({"metadata": {"name": "data-db-2", "ownerReferences": owners}}))
    }

    fn set(deleted: &str, scaled: &str) -> StatefulSet {
        serde_json::from_value(json!({"metadata": {"name": "db", "uid": "s"}, "spec": {"replicas": 2,
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled}}}))
        .unwrap()
    }

    fn told(owners: &[OwnerReference]) -> String {
        let line = |owner: &OwnerReference| {
            let mark = if owner.controller == Some(true) { "*" } else { "" };
            format!("{}/{}/{}{mark}", owner.kind, owner.name, owner.uid)
        };
        owners.iter().map(line).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_conflict_is_told_in_upstreams_words() {
        assert_eq!(
            conflict("data-db-0"),
            "PersistentVolumeClaim data-db-0 has a conflicting OwnerReference that acts as a manging controller, the retention policy is ignored for this claim"
        );
    }

    #[test]
    fn claims_are_owned_by_what_they_are_to_go_with() {
        const SET: &str = "StatefulSet/db/s*";
        const POD: &str = "Pod/db-2/p*";
        let (keep, go) = ("Retain", "Delete");
        // Deleted, scaled, ordinal (two replicas), owners; then what they become.
        let cases = [
            (keep, keep, 1, "", "fits"),
            (keep, keep, 1, SET, ""),
            (keep, keep, 1, "App/x/1*", "fits"),
            (go, keep, 1, "", SET),
            (go, keep, 1, SET, "fits"),
            (go, keep, 1, "StatefulSet/db/s", SET),
            (go, keep, 1, "App/x/1", "App/x/1 StatefulSet/db/s*"),
            (go, keep, 1, "App/x/1*", "fits"),
            (go, keep, 1, "App/x/1* StatefulSet/db/s*", "conflicts App/x/1*"),
            (go, keep, 1, "StatefulSet/db/former*", "fits"),
            (go, keep, 2, "", SET),
            (keep, go, 1, "", "fits"),
            (keep, go, 2, "", POD),
            (keep, go, 2, POD, "fits"),
            (keep, go, 2, "Pod/db-2/former*", "fits"),
            (keep, go, 1, POD, ""),
            (go, go, 1, "", SET),
            (go, go, 2, SET, POD),
            (go, go, 1, POD, SET),
        ];
        for (deleted, scaled, ordinal, owners, expected) in cases {
            let set = set(deleted, scaled);
            let pod = Member { ordinal, name: "db-2", uid: Some("p") };
            let made = match ownership(&set, &Desired::of(&set), &pod, &claim(owners)) {
                Ownership::Fits => "fits".to_owned(),
                Ownership::Becomes(owners) => told(&owners),
                Ownership::Conflicts(owners) => format!("conflicts {}", told(&owners)),
            };
            assert_eq!(made, expected, "{deleted} {scaled} {ordinal} {owners}");
        }
    }

    #[test]
    fn a_claim_of_a_pod_that_is_gone_is_stale_where_it_goes_with_it() {
        let pod = Member { ordinal: 2, name: "db-2", uid: None };
        let cases = [
            ("Delete", "Pod/db-2/former*", true),
            ("Delete", "Pod/db-1/other*", false),
            ("Delete", "", false),
            ("Retain", "Pod/db-2/former*", false),
        ];
        for (scaled, owners, expected) in cases {
            assert_eq!(is_stale(&set("Retain", scaled), &pod, &claim(owners)), expected, "{scaled} {owners}");
        }
    }
}
