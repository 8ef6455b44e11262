//! The settings of the groups around pods, from what the node has and what the pods ask for.

use runtime::cri::{HugepageLimit, LinuxContainerResources};

use crate::pods::pod::Pod;
use crate::resources::{Amounts, Qos, page_size_of, pod_requests, shares};

/// The group of all pods.
pub const PODS: &str = "kubepods";
const BURSTABLE: &str = "kubepods/burstable";
const BEST_EFFORT: &str = "kubepods/besteffort";

/// What all pods may use together.
pub fn limit(capacity: &Amounts, reserved: &[Amounts]) -> LinuxContainerResources {
    let left = |name: &str| {
        let kept: i64 = reserved.iter().filter_map(|amounts| amounts.get(name)).sum();
        capacity.get(name).map_or(0, |amount| (amount - kept).max(1))
    };
    let huge = capacity.iter().filter_map(|(name, amount)| {
        let limit = u64::try_from(*amount).ok()?;
        Some(HugepageLimit { page_size: page_size_of(name)?, limit })
    });
    LinuxContainerResources {
        cpu_shares: shares(left("cpu")),
        memory_limit_in_bytes: left("memory"),
        pids_limit: left("pid"),
        hugepage_limits: huge.collect(),
        ..Default::default()
    }
}

/// How pods that promise less than they may use share the processors: burstable ones by what they ask for, the others get what
/// is left over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    burstable: i64,
}

impl Shares {
    pub fn of<'a>(pods: impl Iterator<Item = &'a Pod>) -> Shares {
        let burstable = pods.filter(|pod| !pod.ended() && Qos::of(pod) == Qos::Burstable);
        let asked: i64 = burstable.filter_map(|pod| pod_requests(pod).get("cpu").copied()).sum();
        Shares { burstable: shares(asked) }
    }

    pub fn settings(self) -> Vec<(&'static str, LinuxContainerResources)> {
        let of = |cpu_shares| LinuxContainerResources { cpu_shares, ..Default::default() };
        vec![(BURSTABLE, of(self.burstable)), (BEST_EFFORT, of(shares(0)))]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn amounts(pairs: &[(&str, i64)]) -> Amounts {
        pairs.iter().map(|(name, amount)| ((*name).to_owned(), *amount)).collect()
    }

    #[test]
    fn all_pods_together_may_use_what_is_not_reserved() {
        let capacity = amounts(&[("cpu", 4000), ("memory", 1000), ("pid", 100), ("hugepages-2Mi", 4 << 20)]);
        let reserved = [amounts(&[("cpu", 500), ("memory", 100)]), amounts(&[("cpu", 500), ("pid", 10)])];
        let found = limit(&capacity, &reserved);
        assert_eq!((found.cpu_shares, found.memory_limit_in_bytes, found.pids_limit), (3072, 900, 90));
        assert_eq!(found.hugepage_limits, [HugepageLimit { page_size: "2MB".into(), limit: 4 << 20 }]);
    }

    #[test]
    fn burstable_pods_weigh_what_they_ask_for() {
        let pod = |cpu: &str, limit: &str, phase: &str| {
            let resources = json!({"requests": {"cpu": cpu, "memory": "1"}, "limits": {"cpu": limit, "memory": "1"}});
            let spec = json!({"containers": [{"name": "c", "resources": resources}]});
            let object = json!({"metadata": {}, "spec": spec, "status": {"phase": phase}});
            Pod::new(serde_json::from_value(object).unwrap())
        };
        let pods =
            [pod("1", "2", "Running"), pod("500m", "2", "Pending"), pod("3", "3", "Running"), pod("4", "5", "Failed")];
        assert_eq!(Shares::of(pods.iter()).burstable, 1536);
        assert_eq!(Shares::of([].iter()).settings()[0].1.cpu_shares, 2);
    }
}
