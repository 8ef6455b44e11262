//! The settings of the cgroups of containers and pods.

use std::collections::BTreeMap;
use std::path::Path;

use api::quantity::Quantity;
use k8s_openapi::api::core::v1;
use runtime::cri::{HugepageLimit, LinuxContainerResources};

use super::{Amounts, Qos, add, amounts, effective, limits, oom, pod_requests, requests};
use crate::config::{Configuration, SwapBehavior};
use crate::node::facts;
use crate::pods::pod::{Member, Pod, Role};

const MIN_SHARES: i64 = 2;
const MIN_QUOTA: i64 = 1000;

/// What settings depend on besides the pod: the node, and how it is configured.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The node's memory in bytes.
    pub memory: i64,
    /// The node's swap, where containers may have some.
    pub swap: i64,
    /// Whether the kernel counts what a group has swapped out, in control groups of version 2.
    pub counts_swap: bool,
    /// Whether a container that lacks memory is killed as a whole.
    pub kills_groups: bool,
    /// Microseconds in which a limit of CPU counts; none where limits are not enforced.
    pub cpu_period: Option<i64>,
    /// The sizes of huge pages that the kernel has, in bytes.
    pub page_sizes: Vec<u64>,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            memory: 0,
            swap: 0,
            counts_swap: false,
            kills_groups: false,
            cpu_period: Some(100_000),
            page_sizes: Vec::new(),
        }
    }
}

impl Rules {
    pub fn of(configuration: &Configuration) -> Rules {
        let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let memory = facts::Memory::read();
        let swaps = configuration.memory_swap.swap_behavior == SwapBehavior::LimitedSwap;
        let period = configuration.cpu_cfs_quota_period.0.as_micros();
        Rules {
            memory: facts::memory(),
            swap: if swaps { i64::try_from(memory.swap_total).unwrap_or(i64::MAX) } else { 0 },
            counts_swap: v2 && own_group().is_some_and(|group| group.join("memory.swap.max").exists()),
            kills_groups: v2 && !configuration.single_process_oom_kill.unwrap_or(false),
            cpu_period: configuration.cpu_cfs_quota.then(|| i64::try_from(period).unwrap_or(100_000)),
            page_sizes: facts::huge_pages().into_iter().map(|(size, _)| size).collect(),
        }
    }

    fn quota(&self, milli: Option<i64>) -> i64 {
        match (self.cpu_period, milli) {
            (Some(period), Some(milli)) if milli > 0 => (milli * period / 1000).max(MIN_QUOTA),
            _ => 0,
        }
    }

    /// A limit for every size of page: none may be used that was not asked for.
    fn huge_pages(&self, limits: &Amounts) -> Vec<HugepageLimit> {
        let mut all: BTreeMap<u64, u64> = self.page_sizes.iter().map(|size| (*size, 0)).collect();
        for (name, limit) in limits {
            let size = name.strip_prefix("hugepages-").and_then(|size| Quantity::parse(size).ok());
            if let Some(size) = size.and_then(|size| u64::try_from(size.value()).ok()) {
                all.insert(size, u64::try_from(*limit).unwrap_or(0));
            }
        }
        all.into_iter().map(|(size, limit)| HugepageLimit { page_size: page_size(size), limit }).collect()
    }

    /// Bytes that a container may have swapped out: its part of the swap is that of its memory.
    fn swap_of(&self, pod: &Pod, request: i64, limit: Option<i64>) -> i64 {
        let may = Qos::of(pod) == Qos::Burstable && !pod.is_critical() && limit != Some(request);
        if may { (self.swap as f64 * request as f64 / self.memory.max(1) as f64) as i64 } else { 0 }
    }
}

/// The group of this very process, of version 2.
fn own_group() -> Option<std::path::PathBuf> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new("/sys/fs/cgroup").join(path))
}

pub fn shares(milli: i64) -> i64 {
    (milli * 1024 / 1000).clamp(MIN_SHARES, 262_144)
}

/// A page's size as the kernel's files have it in their names.
fn page_size(bytes: u64) -> String {
    match bytes {
        bytes if bytes >= 1 << 30 => format!("{}GB", bytes >> 30),
        bytes if bytes >= 1 << 20 => format!("{}MB", bytes >> 20),
        bytes => format!("{}KB", bytes >> 10),
    }
}

/// The size of the pages that a resource is, if it is pages.
pub fn page_size_of(resource: &str) -> Option<String> {
    let size = Quantity::parse(resource.strip_prefix("hugepages-")?).ok()?;
    u64::try_from(size.value()).ok().map(page_size)
}

/// The settings of one container's cgroup. A limit without a request stands for both.
pub fn container(
    pod: &Pod,
    member: &Member,
    resources: Option<&v1::ResourceRequirements>,
    rules: &Rules,
) -> LinuxContainerResources {
    let (requests, limits) = (requests(resources), limits(resources));
    let cpu = requests.get("cpu").or(limits.get("cpu")).copied().unwrap_or(0);
    let memory = requests.get("memory").or(limits.get("memory")).copied().unwrap_or(0);
    let mut unified = BTreeMap::new();
    if rules.counts_swap {
        let swap = rules.swap_of(pod, memory, limits.get("memory").copied());
        unified.insert("memory.swap.max".to_owned(), swap.to_string());
    }
    if rules.kills_groups {
        unified.insert("memory.oom.group".to_owned(), "1".to_owned());
    }
    LinuxContainerResources {
        cpu_shares: shares(cpu),
        cpu_period: rules.cpu_period.unwrap_or(0),
        cpu_quota: rules.quota(limits.get("cpu").copied()),
        memory_limit_in_bytes: limits.get("memory").copied().unwrap_or(0),
        oom_score_adj: oom::score(pod, member, memory, rules),
        hugepage_limits: rules.huge_pages(&limits),
        unified,
        ..Default::default()
    }
}

/// The settings of the pod's cgroup: limits only where every container has one.
pub fn pod_resources(pod: &Pod, rules: &Rules) -> LinuxContainerResources {
    let requests = pod_requests(pod);
    let mut limit = effective(pod, limits);
    add(&mut limit, &amounts(pod.spec().overhead.as_ref()));
    let whole = limits(pod.spec().resources.as_ref());
    let everywhere = |name: &str| {
        whole.contains_key(name)
            || pod
                .members
                .iter()
                .filter(|m| m.role != Role::Ephemeral)
                .all(|m| limits(m.spec.resources.as_ref()).get(name).is_some_and(|amount| *amount > 0))
    };
    let given = |name: &str| limit.get(name).copied().filter(|_| everywhere(name));
    LinuxContainerResources {
        cpu_shares: shares(requests.get("cpu").copied().unwrap_or(0)),
        cpu_period: rules.cpu_period.unwrap_or(0),
        cpu_quota: rules.quota(given("cpu")),
        memory_limit_in_bytes: given("memory").unwrap_or(0),
        hugepage_limits: rules.huge_pages(&limit),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn settings(spec: Value, rules: &Rules) -> LinuxContainerResources {
        let pod = Pod::new(serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap());
        let member = &pod.members[0];
        container(&pod, member, member.spec.resources.as_ref(), rules)
    }

    #[test]
    fn pages_that_are_not_asked_for_may_not_be_used() {
        let rules = Rules { page_sizes: vec![2 << 20, 1 << 30], ..Rules::default() };
        let spec = json!({"containers": [{"name": "c", "resources": {"limits": {"hugepages-2Mi": "4Mi"}}}]});
        let limits = settings(spec, &rules).hugepage_limits;
        let shown: Vec<_> = limits.iter().map(|limit| format!("{}={}", limit.page_size, limit.limit)).collect();
        assert_eq!(shown, ["2MB=4194304", "1GB=0"]);
    }

    #[test]
    fn swap_is_a_burstable_pods_part_and_nobody_elses() {
        let asks = |request: &str, limit: &str| {
            let resources = json!({"requests": {"memory": request}, "limits": {"memory": limit}});
            json!({"containers": [{"name": "c", "resources": resources}]})
        };
        let rules = Rules { memory: 1000, swap: 100, counts_swap: true, ..Rules::default() };
        let fixed = Rules { swap: 0, ..rules.clone() };
        for (spec, rules, expected) in [
            (asks("500", "600"), &rules, "50"),
            (asks("500", "500"), &rules, "0"),
            (json!({"containers": [{"name": "c"}]}), &rules, "0"),
            (asks("500", "600"), &fixed, "0"),
        ] {
            assert_eq!(settings(spec.clone(), rules).unified["memory.swap.max"], expected, "{spec}");
        }
        assert!(settings(asks("1", "2"), &Rules::default()).unified.is_empty());
    }

    #[test]
    fn limits_of_cpu_count_by_the_period_or_not_at_all() {
        let spec = json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "500m"}}}]});
        for (period, expected) in [(Some(100_000), (100_000, 50_000)), (Some(10_000), (10_000, 5000)), (None, (0, 0))] {
            let found = settings(spec.clone(), &Rules { cpu_period: period, ..Rules::default() });
            assert_eq!((found.cpu_period, found.cpu_quota), expected);
        }
    }
}
