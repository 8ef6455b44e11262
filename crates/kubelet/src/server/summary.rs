//! `/stats/summary`: what the node and its pods use, in the form of upstream's stats API (v1alpha1).

use http::Response;
use jiff::Timestamp;
use runtime::cri::{ContainerFilter, NetworkInterfaceUsage, PodSandboxFilter, PodSandboxStatsFilter};
use serde_json::{Map, Value, json};

use super::{Body, Query, Refusal, as_json, flag};
use crate::context::Context;
use crate::node::facts::{self, Disk};
use crate::pods::manager::Pods;
use crate::stats::{self, NodeUsage, PodUsage, Used, VolumeUsage};

/// Nanoseconds since the epoch, as CRI counts time.
pub fn now() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

fn time(nanoseconds: i64) -> Value {
    let seconds = Timestamp::from_second(nanoseconds.div_euclid(1_000_000_000)).unwrap_or_default();
    Value::String(seconds.to_string())
}

/// An object without the numbers that are not known.
pub fn known(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().map(|(name, value)| (name, known(value))).filter(|(_, value)| !value.is_null());
            Value::Object(kept.collect::<Map<_, _>>())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(known).collect()),
        other => other,
    }
}

pub async fn answer(context: &Context, pods: &Pods, query: &Query) -> Result<Response<Body>, Refusal> {
    let all = context.runtime.list_pod_sandbox_stats(&PodSandboxStatsFilter::default()).await;
    let all = all.map_err(Refusal::internal)?;
    let begins = Begins::read(context).await.map_err(Refusal::internal)?;
    let short = flag(query, "only_cpu_and_memory");
    let by_uid: std::collections::HashMap<_, _> = pods.all().into_iter().map(|pod| (pod.uid.clone(), pod)).collect();
    // Whether volumes answer is waited for once, for all of them together.
    let remote = by_uid.values().filter(|_| !short).map(|pod| async { (&pod.uid, stats::remote(context, pod).await) });
    let mut remote: std::collections::HashMap<_, _> = futures::future::join_all(remote).await.into_iter().collect();
    let mut listed = Vec::new();
    for stats in all {
        let (mut volumes, mut logs) = Default::default();
        if let Some(pod) = by_uid.get(&stats.attributes.metadata.uid).filter(|_| !short) {
            (volumes, logs) = stats::on_disk(context, pod, false).await;
            volumes.extend(remote.remove(&pod.uid).into_iter().flatten());
        }
        listed.push(pod(context, &PodUsage { stats, volumes, logs }, &begins, short));
    }
    let node = node(context, &NodeUsage::read(context).await, short);
    Ok(as_json(&known(json!({"node": node, "pods": listed}))))
}

/// When sandboxes and containers were made, by id.
struct Begins(std::collections::HashMap<String, i64>);

impl Begins {
    async fn read(context: &Context) -> runtime::cri::Result<Begins> {
        let containers = context.runtime.list_containers(&ContainerFilter::default()).await?;
        let sandboxes = context.runtime.list_pod_sandbox(&PodSandboxFilter::default()).await?;
        let containers = containers.into_iter().map(|c| (c.id, c.created_at));
        Ok(Begins(containers.chain(sandboxes.into_iter().map(|s| (s.id, s.created_at))).collect()))
    }

    fn of(&self, id: &str) -> i64 {
        self.0.get(id).copied().unwrap_or_default()
    }
}

fn cpu(context: &Context, id: &str, began: i64, at: i64, counter: Option<u64>) -> Value {
    let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
    let rate = counter.map(|counter| context.rates.per_second(id, unsigned(began), unsigned(at), counter));
    json!({"time": time(at), "usageNanoCores": rate, "usageCoreNanoSeconds": counter})
}

fn memory(usage: &runtime::cri::MemoryUsage) -> Value {
    json!({"time": time(usage.timestamp), "availableBytes": usage.available_bytes, "usageBytes": usage.usage_bytes,
        "workingSetBytes": usage.working_set_bytes, "rssBytes": usage.rss_bytes, "pageFaults": usage.page_faults,
        "majorPageFaults": usage.major_page_faults})
}

fn interface(usage: &NetworkInterfaceUsage) -> Value {
    json!({"name": usage.name, "rxBytes": usage.rx_bytes, "rxErrors": usage.rx_errors, "txBytes": usage.tx_bytes,
        "txErrors": usage.tx_errors})
}

fn file_system(disk: Option<Disk>, used: Used) -> Value {
    let mut value = json!({"time": time(now()), "usedBytes": used.bytes, "inodesUsed": used.inodes});
    if let Some(disk) = disk {
        value["availableBytes"] = disk.available.into();
        value["capacityBytes"] = disk.capacity.into();
        value["inodes"] = disk.inodes.into();
        value["inodesFree"] = disk.inodes_free.into();
    }
    value
}

fn whole(disk: Option<Disk>) -> Used {
    disk.map_or(Used::default(), |d| Used {
        bytes: d.capacity - d.free,
        inodes: d.inodes.saturating_sub(d.inodes_free),
    })
}

fn pod(context: &Context, usage: &PodUsage, begins: &Begins, short: bool) -> Value {
    let (stats, of) = (&usage.stats, &usage.stats.attributes.metadata);
    let node = Disk::at(&context.data).filter(|_| !short);
    let began = begins.of(&stats.attributes.id);
    let containers: Vec<_> = stats
        .containers
        .iter()
        .map(|container| {
            let (id, name) = (&container.attributes.id, &container.attributes.metadata.name);
            let began = begins.of(id);
            let mut value = json!({"name": name, "startTime": time(began),
                "cpu": cpu(context, id, began, container.cpu.timestamp, container.cpu.usage_core_nano_seconds),
                "memory": memory(&container.memory)});
            if !short {
                value["rootfs"] = file_system(node, stats::written(container));
                value["logs"] = file_system(node, usage.logs.get(name).copied().unwrap_or_default());
                let swap = &container.swap;
                value["swap"] = json!({"time": time(swap.timestamp), "swapAvailableBytes": swap.swap_available_bytes,
                    "swapUsageBytes": swap.swap_usage_bytes});
            }
            value
        })
        .collect();
    let mut value = json!({"podRef": {"name": of.name, "namespace": of.namespace, "uid": of.uid},
        "startTime": time(began), "containers": containers,
        "cpu": cpu(context, &stats.attributes.id, began, stats.cpu.timestamp, stats.cpu.usage_core_nano_seconds),
        "memory": memory(&stats.memory)});
    if !short {
        value["network"] = stats.network.as_ref().map_or(Value::Null, |network| {
            let default = network.default_interface.as_ref();
            let mut value = default.map_or_else(|| json!({}), interface);
            value["time"] = time(network.timestamp);
            value["interfaces"] = default.into_iter().chain(&network.interfaces).map(interface).collect();
            value
        });
        value["volume"] = usage.volumes.iter().map(|volume| one_volume(volume, &of.namespace)).collect();
        value["ephemeral-storage"] = file_system(node, usage.local());
        value["process_stats"] = json!({"process_count": stats.process.process_count});
    }
    value
}

fn one_volume(volume: &VolumeUsage, namespace: &str) -> Value {
    let mut value = file_system(Some(volume.disk), volume.used);
    value["name"] = volume.name.clone().into();
    value["pvcRef"] = volume.claim.as_ref().map_or(Value::Null, |name| json!({"name": name, "namespace": namespace}));
    value
}

fn node(context: &Context, usage: &NodeUsage, short: bool) -> Value {
    let at = now();
    let boot = facts::boot_time() * 1_000_000_000;
    let all = &usage.memory;
    let mut value = json!({"nodeName": context.node_name, "startTime": time(boot),
        "cpu": cpu(context, "", boot, at, Some(usage.cpu)),
        "memory": {"time": time(at), "availableBytes": all.available(), "usageBytes": all.used(),
            "workingSetBytes": all.working_set(), "rssBytes": all.anonymous}});
    if short {
        return value;
    }
    // By the route that leads out, or the first there is.
    let default = usage.interfaces.iter().find(|i| i.name == "eth0").or(usage.interfaces.first());
    let mut network = default.map_or_else(|| json!({}), interface);
    network["time"] = time(at);
    network["interfaces"] = usage.interfaces.iter().map(interface).collect();
    value["network"] = network;
    value["fs"] = file_system(usage.node_disk, whole(usage.node_disk));
    value["runtime"] = json!({"imageFs": file_system(usage.image_disk, usage.image_used),
        "containerFs": file_system(usage.image_disk, whole(usage.image_disk))});
    value["swap"] = json!({"time": time(at), "swapAvailableBytes": all.swap_free,
        "swapUsageBytes": all.swap_total.saturating_sub(all.swap_free)});
    if let Some((running, most)) = usage.processes {
        value["rlimit"] = json!({"time": time(at), "maxpid": most, "curproc": running});
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_not_told() {
        let value = known(json!({"a": null, "b": {"c": null, "d": 1}, "e": [{"f": null}]}));
        assert_eq!(value, json!({"b": {"d": 1}, "e": [{}]}));
    }
}
