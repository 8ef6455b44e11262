//! Volumes and claims: bound either way round, made, reclaimed, attached and protected.

use std::{fmt::Debug, time::Duration};

use k8s_openapi::api::{
    core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::{CSIDriver, VolumeAttachment, VolumeAttributesClass},
};
use kube::{
    Api, Resource,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::harness::Cluster;

fn volume(name: &str, size: &str, more: Value) -> Value {
    let mut spec = json!({
        "capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "manual",
        "hostPath": {"path": "/tmp/nowhere"},
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"metadata": {"name": name}, "spec": spec})
}

fn claim(name: &str, more: Value) -> Value {
    let mut spec = json!({
        "accessModes": ["ReadWriteOnce"], "storageClassName": "manual", "resources": {"requests": {"storage": "2Gi"}},
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"metadata": {"name": name}, "spec": spec})
}

fn phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn has(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default()
}

fn stage(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

impl Cluster {
    fn all<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    async fn put<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Serialize + Clone + Debug,
    {
        let object: K = serde_json::from_value(object).unwrap();
        self.all().create(&PostParams::default(), &object).await.unwrap()
    }

    /// The cluster-scoped object of this name (none if it is gone), once `test` holds of it.
    async fn when<K>(&self, name: &str, what: &str, test: impl Fn(Option<&K>) -> bool) -> Option<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + 'static,
    {
        let cache = self.caches.get::<K>();
        let mut changes = cache.subscribe();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            let found = cache.read("", name);
            if cache.is_synced() && test(found.as_ref()) {
                return found;
            }
            let waited = tokio::time::timeout_at(deadline, changes.next()).await;
            assert!(waited.is_ok(), "never came true: {what}\n{found:?}");
        }
    }

    async fn told(&self, about: &str, said: &str) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            let events = self.events(about).await;
            if events.iter().any(|event| event.contains(said)) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{about} was never told {said}: {events:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_and_volumes_find_each_other_and_part() {
    let cluster = Cluster::start().await;
    let reserved = json!({"claimRef": {"namespace": "default", "name": "mine"}});
    for (name, size, more) in [("large", "9Gi", json!({})), ("fits", "3Gi", json!({})), ("reserved", "20Gi", reserved)]
    {
        cluster.put::<PersistentVolume>(volume(name, size, more)).await;
        cluster.when::<PersistentVolume>(name, "it is free", |it| it.is_some_and(|it| stage(it) == "Available")).await;
    }
    for (name, more, expected) in [
        ("any", json!({}), "fits"),
        ("mine", json!({}), "reserved"),
        ("named", json!({"volumeName": "large"}), "large"),
    ] {
        cluster.make::<PersistentVolumeClaim>(claim(name, more)).await;
        let bound = cluster
            .until_one::<PersistentVolumeClaim>(name, "bound", |it| phase(it) == "Bound" && has(it) == expected)
            .await;
        let status = bound.status.unwrap();
        assert_eq!(status.access_modes, Some(vec!["ReadWriteOnce".to_owned()]));
        assert!(status.capacity.unwrap()["storage"].0.ends_with("Gi"));
        let held = cluster.when::<PersistentVolume>(expected, "bound", |it| it.is_some_and(|it| stage(it) == "Bound"));
        let reference = held.await.unwrap().spec.unwrap().claim_ref.unwrap();
        assert_eq!((reference.name.as_deref(), reference.uid), (Some(name), bound.metadata.uid));
    }
    cluster.make::<PersistentVolumeClaim>(claim("second", json!({"volumeName": "large"}))).await;
    cluster.told("second", "FailedBinding volume \"large\" already bound to a different claim.").await;

    cluster.delete::<PersistentVolumeClaim>("any", DeleteParams::default()).await;
    cluster.when::<PersistentVolume>("fits", "kept", |it| it.is_some_and(|it| stage(it) == "Released")).await;
    let free = Patch::Merge(json!({"spec": {"claimRef": null}}));
    cluster.all::<PersistentVolume>().patch("fits", &PatchParams::default(), &free).await.unwrap();
    cluster.when::<PersistentVolume>("fits", "free", |it| it.is_some_and(|it| stage(it) == "Available")).await;

    // A bound volume is not removed under its claim, and a claim whose volume is lost says so.
    cluster.all::<PersistentVolume>().delete("large", &DeleteParams::default()).await.unwrap();
    cluster
        .when::<PersistentVolume>("large", "it stays", |it| {
            it.is_some_and(|it| it.metadata.deletion_timestamp.is_some())
        })
        .await;
    let force = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    cluster.all::<PersistentVolume>().patch("large", &PatchParams::default(), &force).await.unwrap();
    cluster.until_one::<PersistentVolumeClaim>("named", "lost", |it| phase(it) == "Lost").await;
    cluster.told("named", "ClaimLost Bound claim has lost its PersistentVolume. Data on the volume is lost!").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_reclaimed_says_why() {
    let cluster = Cluster::start().await;
    let local = json!({"persistentVolumeReclaimPolicy": "Delete"});
    cluster.put::<PersistentVolume>(volume("kept", "2Gi", local)).await;
    cluster.make::<PersistentVolumeClaim>(claim("data", json!({}))).await;
    cluster.until_one::<PersistentVolumeClaim>("data", "bound", |it| phase(it) == "Bound").await;
    cluster.delete::<PersistentVolumeClaim>("data", DeleteParams::default()).await;
    let failed =
        cluster.when::<PersistentVolume>("kept", "failed", |it| it.is_some_and(|it| stage(it) == "Failed")).await;
    let message = failed.unwrap().status.unwrap().message.unwrap();
    assert!(message.contains("no deletable volume plugin matched"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_path_is_made_for_the_chosen_node_grows_and_goes_with_its_claim_or_node() {
    let cluster = Cluster::start().await;
    let node = json!({"metadata": {"name": "n", "labels": {"kubernetes.io/hostname": "n"},
        "annotations": {"regatta.dev/local-path-root": "/data/local-path"}}});
    cluster.put::<Node>(node).await;
    let mut wanted = claim("data", json!({}));
    wanted["spec"].as_object_mut().unwrap().remove("storageClassName");
    let made = cluster.make::<PersistentVolumeClaim>(wanted).await;
    assert_eq!(made.spec.unwrap().storage_class_name.as_deref(), Some("local-path"));
    cluster.told("data", "WaitForFirstConsumer waiting for first consumer to be created before binding").await;
    let chosen = json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "n"}}});
    cluster.patch::<PersistentVolumeClaim>("data", chosen).await;
    let bound = cluster.until_one::<PersistentVolumeClaim>("data", "bound", |it| phase(it) == "Bound").await;
    let name = format!("pvc-{}", bound.metadata.uid.clone().unwrap());
    assert_eq!(has(&bound), name);
    let volume: PersistentVolume = cluster.all().get(&name).await.unwrap();
    let spec = volume.spec.unwrap();
    assert_eq!(spec.local.unwrap().path, format!("/data/local-path/{name}_default_data"));
    assert_eq!(spec.persistent_volume_reclaim_policy.as_deref(), Some("Delete"));

    let more = json!({"spec": {"resources": {"requests": {"storage": "4Gi"}}}});
    cluster.patch::<PersistentVolumeClaim>("data", more).await;
    cluster
        .until_one::<PersistentVolumeClaim>("data", "grown", |it| {
            let capacity = it.status.as_ref().and_then(|status| status.capacity.as_ref());
            capacity.is_some_and(|capacity| capacity["storage"].0 == "4Gi")
        })
        .await;
    cluster.delete::<PersistentVolumeClaim>("data", DeleteParams::default()).await;
    let held = cluster
        .when::<PersistentVolume>(&name, "it waits for its node", |it| {
            it.is_some_and(|it| it.metadata.finalizers.iter().flatten().eq(["regatta.dev/local-path"]))
        })
        .await;
    assert!(held.unwrap().metadata.deletion_timestamp.is_some());
    cluster.all::<Node>().delete("n", &DeleteParams::default()).await.unwrap();
    cluster.when::<PersistentVolume>(&name, "it waits no longer", |it| it.is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pods_own_claims_come_and_go_with_it() {
    let cluster = Cluster::with_node().await;
    let own = json!({"volumeClaimTemplate": {"metadata": {"labels": {"a": "b"}}, "spec":
        {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}});
    let pod = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {
            "containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "own", "ephemeral": own}]}})
    };
    cluster.make::<PersistentVolumeClaim>(claim("taken-own", json!({}))).await;
    cluster.make::<Pod>(pod("web")).await;
    let made = cluster.until_one::<PersistentVolumeClaim>("web-own", "made", |_| true).await;
    assert_eq!(made.metadata.owner_references.unwrap()[0].name, "web");
    assert_eq!(made.metadata.labels.unwrap()["a"], "b");
    cluster.make::<Pod>(pod("taken")).await;
    cluster
        .told(
            "taken",
            "FailedBinding ephemeral volume own: PVC default/taken-own was not created for pod default/taken",
        )
        .await;
    cluster.delete::<Pod>("web", DeleteParams::default()).await;
    cluster
        .until::<PersistentVolumeClaim>("gone", |all| {
            !all.iter().any(|it| it.metadata.name.as_deref() == Some("web-own"))
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drivers_volume_is_attached_for_its_pods_and_detached_when_the_node_lets_go() {
    let cluster = Cluster::with_node().await;
    cluster.put::<CSIDriver>(json!({"metadata": {"name": "csi.test"}, "spec": {"attachRequired": true}})).await;
    let csi = json!({"hostPath": null, "csi": {"driver": "csi.test", "volumeHandle": "handle"}});
    cluster.put::<PersistentVolume>(volume("v", "2Gi", csi)).await;
    cluster.make::<PersistentVolumeClaim>(claim("data", json!({}))).await;
    let pod = json!({"metadata": {"name": "user"}, "spec": {"containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]}});
    cluster.make::<Pod>(pod).await;
    // sha256 of "handlecsi.testnode-1".
    let name = "csi-3ddd5b16b6d08a5b7c1a055550d4dccaa3937044c27888c8bf5971a6343791e7";
    let attachment = cluster.when::<VolumeAttachment>(name, "wanted", |it| it.is_some()).await.unwrap();
    assert_eq!((attachment.spec.attacher.as_str(), attachment.spec.node_name.as_str()), ("csi.test", "node-1"));
    let patch = |value: Value| Patch::Merge(value);
    let attached = patch(json!({"status": {"attached": true}}));
    cluster.all::<VolumeAttachment>().patch_status(name, &PatchParams::default(), &attached).await.unwrap();
    cluster
        .when::<Node>("node-1", "it shows", |it| {
            let status = it.and_then(|it| it.status.as_ref());
            status
                .and_then(|it| it.volumes_attached.as_ref())
                .is_some_and(|all| all.iter().any(|it| it.name == "kubernetes.io/csi/csi.test^handle"))
        })
        .await;
    cluster.told("user", "SuccessfulAttachVolume AttachVolume.Attach succeeded for volume \"v\"").await;
    let used = |list: Value| patch(json!({"status": {"volumesInUse": list}}));
    let nodes = cluster.all::<Node>();
    let params = PatchParams::default();
    nodes.patch_status("node-1", &params, &used(json!(["kubernetes.io/csi/csi.test^handle"]))).await.unwrap();
    cluster.delete::<Pod>("user", DeleteParams::default()).await;
    cluster.until::<Pod>("the pod is gone", |pods| pods.is_empty()).await;
    assert!(cluster.all::<VolumeAttachment>().get_opt(name).await.unwrap().is_some(), "it is still mounted");
    nodes.patch_status("node-1", &params, &used(json!([]))).await.unwrap();
    cluster.when::<VolumeAttachment>(name, "detached", |it| it.is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_class_of_attributes_stays_while_a_claim_has_it() {
    let cluster = Cluster::start().await;
    let class = json!({"metadata": {"name": "fast"}, "driverName": "csi.test", "parameters": {"iops": "9"}});
    cluster.put::<VolumeAttributesClass>(class).await;
    let user = claim("data", json!({"volumeAttributesClassName": "fast"}));
    cluster.make::<PersistentVolumeClaim>(user).await;
    cluster.until::<PersistentVolumeClaim>("there", |all| all.len() == 1).await;
    cluster.all::<VolumeAttributesClass>().delete("fast", &DeleteParams::default()).await.unwrap();
    let deleting = |it: Option<&VolumeAttributesClass>| it.is_some_and(|it| it.metadata.deletion_timestamp.is_some());
    cluster.when::<VolumeAttributesClass>("fast", "held", deleting).await;
    cluster.delete::<PersistentVolumeClaim>("data", DeleteParams::default()).await;
    cluster.when::<VolumeAttributesClass>("fast", "free", |it| it.is_none()).await;
}
