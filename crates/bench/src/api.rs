//! Creates, gets, patches, deletes and lists, with the server's processor time for each.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::future::try_join_all;
use http::{Method, Request};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::report::Report;

const CONCURRENT: usize = 64;
const LISTS: usize = 5;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

pub async fn measure(cluster: &Cluster, objects: usize, report: &mut Report) -> Result<()> {
    let client = cluster.client().await?;
    let data = "x".repeat(1024);
    let create = |i: usize| {
        let body = json!({"metadata": {"name": format!("bench-{i}")}, "data": {"value": data}});
        request(Method::POST, MAPS.to_owned(), Some(("application/json", body)))
    };
    let get = |i: usize| request(Method::GET, format!("{MAPS}/bench-{i}"), None);
    let patch = |i: usize| {
        let body = json!({"metadata": {"annotations": {"bench": i.to_string()}}});
        request(Method::PATCH, format!("{MAPS}/bench-{i}"), Some(("application/merge-patch+json", body)))
    };
    let delete = |i: usize| request(Method::DELETE, format!("{MAPS}/bench-{i}"), None);
    run(cluster, &client, "create", objects, &create, report).await?;
    run(cluster, &client, "get", objects, &get, report).await?;
    run(cluster, &client, "patch", objects, &patch, report).await?;
    run(cluster, &client, "delete", objects, &delete, report).await?;
    list(cluster, &client, objects, report).await
}

async fn list(cluster: &Cluster, client: &kube::Client, objects: usize, report: &mut Report) -> Result<()> {
    // Pods that nobody schedules, so that nothing else happens to them.
    let create = |i: usize| {
        let container = json!({"name": "main", "image": "none", "env": [{"name": "A", "value": "x".repeat(600)}]});
        let body = json!({"metadata": {"name": format!("bench-{i}"), "labels": {"bench": "list"}},
            "spec": {"schedulerName": "none", "containers": [container], "terminationGracePeriodSeconds": 0}});
        request(Method::POST, PODS.to_owned(), Some(("application/json", body)))
    };
    run(cluster, client, "create of a pod", objects, &create, report).await?;
    for (name, query) in [("", ""), (" at any revision", "?resourceVersion=0")] {
        let mut times = Vec::new();
        for _ in 0..LISTS {
            let begin = Instant::now();
            let text = client.request_text(request(Method::GET, format!("{PODS}{query}"), None)?).await?;
            times.push(begin.elapsed());
            let found = text.matches("\"name\":\"bench-").count();
            anyhow::ensure!(found >= objects, "the list has {found} of {objects} pods");
        }
        report.times(&format!("list of {objects} pods{name}"), &mut times);
    }
    let mut times = Vec::new();
    for _ in 0..LISTS {
        let begin = Instant::now();
        let asked = Request::get(PODS).header("accept", "application/vnd.kubernetes.protobuf").body(Body::empty())?;
        let bytes = client.send(asked).await?.into_body().collect().await?.to_bytes();
        times.push(begin.elapsed());
        anyhow::ensure!(
            bytes.starts_with(b"k8s\0") && bytes.len() > objects * 600,
            "the list is no protobuf of all pods"
        );
    }
    report.times(&format!("list of {objects} pods in protobuf"), &mut times);
    let (server, _, _) = cluster.processes()?.memory()?;
    report.value(&format!("memory with {objects} pods, PSS of the server"), server as f64 / f64::from(1 << 20), "MiB");
    let all = request(Method::DELETE, format!("{PODS}?labelSelector=bench%3Dlist"), None)?;
    client.request_text(all).await?;
    Ok(())
}

type Made = Result<Request<Vec<u8>>>;

fn request(method: Method, path: String, body: Option<(&str, Value)>) -> Made {
    let mut request = Request::builder().method(method).uri(path);
    if let Some((kind, _)) = &body {
        request = request.header("content-type", *kind);
    }
    let body = body.map(|(_, body)| body.to_string().into_bytes()).unwrap_or_default();
    request.body(body).context("a request cannot be made")
}

/// Sends `count` requests, [`CONCURRENT`] at a time.
async fn run(
    cluster: &Cluster,
    client: &kube::Client,
    what: &str,
    count: usize,
    make: &(impl Fn(usize) -> Made + Sync),
    report: &mut Report,
) -> Result<()> {
    let processes = cluster.processes()?;
    let next = AtomicUsize::new(0);
    let before = processes.usage()?;
    let begin = Instant::now();
    let worker = || async {
        let mut times = Vec::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                return anyhow::Ok(times);
            }
            let sent = Instant::now();
            client.request_text(make(i)?).await.with_context(|| format!("{what} {i}"))?;
            times.push(sent.elapsed());
        }
    };
    let mut times: Vec<Duration> = try_join_all((0..CONCURRENT).map(|_| worker())).await?.concat();
    let (elapsed, used) = (begin.elapsed(), processes.usage()?.since(before));
    report.value(&format!("{what}, {CONCURRENT} at once"), count as f64 / elapsed.as_secs_f64(), "/s");
    report.value(&format!("{what}, CPU of the server"), used.cpu.as_secs_f64() * 1e6 / count as f64, "µs each");
    report.times(what, &mut times);
    Ok(())
}
