//! StatefulSets and DaemonSets: history, storage and rollouts as their documentation says.

use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet, StatefulSet},
    core::v1::{PersistentVolumeClaim, Pod},
};
use kube::{
    Resource,
    api::{DeleteParams, PropagationPolicy},
};
use serde_json::{Value, json};

use crate::harness::Cluster;

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn set(spec: Value) -> Value {
    let mut set = json!({"metadata": {"name": "x", "annotations": {"kubernetes.io/change-cause": "first"}}, "spec": {
        "selector": {"matchLabels": {"app": "x"}}, "template": template("x:1")}});
    set["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    set
}

/// The uids of managing owners.
fn owners<K: Resource>(objects: &[K]) -> Vec<String> {
    let owner =
        |object: &K| object.meta().owner_references.iter().flatten().find(|o| o.controller == Some(true)).cloned();
    objects.iter().map(|object| owner(object).map(|owner| owner.uid).unwrap_or_default()).collect()
}

fn uids<K: Resource>(objects: &[K]) -> Vec<String> {
    objects.iter().map(|object| object.meta().uid.clone().unwrap()).collect()
}

/// Deletes a set without what it owns, makes it again, and says which uids it had and has.
macro_rules! made_again {
    ($cluster:expr, $kind:ty, $spec:expr) => {{
        let cluster = $cluster;
        cluster.make::<$kind>(set($spec)).await;
        let pods = cluster.until::<Pod>("a pod that runs", |pods| {
            pods.len() == 1 && pods[0].status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"))
        });
        let before = uids(&pods.await);
        let history = cluster.until::<ControllerRevision>("a revision", |all| all.len() == 1).await;
        assert_eq!(history[0].metadata.annotations.as_ref().unwrap()["kubernetes.io/change-cause"], "first");
        let orphan = DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
        cluster.delete::<$kind>("x", orphan).await;
        cluster.until::<$kind>("the set is gone", |sets| sets.is_empty()).await;
        cluster.until::<ControllerRevision>("nobody's", |all| owners(all) == [""]).await;
        let again = cluster.make::<$kind>(set($spec)).await.metadata.uid.unwrap();
        let mine = vec![again.clone()];
        let pods = cluster.until::<Pod>("the pod is adopted", |pods| owners(pods) == mine).await;
        assert_eq!(uids(&pods), before, "the same pod");
        let adopted = cluster.until::<ControllerRevision>("the revision is adopted", |all| owners(all) == mine).await;
        assert_eq!(uids(&adopted), uids(&history), "the same revision, and no other");
    }};
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_that_is_made_again_takes_over_the_history_of_its_predecessor() {
    made_again!(Cluster::with_node().await, StatefulSet, json!({"serviceName": "x", "replicas": 1}));
    made_again!(Cluster::with_node().await, DaemonSet, json!({}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_daemon_set_surges_the_older_pod_stands_for_its_node() {
    let cluster = Cluster::with_node().await;
    let surge = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    cluster.make::<DaemonSet>(set(json!({"updateStrategy": surge}))).await;
    let counts = |set: &DaemonSet| {
        let status = set.status.clone().unwrap_or_default();
        let observed = status.observed_generation == set.metadata.generation;
        let some = |count: Option<i32>| count.unwrap_or(0);
        let numbers = (status.current_number_scheduled, status.number_ready, some(status.updated_number_scheduled));
        observed.then_some(numbers)
    };
    cluster.until_one::<DaemonSet>("x", "a pod", |set| counts(set) == Some((1, 1, 1))).await;
    // Times of creation have whole seconds, and of two of the same the name decides.
    let older = cluster.until::<Pod>("a pod", |pods| pods.len() == 1).await;
    let created = older[0].metadata.creation_timestamp.as_ref().unwrap().0.as_second();
    while k8s_openapi::jiff::Timestamp::now().as_second() <= created {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let mut unready = template("x:2");
    unready["metadata"]["annotations"] = json!({"test/unready": "yes"});
    cluster.patch::<DaemonSet>("x", json!({"spec": {"template": unready}})).await;
    cluster.until::<Pod>("one beside the other", |pods| pods.len() == 2).await;
    cluster.until_one::<DaemonSet>("x", "the older one counts", |set| counts(set) == Some((1, 1, 0))).await;
    cluster.patch::<DaemonSet>("x", json!({"spec": {"template": {"metadata": {"annotations": null}}}})).await;
    cluster.until_one::<DaemonSet>("x", "replaced", |set| counts(set) == Some((1, 1, 1))).await;
    cluster.until::<Pod>("one again", |pods| pods.len() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_go_with_the_pods_of_a_set_that_shrinks_if_it_says_so() {
    let cluster = Cluster::with_node().await;
    let claim = json!({"metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let spec = json!({"serviceName": "x", "replicas": 2, "volumeClaimTemplates": [claim],
        "persistentVolumeClaimRetentionPolicy": {"whenScaled": "Delete", "whenDeleted": "Retain"}});
    cluster.make::<StatefulSet>(set(spec)).await;
    let ready = |count: i32| {
        move |set: &StatefulSet| set.status.clone().unwrap_or_default().ready_replicas.unwrap_or(0) == count
    };
    cluster.until_one::<StatefulSet>("x", "two", ready(2)).await;
    let claims = cluster.until::<PersistentVolumeClaim>("two claims", |claims| claims.len() == 2).await;
    assert_eq!(owners(&claims), ["", ""]);
    cluster.patch::<StatefulSet>("x", json!({"spec": {"replicas": 1}})).await;
    let left = cluster.until::<PersistentVolumeClaim>("one claim", |claims| claims.len() == 1).await;
    assert_eq!(left[0].metadata.name.as_deref(), Some("data-x-0"));
    cluster.patch::<StatefulSet>("x", json!({"spec": {"replicas": 2}})).await;
    cluster.until_one::<StatefulSet>("x", "two again", ready(2)).await;
    let again = cluster.until::<PersistentVolumeClaim>("two claims again", |claims| claims.len() == 2).await;
    assert_eq!((uids(&again)[0] == uids(&claims)[0], uids(&again)[1] == uids(&claims)[1]), (true, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adopted_pod_becomes_a_member() {
    let cluster = Cluster::with_node().await;
    let mut stray = json!({"metadata": {"name": "x-0", "labels": {"app": "x"}}});
    stray["spec"] = template("x:1")["spec"].clone();
    cluster.make::<Pod>(stray).await;
    cluster.make::<StatefulSet>(set(json!({"serviceName": "x", "replicas": 1}))).await;
    let label =
        |pod: &Pod| pod.metadata.labels.as_ref().and_then(|all| all.get("statefulset.kubernetes.io/pod-name").cloned());
    // The revision label is not that of the set, so that the pod is replaced in the end; it is a member before.
    let mut changes = cluster.caches.get::<Pod>().subscribe();
    cluster
        .until_one::<StatefulSet>("x", "of the present revision", |set| {
            set.status.clone().unwrap_or_default().updated_replicas == Some(1)
        })
        .await;
    let mut named = false;
    while let Some(change) = changes.try_next() {
        named |= change.new.as_ref().and_then(|pod| label(&pod.parse().unwrap())).is_some();
    }
    assert!(named);
}
