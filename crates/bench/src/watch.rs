//! How soon watchers hear of a write, and what a delivery costs.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, Patch, PatchParams, WatchEvent, WatchParams};
use serde_json::json;

use crate::cluster::Cluster;
use crate::report::Report;

const WATCHERS: usize = 100;
const PER_SECOND: u64 = 200;
const WRITES: usize = 2_000;

pub async fn measure(cluster: &Cluster, report: &mut Report) -> Result<()> {
    let client = cluster.client().await?;
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let params = PatchParams::apply("bench").force();
    let name = "bench-watched";
    let object = |sent: String| {
        Patch::Apply(
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"sent": sent}}),
        )
    };
    maps.patch(name, &params, &object("0".to_owned())).await?;
    let from = maps.list_metadata(&ListParams::default()).await?.metadata.resource_version.context("no revision")?;
    let origin = Instant::now();
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        let (maps, from) = (maps.clone(), from.clone());
        watchers.push(tokio::spawn(async move {
            let only = WatchParams::default().fields(&format!("metadata.name={name}"));
            let mut events = maps.watch(&only, &from).await?.boxed();
            let mut delays = Vec::with_capacity(WRITES);
            while delays.len() < WRITES {
                let event = events.try_next().await?.context("the watch ended")?;
                let WatchEvent::Modified(map) = event else { continue };
                let sent = map.data.as_ref().and_then(|d| d.get("sent")?.parse::<u64>().ok()).context("no time")?;
                delays.push(origin.elapsed().saturating_sub(Duration::from_micros(sent)));
            }
            anyhow::Ok(delays)
        }));
    }
    let processes = cluster.processes()?;
    let before = processes.usage()?;
    let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 / PER_SECOND));
    for _ in 0..WRITES {
        ticks.tick().await;
        maps.patch(name, &params, &object(origin.elapsed().as_micros().to_string())).await?;
    }
    let mut delays = Vec::new();
    for watcher in watchers {
        delays.extend(watcher.await??);
    }
    let used = processes.usage()?.since(before);
    let what = format!("{WATCHERS} watchers, {PER_SECOND} writes/s, write to delivery");
    report.times(&what, &mut delays);
    let each = used.cpu.as_secs_f64() * 1e6 / delays.len() as f64;
    report.value("  CPU of the server, the write included", each, "µs a delivery");
    Ok(())
}
