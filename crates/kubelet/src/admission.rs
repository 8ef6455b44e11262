//! Whether a pod may run on this node: what it asks of the kernel, and whether it fits beside the pods that are here. The
//! scheduler has asked before; this is for pods that were bound past it, or at the same time. Reasons and words are upstream's.

mod kernel;
pub mod sysctls;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use k8s_openapi::api::core::v1;
use kube::Api;
use serde_json::Value;

use crate::context::Context;
use crate::pods::memory::{Failure, Reason};
use crate::pods::pod::Pod;
use crate::resources::{self, Amounts, Qos};

/// A port of the node that a pod publishes: protocol, address, port.
type Port = (String, String, i32);

/// Takes the pod in, or says why not; gives the uids of the pods that must give way to it. One that `runs` is never refused.
/// The node's labels are read anew before a pod is refused for them.
pub async fn admit(context: &Context, pod: &Pod, runs: bool) -> Result<Vec<String>, Failure> {
    if !runs {
        if context.shutting_down.load(Ordering::Relaxed) {
            return Err(refusal("NodeShutdown", "Pod was rejected as the node is shutting down."));
        }
        kernel::fits(context, pod).await?;
    }
    let victims = fit_beside_others(context, pod, runs).await?;
    if !runs && let Err(why) = context.placement.admit(pod, &context.devices).await {
        context.release(&pod.uid);
        return Err(refusal(why.reason, &why.message));
    }
    Ok(victims)
}

async fn fit_beside_others(context: &Context, pod: &Pod, runs: bool) -> Result<Vec<String>, Failure> {
    let outcome = context.ledger.lock().admit(pod, runs);
    if !outcome.as_ref().is_err_and(|failure| [AFFINITY, TAINTS].contains(&failure.reason.as_str())) {
        return outcome;
    }
    let nodes: Api<v1::Node> = Api::all(context.client.clone());
    let Ok(node) = nodes.get(&context.node_name).await else { return outcome };
    let mut ledger = context.ledger.lock();
    ledger.see(&node);
    ledger.admit(pod, runs)
}

const AFFINITY: &str = "NodeAffinity";
const TAINTS: &str = "TaintToleration";

#[derive(Debug)]
struct Share {
    requests: Amounts,
    ports: Vec<Port>,
    priority: i32,
    is_static: bool,
    qos: Qos,
}

/// What the node has and which pod holds what of it.
#[derive(Debug, Default)]
pub struct Ledger {
    node: String,
    allocatable: Amounts,
    labels: BTreeMap<String, String>,
    taints: Vec<v1::Taint>,
    shares: BTreeMap<String, Share>,
    pressures: Vec<&'static str>,
}

/// A resource of which a pod asks for more than is left.
struct Shortage {
    name: String,
    requested: i64,
    used: i64,
    capacity: i64,
}

impl Shortage {
    fn message(&self) -> String {
        let Shortage { name, requested, used, capacity } = self;
        format!("Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}")
    }
}

impl Ledger {
    /// A node of that name that has this to give and these labels.
    pub fn new(node: &str, allocatable: Amounts, labels: BTreeMap<String, String>) -> Ledger {
        Ledger { node: node.to_owned(), allocatable, labels, ..Ledger::default() }
    }

    /// Takes over by what the node is chosen, and by what it keeps pods away.
    pub fn see(&mut self, node: &v1::Node) {
        self.labels = node.metadata.labels.clone().unwrap_or_default();
        self.taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    }

    /// Takes the pod in, or says why not. A pod that is in already stays; one that `runs` is never refused. Where a critical
    /// pod lacks nothing but resources, gives the pods that have to give way.
    pub fn admit(&mut self, pod: &Pod, runs: bool) -> Result<Vec<String>, Failure> {
        if self.shares.contains_key(&pod.uid) {
            return Ok(Vec::new());
        }
        let share = self.share(pod);
        let mut victims = Vec::new();
        if !runs {
            self.bears(pod)?;
            self.fits(pod, &share)?;
            let short = self.short(&share, &pod.uid);
            if let Some(first) = short.first() {
                let message = first.message();
                let refused = || refusal(&format!("OutOf{}", first.name), &message);
                let chosen = if pod.is_critical() { self.preempt(&share, &short) } else { None };
                victims = chosen.ok_or_else(refused)?;
                self.shares.retain(|uid, _| !victims.contains(uid));
            }
        }
        self.shares.insert(pod.uid.clone(), share);
        Ok(victims)
    }

    /// Takes over what a pod that is in asks for now, or says why the node cannot give it.
    pub fn resize(&mut self, pod: &Pod) -> Result<(), Reason> {
        if pod.is_static() {
            return Err(Reason::infeasible("In-place resize of static-pods is not supported".to_owned()));
        }
        let share = self.share(pod);
        let too_much = share.requests.iter().find_map(|(name, requested)| {
            let capacity = *self.allocatable.get(name)?;
            (*requested > capacity).then(|| {
                format!("Node didn't have enough capacity: {name}, requested: {requested}, capacity: {capacity}")
            })
        });
        if let Some(message) = too_much {
            return Err(Reason::infeasible(message));
        }
        if let Some(short) = self.short(&share, &pod.uid).first() {
            return Err(Reason::deferred(short.message()));
        }
        self.shares.insert(pod.uid.clone(), share);
        Ok(())
    }

    /// The node has something else to give from now on.
    pub fn set_allocatable(&mut self, allocatable: Amounts) {
        self.allocatable = allocatable;
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
        if self.pressures.is_empty() || pod.is_critical() {
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

    /// Gives back what the pod holds; true if it held anything.
    pub fn release(&mut self, uid: &str) -> bool {
        self.shares.remove(uid).is_some()
    }

    /// What the pod asks for.
    fn share(&self, pod: &Pod) -> Share {
        let mut requests = resources::pod_requests(pod);
        requests.retain(|_, amount| *amount > 0);
        requests.insert("pods".to_owned(), 1);
        Share { requests, ports: ports(pod), priority: pod.priority(), is_static: pod.is_static(), qos: Qos::of(pod) }
    }

    /// What of it is not left; extended resources that the node does not know are others' to count.
    fn short(&self, share: &Share, uid: &str) -> Vec<Shortage> {
        let others = || self.shares.iter().filter(|(other, _)| *other != uid).map(|(_, share)| share);
        let counted = |name: &&String| !name.contains('/') || self.allocatable.contains_key(*name);
        let short = share.requests.iter().filter(|(name, _)| counted(name)).filter_map(|(name, requested)| {
            let used: i64 = others().filter_map(|s| s.requests.get(name)).sum();
            let capacity = self.allocatable.get(name).copied().unwrap_or(0);
            let requested = *requested;
            (used + requested > capacity).then(|| Shortage { name: name.clone(), requested, used, capacity })
        });
        short.collect()
    }

    fn fits(&self, pod: &Pod, share: &Share) -> Result<(), Failure> {
        if !self.selected(pod) {
            let message = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
            return Err(refusal(AFFINITY, message));
        }
        // Static pods run in spite of all taints.
        let bars = |taint: &&v1::Taint| taint.effect == "NoExecute" && !share.is_static && !tolerated(pod, taint);
        if self.taints.iter().any(|taint| bars(&taint)) {
            let message = "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate";
            return Err(refusal(TAINTS, message));
        }
        let taken = |port: &Port| self.shares.values().flat_map(|s| &s.ports).any(|other| clash(port, other));
        if share.ports.iter().any(taken) {
            let message = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
            return Err(refusal("NodePorts", message));
        }
        Ok(())
    }

    /// Whether the pod's selector and its required affinity choose this node.
    fn selected(&self, pod: &Pod) -> bool {
        let spec = pod.spec();
        let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
        let required =
            affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()).map(|required| {
                let terms = serde_json::to_value(required).unwrap_or(Value::Null);
                serde_json::from_value::<api::volume::NodeSelector>(terms).unwrap_or_default()
            });
        let label = |key: &str| self.labels.get(key).map(String::as_str);
        spec.node_selector.iter().flatten().all(|(key, value)| label(key) == Some(value))
            && required.is_none_or(|required| required.admits(&self.node, label))
    }

    /// The fewest pods of lower priority that free what is short: of the lowest quality of service where that is enough, and
    /// of those the ones that fit best.
    fn preempt(&self, share: &Share, short: &[Shortage]) -> Option<Vec<String>> {
        let mut lacks: BTreeMap<&str, i64> =
            short.iter().map(|s| (s.name.as_str(), s.requested + s.used - s.capacity)).collect();
        let gives = |(_, other): &(&String, &Share)| {
            let lower = other.priority < share.priority || (share.is_static && !other.is_static);
            lower && !other.is_static
        };
        let mut candidates: Vec<_> = self.shares.iter().filter(gives).collect();
        let mut chosen = Vec::new();
        while lacks.values().any(|amount| *amount > 0) {
            // How far each would still be from enough, in parts of what is lacking.
            let distance = |other: &Share| -> f64 {
                let part = |(name, amount): (&&str, &i64)| {
                    let left = (amount - other.requests.get(*name).copied().unwrap_or(0)).max(0);
                    (left as f64 / (*amount).max(1) as f64).powi(2)
                };
                lacks.iter().filter(|(_, amount)| **amount > 0).map(part).sum()
            };
            let total = |other: &Share| other.requests.values().sum::<i64>();
            let best = candidates.iter().enumerate().min_by(|(_, (_, a)), (_, (_, b))| {
                let order = |s: &Share| (s.qos != Qos::BestEffort, s.qos == Qos::Guaranteed);
                let helps = |s: &Share| distance(s) >= lacks.values().filter(|amount| **amount > 0).count() as f64;
                (helps(a), order(a))
                    .cmp(&(helps(b), order(b)))
                    .then(distance(a).total_cmp(&distance(b)))
                    .then(total(a).cmp(&total(b)))
            });
            let (index, _) = best?;
            let (uid, other) = candidates.swap_remove(index);
            for (name, amount) in &mut lacks {
                *amount -= other.requests.get(*name).copied().unwrap_or(0);
            }
            chosen.push(uid.clone());
        }
        Some(chosen)
    }
}

fn tolerated(pod: &Pod, taint: &v1::Taint) -> bool {
    pod.spec().tolerations.iter().flatten().any(|toleration| {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (key, effect) = (text(&toleration.key), text(&toleration.effect));
        let value = || text(&toleration.value) == text(&taint.value);
        (effect.is_empty() || effect == taint.effect)
            && (key.is_empty() || key == taint.key)
            && match toleration.operator.as_deref() {
                Some("Exists") => true,
                None | Some("" | "Equal") => !key.is_empty() && value(),
                _ => false,
            }
    })
}

fn refusal(reason: &str, message: &str) -> Failure {
    Failure::new(reason, format!("Pod was rejected: {message}"))
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

    fn pod(uid: &str, cpu: &str, more: Value) -> Pod {
        let mut spec = serde_json::json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]});
        spec.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        let object = serde_json::json!({"metadata": {"name": uid, "uid": uid}, "spec": spec});
        Pod::new(serde_json::from_value(object).unwrap())
    }

    fn on_port(uid: &str, cpu: &str, port: i32) -> Pod {
        let mut pod = pod(uid, cpu, Value::Null);
        pod.members[0].spec.ports =
            Some(vec![v1::ContainerPort { container_port: 80, host_port: Some(port), ..Default::default() }]);
        pod
    }

    fn ledger(pods: i64) -> Ledger {
        let allocatable = Amounts::from([("cpu".to_owned(), 1000), ("pods".to_owned(), pods)]);
        Ledger::new("n", allocatable, BTreeMap::from([("zone".to_owned(), "a".to_owned())]))
    }

    #[test]
    fn a_pod_that_does_not_fit_is_refused_with_the_reason_and_one_that_runs_never_is() {
        let mut ledger = ledger(3);
        let mut outcome = |pod: &Pod, runs| ledger.admit(pod, runs).err().map(|f| f.reason);
        assert_eq!(outcome(&on_port("a", "600m", 80), false), None);
        assert_eq!(outcome(&on_port("b", "600m", 81), false), Some("OutOfcpu".to_owned()));
        assert_eq!(outcome(&on_port("c", "1m", 80), false), Some("NodePorts".to_owned()));
        assert_eq!(outcome(&on_port("d", "600m", 80), true), None);
        assert_eq!(outcome(&on_port("d", "600m", 80), false), None);
    }

    #[test]
    fn the_node_must_be_one_that_the_pod_chooses() {
        let required = |operator: &str, value: &str| {
            serde_json::json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": operator, "values": [value]}]}]}}}})
        };
        for (spec, expected) in [
            (serde_json::json!({"nodeSelector": {"zone": "a"}}), None),
            (serde_json::json!({"nodeSelector": {"zone": "b"}}), Some("NodeAffinity")),
            (required("In", "a"), None),
            (required("NotIn", "a"), Some("NodeAffinity")),
        ] {
            let outcome = ledger(9).admit(&pod("a", "1m", spec.clone()), false);
            assert_eq!(outcome.err().map(|f| f.reason).as_deref(), expected, "{spec}");
        }
    }

    #[test]
    fn a_taint_that_lets_nothing_run_keeps_all_but_static_pods_away() {
        let taint = |effect: &str| serde_json::json!({"key": "k", "value": "v", "effect": effect});
        let tolerates = |more: Value| serde_json::json!({ "tolerations": [more] });
        for (effect, spec, expected) in [
            ("NoExecute", Value::Null, Some("TaintToleration")),
            ("NoSchedule", Value::Null, None),
            ("NoExecute", tolerates(serde_json::json!({"operator": "Exists"})), None),
            ("NoExecute", tolerates(serde_json::json!({"key": "k", "value": "v"})), None),
            ("NoExecute", tolerates(serde_json::json!({"key": "k", "value": "w"})), Some("TaintToleration")),
            (
                "NoExecute",
                tolerates(serde_json::json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"})),
                Some("TaintToleration"),
            ),
        ] {
            let mut ledger = ledger(9);
            let node = serde_json::json!({"metadata": {"name": "n"}, "spec": {"taints": [taint(effect)]}});
            ledger.see(&serde_json::from_value(node).unwrap());
            let outcome = ledger.admit(&pod("a", "1m", spec.clone()), false);
            assert_eq!(outcome.err().map(|f| f.reason).as_deref(), expected, "{effect} {spec}");
            let mut of_file = pod("b", "1m", spec);
            of_file.object.metadata.annotations = Some([(crate::labels::SOURCE.to_owned(), "file".to_owned())].into());
            assert!(ledger.admit(&of_file, false).is_ok());
        }
    }

    #[test]
    fn a_critical_pod_takes_what_it_needs_from_the_fewest_of_lower_priority() {
        let mut ledger = ledger(9);
        for (name, cpu) in [("small", "100m"), ("middle", "300m"), ("large", "500m")] {
            ledger.admit(&pod(name, cpu, Value::Null), false).unwrap();
        }
        let critical = |cpu: &str| pod("critical", cpu, serde_json::json!({"priority": 2_000_001_000}));
        let outcome = |cpu: &str| {
            let pod = critical(cpu);
            let share = ledger.share(&pod);
            ledger.preempt(&share, &ledger.short(&share, &pod.uid))
        };
        let names = |list: &[&str]| Some(list.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(outcome("100m"), names(&[]));
        assert_eq!(outcome("350m"), names(&["middle"]));
        assert_eq!(outcome("600m"), names(&["large"]));
        assert_eq!(outcome("900m"), names(&["large", "middle"]));
        assert_eq!(outcome("1200m"), None);
        assert_eq!(ledger.admit(&critical("350m"), false).unwrap(), ["middle"]);
    }

    #[test]
    fn a_resize_waits_for_room_and_is_refused_where_there_never_is_any() {
        let mut ledger = ledger(9);
        ledger.admit(&pod("a", "400m", Value::Null), false).unwrap();
        ledger.admit(&pod("b", "400m", Value::Null), false).unwrap();
        let mut resize = |cpu: &str| ledger.resize(&pod("a", cpu, Value::Null)).err().map(|why| why.reason);
        assert_eq!(resize("600m"), None);
        assert_eq!(resize("700m").as_deref(), Some("Deferred"));
        assert_eq!(resize("1100m").as_deref(), Some("Infeasible"));
    }

    #[test]
    fn a_node_that_runs_short_refuses_by_what_it_lacks() {
        let allocatable = Amounts::from([("cpu".to_owned(), 9000), ("pods".to_owned(), 9)]);
        let mut ledger = Ledger::new("n", allocatable, BTreeMap::new());
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
