//! Pods of a PodGroup, against the real API server in memory: all that the group needs get nodes, or none does.

mod cluster;

use cluster::{Cluster, eventually, parse};
use k8s_openapi::api::scheduling::{
    v1::PriorityClass,
    v1alpha2::{PodGroup, Workload},
};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};

async fn group(cluster: &Cluster, name: &str, policy: Value) {
    let group = json!({"metadata": {"name": name}, "spec": {"schedulingPolicy": policy}});
    cluster.create::<PodGroup>(group).await;
}

async fn member(cluster: &Cluster, name: &str, cpu: &str, more: Value) {
    let mut spec = json!({"schedulingGroup": {"podGroupName": "g"}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    cluster.pod(name, cpu, spec).await;
}

/// The condition `PodGroupScheduled`: status, reason, message.
async fn standing(cluster: &Cluster) -> Option<(String, String, String)> {
    let groups = Api::<PodGroup>::namespaced(cluster.admin.clone(), "default");
    let conditions = groups.get("g").await.unwrap().status?.conditions?;
    let it = conditions.into_iter().find(|it| it.type_ == "PodGroupScheduled")?;
    Some((it.status, it.reason, it.message))
}

async fn nodes(cluster: &Cluster, pods: &[&str]) -> Option<Vec<String>> {
    let mut nodes = Vec::new();
    for pod in pods {
        nodes.push(cluster.node_of(pod).await?);
    }
    Some(nodes)
}

#[tokio::test]
async fn a_gang_waits_for_its_group_and_for_enough_pods() {
    let cluster = Cluster::start().await;
    cluster.node("a", "8").await;
    member(&cluster, "one", "1", json!({})).await;
    member(&cluster, "two", "1", json!({})).await;
    cluster.pod("other", "1", json!({})).await;
    eventually("bound", || cluster.node_of("other")).await;
    assert_eq!((cluster.node_of("one").await, cluster.node_of("two").await), (None, None), "there is no group");
    group(&cluster, "g", json!({"gang": {"minCount": 3}})).await;
    cluster.pod("another", "1", json!({})).await;
    eventually("bound", || cluster.node_of("another")).await;
    assert_eq!(cluster.node_of("one").await, None, "two are not enough");
    member(&cluster, "three", "1", json!({})).await;
    eventually("bound", || nodes(&cluster, &["one", "two", "three"])).await;
    let told = eventually("told so", || standing(&cluster)).await;
    assert_eq!(told, ("True".into(), "Scheduled".into(), String::new()));
    // What comes later has a group that is placed already.
    member(&cluster, "four", "1", json!({})).await;
    eventually("bound", || cluster.node_of("four")).await;
}

#[tokio::test]
async fn a_gang_that_does_not_fit_as_a_whole_takes_no_room() {
    let cluster = Cluster::start().await;
    cluster.node("a", "2").await;
    group(&cluster, "g", json!({"gang": {"minCount": 3}})).await;
    for name in ["one", "two", "three"] {
        member(&cluster, name, "1", json!({})).await;
    }
    let told = |name: &'static str| {
        let cluster = &cluster;
        async move { cluster.condition(name).await.map(|(_, reason, message)| (reason, message)) }
    };
    let (reason, message) = eventually("told", || told("one")).await;
    assert_eq!((&*reason, &*message), ("Unschedulable", "waiting for minCount pods from a gang to be scheduled"));
    let (_, message) = eventually("told", || told("three")).await;
    assert!(message.starts_with("0/1 nodes are available: 1 Insufficient cpu."), "{message}");
    let event = eventually("told", || cluster.event("one", "FailedScheduling")).await;
    assert_eq!(event, "waiting for minCount pods from a gang to be scheduled");
    let told = eventually("told", || standing(&cluster)).await;
    assert_eq!(told, ("False".into(), "Unschedulable".into(), String::new()));
    // Others may have the room meanwhile.
    cluster.pod("other", "2", json!({})).await;
    assert_eq!(eventually("bound", || cluster.node_of("other")).await, "a");
    // Room for all of them wakes all of them.
    cluster.node("b", "3").await;
    assert_eq!(eventually("bound", || nodes(&cluster, &["one", "two", "three"])).await, ["b", "b", "b"]);
    let told = || async { standing(&cluster).await.filter(|(status, ..)| status == "True") };
    eventually("told", told).await;
}

#[tokio::test]
async fn pods_of_a_group_without_a_gang_go_one_by_one() {
    let cluster = Cluster::start().await;
    cluster.node("a", "1").await;
    group(&cluster, "g", json!({"basic": {}})).await;
    member(&cluster, "one", "1", json!({})).await;
    member(&cluster, "two", "1", json!({})).await;
    eventually("one is bound", || async { cluster.node_of("one").await.or(cluster.node_of("two").await) }).await;
}

#[tokio::test]
async fn a_gang_takes_the_place_of_others_only_if_all_of_it_can() {
    let cluster = Cluster::start().await;
    let class = parse(json!({"metadata": {"name": "high"}, "value": 1000}));
    Api::<PriorityClass>::all(cluster.admin.clone()).create(&PostParams::default(), &class).await.unwrap();
    cluster.node("a", "1").await;
    cluster.pod("low-a", "1", json!({})).await;
    eventually("bound", || cluster.node_of("low-a")).await;
    group(&cluster, "g", json!({"gang": {"minCount": 2}})).await;
    let high = json!({"priorityClassName": "high"});
    member(&cluster, "one", "1", high.clone()).await;
    member(&cluster, "two", "1", high).await;
    eventually("told", || cluster.condition("one")).await;
    eventually("told", || cluster.condition("two")).await;
    let leaves = |name: &'static str| {
        let cluster = &cluster;
        async move { cluster.pods().get(name).await.unwrap().metadata.deletion_timestamp.map(drop) }
    };
    assert_eq!(leaves("low-a").await, None, "the gang would not fit without it either");
    cluster.node("b", "1").await;
    let message = eventually("waits", || async {
        let told = [cluster.condition("one").await?, cluster.condition("two").await?];
        told.into_iter().map(|it| it.2).find(|message| message.starts_with("pod group"))
    });
    assert_eq!(message.await, "pod group is waiting for preemption to complete");
    eventually("makes room", || leaves("low-a")).await;
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    cluster.pods().delete("low-a", &now).await.unwrap();
    let mut placed = eventually("bound", || nodes(&cluster, &["one", "two"])).await;
    placed.sort();
    assert_eq!(placed, ["a", "b"]);
}

#[tokio::test]
async fn workloads_and_groups_that_say_nothing_clear_are_refused() {
    let cluster = Cluster::start().await;
    let groups = Api::<PodGroup>::namespaced(cluster.admin.clone(), "default");
    let table = [
        (json!({}), "spec.schedulingPolicy: Invalid value: \"\": must specify one of: `basic`, `gang`"),
        (json!({"basic": {}, "gang": {"minCount": 1}}), "must specify exactly one of: `basic`, `gang`"),
        (json!({"gang": {"minCount": 0}}), "spec.schedulingPolicy.gang.minCount: Invalid value: 0"),
    ];
    for (policy, expected) in table {
        let group = json!({"metadata": {"name": "g"}, "spec": {"schedulingPolicy": policy}});
        let error = groups.create(&PostParams::default(), &parse(group)).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{policy}: {error}");
    }
    let templates = |names: &[&str]| {
        let template = |name: &&str| json!({"name": name, "schedulingPolicy": {"gang": {"minCount": 2}}});
        json!({"metadata": {"name": "w"}, "spec": {"podGroupTemplates": names.iter().map(template).collect::<Vec<_>>()}})
    };
    let workloads = Api::<Workload>::namespaced(cluster.admin.clone(), "default");
    let twice = workloads.create(&PostParams::default(), &parse(templates(&["a", "a"]))).await.unwrap_err();
    assert!(twice.to_string().contains("spec.podGroupTemplates[1]: Duplicate value: \"a\""), "{twice}");
    workloads.create(&PostParams::default(), &parse(templates(&["a", "b"]))).await.unwrap();
}
