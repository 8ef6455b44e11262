//! Pods get the resource claims that they ask for by template, and give them back.

use k8s_openapi::api::{
    core::v1::{Pod, ServiceAccount},
    resource::v1::{ResourceClaim, ResourceClaimTemplate},
};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;

use crate::harness::Cluster;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_gets_one_claim_however_late_the_cache_shows_it() {
    let cluster = Cluster::with_lag(std::time::Duration::from_secs(2)).await;
    let request = json!({"name": "gpu", "exactly": {"deviceClassName": "gpu.example.com"}});
    cluster
        .make::<ResourceClaimTemplate>(
            json!({"metadata": {"name": "gpu"}, "spec": {"spec": {"devices": {"requests": [request]}}}}),
        )
        .await;
    cluster.until_one::<ServiceAccount>("default", "there, as pods need it", |_| true).await;
    // Its status changes as soon as it is there, so that what the controller writes of the claim comes too late at first.
    cluster
        .make::<Pod>(json!({"metadata": {"name": "worker"}, "spec": {"containers": [{"name": "c", "image": "work:1"}],
            "resourceClaims": [{"name": "device", "resourceClaimTemplateName": "gpu"}]}}))
        .await;
    let is_told = |pod: &Pod| pod.status.iter().any(|status| status.resource_claim_statuses.is_some());
    cluster.until_one::<Pod>("worker", "told of its claim", is_told).await;
    let claims = cluster.api::<ResourceClaim>().list(&ListParams::default()).await.unwrap();
    assert_eq!(claims.items.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_is_made_for_a_pod_reserved_for_it_and_goes_with_it() {
    let cluster = Cluster::with_node().await;
    let request = json!({"name": "gpu", "exactly": {"deviceClassName": "gpu.example.com"}});
    cluster
        .make::<ResourceClaimTemplate>(json!({"metadata": {"name": "gpu"}, "spec": {
            "metadata": {"labels": {"team": "a"}}, "spec": {"devices": {"requests": [request]}}}}))
        .await;
    cluster
        .make::<Pod>(json!({"metadata": {"name": "worker"}, "spec": {
            "containers": [{"name": "c", "image": "work:1", "resources": {"claims": [{"name": "device"}]}}],
            "resourceClaims": [{"name": "device", "resourceClaimTemplateName": "gpu"}]}}))
        .await;
    let claims = cluster.until::<ResourceClaim>("a claim", |claims| claims.len() == 1).await;
    let metadata = &claims[0].metadata;
    let name = metadata.name.clone().unwrap();
    assert!(name.starts_with("worker-device-"), "{name}");
    assert_eq!(metadata.labels.as_ref().unwrap().get("team").map(String::as_str), Some("a"));
    let tells = |pod: &Pod| {
        let statuses = pod.status.iter().flat_map(|status| status.resource_claim_statuses.iter().flatten());
        statuses.into_iter().any(|status| status.name == "device" && status.resource_claim_name.as_ref() == Some(&name))
    };
    cluster.until_one::<Pod>("worker", "told of its claim", tells).await;

    let allocation = json!({"status": {"allocation": {"devices": {}}}});
    cluster
        .api::<ResourceClaim>()
        .patch_status(&name, &PatchParams::default(), &Patch::Merge(allocation))
        .await
        .unwrap();
    let is_reserved = |claim: &ResourceClaim| {
        let users = claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten());
        users.into_iter().any(|user| user.resource == "pods" && user.name == "worker")
    };
    cluster.until_one::<ResourceClaim>(&name, "reserved for the pod that is bound", is_reserved).await;
    cluster.delete::<Pod>("worker", DeleteParams::default()).await;
    cluster.until::<ResourceClaim>("gone with its pod", |claims| claims.is_empty()).await;
}
