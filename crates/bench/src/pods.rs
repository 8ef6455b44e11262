//! Starting and ending pods whose image is present.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, PostParams, WatchEvent, WatchParams};
use serde_json::json;

use crate::cluster::Cluster;
use crate::report::Report;

const ONE_BY_ONE: usize = 20;
const AT_ONCE: usize = 50;
const PATIENCE: Duration = Duration::from_secs(120);

pub async fn measure(cluster: &Cluster, report: &mut Report) -> Result<()> {
    cluster.import()?;
    let pods: Api<Pod> = Api::default_namespaced(cluster.client().await?);
    let (mut running, mut gone) = (Vec::new(), Vec::new());
    for i in 0..ONE_BY_ONE {
        let name = format!("one-{i}");
        running.push(start(&pods, std::slice::from_ref(&name)).await?);
        gone.push(end(&pods, std::slice::from_ref(&name)).await?);
    }
    report.times("POST of a pod to Running", &mut running);
    report.times("DELETE of a pod to gone", &mut gone);
    let names: Vec<_> = (0..AT_ONCE).map(|i| format!("many-{i}")).collect();
    let all = start(&pods, &names).await?;
    report.time(&format!("{AT_ONCE} pods at once, all Running"), all);
    let (server, shims, count) = cluster.processes()?.memory()?;
    report.value(&format!("memory with {AT_ONCE} pods, PSS of the server"), server as f64 / f64::from(1 << 20), "MiB");
    report.value("  of each shim", shims as f64 / count.max(1) as f64 / f64::from(1 << 20), "MiB");
    let all = end(&pods, &names).await?;
    report.time(&format!("{AT_ONCE} pods at once, all gone"), all);
    Ok(())
}

fn pod(name: &str) -> Result<Pod> {
    let container = json!({"name": "web", "image": "regatta.local/webapp:v1", "imagePullPolicy": "Never"});
    let spec = json!({"containers": [container], "terminationGracePeriodSeconds": 5});
    Ok(serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}))?)
}

/// Creates the pods; gives the time until the last is Running.
async fn start(pods: &Api<Pod>, names: &[String]) -> Result<Duration> {
    let from = pods.list_metadata(&Default::default()).await?.metadata.resource_version.context("no revision")?;
    let begin = Instant::now();
    let post = async {
        for name in names {
            pods.create(&PostParams::default(), &pod(name)?).await?;
        }
        anyhow::Ok(())
    };
    let running = until(pods, &from, names, |event| match event {
        WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
            pod.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Running"))
        }
        _ => false,
    });
    tokio::try_join!(post, running)?;
    Ok(begin.elapsed())
}

/// Deletes the pods; gives the time until the last is gone.
async fn end(pods: &Api<Pod>, names: &[String]) -> Result<Duration> {
    let from = pods.list_metadata(&Default::default()).await?.metadata.resource_version.context("no revision")?;
    let begin = Instant::now();
    let delete = async {
        for name in names {
            pods.delete(name, &DeleteParams::default()).await?;
        }
        anyhow::Ok(())
    };
    let gone = until(pods, &from, names, |event| matches!(event, WatchEvent::Deleted(_)));
    tokio::try_join!(delete, gone)?;
    Ok(begin.elapsed())
}

/// Watches until every pod had an event that counts.
async fn until(pods: &Api<Pod>, from: &str, names: &[String], counts: impl Fn(&WatchEvent<Pod>) -> bool) -> Result<()> {
    let mut waiting: HashMap<&str, ()> = names.iter().map(|n| (n.as_str(), ())).collect();
    let mut last = BTreeMap::new();
    let watching = async {
        let mut events = pods.watch(&WatchParams::default(), from).await?.boxed();
        while !waiting.is_empty() {
            let event = events.try_next().await?.context("the watch ended")?;
            if let WatchEvent::Added(pod) | WatchEvent::Modified(pod) | WatchEvent::Deleted(pod) = &event {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                last.insert(name.to_owned(), serde_json::to_string(&pod.status)?);
                if counts(&event) {
                    waiting.remove(name);
                }
            }
        }
        anyhow::Ok(())
    };
    match tokio::time::timeout(PATIENCE, watching).await {
        Ok(result) => result,
        Err(_) => anyhow::bail!("{} pods are not there yet, such as {:?}", waiting.len(), last.iter().next_back()),
    }
}
