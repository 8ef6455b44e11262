//! Deployments grow and shrink with what their pods are measured to use.

use k8s_openapi::api::{
    apps::v1::Deployment,
    autoscaling::v2::HorizontalPodAutoscaler,
    core::v1::{Event, Pod},
};
use serde_json::{Value, json};

use crate::harness::Cluster;

/// A Deployment whose pods share a load of so many thousandths of a core.
fn busy(load: u32) -> Value {
    let resources = json!({"requests": {"cpu": "100m"}});
    json!({"metadata": {"name": "web", "annotations": {"test/load": load.to_string()}}, "spec": {
        "replicas": 1, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [
            {"name": "c", "image": "web:1", "resources": resources}]}}}})
}

fn conditions(autoscaler: &HorizontalPodAutoscaler) -> Vec<String> {
    let conditions = autoscaler.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let told = |condition: &k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerCondition| {
        format!("{}={} {}", condition.type_, condition.status, condition.reason.as_deref().unwrap_or_default())
    };
    conditions.map(told).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_follow_the_load() {
    let cluster = Cluster::with_node().await;
    cluster.make::<Deployment>(busy(400)).await;
    let fast =
        json!({"stabilizationWindowSeconds": 0, "policies": [{"type": "Pods", "value": 100, "periodSeconds": 15}]});
    let cpu = json!({"type": "Resource", "resource": {"name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": 50}}});
    cluster
        .make::<HorizontalPodAutoscaler>(json!({"metadata": {"name": "web"}, "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "minReplicas": 1, "maxReplicas": 20, "metrics": [cpu], "behavior": {"scaleUp": fast, "scaleDown": fast}}}))
        .await;
    // 400 thousandths of a core at half of 100 each: eight, as exactly as a busy machine measures.
    let steady = |autoscaler: &HorizontalPodAutoscaler| {
        let told = conditions(autoscaler);
        let status = autoscaler.status.clone().unwrap_or_default();
        status.current_replicas.is_some_and(|replicas| (7..=9).contains(&replicas))
            && told.contains(&"ScalingActive=True ValidMetricFound".to_owned())
            && told.contains(&"AbleToScale=True ReadyForNewScale".to_owned())
            && told.contains(&"ScalingLimited=False DesiredWithinRange".to_owned())
    };
    let autoscaler = cluster.until_one::<HorizontalPodAutoscaler>("web", "steady", steady).await;
    let measured = serde_json::to_value(autoscaler.status.unwrap().current_metrics).unwrap();
    let used = measured[0]["resource"]["current"]["averageUtilization"].as_i64().unwrap();
    assert!((40..=60).contains(&used), "{measured}");
    let why = "; reason: cpu resource utilization (percentage of request) above target";
    let is_told = |event: &Event| {
        let message = event.message.as_deref().unwrap_or_default();
        event.reason.as_deref() == Some("SuccessfulRescale")
            && message.starts_with("New size: ")
            && message.ends_with(why)
    };
    cluster.until::<Event>("why it has grown", |events| events.iter().any(is_told)).await;

    cluster.patch::<Deployment>("web", json!({"metadata": {"annotations": {"test/load": "80"}}})).await;
    cluster.until::<Pod>("two pods", |pods| pods.len() == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_scaled_is_told() {
    let cluster = Cluster::start().await;
    let autoscaler = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"maxReplicas": 3,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}}})
    };
    cluster.make::<HorizontalPodAutoscaler>(autoscaler("nothing")).await;
    cluster.make::<Deployment>(busy(100)).await;
    cluster.make::<HorizontalPodAutoscaler>(autoscaler("web")).await;
    let is =
        |reason: &'static str| move |it: &HorizontalPodAutoscaler| conditions(it).iter().any(|told| told == reason);
    cluster.until_one::<HorizontalPodAutoscaler>("nothing", "no target", is("AbleToScale=False FailedGetScale")).await;
    // No node runs the pod, so there is nothing to measure.
    let unmeasured = is("ScalingActive=False FailedGetResourceMetric");
    cluster.until_one::<HorizontalPodAutoscaler>("web", "no metrics", unmeasured).await;
    let why = "failed to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource \
               metrics API";
    let is_told = |event: &Event| {
        event.reason.as_deref() == Some("FailedGetResourceMetric") && event.message.as_deref() == Some(why)
    };
    cluster.until::<Event>("why", |events| events.iter().any(is_told)).await;
}
