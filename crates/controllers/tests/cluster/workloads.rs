//! Deployments and ReplicaSets do what their documentation says.

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::Pod,
};
use serde_json::{Value, json};

use crate::harness::Cluster;

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

pub fn deployment(replicas: i32, image: &str) -> Value {
    json!({"metadata": {"name": "web"}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
        "template": template(image)}})
}

fn is_rolled_out(deployment: &Deployment, replicas: i32) -> bool {
    let status = deployment.status.clone().unwrap_or_default();
    let reason = status.conditions.iter().flatten().find(|condition| condition.type_ == "Progressing");
    let is_all = |count: Option<i32>| count.unwrap_or(0) == replicas;
    status.observed_generation == deployment.metadata.generation
        && is_all(status.updated_replicas)
        && is_all(status.available_replicas)
        && is_all(status.replicas)
        && reason.is_some_and(|condition| condition.reason.as_deref() == Some("NewReplicaSetAvailable"))
}

fn image(pod: &Pod) -> &str {
    pod.spec.as_ref().unwrap().containers[0].image.as_deref().unwrap()
}

fn sizes(sets: &[ReplicaSet]) -> Vec<(String, i32)> {
    let mut sizes: Vec<_> = sets
        .iter()
        .map(|set| {
            let revision = set.metadata.annotations.as_ref().unwrap()["deployment.kubernetes.io/revision"].clone();
            (revision, set.spec.as_ref().unwrap().replicas.unwrap())
        })
        .collect();
    sizes.sort();
    sizes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_is_rolled_out_updated_undone_and_scaled() {
    let cluster = Cluster::with_node().await;
    cluster.make::<Deployment>(deployment(3, "web:1")).await;
    cluster.until_one::<Deployment>("web", "rolled out", |web| is_rolled_out(web, 3)).await;

    cluster.patch::<Deployment>("web", json!({"spec": {"template": template("web:2")}})).await;
    cluster.until_one::<Deployment>("web", "updated", |web| is_rolled_out(web, 3)).await;
    let sets = cluster.until::<ReplicaSet>("the old set is empty", |sets| sizes(sets).len() == 2).await;
    assert_eq!(sizes(&sets), [("1".to_owned(), 0), ("2".to_owned(), 3)]);
    cluster
        .until::<Pod>("new pods alone", |pods| pods.len() == 3 && pods.iter().all(|pod| image(pod) == "web:2"))
        .await;

    // As kubectl rollout undo does: the template of the old set is written back.
    cluster.patch::<Deployment>("web", json!({"spec": {"template": template("web:1")}})).await;
    cluster.until_one::<Deployment>("web", "undone", |web| is_rolled_out(web, 3)).await;
    let sets = cluster.until::<ReplicaSet>("two sets", |sets| sets.len() == 2).await;
    assert_eq!(sizes(&sets), [("2".to_owned(), 0), ("3".to_owned(), 3)], "the old set again, with a new revision");
    let web = cluster.until_one::<Deployment>("web", "revision", |_| true).await;
    assert_eq!(web.metadata.annotations.unwrap()["deployment.kubernetes.io/revision"], "3");

    cluster.patch::<Deployment>("web", json!({"spec": {"replicas": 5}})).await;
    cluster.until_one::<Deployment>("web", "scaled", |web| is_rolled_out(web, 5)).await;
    cluster.patch::<Deployment>("web", json!({"spec": {"replicas": 0}})).await;
    cluster.until::<Pod>("no pods", |pods| pods.is_empty()).await;
    let told = cluster.events("web").await;
    assert!(told.iter().any(|event| event.starts_with("ScalingReplicaSet Scaled up replica set web-")), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recreating_waits_until_all_old_pods_are_gone() {
    let cluster = Cluster::with_node().await;
    let mut web = deployment(2, "web:1");
    web["spec"]["strategy"] = json!({"type": "Recreate"});
    cluster.make::<Deployment>(web).await;
    cluster.until_one::<Deployment>("web", "rolled out", |web| is_rolled_out(web, 2)).await;
    let mut changes = cluster.caches.get::<Pod>().subscribe();
    cluster.patch::<Deployment>("web", json!({"spec": {"template": template("web:2")}})).await;
    cluster.until_one::<Deployment>("web", "recreated", |web| is_rolled_out(web, 2)).await;
    let mut old = 2;
    while let Some(change) = changes.try_next() {
        let pod: Pod = change.item().unwrap().parse().unwrap();
        match (image(&pod), change.new.is_none()) {
            ("web:1", true) => old -= 1,
            ("web:2", _) => assert_eq!(old, 0, "a new pod beside an old one"),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_deployment_changes_nothing_but_its_size() {
    let cluster = Cluster::with_node().await;
    cluster.make::<Deployment>(deployment(1, "web:1")).await;
    cluster.until_one::<Deployment>("web", "rolled out", |web| is_rolled_out(web, 1)).await;
    cluster
        .patch::<Deployment>("web", json!({"spec": {"paused": true, "template": template("web:2"), "replicas": 2}}))
        .await;
    let reason = |web: &Deployment| {
        let conditions = web.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        conditions.into_iter().find(|condition| condition.type_ == "Progressing").and_then(|condition| condition.reason)
    };
    cluster.until_one::<Deployment>("web", "paused", |web| reason(web).as_deref() == Some("DeploymentPaused")).await;
    cluster.until::<Pod>("scaled", |pods| pods.len() == 2 && pods.iter().all(|pod| image(pod) == "web:1")).await;
    cluster.patch::<Deployment>("web", json!({"spec": {"paused": false}})).await;
    cluster.until_one::<Deployment>("web", "resumed", |web| is_rolled_out(web, 2)).await;
    cluster.until::<Pod>("updated", |pods| pods.len() == 2 && pods.iter().all(|pod| image(pod) == "web:2")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_adopts_what_matches_and_releases_what_no_longer_does() {
    let cluster = Cluster::with_node().await;
    cluster
        .make::<Pod>(json!({"metadata": {"name": "stray", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "web:1"}]}}))
        .await;
    cluster.until::<Pod>("running", |pods| pods.iter().all(|pod| pod.spec.as_ref().unwrap().node_name.is_some())).await;
    cluster.make::<ReplicaSet>(deployment(2, "web:1")).await;
    let owned = |pod: &Pod| pod.metadata.owner_references.as_ref().is_some_and(|owners| !owners.is_empty());
    cluster.until::<Pod>("adopted, and one more", |pods| pods.len() == 2 && pods.iter().all(owned)).await;
    cluster.patch::<Pod>("stray", json!({"metadata": {"labels": {"app": "other"}}})).await;
    let pods = cluster
        .until::<Pod>("released, and replaced", |pods| {
            pods.len() == 3 && pods.iter().filter(|pod| owned(pod)).count() == 2
        })
        .await;
    assert!(pods.iter().any(|pod| pod.metadata.name.as_deref() == Some("stray") && !owned(pod)));
    cluster
        .until_one::<ReplicaSet>("web", "counted", |set| {
            let status = set.status.clone().unwrap_or_default();
            (status.replicas, status.ready_replicas, status.available_replicas) == (2, Some(2), Some(2))
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_pods_are_made_exactly_once() {
    let cluster = Cluster::with_node().await;
    cluster.make::<ReplicaSet>(deployment(100, "web:1")).await;
    cluster
        .until_one::<ReplicaSet>("web", "all ready", |set| {
            set.status.clone().unwrap_or_default().ready_replicas == Some(100)
        })
        .await;
    assert_eq!(cluster.caches.get::<Pod>().list_ns("default").len(), 100);
}
