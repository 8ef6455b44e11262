//! How long decisions take, without the API: made-up nodes, and pods of several sorts one after another.
//!
//! `cargo test --release -p scheduler simulate -- --ignored --nocapture`, with `REGATTA_NODES` and `REGATTA_PODS`.

use std::{sync::Arc, time::Instant};

use client::Item;
use rand::{SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::{
    decide::{Decider, Failure, World},
    expression::{Expression, Selector},
    node::Node,
    pod::{Parser, Pod},
    preempt::{self, Lives, Outcome, Starts},
    profile::Profile,
    snapshot::{Snapshot, Stage},
};

fn of_environment(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn node(index: usize) -> Node {
    let name = format!("n{index}");
    let taints = if index.is_multiple_of(10) {
        json!([{"key": "dedicated", "value": "db", "effect": "NoSchedule"}])
    } else {
        json!([])
    };
    let json = json!({
        "metadata": {"name": name, "uid": name, "labels": {"kubernetes.io/hostname": name,
            "topology.kubernetes.io/zone": format!("z{}", index % 3), "rack": format!("r{}", index / 20)}},
        "spec": {"taints": taints}, "status": {"allocatable": {"cpu": "32", "memory": "128Gi", "pods": "110"}},
    });
    Node::parse(&Item::from_json(&json.to_string()).unwrap()).unwrap()
}

/// What a sort of pods has in its spec.
fn sort(name: &str) -> Value {
    let app = json!({"matchLabels": {"app": name}});
    let term = |key: &str| json!({"topologyKey": key, "labelSelector": app});
    match name {
        "spread" => json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": app}]}),
        "affinity" => {
            json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term("topology.kubernetes.io/zone")]}}})
        }
        "anti-affinity" => json!({"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 100, "podAffinityTerm": term("kubernetes.io/hostname")}]}}}),
        "taints" => json!({"tolerations": [{"key": "dedicated", "operator": "Exists"}]}),
        "node affinity" => json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 10, "preference": {"matchExpressions": [{"key": "rack", "operator": "In", "values": ["r0", "r1"]}]}}]}}}),
        _ => json!({}),
    }
}

struct Simulator {
    snapshot: Snapshot,
    decider: Decider,
    parser: Parser,
    dice: StdRng,
    starts: Starts,
    made: usize,
}

impl Simulator {
    fn new(nodes: usize) -> Self {
        let mut snapshot = Snapshot::new();
        (0..nodes).for_each(|index| _ = snapshot.set_node(node(index)));
        let decider = Decider::new(Arc::new(Profile::default()));
        Self {
            snapshot,
            decider,
            parser: Parser::default(),
            dice: StdRng::seed_from_u64(1),
            starts: Starts::default(),
            made: 0,
        }
    }

    fn pod(&mut self, kind: &str, cpu: &str, priority: i32) -> Arc<Pod> {
        self.made += 1;
        let name = format!("p{}", self.made);
        let mut json = json!({
            "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": kind}},
            "spec": {"schedulerName": "default-scheduler", "priority": priority,
                "containers": [{"image": "web", "resources": {"requests": {"cpu": cpu, "memory": "64Mi"}}}]},
        });
        json["spec"].as_object_mut().unwrap().extend(sort(kind).as_object().unwrap().clone());
        Arc::new(self.parser.parse(Arc::new(Item::from_json(&json.to_string()).unwrap())).unwrap())
    }

    /// Decides on a pod, by preemption if need be. False if it fits nowhere.
    fn place(&mut self, pod: Arc<Pod>) -> bool {
        let siblings =
            Selector(vec![Expression::equals("app".into(), pod.labels().get("app").unwrap_or_default().into())]);
        let world = World { extensions: &[], siblings: Some(&siblings), extenders: &[], nodes: &|_| None };
        let slot = match self.decider.decide(&pod, &mut self.snapshot, None, world, &mut self.dice) {
            Ok(decision) => decision.slot,
            Err(Failure::Broken(error)) => panic!("{error}"),
            Err(Failure::Unfit(unfit)) => {
                let lives = Lives { budgets: &[], newest: &|pod| pod.item.clone(), starts: &self.starts };
                let (decider, dice) = (&mut self.decider, &mut self.dice);
                let outcome = preempt::find(decider, &pod, &mut self.snapshot, &unfit, None, (world, lives), dice);
                let Outcome::Nominated(preemption) = outcome else { return false };
                for victim in preemption.victims {
                    self.snapshot.remove_pod(victim.uid());
                }
                preemption.slot
            }
        };
        let node = self.snapshot.node_name(slot).to_owned();
        self.snapshot.place(pod, &node, Stage::Assumed);
        true
    }

    fn run(&mut self, what: &str, pods: usize, mut next: impl FnMut(&mut Self, usize) -> Arc<Pod>) {
        let pods: Vec<_> = (0..pods).map(|index| next(self, index)).collect();
        let (count, begin) = (pods.len(), Instant::now());
        let placed = pods.into_iter().filter(|pod| self.place(pod.clone())).count();
        let each = begin.elapsed() / u32::try_from(count).unwrap();
        println!("{what:>14}: {each:>10.1?} a decision, {placed} of {count} placed");
        assert!(placed > 0, "{what}");
    }
}

#[test]
#[ignore = "a measurement"]
fn simulate() {
    let (nodes, pods) = (of_environment("REGATTA_NODES", 5000), of_environment("REGATTA_PODS", 10_000));
    println!("{nodes} nodes");
    const SORTS: [&str; 6] = ["plain", "spread", "affinity", "anti-affinity", "taints", "node affinity"];
    for kind in SORTS {
        Simulator::new(nodes).run(kind, pods, |it, _| it.pod(kind, "100m", 0));
    }
    let mut mixed = Simulator::new(nodes);
    mixed.run("mixed", pods, |it, index| it.pod(SORTS[index % SORTS.len()], "100m", 0));
    let mut full = Simulator::new(nodes.min(1000));
    let fill = nodes.min(1000) * 9 / 10 * 2;
    full.run("filling", fill, |it, _| it.pod("plain", "16", 0));
    full.run("preemption", fill / 4, |it, _| it.pod("plain", "16", 10));
}
