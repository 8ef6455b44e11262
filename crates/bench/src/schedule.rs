//! Scheduling onto made-up nodes: from created to bound, through the API.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use serde_json::json;

use crate::cluster::Cluster;
use crate::report::Report;

const CONCURRENT: usize = 32;
const PATIENCE: Duration = Duration::from_secs(300);

/// Pods that say nothing, and pods with rules of several sorts; the last is all of them together.
const SORTS: [&str; 6] = ["plain", "spread", "affinity", "anti-affinity", "preferred nodes", "mixed"];

pub async fn measure(cluster: &Cluster, nodes: usize, pods: usize, report: &mut Report) -> Result<()> {
    let client = cluster.client().await?;
    make_nodes(&client, nodes).await?;
    for sort in SORTS {
        measure_sort(cluster, &client, sort, nodes, pods, report).await?;
    }
    let all: Api<Node> = Api::all(client);
    all.delete_collection(&DeleteParams::default(), &ListParams::default().labels("bench=schedule")).await?;
    Ok(())
}

async fn measure_sort(
    cluster: &Cluster,
    client: &kube::Client,
    sort: &str,
    nodes: usize,
    pods: usize,
    report: &mut Report,
) -> Result<()> {
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    let from = api.list_metadata(&ListParams::default()).await?.metadata.resource_version.context("no revision")?;
    let processes = cluster.processes()?;
    let before = processes.usage()?;
    let begin = Instant::now();
    let watching = tokio::spawn(bound(api.clone(), from, pods));
    let created: HashMap<String, Instant> = futures::stream::iter(0..pods)
        .map(|i| {
            let api = api.clone();
            async move {
                let name = format!("scheduled-{i}");
                let at = Instant::now();
                let sort = if sort == "mixed" { SORTS[i % (SORTS.len() - 1)] } else { sort };
                api.create(&PostParams::default(), &pod(&name, sort)?).await?;
                anyhow::Ok((name, at))
            }
        })
        .buffer_unordered(CONCURRENT)
        .try_collect()
        .await?;
    let bound = watching.await??;
    let used = processes.usage()?.since(before);
    let last = bound.values().max().context("no pod was bound")?;
    let mut delays: Vec<_> = bound.iter().map(|(name, at)| at.saturating_duration_since(created[name])).collect();
    let rate = pods as f64 / last.duration_since(begin).as_secs_f64();
    report.value(&format!("scheduling onto {nodes} nodes, {sort} pods, created to bound"), rate, "pods/s");
    report.value("  CPU of all servers", used.cpu.as_secs_f64() * 1e3 / pods as f64, "ms a pod");
    report.times("  POST of a pod to bound", &mut delays);
    let ours = ListParams::default().labels("bench=schedule");
    api.delete_collection(&DeleteParams::default().grace_period(0), &ours).await?;
    // The next sort finds the nodes empty.
    let begin = Instant::now();
    while !api.list_metadata(&ours.clone().limit(1)).await?.items.is_empty() {
        if begin.elapsed() > PATIENCE {
            bail!("pods are still there after {} s", PATIENCE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn make_nodes(client: &kube::Client, nodes: usize) -> Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    let resources = json!({"cpu": "64", "memory": "256Gi", "pods": "500"});
    let now = jiff::Timestamp::now().to_string();
    let status = json!({"capacity": resources, "allocatable": resources, "conditions": [
        {"type": "Ready", "status": "True", "lastHeartbeatTime": now, "lastTransitionTime": now, "reason": "KubeletReady"}]});
    futures::stream::iter(0..nodes)
        .map(|i| {
            let (api, status) = (api.clone(), status.clone());
            async move {
                let name = format!("made-up-{i}");
                let labels = json!({"bench": "schedule", "kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("zone-{}", i % 3)});
                let node = json!({"metadata": {"name": name, "labels": labels}, "status": status});
                api.create(&PostParams::default(), &serde_json::from_value(node)?).await?;
                let patch = json!({"status": status});
                api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await?;
                // Nobody renews a lease for them, and none is needed for as long as this takes.
                anyhow::Ok(())
            }
        })
        .buffer_unordered(CONCURRENT)
        .try_collect::<()>()
        .await
}

fn pod(name: &str, sort: &str) -> Result<Pod> {
    let container =
        json!({"name": "main", "image": "none", "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}});
    let mut spec = json!({"containers": [container], "nodeSelector": {"bench": "schedule"}, "tolerations": [{"operator": "Exists"}]});
    let like = json!({"matchLabels": {"sort": sort.replace(' ', "-")}});
    let near = |key: &str| json!({"topologyKey": key, "labelSelector": like});
    match sort {
        "spread" => {
            spec["topologySpreadConstraints"] = json!([{"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone",
                "whenUnsatisfiable": "DoNotSchedule", "labelSelector": like}]);
        }
        "affinity" => {
            let required = json!([near("topology.kubernetes.io/zone")]);
            spec["affinity"] = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}});
        }
        "anti-affinity" => {
            let preferred = json!([{"weight": 100, "podAffinityTerm": near("kubernetes.io/hostname")}]);
            spec["affinity"] =
                json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}});
        }
        "preferred nodes" => {
            let term = json!({"matchExpressions": [{"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["zone-0"]}]});
            let preferred = json!([{"weight": 10, "preference": term}]);
            spec["affinity"] = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}});
        }
        _ => {}
    }
    let metadata = json!({"name": name, "labels": {"bench": "schedule", "sort": sort.replace(' ', "-")}});
    Ok(serde_json::from_value(json!({"metadata": metadata, "spec": spec}))?)
}

/// When each pod was seen with a node.
async fn bound(api: Api<Pod>, from: String, pods: usize) -> Result<HashMap<String, Instant>> {
    let mut seen = HashMap::new();
    let watching = async {
        let only = WatchParams::default().labels("bench=schedule");
        let mut events = api.watch(&only, &from).await?.boxed();
        while seen.len() < pods {
            let event = events.try_next().await?.context("the watch ended")?;
            let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) = event else { continue };
            if pod.spec.is_some_and(|s| s.node_name.is_some()) {
                seen.entry(pod.metadata.name.unwrap_or_default()).or_insert_with(Instant::now);
            }
        }
        anyhow::Ok(())
    };
    match tokio::time::timeout(PATIENCE, watching).await {
        Ok(result) => result?,
        Err(_) => bail!("{} of {pods} pods were bound after {} s", seen.len(), PATIENCE.as_secs()),
    }
    Ok(seen)
}
