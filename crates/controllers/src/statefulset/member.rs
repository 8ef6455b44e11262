//! One member of a StatefulSet: its pod and its claims. Functions of values.

use client::Item;
use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    owner::{Named, controller_reference},
    pods, revisions,
};

const POD_NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// The pod of an ordinal, of a revision's template.
pub(super) fn pod(set: &StatefulSet, ordinal: i32, template: &PodTemplateSpec, revision: &str) -> Pod {
    let name = format!("{}-{ordinal}", set.name());
    let mut pod = pods::from_template(template, controller_reference(set));
    pod.metadata.name = Some(name.clone());
    pod.metadata.labels.get_or_insert_default().extend([
        (POD_NAME_LABEL.to_owned(), name.clone()),
        (POD_INDEX_LABEL.to_owned(), ordinal.to_string()),
        (revisions::HASH_LABEL.to_owned(), revision.to_owned()),
    ]);
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name);
    spec.subdomain = set.spec.as_ref().and_then(|spec| spec.service_name.clone());
    spec.volumes = with_volumes(spec.volumes.take(), own_volumes(set, ordinal));
    pod
}

fn own_volumes(set: &StatefulSet, ordinal: i32) -> Vec<Volume> {
    let own = templates(set).map(|(name, _)| Volume {
        name: name.to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: format!("{name}-{}-{ordinal}", set.name()),
            read_only: Some(false),
        }),
        ..Volume::default()
    });
    own.collect()
}

/// The set's own volumes replace the others of the same name.
fn with_volumes(others: Option<Vec<Volume>>, own: Vec<Volume>) -> Option<Vec<Volume>> {
    let others = others.unwrap_or_default().into_iter();
    let others = others.filter(|volume| !own.iter().any(|mine| mine.name == volume.name));
    let volumes: Vec<Volume> = others.chain(own.clone()).collect();
    (!volumes.is_empty()).then_some(volumes)
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

/// The names of an ordinal's claims.
pub(super) fn claim_names(set: &StatefulSet, ordinal: i32) -> Vec<String> {
    templates(set).map(|(name, _)| format!("{name}-{}-{ordinal}", set.name())).collect()
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    spec: RawSpec,
}

#[derive(Default, Deserialize)]
struct RawSpec {
    volumes: Option<Vec<RawVolume>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawVolume {
    name: String,
    persistent_volume_claim: Option<RawClaim>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawClaim {
    claim_name: String,
}

/// What of an adopted pod is not as the set makes its pods, as the patch that makes it so; none if all is well.
pub(super) fn repair(set: &StatefulSet, ordinal: i32, item: &Item) -> Result<Option<Value>, serde_json::Error> {
    let mut patch = json!({});
    if item.labels.get(POD_NAME_LABEL) != Some(item.name()) {
        patch["metadata"]["labels"] = json!({POD_NAME_LABEL: item.name(), POD_INDEX_LABEL: ordinal.to_string()});
    }
    if templates(set).next().is_some() && !has_volumes(set, ordinal, item)? {
        let pod: Pod = item.parse()?;
        let own = own_volumes(set, ordinal);
        patch["spec"]["volumes"] = serde_json::to_value(with_volumes(pod.spec.and_then(|spec| spec.volumes), own))?;
    }
    if patch == json!({}) {
        return Ok(None);
    }
    patch["metadata"]["uid"] = json!(item.uid);
    patch["metadata"]["resourceVersion"] = json!(item.resource_version.to_string());
    Ok(Some(patch))
}

/// Whether the pod mounts the claims of its ordinal.
fn has_volumes(set: &StatefulSet, ordinal: i32, item: &Item) -> Result<bool, serde_json::Error> {
    let raw: Raw = item.parse()?;
    let volumes = raw.spec.volumes.unwrap_or_default();
    Ok(templates(set).all(|(name, _)| {
        let claim = volumes.iter().find(|volume| volume.name == name);
        let claim = claim.and_then(|volume| volume.persistent_volume_claim.as_ref());
        claim.is_some_and(|claim| claim.claim_name == format!("{name}-{}-{ordinal}", set.name()))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::item;

    #[test]
    fn an_adopted_pod_gets_the_name_and_the_volumes_of_its_ordinal() {
        let set = |claims: Value| -> StatefulSet {
            serde_json::from_value(json!({"metadata": {"name": "db"}, "spec": {"volumeClaimTemplates": claims,
                "selector": {}, "serviceName": "db", "template": {}}}))
            .unwrap()
        };
        let pod = |labels: Value, volumes: Value| {
            item(json!({"metadata": {"name": "db-1", "uid": "u", "resourceVersion": "7", "labels": labels},
                "spec": {"containers": [], "volumes": volumes}}))
        };
        let named = json!({"statefulset.kubernetes.io/pod-name": "db-1"});
        let data = json!([{"metadata": {"name": "data"}}]);
        let mounted = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-1"}}]);
        let cases = [
            (json!([]), named.clone(), json!([]), ""),
            (data.clone(), named.clone(), mounted, ""),
            (json!([]), json!({}), json!([]), "/metadata/labels"),
            (data.clone(), named.clone(), json!(null), "/spec/volumes"),
            (data.clone(), named, json!([{"name": "data", "emptyDir": {}}]), "/spec/volumes"),
        ];
        for (claims, labels, volumes, expected) in cases {
            let patch = repair(&set(claims), 1, &pod(labels.clone(), volumes.clone())).unwrap();
            let changes = |path: &str| patch.as_ref().is_some_and(|patch| patch.pointer(path).is_some());
            let changed: Vec<&str> =
                ["/metadata/labels", "/spec/volumes"].into_iter().filter(|path| changes(path)).collect();
            assert_eq!(changed.join(" "), expected, "{labels} {volumes}");
            if let Some(volumes) = patch.as_ref().and_then(|patch| patch.pointer("/spec/volumes")) {
                assert_eq!(volumes.as_array().unwrap().len(), 1);
                assert_eq!(volumes[0]["persistentVolumeClaim"]["claimName"], "data-db-1");
            }
        }
    }
}
