//! What wakes a pod that fits nowhere, against the real API server in memory. Each of these would else wait for minutes.

mod cluster;

use cluster::{Cluster, eventually};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};

async fn label(cluster: &Cluster, pod: &str, app: Value) {
    let labels = json!({"metadata": {"labels": {"app": app}}});
    cluster.pods().patch(pod, &PatchParams::default(), &Patch::Merge(labels)).await.unwrap();
}

async fn waits(cluster: &Cluster, pod: &str) {
    eventually("told why it waits", || async { cluster.condition(pod).await.filter(|it| it.0 == "False") }).await;
    assert_eq!(cluster.node_of(pod).await, None);
}

fn web() -> Value {
    json!({"matchLabels": {"app": "web"}})
}

#[tokio::test]
async fn a_pod_whose_label_goes_lets_one_in_that_avoids_it() {
    let cluster = Cluster::start().await;
    cluster.node("a", "4").await;
    cluster.pod("web", "1", json!({})).await;
    eventually("bound", || cluster.node_of("web")).await;
    label(&cluster, "web", "web".into()).await;
    let term = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": web()});
    let far = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}});
    // It may come before the label is seen, and then it is no test.
    eventually("seen", || async {
        cluster.pod("probe", "1", far.clone()).await;
        let told = eventually("decided", || async { cluster.condition("probe").await }).await;
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        cluster.pods().delete("probe", &now).await.unwrap();
        (told.0 == "False").then_some(())
    })
    .await;
    cluster.pod("lonely", "1", far).await;
    waits(&cluster, "lonely").await;
    label(&cluster, "web", "other".into()).await;
    assert_eq!(eventually("bound", || cluster.node_of("lonely")).await, "a");
}

#[tokio::test]
async fn a_pod_that_gets_a_label_lets_one_in_that_wants_it() {
    let cluster = Cluster::start().await;
    cluster.node("a", "4").await;
    cluster.pod("web", "1", json!({})).await;
    eventually("bound", || cluster.node_of("web")).await;
    let term = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": web()});
    let near = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}});
    cluster.pod("social", "1", near).await;
    waits(&cluster, "social").await;
    label(&cluster, "web", "web".into()).await;
    assert_eq!(eventually("bound", || cluster.node_of("social")).await, "a");
}

#[tokio::test]
async fn a_node_that_goes_takes_the_domain_of_the_fewest_with_it() {
    let cluster = Cluster::start().await;
    cluster.node("a", "4").await;
    cluster.node("full", "10m").await;
    let selector = json!({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]});
    let even = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector}]});
    cluster.pod("one", "1", even.clone()).await;
    eventually("bound", || cluster.node_of("one")).await;
    cluster.pod("two", "1", even).await;
    waits(&cluster, "two").await;
    let nodes = Api::<Node>::all(cluster.admin.clone());
    nodes.delete("full", &DeleteParams::default()).await.unwrap();
    assert_eq!(eventually("bound", || cluster.node_of("two")).await, "a");
}
