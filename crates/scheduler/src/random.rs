//! Random clusters, changed step by step: after each change the decision must be the reference's.
//!
//! `REGATTA_RANDOM_CLUSTERS` says how many, `REGATTA_RANDOM_SEED` from which number on.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use client::Item;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};

use crate::{
    config::Configuration,
    decide::{Decider, Failure, World},
    expression::{Expression, Selector},
    node::Node,
    pod::{Parser, Pod},
    preempt::{self, Lives, Outcome, Starts},
    profile::Profile,
    reference::{self, Rules, Strategy},
    snapshot::{Snapshot, Stage},
};

const CLUSTERS: u64 = 400;

fn of_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What is thrown, and how many pods were made.
struct Dice(StdRng, i64);

impl Dice {
    fn once_in(&mut self, times: u32) -> bool {
        self.0.random_range(0..times) == 0
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of.choose(&mut self.0).copied().unwrap_or_default()
    }

    fn up_to(&mut self, most: i64) -> i64 {
        self.0.random_range(0..=most)
    }

    fn node(&mut self, name: &str) -> Value {
        let mut labels = json!({"kubernetes.io/hostname": name});
        if !self.once_in(5) {
            labels["topology.kubernetes.io/zone"] = self.one(&["a", "b", "c"]).into();
        }
        if self.once_in(2) {
            labels["size"] = self.one(&["1", "5", "10", "large"]).into();
        }
        if self.once_in(3) {
            labels["disk"] = self.one(&["ssd", "hdd"]).into();
        }
        let mut taints = Vec::new();
        for _ in 0..self.up_to(2) {
            let effect = self.one(&["NoSchedule", "PreferNoSchedule", "PreferNoSchedule", "NoExecute"]);
            if !self.once_in(3) {
                taints.push(json!({"key": self.one(&["x", "y"]), "value": self.one(&["1", "2"]), "effect": effect}));
            }
        }
        let images: Vec<Value> = (0..self.up_to(2))
            .map(|_| json!({"names": [self.one(&["web:latest", "db:1"])], "sizeBytes": self.up_to(900) << 20}))
            .collect();
        let mut allocatable =
            json!({"cpu": (1 + self.up_to(3)).to_string(), "memory": "4Gi", "pods": (1 + self.up_to(7)).to_string()});
        if self.once_in(3) {
            allocatable["example.com/gpu"] = self.up_to(2).to_string().into();
        }
        json!({
            "metadata": {"name": name, "uid": name, "labels": labels},
            "spec": {"unschedulable": self.once_in(8), "taints": taints},
            "status": {"allocatable": allocatable, "images": images},
        })
    }

    fn selector(&mut self) -> Value {
        match self.up_to(4) {
            0 => json!({"matchExpressions": [{"key": "app", "operator": "Exists"}]}),
            1 => {
                json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": [self.one(&["web", "db"])]}]})
            }
            2 => json!({}),
            _ => json!({"matchLabels": {"app": self.one(&["web", "db", "job"])}}),
        }
    }

    fn key(&mut self) -> &'static str {
        self.one(&["kubernetes.io/hostname", "topology.kubernetes.io/zone", "disk"])
    }

    fn term(&mut self) -> Value {
        let mut term = json!({"topologyKey": self.key(), "labelSelector": self.selector()});
        match self.up_to(5) {
            0 => term["namespaces"] = json!(["one", "two"]),
            1 => term["namespaceSelector"] = json!({"matchLabels": {"team": "a"}}),
            2 => term["namespaceSelector"] = json!({}),
            _ => {}
        }
        term
    }

    fn pod_affinity(&mut self) -> Value {
        let weighted = |dice: &mut Self| json!({"weight": 1 + dice.up_to(99), "podAffinityTerm": dice.term()});
        let required: Vec<Value> = (0..self.up_to(2)).map(|_| self.term()).collect();
        let preferred: Vec<Value> = (0..self.up_to(2)).map(|_| weighted(self)).collect();
        json!({
            "requiredDuringSchedulingIgnoredDuringExecution": required,
            "preferredDuringSchedulingIgnoredDuringExecution": preferred,
        })
    }

    fn node_affinity(&mut self) -> Value {
        let term = |dice: &mut Self| {
            if dice.once_in(3) {
                let (operator, than) = (dice.one(&["Gt", "Lt"]), dice.one(&["1", "4", "5"]));
                return json!({"matchExpressions": [{"key": "size", "operator": operator, "values": [than]}]});
            }
            let operator = dice.one(&["In", "NotIn", "Exists", "DoesNotExist"]);
            let values = if operator.ends_with("Exist") || operator == "Exists" {
                json!([])
            } else {
                json!([dice.one(&["a", "b", "ssd"])])
            };
            json!({"matchExpressions": [{"key": dice.key(), "operator": operator, "values": values}]})
        };
        let mut affinity = json!({});
        if self.once_in(2) {
            let mut terms: Vec<Value> = (0..1 + self.up_to(1)).map(|_| term(self)).collect();
            if self.once_in(4) {
                let names = json!([self.one(&["n0", "n1", "n9"]), "n2"]);
                terms = vec![json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": names}]})];
            }
            affinity["requiredDuringSchedulingIgnoredDuringExecution"] = json!({"nodeSelectorTerms": terms});
        }
        let preferred: Vec<Value> =
            (0..self.up_to(2)).map(|_| json!({"weight": 1 + self.up_to(99), "preference": term(self)})).collect();
        affinity["preferredDuringSchedulingIgnoredDuringExecution"] = json!(preferred);
        affinity
    }

    fn spread(&mut self) -> Value {
        let mut constraint = json!({
            "maxSkew": 1 + self.up_to(1), "topologyKey": self.key(), "labelSelector": self.selector(),
            "whenUnsatisfiable": self.one(&["DoNotSchedule", "ScheduleAnyway"]),
        });
        if self.once_in(3) && constraint["whenUnsatisfiable"] == "DoNotSchedule" {
            constraint["minDomains"] = (1 + self.up_to(2)).into();
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            if self.once_in(3) {
                constraint[policy] = self.one(&["Honor", "Ignore"]).into();
            }
        }
        if self.once_in(4) {
            constraint["matchLabelKeys"] = json!(["app"]);
        }
        constraint
    }

    fn pod(&mut self, name: &str) -> Value {
        let mut requests = json!({});
        for (resource, amounts) in [("cpu", ["100m", "500m", "1"]), ("memory", ["100Mi", "1Gi", "2Gi"])] {
            if !self.once_in(3) {
                requests[resource] = self.one(&amounts).into();
            }
        }
        if self.once_in(6) {
            requests["example.com/gpu"] = "1".into();
        }
        let mut container = json!({"image": self.one(&["web", "db:1", "job"]), "resources": {"requests": requests}});
        if self.once_in(5) {
            let address = self.one(&["", "10.0.0.1", "10.0.0.2"]);
            container["ports"] = json!([{"hostPort": 80 + self.up_to(1), "hostIP": address, "protocol": "TCP"}]);
        }
        let mut spec = json!({"schedulerName": "default-scheduler", "containers": [container]});
        if self.once_in(4) {
            let init = |dice: &mut Self| {
                let cpu = dice.one(&["100m", "500m", "1"]);
                let policy = if dice.once_in(2) { json!("Always") } else { json!("") };
                json!({"image": "init", "restartPolicy": policy, "resources": {"requests": {"cpu": cpu}}})
            };
            spec["initContainers"] = (0..1 + self.up_to(2)).map(|_| init(self)).collect();
        }
        if self.once_in(8) {
            spec["overhead"] = json!({"cpu": "100m"});
        }
        for kind in ["podAffinity", "podAntiAffinity"] {
            if self.once_in(3) {
                spec["affinity"][kind] = self.pod_affinity();
            }
        }
        if self.once_in(3) {
            spec["affinity"]["nodeAffinity"] = self.node_affinity();
        }
        if self.once_in(6) {
            spec["nodeSelector"] = json!({"disk": self.one(&["ssd", "hdd"])});
        }
        if self.once_in(3) {
            spec["topologySpreadConstraints"] = (0..1 + self.up_to(1)).map(|_| self.spread()).collect();
        }
        let tolerations: Vec<Value> = (0..self.up_to(2))
            .map(|_| match self.up_to(2) {
                0 => json!({"operator": "Exists"}),
                1 => {
                    json!({"key": self.one(&["x", "y"]), "operator": "Exists", "effect": self.one(&["", "NoSchedule"])})
                }
                _ => json!({"key": self.one(&["x", "y"]), "value": self.one(&["1", "2"])}),
            })
            .collect();
        spec["tolerations"] = json!(tolerations);
        let mut metadata = json!({"name": name, "namespace": self.one(&["one", "two"]), "uid": name});
        if !self.once_in(6) {
            metadata["labels"] = json!({"app": self.one(&["web", "db", "job"])});
        }
        if self.once_in(8) {
            metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        // What began later is taken from its node first.
        self.1 += 1;
        let start = jiff::Timestamp::from_second(self.1).unwrap().to_string();
        spec["priority"] = self.up_to(3).into();
        json!({"metadata": metadata, "spec": spec, "status": {"startTime": start}})
    }

    /// A profile, as configured and as the reference knows it.
    fn profile(&mut self) -> (Profile, Rules) {
        let mut rules = Rules::default();
        let mut args = Vec::new();
        let strategy = match self.up_to(3) {
            0 => {
                rules.strategy = Strategy::Most;
                json!({"type": "MostAllocated"})
            }
            1 => {
                rules.strategy = Strategy::Ratio;
                let shape = [(0, 0), (50, 10), (100, 4)].map(|(at, score)| json!({"utilization": at, "score": score}));
                json!({"type": "RequestedToCapacityRatio", "requestedToCapacityRatio": {"shape": shape}})
            }
            _ => json!({"type": "LeastAllocated"}),
        };
        args.push(json!({"name": "NodeResourcesFit", "args": {"scoringStrategy": strategy}}));
        if self.once_in(3) {
            let listed = vec![("topology.kubernetes.io/zone", 1 + self.up_to(1), true), ("disk", 2, self.once_in(2))];
            let when = |hard: bool| if hard { "DoNotSchedule" } else { "ScheduleAnyway" };
            let constraints = listed.iter().map(
                |(key, skew, hard)| json!({"topologyKey": key, "maxSkew": skew, "whenUnsatisfiable": when(*hard)}),
            );
            let constraints: Vec<Value> = constraints.collect();
            let defaults = json!({"defaultingType": "List", "defaultConstraints": constraints});
            args.push(json!({"name": "PodTopologySpread", "args": defaults}));
            rules.spread = Some(listed);
        }
        if self.once_in(2) {
            rules.hard_affinity = self.up_to(50);
            args.push(json!({"name": "InterPodAffinity", "args": {"hardPodAffinityWeight": rules.hard_affinity}}));
        }
        let names = ["NodeResourcesFit", "TaintToleration", "NodeAffinity", "PodTopologySpread", "InterPodAffinity"];
        let mut enabled = Vec::new();
        for (name, weight) in names.into_iter().zip(&mut rules.weights) {
            if self.once_in(4) {
                *weight = 1 + self.up_to(4);
                enabled.push(json!({"name": name, "weight": weight}));
            }
        }
        let text = json!({
            "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
            "profiles": [{"schedulerName": "default-scheduler", "pluginConfig": args, "plugins": {"score": {"enabled": enabled}}}],
        });
        let configuration = Configuration::parse(&text.to_string()).unwrap();
        (Profile::new(&configuration.profiles[0], None, &[]), rules)
    }
}

fn item(value: &Value) -> Item {
    Item::from_json(&value.to_string()).unwrap()
}

/// A cluster as the scheduler keeps it, and as plain lists.
struct Cluster {
    dice: Dice,
    snapshot: Snapshot,
    decider: Decider,
    rules: Rules,
    parser: Parser,
    nodes: BTreeMap<String, Value>,
    pods: BTreeMap<String, (Arc<Pod>, String)>,
    made: u32,
    /// Decisions, those of them that had a choice, and those that took the place of others.
    compared: (u64, u64, u64),
}

/// The only namespace with a label is `one`.
fn namespaces(name: &str, selector: &Selector) -> bool {
    selector.matches(|key| (name == "one" && key == "team").then_some("a"))
}

impl Cluster {
    fn new(seed: u64) -> Self {
        let (nodes, pods, made) = (BTreeMap::new(), BTreeMap::new(), 0);
        let mut dice = Dice(StdRng::seed_from_u64(seed), 0);
        let (mut snapshot, parser, compared) = (Snapshot::new(), Parser::default(), (0, 0, 0));
        snapshot.set_namespace("one", Some([("team", "a")].into_iter().collect()));
        snapshot.set_namespace("two", Some(client::Labels::default()));
        let (profile, rules) = if seed.is_multiple_of(3) { dice.profile() } else { Default::default() };
        let decider = Decider::new(Arc::new(profile));
        let mut this = Self { dice, snapshot, decider, rules, parser, nodes, pods, made, compared };
        for _ in 0..2 + this.dice.up_to(5) {
            this.set_node();
        }
        this
    }

    fn set_node(&mut self) {
        let name = format!("n{}", self.dice.up_to(7));
        let node = self.dice.node(&name);
        self.snapshot.set_node(Node::parse(&item(&node)).unwrap());
        self.nodes.insert(name, node);
    }

    fn remove(&mut self) {
        if self.dice.once_in(3) && self.nodes.len() > 1 {
            let names: Vec<String> = self.nodes.keys().cloned().collect();
            let name = names.choose(&mut self.dice.0).unwrap();
            self.nodes.remove(name);
            self.snapshot.remove_node(name);
        } else if let Some(uid) = self.pods.keys().cloned().collect::<Vec<_>>().choose(&mut self.dice.0) {
            self.pods.remove(uid);
            self.snapshot.remove_pod(uid);
        }
    }

    /// Decides on a new pod in both ways, and places it where it may go.
    fn decide(&mut self, seed: u64) {
        self.made += 1;
        let uid = format!("p{}", self.made);
        let json = self.dice.pod(&uid);
        let pod = Arc::new(self.parser.parse(Arc::new(item(&json))).unwrap());
        for (resource, assumed) in [("cpu", 100), ("memory", 200 << 20)] {
            assert_eq!(pod.needs.request(resource), reference::needed(&json["spec"], resource, 0), "{json:#}");
            let index = usize::from(resource == "memory");
            assert_eq!(pod.needs.assumed[index], reference::needed(&json["spec"], resource, assumed), "{json:#}");
        }
        let siblings = pod.needs.spread.is_empty() && self.dice.once_in(2);
        let siblings = siblings.then(|| Selector(vec![Expression::equals("app".into(), "web".into())]));
        let world = World { extensions: &[], siblings: siblings.as_ref(), extenders: &[], nodes: &|_| None };
        let found = self.decider.scored(&pod, &mut self.snapshot, world);
        let nodes: Vec<Node> = self.nodes.values().map(|node| Node::parse(&item(node)).unwrap()).collect();
        let at = |name: &str| nodes.iter().position(|node| *node.name == *name);
        let pods: Vec<_> = self.pods.values().filter_map(|(pod, node)| Some((pod.clone(), at(node)?))).collect();
        let of_reference = reference::World {
            nodes: &nodes,
            pods: &pods,
            namespaces: &namespaces,
            siblings: siblings.as_ref(),
            rules: &self.rules,
        };
        let expected = reference::decide(&pod, &of_reference);
        self.compared.0 += 1;
        self.compared.1 += u64::from(expected.len() > 1);
        assert_eq!(found, expected, "seed {seed}, pod {json:#}, nodes {:#?}", self.nodes);
        match self.decider.decide(&pod, &mut self.snapshot, None, world, &mut self.dice.0) {
            Ok(decision) => {
                let node = self.snapshot.node_name(decision.slot).to_owned();
                let best = expected.values().max();
                assert_eq!(expected.get(&node), best, "seed {seed}: the best");
                self.snapshot.place(pod.clone(), &node, Stage::Assumed);
                self.pods.insert(uid, (pod, node));
            }
            Err(Failure::Unfit(unfit)) => {
                assert!(expected.is_empty(), "seed {seed}: {expected:?}");
                let lives = Lives { budgets: &[], newest: &|pod| pod.item.clone(), starts: &Starts::default() };
                let (decider, snapshot) = (&mut self.decider, &mut self.snapshot);
                let outcome = preempt::find(decider, &pod, snapshot, &unfit, None, (world, lives), &mut self.dice.0);
                let expected = reference::victims(&pod, &of_reference, &since);
                let Outcome::Nominated(preemption) = outcome else {
                    assert!(expected.is_empty(), "seed {seed}: {expected:?} for pod {json:#}, nodes {:#?}", self.nodes);
                    return;
                };
                let node = self.snapshot.node_name(preemption.slot).to_owned();
                let victims: Vec<_> = preemption.victims.iter().map(|it| (it.priority, it.uid().to_owned())).collect();
                assert_eq!(Some(&victims), expected.get(&node), "seed {seed}: the victims for pod {json:#}");
                let start = |uid: &String| since(&self.pods[uid].0);
                let least = expected.values().map(|victims| lost(victims, &start)).min();
                assert_eq!(Some(lost(&victims, &start)), least, "seed {seed}: the least is lost");
                for (_, victim) in victims {
                    self.snapshot.remove_pod(&victim);
                    self.pods.remove(&victim);
                }
                self.snapshot.place(pod.clone(), &node, Stage::Assumed);
                self.pods.insert(uid, (pod, node));
                self.compared.2 += 1;
            }
            Err(Failure::Broken(error)) => panic!("{error}"),
        }
    }
}

/// When a pod began.
fn since(pod: &Pod) -> i64 {
    let json: Value = serde_json::from_slice(&pod.item.bytes).unwrap();
    json["status"]["startTime"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_second()
}

/// What is lost with victims: the highest priority, all priorities together, how many they are, and how long the most important
/// have run.
type Lost = (Option<i32>, i64, usize, Reverse<Option<i64>>);

fn lost(victims: &[(i32, String)], since: &dyn Fn(&String) -> i64) -> Lost {
    let highest = victims.iter().map(|(priority, _)| *priority).max();
    let sum = victims.iter().map(|(priority, _)| i64::from(*priority) + (1 << 31)).sum();
    let most = victims.iter().filter(|(priority, _)| Some(*priority) == highest);
    (highest, sum, victims.len(), Reverse(most.map(|(_, uid)| since(uid)).min()))
}

#[test]
fn decisions_on_random_clusters_are_those_of_the_reference() {
    let first = of_environment("REGATTA_RANDOM_SEED", 0);
    let (mut all, mut with_choice, mut preempting) = (0, 0, 0);
    for seed in first..first + of_environment("REGATTA_RANDOM_CLUSTERS", CLUSTERS) {
        let mut cluster = Cluster::new(seed);
        for _ in 0..12 {
            match cluster.dice.up_to(7) {
                0 => cluster.set_node(),
                1 => cluster.remove(),
                _ => cluster.decide(seed),
            }
        }
        all += cluster.compared.0;
        with_choice += cluster.compared.1;
        preempting += cluster.compared.2;
    }
    println!("{all} decisions, {with_choice} of them between several nodes, {preempting} by preemption");
    assert!(with_choice * 5 > all, "the clusters leave too little choice: {with_choice} of {all}");
    assert!(preempting * 50 > all, "few pods take the place of others: {preempting} of {all}");
}

#[test]
fn in_a_large_cluster_enough_nodes_are_found_and_all_of_them_will_do() {
    for seed in 0..4 {
        let mut cluster = Cluster::new(seed);
        for index in 0..130 {
            let name = format!("m{index}");
            let node = cluster.dice.node(&name);
            cluster.snapshot.set_node(Node::parse(&item(&node)).unwrap());
            cluster.nodes.insert(name, node);
        }
        let nodes: Vec<Node> = cluster.nodes.values().map(|node| Node::parse(&item(node)).unwrap()).collect();
        for made in 0..24 {
            let json = cluster.dice.pod(&format!("q{made}"));
            let pod = Arc::new(cluster.parser.parse(Arc::new(item(&json))).unwrap());
            let world = World { extensions: &[], siblings: None, extenders: &[], nodes: &|_| None };
            let found = cluster.decider.scored(&pod, &mut cluster.snapshot, world);
            let at = |name: &str| nodes.iter().position(|node| *node.name == *name);
            let pods: Vec<_> = cluster.pods.values().filter_map(|(pod, node)| Some((pod.clone(), at(node)?))).collect();
            let rules = &cluster.rules;
            let world = reference::World { nodes: &nodes, pods: &pods, namespaces: &namespaces, siblings: None, rules };
            let expected = reference::decide(&pod, &world);
            assert!(found.keys().all(|node| expected.contains_key(node)), "seed {seed}, pod {json:#}");
            assert_eq!(found.len(), expected.len().min(100), "seed {seed}, pod {json:#}");
            if let Some(node) = found.keys().next() {
                cluster.snapshot.place(pod.clone(), node, Stage::Bound);
                cluster.pods.insert(pod.uid().to_owned(), (pod, node.clone()));
            }
        }
    }
}
