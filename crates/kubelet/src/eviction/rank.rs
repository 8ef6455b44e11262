//! Which pod goes first: one that uses more than it asked for, then the one of the lowest priority, then the one that exceeds its
//! request by most.

use std::cmp::Reverse;
use std::sync::Arc;

use api::quantity::{Format, Quantity};
use k8s_openapi::api::core::v1;

use super::signal::{Observation, Signal};
use super::thresholds::Threshold;
use crate::pods::pod::{Pod, Role};
use crate::resources;
use crate::stats::PodUsage;

/// A pod that runs, and what it uses if that is known.
#[derive(Clone)]
pub struct Candidate {
    pub pod: Arc<Pod>,
    pub usage: Option<PodUsage>,
}

/// Orders pods for eviction, the first to go first.
pub fn rank(candidates: &mut [Candidate], signal: Signal) {
    candidates.sort_by_cached_key(|candidate| {
        let priority = candidate.pod.spec().priority.unwrap_or(0);
        let Some(usage) = &candidate.usage else { return (false, false, priority, Reverse(0)) };
        let used = used(usage, signal);
        let request = match signal {
            Signal::PidAvailable => return (true, false, priority, Reverse(used)),
            Signal::MemoryAvailable => "memory",
            _ => "ephemeral-storage",
        };
        let request = resources::pod_requests(&candidate.pod).get(request).copied().unwrap_or(0);
        // Nobody asks for inodes.
        let request = if signal.resource() == "inodes" { 0 } else { request };
        (true, used <= request, priority, Reverse(used - request))
    });
}

fn used(usage: &PodUsage, signal: Signal) -> i64 {
    let number = match signal.resource() {
        "memory" => usage.stats.memory.working_set_bytes.unwrap_or(0),
        "pids" => usage.stats.process.process_count.unwrap_or(0),
        "inodes" => usage.local().inodes,
        _ => usage.local().bytes,
    };
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Why the pod is evicted, in upstream's words.
pub fn message(candidate: &Candidate, threshold: &Threshold, observed: &Observation) -> String {
    let resource = threshold.signal.resource();
    let format = match resource {
        "inodes" | "pids" => Format::DecimalSi,
        _ => Format::BinarySi,
    };
    let text = |number: i64| Quantity::new(number, format).to_string();
    let mut message = format!(
        "The node was low on resource: {resource}. Threshold quantity: {}, available: {}. ",
        text(threshold.value.of(observed.capacity)),
        text(observed.available)
    );
    let Some(usage) = &candidate.usage else { return message };
    for member in candidate.pod.with_role(Role::Main) {
        let Some(used) = usage.container(&member.spec.name, resource) else { continue };
        let requests = member.spec.resources.as_ref().and_then(|r| r.requests.as_ref());
        let request = requests.and_then(|r| r.get(resource)).map(resources::parse);
        let shown = request.as_ref().map_or_else(|| "0".to_owned(), ToString::to_string);
        if used > request.map_or(0, |r| r.value()) {
            message += &format!(
                "Container {} was using {}, request is {shown}, has larger consumption of {resource}. ",
                member.spec.name,
                text(used)
            );
        }
    }
    message
}

/// Why a pod may not go on for what it has on disk: a volume, the pod or a container beyond its limit.
pub fn over_limit(pod: &Pod, usage: &PodUsage) -> Option<String> {
    let over = |used: u64, limit: &resources::Quantity| {
        limit.sign() > 0 && i64::try_from(used).unwrap_or(i64::MAX) > limit.value()
    };
    for volume in pod.spec().volumes.iter().flatten() {
        let limit = volume.empty_dir.as_ref().and_then(|e| e.size_limit.as_ref()).map(resources::parse);
        let used = usage.volumes.iter().find(|v| v.name == volume.name).map(|v| v.used.bytes);
        if let (Some(limit), Some(used)) = (limit, used)
            && over(used, &limit)
        {
            return Some(format!(
                "Usage of EmptyDir volume {:?} exceeds the limit {:?}. ",
                volume.name,
                limit.to_string()
            ));
        }
    }
    let whole = resources::limit_of(pod, "ephemeral-storage");
    if let Some(limit) = whole.filter(|limit| over(usage.local().bytes, limit)) {
        return Some(format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "));
    }
    pod.with_role(Role::Main).find_map(|member| {
        let limits = member.spec.resources.as_ref().and_then(|r: &v1::ResourceRequirements| r.limits.as_ref())?;
        let limit = resources::parse(limits.get("ephemeral-storage")?);
        let used = u64::try_from(usage.container(&member.spec.name, "ephemeral-storage")?).unwrap_or(0);
        over(used, &limit).then(|| {
            format!(
                "Container {} exceeded its local ephemeral storage limit {:?}. ",
                member.spec.name,
                limit.to_string()
            )
        })
    })
}

/// Whether the pod has a limit for what it keeps on disk, so that it must be watched.
pub fn is_limited(pod: &Pod) -> bool {
    let volumes = pod.spec().volumes.iter().flatten();
    volumes
        .filter_map(|v| v.empty_dir.as_ref())
        .any(|e| e.size_limit.is_some() && e.medium.as_deref() != Some("Memory"))
        || pod.members.iter().any(|m| resources::limits(m.spec.resources.as_ref()).contains_key("ephemeral-storage"))
        || resources::limits(pod.spec().resources.as_ref()).contains_key("ephemeral-storage")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use runtime::cri::{ContainerStats, FilesystemUsage};
    use serde_json::json;

    use super::super::thresholds::Amount;
    use super::*;
    use crate::stats::{Used, VolumeUsage};

    fn candidate(name: &str, priority: i32, request: &str, used: Option<u64>) -> Candidate {
        let requests = json!({"memory": request, "ephemeral-storage": request});
        let object = json!({"metadata": {"name": name, "uid": name}, "spec": {"priority": priority,
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Ki"}}],
            "containers": [{"name": "c", "resources": {"requests": requests, "limits": {"ephemeral-storage": "2Ki"}}}]}});
        let usage = used.map(|used| {
            let mut usage = PodUsage::default();
            usage.stats.memory.working_set_bytes = Some(used);
            usage.stats.process.process_count = Some(used);
            let mut container = ContainerStats::default();
            container.attributes.metadata.name = "c".to_owned();
            container.memory.working_set_bytes = Some(used);
            container.writable_layer = Some(FilesystemUsage { used_bytes: Some(used), ..Default::default() });
            usage.stats.containers.push(container);
            usage
        });
        Candidate { pod: Arc::new(Pod::new(serde_json::from_value(object).unwrap())), usage }
    }

    #[test]
    fn those_that_exceed_their_request_go_first_then_the_least_important_then_the_greediest() {
        let all = [
            candidate("within", -5, "100", Some(100)),
            candidate("over", 0, "10", Some(11)),
            candidate("greedy", 0, "10", Some(50)),
            candidate("lesser", -1, "10", Some(12)),
            candidate("unknown", 9, "1", None),
        ];
        for (signal, expected) in [
            (Signal::MemoryAvailable, "unknown lesser greedy over within"),
            (Signal::NodeFsAvailable, "unknown lesser greedy over within"),
            (Signal::PidAvailable, "unknown within lesser greedy over"),
        ] {
            let mut all = all.clone();
            rank(&mut all, signal);
            assert_eq!(all.map(|c| c.pod.name.clone()).join(" "), expected, "{signal:?}");
        }
    }

    #[test]
    fn the_message_is_upstreams() {
        let threshold = Threshold {
            signal: Signal::MemoryAvailable,
            value: Amount::Absolute(100 << 20),
            grace: Duration::ZERO,
            reclaim: None,
        };
        let observed = Observation { available: 2048, capacity: 1 << 30 };
        assert_eq!(
            message(&candidate("p", 0, "1Ki", Some(4096)), &threshold, &observed),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 2Ki. Container c was using 4Ki, \
             request is 1Ki, has larger consumption of memory. "
        );
    }

    #[test]
    fn a_volume_a_pod_and_a_container_beyond_their_limit_are_named() {
        let check = |used: u64, volume: u64| {
            let candidate = candidate("p", 0, "1", Some(used));
            let mut usage = candidate.usage.clone().unwrap();
            let used = Used { bytes: volume, inodes: 1 };
            usage.volumes.push(VolumeUsage { name: "v".to_owned(), used, local: true, ..Default::default() });
            over_limit(&candidate.pod, &usage).unwrap_or_default()
        };
        assert_eq!(check(100, 1024), "");
        assert_eq!(check(100, 1025), "Usage of EmptyDir volume \"v\" exceeds the limit \"1Ki\". ");
        assert_eq!(check(1500, 1000), "Pod ephemeral local storage usage exceeds the total limit of containers 2Ki. ");
    }
}
