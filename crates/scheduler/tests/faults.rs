//! A model of nodes and pods, while bindings fail, answers get lost and the scheduler's caches lag behind: never is there more on
//! a node than it can hold, and in the end every pod that fits has a node.

mod cluster;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cluster::{Cluster, eventually};
use futures::{StreamExt, TryStreamExt, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    api::{DeleteParams, ListParams, WatchEvent, WatchParams},
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

/// Follows all pods and counts what is on each node at each revision.
async fn watch_over(cluster: &Cluster, stop: Arc<AtomicBool>) {
    let mut on: BTreeMap<String, String> = BTreeMap::new();
    let pods = cluster.pods();
    let mut events = pods.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    while !stop.load(Ordering::Relaxed) {
        let Ok(event) = tokio::time::timeout(Duration::from_millis(200), events.try_next()).await else { continue };
        let (pod, gone) = match event.unwrap().unwrap() {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) => (pod, false),
            WatchEvent::Deleted(pod) => (pod, true),
            _ => continue,
        };
        let name = pod.metadata.name.unwrap();
        match pod.spec.and_then(|spec| spec.node_name).filter(|_| !gone) {
            None => _ = on.remove(&name),
            Some(node) => {
                let before = on.insert(name.clone(), node.clone());
                assert!(before.is_none_or(|before| before == node), "{name} was moved to {node}");
                let count = on.values().filter(|other| **other == node).count();
                assert!(count <= ROOM, "{count} pods are on {node}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_node_ever_has_more_than_it_can_hold_and_every_pod_that_fits_is_bound() {
    let faults = Arc::new(AtomicBool::new(true));
    let between = {
        let faults = faults.clone();
        move |client| faulty(client, faults.clone())
    };
    let quick =
        "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\npodMaxBackoffSeconds: 1\n";
    let cluster = Cluster::start_with(scheduler::Options::parse(quick).unwrap(), between).await;
    for index in 0..NODES {
        cluster.node(&format!("n{index}"), &(ROOM / 2).to_string()).await;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let churn = async {
        let mut dice = StdRng::seed_from_u64(11);
        let mut made = 0;
        for _ in 0..12 {
            let names: Vec<String> = (made..made + 12).map(|index| format!("p{index}")).collect();
            made += names.len();
            let create = |name: String| {
                let cluster = &cluster;
                async move { cluster.pod(&name, "500m", json!({})).await }
            };
            stream::iter(names).for_each_concurrent(6, create).await;
            let all: Vec<Pod> = cluster.pods().list(&ListParams::default()).await.unwrap().items;
            for pod in all.iter().filter(|_| dice.random_range(0..3) == 0) {
                let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
                // It may have been deleted meanwhile.
                _ = cluster.pods().delete(pod.metadata.name.as_deref().unwrap(), &now).await;
            }
        }
        faults.store(false, Ordering::Relaxed);
        let settled = || async {
            let pods = cluster.pods().list(&ListParams::default()).await.unwrap().items;
            let bound =
                pods.iter().filter(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some())).count();
            (bound == pods.len().min(NODES * ROOM)).then_some((bound, pods.len()))
        };
        let (bound, all) = eventually("bound all that fit", settled).await;
        assert!(all > 0 && bound > 0, "{bound} of {all}");
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(watch_over(&cluster, stop.clone()), churn);
}
