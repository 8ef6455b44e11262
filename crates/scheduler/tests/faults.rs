//! A model of nodes and pods, while bindings fail, answers get lost, the scheduler's caches lag behind, and it is restarted; while
//! a node goes and comes back and pods take the place of others: never is there more on a node than it can hold, and in the end
//! every pod that fits has a node.

mod cluster;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cluster::{Cluster, eventually, parse};
use futures::{StreamExt, TryStreamExt, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use k8s_openapi::api::{
    core::v1::{Node, Pod},
    scheduling::v1::PriorityClass,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams, WatchEvent, WatchParams},
    client::Body,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;
use tower::service_fn;

const NODES: usize = 5;
/// What each node holds, in half CPUs.
const ROOM: usize = 8;

fn random(below: u64) -> u64 {
    rand::rng().random_range(0..below)
}

type Answer = http::Response<UnsyncBoxBody<bytes::Bytes, tower::BoxError>>;

/// A client whose bindings fail now and then, before or after they were done, and whose watches are late.
fn faulty(inner: kube::Client, faults: Arc<AtomicBool>) -> kube::Client {
    let service = service_fn(move |request: http::Request<Body>| {
        let (inner, faults) = (inner.clone(), faults.clone());
        async move {
            let is_binding = request.uri().path().ends_with("/binding");
            let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
            let active = faults.load(Ordering::Relaxed);
            let failure = |code: u16| {
                let body =
                    json!({"kind": "Status", "status": "Failure", "message": "a fault", "code": code}).to_string();
                let body = Full::from(body.into_bytes()).map_err(|never| match never {}).boxed_unsync();
                http::Response::builder().status(code).body(body).unwrap()
            };
            if active && is_binding && random(10) < 3 {
                return Ok::<Answer, tower::BoxError>(failure(500));
            }
            let response = inner.send(request).await?.map(|body| body.map_err(tower::BoxError::from).boxed_unsync());
            if active && is_binding && random(10) < 2 {
                // It was bound, but nobody hears of it.
                return Ok(failure(503));
            }
            if !is_watch {
                return Ok(response);
            }
            let (parts, body) = response.into_parts();
            let late = body.into_data_stream().then(move |data| {
                let faults = faults.clone();
                async move {
                    let pause = Duration::from_millis(random(40));
                    if faults.load(Ordering::Relaxed) && random(3) == 0 {
                        tokio::time::sleep(pause).await;
                    }
                    data.map(http_body::Frame::data)
                }
            });
            Ok(http::Response::from_parts(parts, StreamBody::new(late).boxed_unsync()))
        }
    });
    kube::Client::new(service, "default")
}

/// What a pod takes of its node.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Load {
    node: Option<String>,
    /// In half CPUs.
    size: usize,
    port: bool,
    priority: i32,
}

impl Load {
    fn of(pod: &Pod) -> Self {
        let spec = pod.spec.clone().unwrap();
        let container = &spec.containers[0];
        let cpu = container.resources.as_ref().and_then(|it| it.requests.as_ref()?.get("cpu").cloned());
        let port = container.ports.iter().flatten().any(|port| port.host_port == Some(80));
        let size = if cpu.is_some_and(|cpu| cpu.0 == "1") { 2 } else { 1 };
        Self { node: spec.node_name, size, port, priority: spec.priority.unwrap_or(0) }
    }
}

fn on<'a>(node: &'a str, pods: impl Iterator<Item = &'a Load>) -> impl Iterator<Item = &'a Load> {
    pods.filter(move |it| it.node.as_deref() == Some(node))
}

/// Follows all pods and counts what is on each node at each revision. What is being deleted is gone a little later, as if a
/// kubelet had seen to it.
async fn watch_over(cluster: &Cluster, stop: Arc<AtomicBool>) {
    let mut all: BTreeMap<String, Load> = BTreeMap::new();
    let pods = cluster.pods();
    let mut events = pods.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    while !stop.load(Ordering::Relaxed) {
        let Ok(event) = tokio::time::timeout(Duration::from_millis(200), events.try_next()).await else { continue };
        let pod = match event.unwrap().unwrap() {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) => pod,
            WatchEvent::Deleted(pod) => {
                all.remove(&pod.metadata.name.unwrap());
                continue;
            }
            _ => continue,
        };
        let (name, load) = (pod.metadata.name.clone().unwrap(), Load::of(&pod));
        if pod.metadata.deletion_timestamp.is_some() {
            let (pods, name) = (pods.clone(), name.clone());
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(random(60))).await;
                // It may be gone already.
                _ = pods.delete(&name, &now()).await;
            });
        }
        let before = all.insert(name.clone(), load.clone()).and_then(|before| before.node);
        assert!(before.is_none() || before == load.node, "{name} was moved from {before:?} to {:?}", load.node);
        let Some(node) = &load.node else { continue };
        let size: usize = on(node, all.values()).map(|it| it.size).sum();
        assert!(size <= ROOM, "{size} half CPUs are taken of {node}");
        let ports = on(node, all.values()).filter(|it| it.port).count();
        assert!(ports <= 1, "{ports} pods have the same port of {node}");
    }
}

fn now() -> DeleteParams {
    DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }
}

/// Why it cannot stay as it is: a pod without a node that would fit on one, at least in the place of lesser ones.
fn neglected(pods: &[Pod], nodes: &[String]) -> Option<String> {
    let loads: Vec<Load> = pods.iter().map(Load::of).collect();
    for (pod, load) in pods.iter().zip(&loads).filter(|(_, load)| load.node.is_none()) {
        for node in nodes {
            let equals = || on(node, loads.iter()).filter(|it| it.priority >= load.priority);
            let size: usize = equals().map(|it| it.size).sum();
            if size + load.size <= ROOM && !(load.port && equals().any(|it| it.port)) {
                return Some(format!("{} would fit on {node}", pod.metadata.name.as_deref().unwrap_or_default()));
            }
        }
    }
    None
}

/// Makes and deletes pods of all sorts, restarts the scheduler, and takes a node away and gives it back.
async fn churn(cluster: &Cluster, seed: u64) {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut made = 0;
    for round in 0..10 {
        let mut new = Vec::new();
        for _ in 0..12 {
            let mut container = json!({"name": "c", "image": "web"});
            let cpu = if dice.random_range(0..3) == 0 { "1" } else { "500m" };
            container["resources"] = json!({"requests": {"cpu": cpu}});
            if dice.random_range(0..6) == 0 {
                container["ports"] = json!([{"containerPort": 80, "hostPort": 80}]);
            }
            let class = if dice.random_range(0..4) == 0 { json!("high") } else { json!(null) };
            new.push((format!("p{made}"), json!({"containers": [container], "priorityClassName": class})));
            made += 1;
        }
        let create = |(name, spec): (String, serde_json::Value)| async move { cluster.pod(&name, "", spec).await };
        stream::iter(new).for_each_concurrent(6, create).await;
        let nodes = Api::<Node>::all(cluster.admin.clone());
        match round {
            3 | 7 => cluster.restart().await,
            4 => _ = nodes.delete("n0", &DeleteParams::default()).await.unwrap(),
            6 => cluster.node("n0", &(ROOM / 2).to_string()).await,
            _ => {}
        }
        let all: Vec<Pod> = cluster.pods().list(&ListParams::default()).await.unwrap().items;
        for pod in all.iter().filter(|_| dice.random_range(0..3) == 0) {
            // It may have been deleted meanwhile.
            _ = cluster.pods().delete(pod.metadata.name.as_deref().unwrap(), &now()).await;
        }
    }
}

/// Seeds that are tried, `REGATTA_FAULT_SEEDS` of them.
fn seeds() -> std::ops::Range<u64> {
    let count = std::env::var("REGATTA_FAULT_SEEDS").ok().and_then(|text| text.parse().ok());
    11..11 + count.unwrap_or(3)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_node_ever_has_more_than_it_can_hold_and_every_pod_that_fits_is_bound() {
    for seed in seeds() {
        let faults = Arc::new(AtomicBool::new(true));
        let between = {
            let faults = faults.clone();
            move |client| faulty(client, faults.clone())
        };
        let quick =
            "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\npodMaxBackoffSeconds: 1\n";
        let cluster = Cluster::start_with(scheduler::Options::parse(quick).unwrap(), between).await;
        let class = parse(json!({"metadata": {"name": "high"}, "value": 1000}));
        Api::<PriorityClass>::all(cluster.admin.clone()).create(&PostParams::default(), &class).await.unwrap();
        let nodes: Vec<String> = (0..NODES).map(|index| format!("n{index}")).collect();
        for node in &nodes {
            cluster.node(node, &(ROOM / 2).to_string()).await;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let work = async {
            churn(&cluster, seed).await;
            faults.store(false, Ordering::Relaxed);
            let (nodes, cluster) = (&nodes, &cluster);
            let settled = || async move {
                let pods = cluster.pods().list(&ListParams::default()).await.unwrap().items;
                let leaving = pods.iter().any(|pod| pod.metadata.deletion_timestamp.is_some());
                (!leaving && neglected(&pods, nodes).is_none()).then_some(pods.len())
            };
            let all = eventually("bound all that fit", settled).await;
            assert!(all > 0, "seed {seed}");
            stop.store(true, Ordering::Relaxed);
        };
        tokio::join!(watch_over(&cluster, stop.clone()), work);
    }
}
