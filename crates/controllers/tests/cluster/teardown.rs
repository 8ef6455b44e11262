//! What is deleted takes with it what it should, and nothing else.

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::{ConfigMap, Namespace, Pod, Secret},
};
use kube::{
    Api,
    api::{DeleteParams, PropagationPolicy},
};
use serde_json::json;

use crate::{harness::Cluster, workloads::deployment};

async fn deployed() -> Cluster {
    let cluster = Cluster::with_node().await;
    cluster.make::<Deployment>(deployment(2, "web:1")).await;
    cluster.until::<Pod>("running", |pods| pods.len() == 2).await;
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dependents_go_in_the_background() {
    let cluster = deployed().await;
    cluster.delete::<Deployment>("web", DeleteParams::background()).await;
    cluster.until::<ReplicaSet>("no sets", |sets| sets.is_empty()).await;
    cluster.until::<Pod>("no pods", |pods| pods.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreground_deletion_ends_with_the_owner() {
    let cluster = deployed().await;
    cluster.delete::<Deployment>("web", DeleteParams::foreground()).await;
    cluster.until::<Deployment>("no deployment", |all| all.is_empty()).await;
    let api = cluster.api::<Pod>();
    assert_eq!(api.list(&Default::default()).await.unwrap().items.len(), 0, "all pods went first");
    assert_eq!(cluster.api::<ReplicaSet>().list(&Default::default()).await.unwrap().items.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_stay_and_have_no_owner() {
    let cluster = deployed().await;
    let params = DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
    cluster.delete::<Deployment>("web", params).await;
    cluster.until::<Deployment>("no deployment", |all| all.is_empty()).await;
    cluster
        .until::<ReplicaSet>("a free set", |sets| {
            sets.len() == 1 && sets[0].metadata.owner_references.iter().flatten().next().is_none()
        })
        .await;
    cluster.until::<Pod>("its pods", |pods| pods.len() == 2).await;
    // The same Deployment again takes the set over as it is.
    cluster.make::<Deployment>(deployment(2, "web:1")).await;
    cluster
        .until::<ReplicaSet>("adopted", |sets| {
            sets.len() == 1 && sets[0].metadata.owner_references.iter().flatten().count() == 1
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_another_owner_stays() {
    let cluster = Cluster::start().await;
    let first = cluster.make::<ConfigMap>(json!({"metadata": {"name": "first"}})).await;
    let second = cluster.make::<ConfigMap>(json!({"metadata": {"name": "second"}})).await;
    let owner = |map: &ConfigMap| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": map.metadata.name, "uid": map.metadata.uid});
    let owners = json!([owner(&first), owner(&second)]);
    cluster.make::<Secret>(json!({"metadata": {"name": "both", "ownerReferences": owners}})).await;
    let absent = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "never", "uid": "was"}]);
    cluster.make::<Secret>(json!({"metadata": {"name": "nobodys", "ownerReferences": absent}})).await;
    cluster
        .until::<Secret>("the one without an owner goes", |all| {
            !all.iter().any(|secret| secret.metadata.name.as_deref() == Some("nobodys"))
        })
        .await;
    cluster.delete::<ConfigMap>("first", DeleteParams::default()).await;
    cluster
        .until_one::<Secret>("both", "one owner left", |secret| {
            secret.metadata.owner_references.iter().flatten().count() == 1
        })
        .await;
    cluster.delete::<ConfigMap>("second", DeleteParams::default()).await;
    cluster
        .until::<Secret>("gone", |all| !all.iter().any(|secret| secret.metadata.name.as_deref() == Some("both")))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_is_emptied_and_then_gone() {
    let cluster = Cluster::with_node().await;
    cluster.make::<Namespace>(json!({"metadata": {"name": "team"}})).await;
    let mut web = deployment(2, "web:1");
    web["metadata"]["namespace"] = "team".into();
    cluster.make::<Deployment>(web).await;
    cluster
        .make::<ConfigMap>(
            json!({"metadata": {"name": "held", "namespace": "team", "finalizers": ["example.com/hold"]}}),
        )
        .await;
    let pods = cluster.caches.get::<Pod>();
    let mut changes = pods.subscribe();
    while pods.list_ns("team").len() < 2 {
        changes.next().await;
    }
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    namespaces.delete("team", &DeleteParams::default()).await.unwrap();
    let cache = cluster.caches.get::<Namespace>();
    let mut changes = cache.subscribe();
    loop {
        let told = cache.read("", "team").and_then(|team| team.status?.conditions).unwrap_or_default();
        let held = "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances";
        if told.iter().any(|condition| condition.message.as_deref() == Some(held)) {
            break;
        }
        let waited = tokio::time::timeout(std::time::Duration::from_secs(60), changes.next()).await;
        assert!(waited.is_ok(), "it never said what it waits for: {told:?}");
    }
    assert!(pods.list_ns("team").is_empty());
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "team");
    let free = kube::api::Patch::Merge(json!({"metadata": {"finalizers": null}}));
    maps.patch("held", &Default::default(), &free).await.unwrap();
    while cache.get("", "team").is_some() {
        let waited = tokio::time::timeout(std::time::Duration::from_secs(60), changes.next()).await;
        assert!(waited.is_ok(), "it never went");
    }
}
