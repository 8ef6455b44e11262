//! Claims for devices, against the real API server in memory.

mod cluster;

use cluster::{Cluster, eventually};
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    client::Body,
};
use serde_json::{Value, json};
use tower::{BoxError, service_fn};

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

/// Two containers that request a resource of its own name, and one that requests it by the class.
fn extended(count: &str) -> Value {
    let container = |name: &str, resource: &str, count: &str| {
        let amounts = json!({"cpu": "100m", resource: count});
        json!({"name": name, "image": "web", "resources": {"requests": amounts, "limits": {resource: count}}})
    };
    json!({"containers": [container("a", "example.com/gpu", count),
        container("b", "deviceclass.resource.kubernetes.io/gpu", "1")]})
}

async fn class_behind(cluster: &Cluster, resource: &str) {
    let selector = json!([{"cel": {"expression": "device.driver == 'gpu.example'"}}]);
    let spec = json!({"extendedResourceName": resource, "selectors": selector});
    cluster.create_global::<DeviceClass>(json!({"metadata": {"name": "gpu"}, "spec": spec})).await;
}

async fn devices(cluster: &Cluster, node: &str, count: usize) {
    let devices: Vec<Value> = (0..count).map(|index| json!({"name": format!("gpu{index}")})).collect();
    let slice = json!({"metadata": {"name": node}, "spec": {"driver": "gpu.example", "nodeName": node,
        "pool": {"name": node, "generation": 1, "resourceSliceCount": 1}, "devices": devices}});
    cluster.create_global::<ResourceSlice>(slice).await;
}

async fn claims(cluster: &Cluster) -> Vec<ResourceClaim> {
    Api::namespaced(cluster.admin.clone(), "default").list(&ListParams::default()).await.unwrap().items
}

#[tokio::test]
async fn extended_resources_are_devices_where_a_node_has_none_of_them() {
    let cluster = Cluster::start().await;
    cluster.node("n", "4").await;
    devices(&cluster, "n", 3).await;
    cluster.pod("p", "1", extended("2")).await;
    let why = eventually("refused", || cluster.condition("p")).await.2;
    assert!(
        why.contains("Insufficient deviceclass.resource.kubernetes.io/gpu, 1 Insufficient example.com/gpu"),
        "{why}"
    );
    class_behind(&cluster, "example.com/gpu").await;
    eventually("bound", || cluster.node_of("p")).await;
    let claim = claims(&cluster).await.remove(0);
    let name = claim.metadata.name.clone().unwrap();
    assert!(name.starts_with("p-extended-resources-"), "{name}");
    let claim = serde_json::to_value(claim).unwrap();
    assert_eq!(claim["metadata"]["annotations"]["resource.kubernetes.io/extended-resource-claim"], "true");
    assert_eq!(claim["metadata"]["ownerReferences"][0]["name"], "p");
    let request = |name: &str, count: i64| json!({"name": name, "exactly": {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": count}});
    let requests = json!([request("container-0-request-1", 2), request("container-1-request-1", 1)]);
    assert_eq!(claim["spec"]["devices"]["requests"], requests);
    assert_eq!(claim["status"]["allocation"]["devices"]["results"].as_array().map(Vec::len), Some(3));
    assert_eq!(claim["status"]["reservedFor"][0]["name"], "p");
    let status = serde_json::to_value(cluster.pods().get("p").await.unwrap().status).unwrap();
    let mapping = |container: &str, resource: &str, request: &str| json!({"containerName": container, "resourceName": resource, "requestName": request});
    let mappings = json!([
        mapping("a", "example.com/gpu", "container-0-request-1"),
        mapping("b", "deviceclass.resource.kubernetes.io/gpu", "container-1-request-1"),
    ]);
    assert_eq!(status["extendedResourceClaimStatus"], json!({"resourceClaimName": name, "requestMappings": mappings}));

    cluster.pod("q", "1", extended("1")).await;
    let why = eventually("refused", || cluster.condition("q")).await.2;
    assert!(why.contains("1 cannot allocate all claims"), "{why}");
    cluster.node("counted", "4").await;
    let counts = json!({"example.com/gpu": "1", "deviceclass.resource.kubernetes.io/gpu": "1"});
    let nodes = Api::<k8s_openapi::api::core::v1::Node>::all(cluster.admin.clone());
    let patch = Patch::Merge(json!({"status": {"allocatable": counts}}));
    nodes.patch_status("counted", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(eventually("bound", || cluster.node_of("q")).await, "counted");
    assert_eq!(claims(&cluster).await.len(), 1, "the node counts what it has itself");
}

#[tokio::test]
async fn a_claim_for_extended_resources_goes_when_its_pod_is_not_bound_and_what_an_old_scheduler_left_goes_too() {
    let refuses = |inner: kube::Client| {
        let left = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(2));
        let service = service_fn(move |request: http::Request<Body>| {
            let is_binding = request.uri().path().ends_with("/binding");
            let count = |left: usize| left.checked_sub(usize::from(is_binding));
            let order = std::sync::atomic::Ordering::Relaxed;
            let is_refused = is_binding && left.fetch_update(order, order, count).is_ok();
            let inner = inner.clone();
            async move {
                if is_refused {
                    let body = json!({"kind": "Status", "status": "Failure", "message": "no", "code": 500});
                    let body = Body::from(body.to_string().into_bytes());
                    return Ok(http::Response::builder().status(500).body(body)?);
                }
                inner.send(request).await.map_err(BoxError::from)
            }
        });
        kube::Client::new(service, "default")
    };
    let quick =
        "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\npodMaxBackoffSeconds: 1\n";
    let cluster = Cluster::start_with(scheduler::Options::parse(quick).unwrap(), refuses).await;
    class_behind(&cluster, "example.com/gpu").await;
    cluster.node("n", "4").await;
    devices(&cluster, "n", 2).await;
    cluster.pod("p", "1", extended("1")).await;
    eventually("bound", || cluster.node_of("p")).await;
    let status = cluster.pods().get("p").await.unwrap().status.unwrap();
    let name = status.extended_resource_claim_status.unwrap().resource_claim_name;
    eventually("alone", || async { (claims(&cluster).await.len() == 1).then_some(()) }).await;
    assert_eq!(claims(&cluster).await[0].metadata.name.as_ref(), Some(&name));

    // As one that was stopped between the claim and the binding.
    let all = Api::<ResourceClaim>::namespaced(cluster.admin.clone(), "default");
    cluster.pods().delete("p", &DeleteParams::default().grace_period(0)).await.unwrap();
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    all.patch(&name, &PatchParams::default(), &free).await.unwrap();
    all.delete(&name, &DeleteParams::default()).await.unwrap();
    let mut gated = extended("1");
    gated["schedulingGates"] = json!([{"name": "wait"}]);
    cluster.pod("q", "1", gated).await;
    let uid = cluster.pods().get("q").await.unwrap().metadata.uid.unwrap();
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "q", "uid": uid, "controller": true});
    let left = json!({"metadata": {"name": "left", "ownerReferences": [owner], "finalizers": ["resource.kubernetes.io/delete-protection"],
        "annotations": {"resource.kubernetes.io/extended-resource-claim": "true"}},
        "spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]}}});
    cluster.create::<ResourceClaim>(left).await;
    let open = Patch::Merge(json!({"spec": {"schedulingGates": null}}));
    cluster.pods().patch("q", &PatchParams::default(), &open).await.unwrap();
    eventually("bound", || cluster.node_of("q")).await;
    let told = eventually("told", || cluster.event("q", "FailedScheduling")).await;
    assert!(told.contains("1 cannot schedule extended resource claim. deletion of ResourceClaim completed"), "{told}");
    let left = claims(&cluster).await;
    assert!(left.iter().all(|claim| claim.metadata.name.as_deref() != Some("left")) && left.len() == 1);
}
