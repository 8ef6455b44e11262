//! Whether a pod fits on the node beside those that it runs already. The scheduler has asked before; this is for pods that were
//! bound past it, or at the same time.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1;

use crate::eviction;
use crate::pods::memory::Failure;
use crate::pods::pod::Pod;
use crate::resources::{self, Amounts, Qos};

/// A port of the node that a pod publishes: protocol, address, port.
type Port = (String, String, i32);

#[derive(Debug)]
struct Share {
    requests: Amounts,
    ports: Vec<Port>,
}

/// What the node has and which pod holds what of it.
#[derive(Debug, Default)]
pub struct Ledger {
    allocatable: Amounts,
    labels: BTreeMap<String, String>,
    shares: BTreeMap<String, Share>,
    pressures: Vec<&'static str>,
}

impl Ledger {
    /// A node that has this to give and these labels.
    pub fn new(allocatable: Amounts, labels: BTreeMap<String, String>) -> Ledger {
        Ledger { allocatable, labels, shares: BTreeMap::new(), pressures: Vec::new() }
    }

    /// Takes the pod in, or says why not. A pod that is in already stays; one that `runs` is never refused.
    pub fn admit(&mut self, pod: &Pod, runs: bool) -> Result<(), Failure> {
        if self.shares.contains_key(&pod.uid) {
            return Ok(());
        }
        let share = Share { requests: counted(pod), ports: ports(pod) };
        if !runs {
            self.bears(pod)?;
            self.fits(pod, &share)?;
        }
        self.shares.insert(pod.uid.clone(), share);
        Ok(())
    }

    /// What the node runs short of, as its conditions name it; gives what it was before.
    pub fn set_pressures(&mut self, pressures: Vec<&'static str>) -> Vec<&'static str> {
        std::mem::replace(&mut self.pressures, pressures)
    }

    pub fn pressures(&self) -> &[&'static str] {
        &self.pressures
    }

    /// A node that runs short takes critical pods; one that only lacks memory also those that asked for theirs or that tolerate it.
    fn bears(&self, pod: &Pod) -> Result<(), Failure> {
        if self.pressures.is_empty() || eviction::is_critical(pod) {
            return Ok(());
        }
        if self.pressures == ["MemoryPressure"] {
            let tolerated = |t: &v1::Toleration| {
                let key = t.key.as_deref().unwrap_or_default();
                matches!(key, "" | "node.kubernetes.io/memory-pressure")
                    && matches!(t.effect.as_deref(), None | Some("" | "NoSchedule"))
            };
            if Qos::of(pod) != Qos::BestEffort || pod.spec().tolerations.iter().flatten().any(tolerated) {
                return Ok(());
            }
        }
        let message = format!("The node had condition: [{}]. ", self.pressures.join(" "));
        Err(refusal("Evicted", &message))
    }

    pub fn release(&mut self, uid: &str) {
        self.shares.remove(uid);
    }

    fn fits(&self, pod: &Pod, share: &Share) -> Result<(), Failure> {
        for (name, requested) in share.requests.iter().filter(|(_, amount)| **amount > 0) {
            let used: i64 = self.shares.values().filter_map(|s| s.requests.get(name)).sum();
            let capacity = self.allocatable.get(name).copied().unwrap_or(0);
            if used + requested > capacity {
                let message = format!(
                    "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
                );
                return Err(refusal(&format!("OutOf{name}"), &message));
            }
        }
        let selector = pod.spec().node_selector.iter().flatten();
        if selector.into_iter().any(|(key, value)| self.labels.get(key) != Some(value)) {
            return Err(refusal(
                "NodeAffinity",
                "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
            ));
        }
        let taken = |port: &Port| self.shares.values().flat_map(|s| &s.ports).any(|other| clash(port, other));
        if share.ports.iter().any(taken) {
            let message = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
            return Err(refusal("NodePorts", message));
        }
        Ok(())
    }
}

fn refusal(reason: &str, message: &str) -> Failure {
    Failure { reason: reason.to_owned(), message: format!("Pod was rejected: {message}") }
}

fn counted(pod: &Pod) -> Amounts {
    let mut requests = resources::pod_requests(pod);
    requests.insert("pods".to_owned(), 1);
    requests
}

fn ports(pod: &Pod) -> Vec<Port> {
    let ports = pod.members.iter().flat_map(|m| m.spec.ports.iter().flatten());
    let published = ports.filter_map(|p| {
        let protocol = p.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        let ip = p.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".to_owned());
        p.host_port.filter(|port| *port > 0).map(|port| (protocol, ip, port))
    });
    published.collect()
}

fn clash(a: &Port, b: &Port) -> bool {
    a.0 == b.0 && a.2 == b.2 && (a.1 == b.1 || a.1 == "0.0.0.0" || b.1 == "0.0.0.0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, cpu: &str, port: i32) -> Pod {
        let object = serde_json::json!({"metadata": {"name": uid, "uid": uid}, "spec": {"containers": [{
            "name": "c", "ports": [{"containerPort": 80, "hostPort": port}],
            "resources": {"requests": {"cpu": cpu}}}]}});
        Pod::new(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn a_pod_that_does_not_fit_is_refused_with_the_reason_and_one_that_runs_never_is() {
        let allocatable = Amounts::from([("cpu".to_owned(), 1000), ("pods".to_owned(), 3)]);
        let mut ledger = Ledger::new(allocatable, BTreeMap::new());
        let mut outcome = |pod: &Pod, runs| ledger.admit(pod, runs).err().map(|f| f.reason);
        assert_eq!(outcome(&pod("a", "600m", 80), false), None);
        assert_eq!(outcome(&pod("b", "600m", 81), false), Some("OutOfcpu".to_owned()));
        assert_eq!(outcome(&pod("c", "1m", 80), false), Some("NodePorts".to_owned()));
        assert_eq!(outcome(&pod("d", "600m", 80), true), None);
        assert_eq!(outcome(&pod("d", "600m", 80), false), None);
    }

    #[test]
    fn a_node_that_runs_short_refuses_by_what_it_lacks() {
        let allocatable = Amounts::from([("cpu".to_owned(), 9000), ("pods".to_owned(), 9)]);
        let mut ledger = Ledger::new(allocatable, BTreeMap::new());
        let effort = |uid: &str, cpu: &str, priority: i32| {
            let object = serde_json::json!({"metadata": {"uid": uid}, "spec": {"priority": priority, "containers": [
                {"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
            Pod::new(serde_json::from_value(object).unwrap())
        };
        let mut number = 0;
        let mut outcome = |pressures: &[&'static str], cpu: &str, priority: i32| {
            number += 1;
            ledger.set_pressures(pressures.to_vec());
            ledger.admit(&effort(&number.to_string(), cpu, priority), false).err().map_or(String::new(), |f| f.message)
        };
        assert_eq!(outcome(&[], "0", 0), "");
        assert_eq!(outcome(&["MemoryPressure"], "1m", 0), "");
        let refused = "Pod was rejected: The node had condition: [MemoryPressure]. ";
        assert_eq!(outcome(&["MemoryPressure"], "0", 0), refused);
        assert_eq!(outcome(&["DiskPressure"], "0", 2_000_000_000), "");
        let refused = "Pod was rejected: The node had condition: [DiskPressure MemoryPressure]. ";
        assert_eq!(outcome(&["DiskPressure", "MemoryPressure"], "1m", 0), refused);
    }
}
