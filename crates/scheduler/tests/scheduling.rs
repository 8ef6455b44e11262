//! The scheduler against the real API server in memory.

mod cluster;

use std::{collections::BTreeMap, time::Duration};

use cluster::{Cluster, eventually, parse};
use futures::{StreamExt, stream};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

#[tokio::test]
async fn a_pod_is_bound_as_soon_as_a_node_has_room_and_told_why_until_then() {
    let cluster = Cluster::start().await;
    cluster.node("small", "500m").await;
    cluster.pod("p", "1", json!({})).await;
    let why = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not \
               helpful for scheduling.";
    let told = eventually("told in the condition", || async { cluster.condition("p").await }).await;
    assert_eq!(told, ("False".into(), "Unschedulable".into(), why.into()));
    assert_eq!(eventually("told by an event", || cluster.event("p", "FailedScheduling")).await, why);
    assert_eq!(cluster.node_of("p").await, None);

    let start = std::time::Instant::now();
    cluster.node("large", "4").await;
    assert_eq!(eventually("bound", || cluster.node_of("p")).await, "large");
    assert!(start.elapsed() < Duration::from_millis(900), "without waiting for a back-off: {:?}", start.elapsed());
    let assigned = eventually("told so", || cluster.event("p", "Scheduled")).await;
    assert_eq!(assigned, "Successfully assigned default/p to large");
    assert_eq!(cluster.condition("p").await.unwrap().0, "True");
}

#[tokio::test]
async fn gated_pods_and_those_of_other_schedulers_are_left_alone() {
    let cluster = Cluster::start().await;
    cluster.node("a", "4").await;
    cluster.pod("gated", "1", json!({"schedulingGates": [{"name": "example.com/wait"}]})).await;
    cluster.pod("foreign", "1", json!({"schedulerName": "other"})).await;
    cluster.pod("ours", "1", json!({})).await;
    eventually("bound", || cluster.node_of("ours")).await;
    assert_eq!((cluster.node_of("gated").await, cluster.node_of("foreign").await), (None, None));
    let open = json!({"spec": {"schedulingGates": null}});
    cluster.pods().patch("gated", &PatchParams::default(), &Patch::Merge(open)).await.unwrap();
    eventually("bound once its gate is gone", || cluster.node_of("gated")).await;
}

#[tokio::test]
async fn a_deleted_pod_makes_room_for_one_that_waits() {
    let cluster = Cluster::start().await;
    cluster.node("a", "1").await;
    cluster.pod("first", "1", json!({})).await;
    eventually("bound", || cluster.node_of("first")).await;
    cluster.pod("second", "1", json!({})).await;
    eventually("told why", || async { cluster.condition("second").await }).await;
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    cluster.pods().delete("first", &now).await.unwrap();
    assert_eq!(eventually("bound", || cluster.node_of("second")).await, "a");
}

#[tokio::test]
async fn an_important_pod_takes_the_place_of_a_lesser_one() {
    let cluster = Cluster::start().await;
    let class = parse(json!({"metadata": {"name": "high"}, "value": 1000}));
    Api::<PriorityClass>::all(cluster.admin.clone()).create(&PostParams::default(), &class).await.unwrap();
    cluster.node("a", "1").await;
    cluster.pod("low", "1", json!({})).await;
    eventually("bound", || cluster.node_of("low")).await;
    cluster.pod("high", "1", json!({"priorityClassName": "high"})).await;
    let low = eventually("evicted", || async {
        let low = cluster.pods().get("low").await.unwrap();
        low.metadata.deletion_timestamp.is_some().then_some(low)
    })
    .await;
    let conditions = low.status.unwrap().conditions.unwrap();
    let target = conditions.iter().find(|it| it.type_ == "DisruptionTarget").unwrap();
    assert_eq!(target.reason.as_deref(), Some("PreemptionByScheduler"));
    assert!(eventually("told so", || cluster.event("low", "Preempted")).await.ends_with("on node a"));
    let nominated = eventually("nominated", || async {
        cluster.pods().get("high").await.unwrap().status.unwrap().nominated_node_name
    });
    assert_eq!(nominated.await, "a");
    // The room is kept: a lesser pod that comes meanwhile does not get it.
    cluster.pod("late", "1", json!({})).await;
    eventually("told why", || async { cluster.condition("late").await }).await;
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    cluster.pods().delete("low", &now).await.unwrap();
    assert_eq!(eventually("bound", || cluster.node_of("high")).await, "a");
    assert_eq!(cluster.node_of("late").await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_pods_at_once_overload_no_node() {
    let cluster = Cluster::start().await;
    for n in 0..5 {
        cluster.node(&format!("n{n}"), "4").await;
    }
    let create = |n| {
        let cluster = &cluster;
        async move { cluster.pod(&format!("p{n}"), "500m", json!({})).await }
    };
    stream::iter(0..50).for_each_concurrent(16, create).await;
    let placed = eventually("all that fit are bound", || async {
        let mut placed: BTreeMap<String, u32> = BTreeMap::new();
        for pod in cluster.pods().list(&ListParams::default()).await.unwrap() {
            if let Some(node) = pod.spec.unwrap().node_name {
                *placed.entry(node).or_default() += 1;
            }
        }
        (placed.values().sum::<u32>() == 40).then_some(placed)
    })
    .await;
    assert!(placed.values().all(|pods| *pods == 8), "half a CPU each: {placed:?}");
}

/// `cargo test --release -p scheduler --test scheduling -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn a_thousand_nodes() {
    const PODS: usize = 5000;
    let cluster = Cluster::start().await;
    let create_nodes = stream::iter(0..1000).map(|n| {
        let cluster = &cluster;
        async move { cluster.node(&format!("n{n}"), "64").await }
    });
    create_nodes.buffer_unordered(32).collect::<Vec<_>>().await;
    let start = std::time::Instant::now();
    let create_pods = stream::iter(0..PODS).map(|n| {
        let cluster = &cluster;
        async move { cluster.pod(&format!("p{n}"), "100m", json!({})).await }
    });
    create_pods.buffer_unordered(64).collect::<Vec<_>>().await;
    println!("{PODS} pods created in {:?}", start.elapsed());
    let bound = || async {
        let pods = cluster.pods().list(&ListParams::default().fields("spec.nodeName!=")).await.unwrap();
        (pods.items.len() == PODS).then_some(())
    };
    while bound().await.is_none() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("and bound after {:?}: {:.0} pods/s", start.elapsed(), PODS as f64 / start.elapsed().as_secs_f64());
    cluster.server.shutdown().await;
}
