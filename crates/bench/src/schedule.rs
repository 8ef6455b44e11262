//! Scheduling onto made-up nodes: from created to bound, through the API. First nodes that are all alike and pods of each sort by
//! themselves, as fast as they can be made and at half the goal's rate; then nodes of several sizes, zones and taints with all
//! sorts of pods together; at last a full cluster where important pods take the place of others.
//!
//! `--nodes 5000` and `--nodes 20000` are the larger clusters for which there are goals.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::process::{Processes, Usage, cpu};
use crate::report::Report;

const CONCURRENT: usize = 32;
/// Requests that may be open while pods are made at a rate, so that a slow one delays no other.
const CONCURRENT_AT_A_RATE: usize = 256;
const PATIENCE: Duration = Duration::from_secs(300);
/// For how long hardly anything must have happened, for nothing to be left to do.
const QUIET: Duration = Duration::from_millis(200);
/// For how long pods are made at a rate.
const SUSTAINED: usize = 10;

/// Pods that say nothing, and pods with rules of several sorts; the last is all of them together.
const SORTS: [&str; 6] = ["plain", "spread", "affinity", "anti-affinity", "preferred nodes", "mixed"];
/// What makes sense only where nodes differ.
const SORTS_OF_DIFFERENT_NODES: [&str; 2] = ["taints", "mixed"];
/// The priority of those that take the place of others.
const HIGH: &str = "bench-high";

/// The pods a second that are the goal on so many nodes.
fn goal(nodes: usize) -> f64 {
    match nodes {
        ..=1_000 => 2_500.0,
        1_001..=5_000 => 2_000.0,
        _ => 1_000.0,
    }
}

/// How the nodes are made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Nodes {
    Alike,
    /// Of four sizes and seven zones; one in ten has a taint that keeps pods away, one in ten a taint that does so softly.
    Different,
}

/// One measurement.
struct Run<'a> {
    client: &'a kube::Client,
    cluster: &'a Cluster,
    nodes: usize,
}

pub async fn measure(cluster: &Cluster, nodes: usize, pods: usize, report: &mut Report) -> Result<()> {
    let client = cluster.client().await?;
    let run = Run { client: &client, cluster, nodes };
    make_nodes(&client, nodes, Nodes::Alike).await?;
    for sort in SORTS {
        run.measure(&format!("{sort} pods"), &made(sort, pods)?, None, report).await?;
        run.clear().await?;
    }
    let rate = goal(nodes) / 2.0;
    let sustained = made("mixed", rate as usize * SUSTAINED)?;
    run.measure(&format!("mixed pods at {rate:.0} a second"), &sustained, Some(rate), report).await?;
    run.clear().await?;
    run.preemption(pods.min(nodes), report).await?;
    remove_nodes(&client).await?;
    make_nodes(&client, nodes, Nodes::Different).await?;
    for sort in SORTS_OF_DIFFERENT_NODES {
        run.measure(&format!("{sort} pods, nodes that differ"), &made(sort, pods)?, None, report).await?;
        run.clear().await?;
    }
    remove_nodes(&client).await
}

/// So many pods of a sort.
fn made(sort: &str, pods: usize) -> Result<Vec<Pod>> {
    let sort_of = |i: usize| if sort == "mixed" { SORTS[i % (SORTS.len() - 1)] } else { sort };
    (0..pods).map(|i| pod(&format!("scheduled-{i}"), sort_of(i))).collect()
}

impl Run<'_> {
    /// Makes the pods and waits until all are bound. With a rate, no more than so many a second.
    async fn measure(&self, what: &str, pods: &[Pod], rate: Option<f64>, report: &mut Report) -> Result<()> {
        let api: Api<Pod> = Api::default_namespaced(self.client.clone());
        let from = api.list_metadata(&ListParams::default()).await?.metadata.resource_version.context("no revision")?;
        let processes = self.cluster.processes()?;
        let (before, client_before) = (settled(&processes).await?, cpu(std::process::id()));
        let begin = Instant::now();
        let names = pods.iter().filter_map(|pod| pod.metadata.name.clone()).collect();
        let watching = tokio::spawn(bound(api.clone(), from, names));
        let concurrent = if rate.is_some() { CONCURRENT_AT_A_RATE } else { CONCURRENT };
        let created: HashMap<String, Instant> = futures::stream::iter(pods.iter().enumerate())
            .map(|(i, pod)| {
                let api = api.clone();
                async move {
                    if let Some(rate) = rate {
                        tokio::time::sleep_until((begin + Duration::from_secs_f64(i as f64 / rate)).into()).await;
                    }
                    let at = Instant::now();
                    api.create(&PostParams::default(), pod).await?;
                    anyhow::Ok((pod.metadata.name.clone().unwrap_or_default(), at))
                }
            })
            .buffer_unordered(concurrent)
            .try_collect()
            .await?;
        let bound = watching.await??;
        let client = cpu(std::process::id()).saturating_sub(client_before);
        let used = settled(&processes).await?.since(before);
        let last = bound.values().max().context("no pod was bound")?;
        let mut delays: Vec<_> =
            bound.iter().filter_map(|(name, at)| Some(at.saturating_duration_since(*created.get(name)?))).collect();
        let reached = pods.len() as f64 / last.duration_since(begin).as_secs_f64();
        report.value(&format!("scheduling onto {} nodes, {what}, created to bound", self.nodes), reached, "pods/s");
        let a_pod = |cpu: Duration| cpu.as_secs_f64() * 1e3 / pods.len() as f64;
        report.value("  CPU of all servers", a_pod(used.cpu), "ms a pod");
        report.value("  CPU of the client", a_pod(client), "ms a pod");
        let at_a_rate = if rate.is_some() { " at this rate" } else { "" };
        report.times(&format!("  POST of a pod to bound{at_a_rate}"), &mut delays);
        Ok(())
    }

    /// Fills every node with one pod, and then has more important ones take their place.
    async fn preemption(&self, pods: usize, report: &mut Report) -> Result<()> {
        let classes: Api<PriorityClass> = Api::all(self.client.clone());
        let class = serde_json::from_value(json!({"metadata": {"name": HIGH}, "value": 1000}))?;
        classes.create(&PostParams::default(), &class).await?;
        let large = |name: String, more: Value| -> Result<Pod> {
            let mut pod = serde_json::to_value(pod(&name, "plain")?)?;
            pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "60".into();
            pod["spec"]["terminationGracePeriodSeconds"] = 0.into();
            if let Some(spec) = pod["spec"].as_object_mut() {
                spec.extend(more.as_object().cloned().unwrap_or_default());
            }
            Ok(serde_json::from_value(pod)?)
        };
        let low: Vec<Pod> = (0..self.nodes).map(|i| large(format!("low-{i}"), json!({}))).collect::<Result<_>>()?;
        self.measure("pods that fill a node each", &low, None, report).await?;
        let high = json!({"priorityClassName": HIGH});
        let high: Vec<Pod> = (0..pods).map(|i| large(format!("high-{i}"), high.clone())).collect::<Result<_>>()?;
        self.measure("pods that take others' place", &high, None, report).await?;
        self.clear().await?;
        classes.delete(HIGH, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Removes all pods, so that the next ones find the nodes empty.
    async fn clear(&self) -> Result<()> {
        let api: Api<Pod> = Api::default_namespaced(self.client.clone());
        let ours = ListParams::default().labels("bench=schedule");
        api.delete_collection(&DeleteParams::default().grace_period(0), &ours).await?;
        let begin = Instant::now();
        while !api.list_metadata(&ours.clone().limit(1)).await?.items.is_empty() {
            if begin.elapsed() > PATIENCE {
                bail!("pods are still there after {} s", PATIENCE.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

async fn remove_nodes(client: &kube::Client) -> Result<()> {
    let all: Api<Node> = Api::all(client.clone());
    let ours = ListParams::default().labels("bench=schedule");
    all.delete_collection(&DeleteParams::default(), &ours).await?;
    Ok(())
}

/// CPUs, GiB and pods, zone and taints of a node.
fn node(i: usize, nodes: Nodes) -> Value {
    let (cpu, memory, pods) = match (nodes, i % 4) {
        (Nodes::Alike, _) | (Nodes::Different, 0) => (64, 256, 500),
        (Nodes::Different, 1) => (16, 64, 110),
        (Nodes::Different, 2) => (96, 768, 250),
        (Nodes::Different, _) => (32, 64, 250),
    };
    let zones = if nodes == Nodes::Alike { 3 } else { 7 };
    let taints = match (nodes, i % 10) {
        (Nodes::Different, 0) => json!([{"key": "dedicated", "value": "bench", "effect": "NoSchedule"}]),
        (Nodes::Different, 1) => json!([{"key": "old", "effect": "PreferNoSchedule"}]),
        _ => json!([]),
    };
    let name = format!("made-up-{i}");
    let labels = json!({"bench": "schedule", "kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("zone-{}", i % zones)});
    let resources = json!({"cpu": cpu.to_string(), "memory": format!("{memory}Gi"), "pods": pods.to_string()});
    let now = jiff::Timestamp::now().to_string();
    let status = json!({"capacity": resources, "allocatable": resources, "conditions": [
        {"type": "Ready", "status": "True", "lastHeartbeatTime": now, "lastTransitionTime": now, "reason": "KubeletReady"}]});
    json!({"metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}, "status": status})
}

async fn make_nodes(client: &kube::Client, count: usize, nodes: Nodes) -> Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    futures::stream::iter(0..count)
        .map(|i| {
            let api = api.clone();
            async move {
                let made = node(i, nodes);
                let patch = json!({"status": made["status"]});
                let made: Node = serde_json::from_value(made)?;
                let name = made.metadata.name.clone().unwrap_or_default();
                api.create(&PostParams::default(), &made).await?;
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
    // What a node controller may say of nodes without a kubelet keeps no pod away.
    let states =
        ["not-ready", "unreachable"].map(|it| json!({"key": format!("node.kubernetes.io/{it}"), "operator": "Exists"}));
    let mut spec = json!({"containers": [container], "nodeSelector": {"bench": "schedule"}, "tolerations": states});
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
        "taints" => spec["tolerations"] = json!([{"operator": "Exists"}]),
        _ => {}
    }
    let metadata = json!({"name": name, "labels": {"bench": "schedule", "sort": sort.replace(' ', "-")}});
    Ok(serde_json::from_value(json!({"metadata": metadata, "spec": spec}))?)
}

/// What was used once nothing is left to do: events are written after the pods that they are about are bound.
async fn settled(processes: &Processes) -> Result<Usage> {
    let begin = Instant::now();
    let mut used = processes.usage()?;
    while begin.elapsed() < PATIENCE {
        tokio::time::sleep(QUIET).await;
        let now = processes.usage()?;
        if now.since(used).cpu < QUIET / 20 {
            return Ok(now);
        }
        used = now;
    }
    bail!("the servers are still busy after {} s", PATIENCE.as_secs())
}

/// When each of these pods was seen with a node.
async fn bound(
    api: Api<Pod>,
    from: String,
    mut names: std::collections::HashSet<String>,
) -> Result<HashMap<String, Instant>> {
    let (mut seen, pods) = (HashMap::new(), names.len());
    let watching = async {
        let only = WatchParams::default().labels("bench=schedule");
        let mut events = api.watch(&only, &from).await?.boxed();
        while !names.is_empty() {
            let event = events.try_next().await?.context("the watch ended")?;
            let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) = event else { continue };
            let name = pod.metadata.name.unwrap_or_default();
            if pod.spec.is_some_and(|s| s.node_name.is_some()) && names.remove(&name) {
                seen.insert(name, Instant::now());
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
