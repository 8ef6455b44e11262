//! One member of a StatefulSet: its pod and its claims. Functions of values.

use client::Item;
use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};

use super::decide::{self, Desired};
use crate::{
    owner::{Named, controller_reference},
    pods, revisions,
};

/// The pod of an ordinal, of a revision's template.
pub(super) fn pod(set: &StatefulSet, ordinal: i32, template: &PodTemplateSpec, revision: &str) -> Pod {
    let name = format!("{}-{ordinal}", set.name());
    let mut pod = pods::from_template(template, controller_reference(set));
    pod.metadata.name = Some(name.clone());
    pod.metadata.labels.get_or_insert_default().extend([
        ("statefulset.kubernetes.io/pod-name".to_owned(), name.clone()),
        ("apps.kubernetes.io/pod-index".to_owned(), ordinal.to_string()),
        (revisions::HASH_LABEL.to_owned(), revision.to_owned()),
    ]);
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name);
    spec.subdomain = set.spec.as_ref().and_then(|spec| spec.service_name.clone());
    let own = templates(set).map(|(name, _)| Volume {
        name: name.to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: format!("{name}-{}-{ordinal}", set.name()),
            read_only: Some(false),
        }),
        ..Volume::default()
    });
    // The set's own volumes replace the template's of the same name.
    let own: Vec<Volume> = own.collect();
    let others = spec.volumes.take().unwrap_or_default();
    let others = others.into_iter().filter(|volume| !own.iter().any(|mine| mine.name == volume.name));
    let volumes: Vec<Volume> = others.chain(own.clone()).collect();
    spec.volumes = (!volumes.is_empty()).then_some(volumes);
    pod
}

fn templates(set: &StatefulSet) -> impl Iterator<Item = (&str, &PersistentVolumeClaim)> {
    let templates = set.spec.iter().flat_map(|spec| spec.volume_claim_templates.iter().flatten());
    templates.map(|template| (template.name(), template))
}

/// The claims that an ordinal's pod needs.
pub(super) fn claims(set: &StatefulSet, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let selector = set.spec.as_ref().and_then(|spec| spec.selector.match_labels.clone()).unwrap_or_default();
    let claim = |(name, template): (&str, &PersistentVolumeClaim)| {
        let mut labels = template.metadata.labels.clone().unwrap_or_default();
        labels.extend(selector.clone());
        PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(format!("{name}-{}-{ordinal}", set.name())),
                labels: Some(labels),
                annotations: template.metadata.annotations.clone(),
                ..ObjectMeta::default()
            },
            spec: template.spec.clone(),
            status: None,
        }
    };
    templates(set).map(claim).collect()
}

/// The ordinal that a claim is for, if it is one of the set's.
pub(super) fn claim_ordinal(set: &StatefulSet, claim: &str) -> Option<i32> {
    templates(set).find_map(|(name, _)| decide::ordinal(set.name(), claim.strip_prefix(name)?.strip_prefix('-')?))
}

/// The owners that a claim should have by the set's retention policy; none if it has them. A claim that is to go with the
/// set is owned by it, and one that is to go when the set shrinks is owned by its condemned pod.
pub(super) fn claim_owners(
    set: &StatefulSet,
    desired: &Desired,
    ordinal: i32,
    claim: &Item,
    pod: Option<&Item>,
) -> Option<Vec<OwnerReference>> {
    let policy = set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.clone());
    let policy = policy.unwrap_or_default();
    let deletes = |policy: &Option<String>| policy.as_deref() == Some("Delete");
    let condemned = !(desired.start..desired.start + desired.replicas).contains(&ordinal);
    let set_owns = deletes(&policy.when_deleted) && !(condemned && deletes(&policy.when_scaled));
    let pod_owns = deletes(&policy.when_scaled) && condemned;
    let is_ours = |owner: &client::Owner| {
        *owner.uid == *set.uid() || (&*owner.kind == "Pod" && owner.name.starts_with(set.name()))
    };
    let reference = |owner: &client::Owner| OwnerReference {
        api_version: owner.api_version.to_string(),
        kind: owner.kind.to_string(),
        name: owner.name.to_string(),
        uid: owner.uid.to_string(),
        controller: Some(owner.controller),
        block_owner_deletion: Some(owner.block_owner_deletion),
    };
    let mut owners: Vec<OwnerReference> = claim.owners.iter().filter(|owner| !is_ours(owner)).map(reference).collect();
    if set_owns {
        owners.push(controller_reference(set));
    }
    if let Some(pod) = pod.filter(|_| pod_owns) {
        owners.push(OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            name: pod.name().to_owned(),
            uid: pod.uid.to_string(),
            controller: None,
            block_owner_deletion: None,
        });
    }
    let uids = |owners: &[OwnerReference]| owners.iter().map(|owner| owner.uid.clone()).collect::<Vec<_>>();
    let present: Vec<String> = claim.owners.iter().map(|owner| owner.uid.to_string()).collect();
    (uids(&owners) != present).then_some(owners)
}
