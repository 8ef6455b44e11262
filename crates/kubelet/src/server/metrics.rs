//! `/metrics` and what is below it, in Prometheus' text format.

use std::collections::HashMap;
use std::fmt::Write as _;

use http::{Response, StatusCode};
use runtime::cri::{
    ContainerFilter, ContainerState, ContainerStats, NetworkInterfaceUsage, PodSandboxStats, PodSandboxStatsFilter,
};

use super::{Body, Refusal, summary, text};
use crate::context::Context;
use crate::node::facts;
use crate::pods::manager::Pods;
use crate::{resources, stats};

/// Families of one metric after the other, each with its help and type.
#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// One line; with a time in nanoseconds, which the format has in milliseconds.
    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: f64, at: Option<i64>) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{escaped}\"", if index == 0 { '{' } else { ',' });
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = write!(self.0, "{close} {value}");
        if let Some(at) = at {
            let _ = write!(self.0, " {}", at / 1_000_000);
        }
        self.0.push('\n');
    }

    fn answer(self) -> Response<Body> {
        let mut response = text(StatusCode::OK, self.0);
        let kind = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8; escaping=underscores");
        response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        response
    }
}

async fn all(context: &Context) -> Result<Vec<PodSandboxStats>, Refusal> {
    let all = context.runtime.list_pod_sandbox_stats(&PodSandboxStatsFilter::default()).await;
    all.map_err(Refusal::internal)
}

fn seconds(nanoseconds: Option<u64>) -> Option<f64> {
    nanoseconds.map(|n| n as f64 / 1e9)
}

fn number(value: Option<u64>) -> Option<f64> {
    value.map(|n| n as f64)
}

/// A value and when it was read.
type Reading = (Option<f64>, i64);

/// A metric's name, type and help, and how it is read.
type Row<'a, T> = (&'static str, &'static str, &'static str, &'a dyn Fn(&T) -> Reading);

/// A metric's name and help, and where its number is.
type Column<T> = (&'static str, &'static str, fn(&T) -> u64);

/// `/metrics/resource`: what the metrics API is made from.
pub async fn resource(context: &Context) -> Result<Response<Body>, Refusal> {
    let all = all(context).await?;
    let began = context.runtime.list_containers(&ContainerFilter::default()).await.map_err(Refusal::internal)?;
    let began: std::collections::HashMap<_, _> = began.into_iter().map(|c| (c.id, c.created_at)).collect();
    let mut page = Page::default();
    let of_container: [Row<'_, ContainerStats>; 4] = [
        (
            "container_cpu_usage_seconds_total",
            "counter",
            "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
            &|c| (seconds(c.cpu.usage_core_nano_seconds), c.cpu.timestamp),
        ),
        (
            "container_memory_working_set_bytes",
            "gauge",
            "[STABLE] Current working set of the container in bytes",
            &|c| (number(c.memory.working_set_bytes), c.memory.timestamp),
        ),
        (
            "container_start_time_seconds",
            "gauge",
            "[STABLE] Start time of the container since unix epoch in seconds",
            &|c| (began.get(&c.attributes.id).map(|at| *at as f64 / 1e9), c.cpu.timestamp),
        ),
        (
            "container_swap_usage_bytes",
            "gauge",
            "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems",
            &|c| (number(c.swap.swap_usage_bytes), c.swap.timestamp),
        ),
    ];
    for (name, kind, help, read) in of_container {
        page.family(name, kind, help);
        for (pod, container) in all.iter().flat_map(|pod| pod.containers.iter().map(move |c| (pod, c))) {
            let of = &pod.attributes.metadata;
            let container_name = &container.attributes.metadata.name;
            if let (Some(value), at) = read(container) {
                let labels = [("container", &**container_name), ("namespace", &*of.namespace), ("pod", &*of.name)];
                page.line(name, &labels, value, Some(at));
            }
        }
    }
    let (memory, at) = (facts::Memory::read(), summary::now());
    let of_node = [
        (
            "node_cpu_usage_seconds_total",
            "counter",
            "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
            facts::cpu_nanoseconds() as f64 / 1e9,
        ),
        (
            "node_memory_working_set_bytes",
            "gauge",
            "[STABLE] Current working set of the node in bytes",
            memory.working_set() as f64,
        ),
        (
            "node_swap_usage_bytes",
            "gauge",
            "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems",
            memory.swap_total.saturating_sub(memory.swap_free) as f64,
        ),
    ];
    for (name, kind, help, value) in of_node {
        page.family(name, kind, help);
        page.line(name, &[], value, Some(at));
    }
    let of_pod: [Row<'_, PodSandboxStats>; 2] = [
        (
            "pod_cpu_usage_seconds_total",
            "counter",
            "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
            &|p| (seconds(p.cpu.usage_core_nano_seconds), p.cpu.timestamp),
        ),
        ("pod_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the pod in bytes", &|p| {
            (number(p.memory.working_set_bytes), p.memory.timestamp)
        }),
    ];
    for (name, kind, help, read) in of_pod {
        page.family(name, kind, help);
        for pod in &all {
            let of = &pod.attributes.metadata;
            if let (Some(value), at) = read(pod) {
                page.line(name, &[("namespace", &of.namespace), ("pod", &of.name)], value, Some(at));
            }
        }
    }
    for name in ["resource_scrape_error", "scrape_error"] {
        page.family(name, "gauge", "1 if there was an error while getting container metrics, 0 otherwise");
        page.line(name, &[], 0.0, None);
    }
    Ok(page.answer())
}

/// `/metrics/cadvisor`: containers under the names that dashboards know.
pub async fn cadvisor(context: &Context, pods: &Pods) -> Result<Response<Body>, Refusal> {
    let all = all(context).await?;
    let listed = context.runtime.list_containers(&ContainerFilter::default()).await.map_err(Refusal::internal)?;
    let known: HashMap<_, _> = listed.into_iter().map(|c| (c.id.clone(), c)).collect();
    let groups: HashMap<_, _> = pods.all().iter().map(|pod| (pod.uid.clone(), resources::pod_cgroup(pod))).collect();
    let mut page = Page::default();
    type Read = fn(&ContainerStats) -> Option<f64>;
    let rows: [(&str, &str, &str, Read); 10] = [
        ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", |c| {
            seconds(c.cpu.usage_core_nano_seconds)
        }),
        (
            "container_memory_usage_bytes",
            "gauge",
            "Current memory usage in bytes, including all memory regardless of when it was accessed",
            |c| number(c.memory.usage_bytes),
        ),
        ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |c| {
            number(c.memory.working_set_bytes)
        }),
        ("container_memory_rss", "gauge", "Size of RSS in bytes.", |c| number(c.memory.rss_bytes)),
        ("container_memory_swap", "gauge", "Container swap usage in bytes.", |c| number(c.swap.swap_usage_bytes)),
        ("container_memory_failures_total", "counter", "Cumulative count of memory allocation failures.", |c| {
            number(c.memory.page_faults)
        }),
        (
            "container_fs_usage_bytes",
            "gauge",
            "Number of bytes that are consumed by the container on this filesystem.",
            |c| Some(stats::written(c).bytes as f64),
        ),
        ("container_fs_inodes_total", "gauge", "Number of Inodes", |c| Some(stats::written(c).inodes as f64)),
        ("container_last_seen", "gauge", "Last time a container was seen by the exporter", |c| {
            Some((c.cpu.timestamp / 1_000_000_000) as f64)
        }),
        ("container_spec_memory_limit_bytes", "gauge", "Memory limit for the container.", |c| {
            let memory = &c.memory;
            let limit = memory.available_bytes.zip(memory.working_set_bytes).map(|(left, used)| left + used);
            Some(number(limit).unwrap_or(0.0))
        }),
    ];
    for (name, kind, help, read) in rows {
        page.family(name, kind, help);
        for (pod, container) in all.iter().flat_map(|pod| pod.containers.iter().map(move |c| (pod, c))) {
            let Some(value) = read(container) else { continue };
            let of = &pod.attributes.metadata;
            let id = &container.attributes.id;
            let image = known.get(id).map_or("", |c| c.image.image.as_str());
            // One that is only left over has no class any more.
            let path = match groups.get(&of.uid) {
                Some(group) => format!("{group}/{id}"),
                None => format!("/kubepods/pod{}/{id}", of.uid),
            };
            let mut labels = vec![
                ("container", container.attributes.metadata.name.as_str()),
                ("id", &path),
                ("image", image),
                ("name", id),
                ("namespace", &of.namespace),
                ("pod", &of.name),
            ];
            if name == "container_memory_failures_total" {
                labels.splice(1..1, [("failure_type", "pgfault")]);
            }
            page.line(name, &labels, value, Some(container.cpu.timestamp));
        }
    }
    let traffic: [Column<NetworkInterfaceUsage>; 4] = [
        ("container_network_receive_bytes_total", "Cumulative count of bytes received", |i| i.rx_bytes),
        ("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving", |i| {
            i.rx_errors
        }),
        ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", |i| i.tx_bytes),
        ("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting", |i| {
            i.tx_errors
        }),
    ];
    for (name, help, read) in traffic {
        page.family(name, "counter", help);
        for pod in &all {
            let Some(network) = &pod.network else { continue };
            let of = &pod.attributes.metadata;
            for interface in network.default_interface.iter().chain(&network.interfaces) {
                let labels = [("interface", &*interface.name), ("namespace", &*of.namespace), ("pod", &*of.name)];
                page.line(name, &labels, read(interface) as f64, Some(network.timestamp));
            }
        }
    }
    page.family("machine_cpu_cores", "gauge", "Number of logical CPU cores.");
    page.line("machine_cpu_cores", &[], facts::cpus() as f64, None);
    page.family("machine_memory_bytes", "gauge", "Amount of memory installed on the machine.");
    page.line("machine_memory_bytes", &[], facts::memory() as f64, None);
    Ok(page.answer())
}

/// `/metrics/probes`: how containers' probes ended.
pub fn probes(context: &Context) -> Response<Body> {
    let mut page = Page::default();
    let help = "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.";
    page.family("prober_probe_total", "counter", help);
    for (key, count) in context.probed.lock().iter() {
        let labels = [
            ("container", &*key.container),
            ("namespace", &*key.namespace),
            ("pod", &*key.pod),
            ("pod_uid", &*key.pod_uid),
            ("probe_type", key.kind),
            ("result", key.result),
        ];
        page.line("prober_probe_total", &labels, *count as f64, None);
    }
    page.answer()
}

/// `/metrics`: the kubelet itself.
pub async fn own(context: &Context, pods: &Pods) -> Result<Response<Body>, Refusal> {
    let mut page = Page::default();
    page.family("kubelet_node_name", "gauge", "[ALPHA] The node's name. The count is always 1.");
    page.line("kubelet_node_name", &[("node", &context.node_name)], 1.0, None);
    let running = context.runtime.list_containers(&ContainerFilter::default()).await.map_err(Refusal::internal)?;
    page.family("kubelet_running_containers", "gauge", "[BETA] Number of containers currently running");
    for (state, name) in
        [(ContainerState::Created, "created"), (ContainerState::Exited, "exited"), (ContainerState::Running, "running")]
    {
        let count = running.iter().filter(|c| c.state == state).count();
        page.line("kubelet_running_containers", &[("container_state", name)], count as f64, None);
    }
    let mut sandboxes: Vec<_> =
        running.iter().filter(|c| c.state == ContainerState::Running).map(|c| &c.pod_sandbox_id).collect();
    sandboxes.sort();
    sandboxes.dedup();
    page.family("kubelet_running_pods", "gauge", "[BETA] Number of pods that have a running pod sandbox");
    page.line("kubelet_running_pods", &[], sandboxes.len() as f64, None);
    let all = pods.all();
    page.family("kubelet_desired_pods", "gauge", "[ALPHA] The number of pods the kubelet is being instructed to run.");
    page.line("kubelet_desired_pods", &[("static", "")], all.len() as f64, None);
    page.family("kubelet_evictions", "counter", "[ALPHA] Cumulative number of pod evictions by eviction signal");
    for (signal, count) in context.evictions.lock().iter() {
        page.line("kubelet_evictions", &[("eviction_signal", signal)], *count as f64, None);
    }
    let mut volumes = std::collections::BTreeMap::new();
    let remote = futures::future::join_all(all.iter().map(|pod| stats::remote(context, pod))).await;
    for (pod, mounted) in all.iter().zip(remote) {
        for volume in mounted {
            let Some(claim) = volume.claim.clone() else { continue };
            // Several pods may share one.
            volumes.insert((pod.namespace.clone(), claim), volume);
        }
    }
    let of_volume: [Column<stats::VolumeUsage>; 6] = [
        ("kubelet_volume_stats_available_bytes", "[ALPHA] Number of available bytes in the volume", |v| {
            v.disk.available
        }),
        ("kubelet_volume_stats_capacity_bytes", "[ALPHA] Capacity in bytes of the volume", |v| v.disk.capacity),
        ("kubelet_volume_stats_inodes", "[ALPHA] Maximum number of inodes in the volume", |v| v.disk.inodes),
        ("kubelet_volume_stats_inodes_free", "[ALPHA] Number of free inodes in the volume", |v| v.disk.inodes_free),
        ("kubelet_volume_stats_inodes_used", "[ALPHA] Number of used inodes in the volume", |v| v.used.inodes),
        ("kubelet_volume_stats_used_bytes", "[ALPHA] Number of used bytes in the volume", |v| v.used.bytes),
    ];
    for (name, help, read) in of_volume.iter().filter(|_| !volumes.is_empty()) {
        page.family(name, "gauge", help);
        for ((namespace, claim), volume) in &volumes {
            page.line(name, &[("namespace", namespace), ("persistentvolumeclaim", claim)], read(volume) as f64, None);
        }
    }
    Ok(page.answer())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_escapes_its_labels_and_tells_its_time_in_milliseconds() {
        let mut page = Page::default();
        page.family("m", "gauge", "help");
        page.line("m", &[("a", "x\"y\\"), ("b", "")], 1.5, Some(2_000_000));
        page.line("m", &[], 3.0, None);
        assert_eq!(page.0, "# HELP m help\n# TYPE m gauge\nm{a=\"x\\\"y\\\\\",b=\"\"} 1.5 2\nm 3\n");
    }
}
