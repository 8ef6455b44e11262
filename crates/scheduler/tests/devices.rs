//! Claims for devices, against the real API server in memory.

mod cluster;

use cluster::{Cluster, eventually};
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

async fn class(cluster: &Cluster, model: &str) {
    let expression = format!("device.attributes['gpu.example'].model == '{model}'");
    let class = json!({"metadata": {"name": model}, "spec": {"selectors": [{"cel": {"expression": expression}}]}});
    cluster.create_global::<DeviceClass>(class).await;
}

/// A node with one device.
async fn node(cluster: &Cluster, name: &str, model: &str) {
    cluster.node(name, "4").await;
    let device = json!({"name": "gpu", "attributes": {"model": {"string": model}}});
    let slice = json!({"metadata": {"name": name}, "spec": {"driver": "gpu.example", "nodeName": name,
        "pool": {"name": name, "generation": 1, "resourceSliceCount": 1}, "devices": [device]}});
    cluster.create_global::<ResourceSlice>(slice).await;
}

fn claim(request: Value) -> Value {
    json!({"metadata": {"name": "c"}, "spec": {"devices": {"requests": [request]}}})
}

fn using() -> Value {
    json!({"resourceClaims": [{"name": "gpu", "resourceClaimName": "c"}]})
}

#[tokio::test]
async fn the_node_with_the_better_alternative_is_chosen() {
    let cluster = Cluster::start().await;
    for model in ["good", "fair", "poor"] {
        class(&cluster, model).await;
    }
    // By everything else the first is the better node.
    node(&cluster, "poor", "poor").await;
    node(&cluster, "fair", "fair").await;
    cluster.pod("busy", "1", json!({"nodeSelector": {"kubernetes.io/hostname": "fair"}})).await;
    eventually("bound", || cluster.node_of("busy")).await;
    let alternative = |model: &str| json!({"name": model, "deviceClassName": model});
    let alternatives = ["good", "fair", "poor"].map(alternative);
    let any = json!({"name": "r", "firstAvailable": alternatives});
    cluster.create::<ResourceClaim>(claim(any)).await;
    cluster.pod("p", "100m", using()).await;
    assert_eq!(eventually("bound", || cluster.node_of("p")).await, "fair");
}

#[tokio::test]
async fn a_claim_that_nobody_uses_gives_its_devices_back_if_they_are_in_the_way() {
    let cluster = Cluster::start().await;
    class(&cluster, "gpu").await;
    node(&cluster, "a", "gpu").await;
    node(&cluster, "b", "gpu").await;
    cluster.create::<ResourceClaim>(claim(json!({"name": "r", "exactly": {"deviceClassName": "gpu"}}))).await;
    let result = json!({"request": "r", "driver": "gpu.example", "pool": "a", "device": "gpu"});
    let only =
        json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}]});
    let allocation = json!({"status": {"allocation": {"devices": {"results": [result]}, "nodeSelector": only}}});
    let claims = Api::<ResourceClaim>::namespaced(cluster.admin.clone(), "default");
    claims.patch_status("c", &PatchParams::default(), &Patch::Merge(allocation)).await.unwrap();
    let mut spec = using();
    spec["nodeSelector"] = json!({"kubernetes.io/hostname": "b"});
    cluster.pod("p", "1", spec).await;
    assert_eq!(eventually("bound", || cluster.node_of("p")).await, "b");
    let told = eventually("told", || cluster.event("p", "FailedScheduling")).await;
    assert!(
        told.contains("1 resourceclaim not available on the node. deallocation of ResourceClaim completed"),
        "{told}"
    );
    let status = claims.get("c").await.unwrap().status.unwrap();
    let allocation = serde_json::to_value(status.allocation).unwrap();
    assert_eq!(allocation["devices"]["results"][0]["pool"], "b");
}
