//! `/stats/summary` and `/metrics`: what pods use, as the runtime counts it.

use std::fmt::Write as _;

use http::{Response, StatusCode};
use jiff::Timestamp;
use runtime::cri::{ContainerStats, PodSandboxStatsFilter};
use serde_json::{Value, json};

use super::{Body, Refusal, as_json, text};
use crate::context::Context;
use crate::pods::manager::Pods;

fn time(nanoseconds: i64) -> String {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or_default().to_string()
}

fn used(cpu: &runtime::cri::CpuUsage, memory: &runtime::cri::MemoryUsage) -> (Value, Value) {
    let cpu = json!({"time": time(cpu.timestamp), "usageCoreNanoSeconds": cpu.usage_core_nano_seconds});
    let memory = json!({"time": time(memory.timestamp), "availableBytes": memory.available_bytes,
        "usageBytes": memory.usage_bytes, "workingSetBytes": memory.working_set_bytes, "rssBytes": memory.rss_bytes,
        "pageFaults": memory.page_faults, "majorPageFaults": memory.major_page_faults});
    (cpu, memory)
}

fn container(stats: &ContainerStats) -> Value {
    let (cpu, memory) = used(&stats.cpu, &stats.memory);
    json!({"name": stats.attributes.metadata.name, "cpu": cpu, "memory": memory,
        "rootfs": stats.writable_layer.as_ref().map(|w| json!({"time": time(w.timestamp), "usedBytes": w.used_bytes}))})
}

pub async fn summary(context: &Context) -> Result<Response<Body>, Refusal> {
    let all = context.runtime.list_pod_sandbox_stats(&PodSandboxStatsFilter::default()).await;
    let pods: Vec<_> = all
        .map_err(Refusal::internal)?
        .into_iter()
        .map(|stats| {
            let (cpu, memory) = used(&stats.cpu, &stats.memory);
            let of = &stats.attributes.metadata;
            let network = stats.network.as_ref().and_then(|n| {
                let eth = n.default_interface.as_ref()?;
                Some(json!({"time": time(n.timestamp), "name": eth.name, "rxBytes": eth.rx_bytes, "txBytes": eth.tx_bytes,
                    "rxErrors": eth.rx_errors, "txErrors": eth.tx_errors}))
            });
            json!({"podRef": {"name": of.name, "namespace": of.namespace, "uid": of.uid}, "cpu": cpu, "memory": memory,
                "network": network, "process_stats": {"process_count": stats.process.process_count},
                "containers": stats.containers.iter().map(container).collect::<Vec<_>>()})
        })
        .collect();
    Ok(as_json(&json!({"node": {"nodeName": context.node_name}, "pods": pods})))
}

pub async fn metrics(context: &Context, pods: &Pods) -> Result<Response<Body>, Refusal> {
    let all = context.runtime.list_pod_sandbox_stats(&PodSandboxStatsFilter::default()).await;
    let all = all.map_err(Refusal::internal)?;
    let mut out = String::new();
    let _ = writeln!(out, "# TYPE kubelet_running_pods gauge\nkubelet_running_pods {}", pods.all().len());
    let rows = [("container_cpu_usage_seconds_total", "counter"), ("container_memory_working_set_bytes", "gauge")];
    for (index, (name, kind)) in rows.into_iter().enumerate() {
        let _ = writeln!(out, "# TYPE {name} {kind}");
        for pod in &all {
            let of = &pod.attributes.metadata;
            for stats in &pod.containers {
                let value = match index {
                    0 => stats.cpu.usage_core_nano_seconds.map(|n| n as f64 / 1e9),
                    _ => stats.memory.working_set_bytes.map(|n| n as f64),
                };
                let Some(value) = value else { continue };
                let container = &stats.attributes.metadata.name;
                let _ = writeln!(
                    out,
                    "{name}{{container=\"{container}\",pod=\"{}\",namespace=\"{}\"}} {value}",
                    of.name, of.namespace
                );
            }
        }
    }
    Ok(text(StatusCode::OK, out))
}
