//! In-place resize: CPU and memory of running containers brought to what the node has allocated.
//!
//! What is asked for stands in the pod's spec, what is allocated in the worker's memory and the status's `resources`, what
//! holds in the runtime. See <https://kep.k8s.io/1287>.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1;
use runtime::cri::LinuxContainerResources;

use super::memory::Memory;
use super::observed::{Container, Observed};
use super::pod::{Member, Pod, Role};
use crate::resources::{self, Amounts};

/// What of a container is allocated, by its name.
pub type Allocation = BTreeMap<String, v1::ResourceRequirements>;

/// Whether a container's resources can change while it runs.
fn resizable(member: &Member) -> bool {
    member.role != Role::Ephemeral
}

/// What the pod asks for.
pub fn asked(pod: &Pod) -> Allocation {
    let resizable = pod.members.iter().filter(|m| resizable(m));
    resizable.map(|m| (m.spec.name.clone(), m.spec.resources.clone().unwrap_or_default())).collect()
}

/// What was allocated when this kubelet's predecessor ended: what the status tells of containers that were made, and what
/// the pod asks for otherwise.
pub fn adopted(pod: &Pod) -> Allocation {
    let mut allocation = asked(pod);
    let status = pod.status();
    let told = status.into_iter().flat_map(|s| s.container_statuses.iter().chain(&s.init_container_statuses)).flatten();
    for status in told.filter(|s| s.container_id.is_some()) {
        if let (Some(mine), Some(told)) = (allocation.get_mut(&status.name), &status.resources) {
            *mine = v1::ResourceRequirements { claims: mine.claims.take(), ..told.clone() };
        }
    }
    allocation
}

/// The pod with the resources that are allocated in place of those that it asks for.
pub fn granted(pod: &Pod, allocation: &Allocation) -> Pod {
    let mut pod = pod.clone();
    for member in &mut pod.members {
        if let Some(resources) = allocation.get(&member.spec.name) {
            member.spec.resources = Some(resources.clone());
        }
    }
    pod
}

fn amounts(resources: &v1::ResourceRequirements) -> (Amounts, Amounts) {
    (resources::requests(Some(resources)), resources::limits(Some(resources)))
}

/// Whether two allocations give the same amounts, however they are written.
pub fn same(a: &Allocation, b: &Allocation) -> bool {
    let values = |allocation: &Allocation| -> BTreeMap<String, (Amounts, Amounts)> {
        allocation.iter().map(|(name, resources)| (name.clone(), amounts(resources))).collect()
    };
    values(a) == values(b)
}

/// Which of a container's settings are not as they should be: CPU, memory.
pub fn differences(now: &LinuxContainerResources, wanted: &LinuxContainerResources) -> (bool, bool) {
    // Zero is unspecified, and a limit is never taken back.
    let differs = |now: i64, wanted: i64| wanted != 0 && now != wanted;
    (
        differs(now.cpu_shares, wanted.cpu_shares) || differs(now.cpu_quota, wanted.cpu_quota),
        differs(now.memory_limit_in_bytes, wanted.memory_limit_in_bytes),
    )
}

/// The running containers that do not have yet what is allocated to them.
pub fn behind<'a>(pod: &'a Pod, seen: &'a Observed, memory: &'a Memory) -> Vec<(&'a Member, &'a Container)> {
    let running = pod.members.iter().filter(|m| resizable(m)).filter_map(|m| {
        let container = seen.current(&m.spec.name).filter(|c| c.running() && !memory.stopping.contains_key(&c.id))?;
        let (now, wanted) = (container.resources.as_ref()?, memory.wanted.get(&m.spec.name)?);
        (differences(now, wanted) != (false, false)).then_some((m, container))
    });
    running.collect()
}

/// Whether the container must be restarted to get what is allocated to it.
pub fn restarts(member: &Member, container: &Container, memory: &Memory) -> bool {
    let (Some(now), Some(wanted)) = (&container.resources, memory.wanted.get(&member.spec.name)) else { return false };
    let (cpu, memory) = differences(now, wanted);
    let policies = member.spec.resize_policy.iter().flatten();
    policies.filter(|p| p.restart_policy == "RestartContainer").any(|p| match p.resource_name.as_str() {
        "cpu" => cpu,
        "memory" => memory,
        _ => false,
    })
}

/// A container's settings on the way: the lower of both where it loses, so that the pod's own can follow.
pub fn lowered(now: &LinuxContainerResources, wanted: &LinuxContainerResources) -> LinuxContainerResources {
    let lower = |now: i64, wanted: i64| if now > 0 && wanted > 0 { now.min(wanted) } else { now };
    LinuxContainerResources {
        cpu_period: wanted.cpu_period,
        cpu_quota: lower(now.cpu_quota, wanted.cpu_quota),
        cpu_shares: lower(now.cpu_shares, wanted.cpu_shares),
        memory_limit_in_bytes: lower(now.memory_limit_in_bytes, wanted.memory_limit_in_bytes),
        ..Default::default()
    }
}

/// What of a container's settings an update brings.
pub fn update(wanted: &LinuxContainerResources) -> LinuxContainerResources {
    LinuxContainerResources {
        cpu_period: wanted.cpu_period,
        cpu_quota: wanted.cpu_quota,
        cpu_shares: wanted.cpu_shares,
        memory_limit_in_bytes: wanted.memory_limit_in_bytes,
        ..Default::default()
    }
}
