//! Decisions as tables: a cluster, a pod, and where it may go or why nowhere.

use std::{collections::BTreeSet, sync::Arc};

use client::Item;
use rand::{SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::{
    decide::{Decider, Failure, Unfit, World},
    expression::{Expression, Selector},
    node::Node,
    plugins::{Event, Plugin, helps},
    pod::{Parser, Pod},
    preempt::{self, Budget, Lives, Outcome, Starts},
    profile::Profile,
    snapshot::{Snapshot, Stage},
};

/// Merges `change` into `base`, for objects that differ in few fields.
fn with(mut base: Value, change: Value) -> Value {
    match (&mut base, change) {
        (Value::Object(base), Value::Object(change)) => {
            for (key, value) in change {
                let old = base.remove(&key).unwrap_or(Value::Null);
                base.insert(key, with(old, value));
            }
        }
        (base, change) => *base = change,
    }
    base
}

fn node_json(name: &str, change: Value) -> Value {
    let base = json!({
        "metadata": {"name": name, "uid": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {}, "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}},
    });
    with(base, change)
}

fn pod_json(name: &str, change: Value) -> Value {
    let base = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"}},
        "spec": {"schedulerName": "default-scheduler", "containers": [
            {"image": "web", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}},
        ]},
    });
    with(base, change)
}

fn node(name: &str, change: Value) -> Node {
    Node::parse(&Item::from_json(&node_json(name, change).to_string()).unwrap()).unwrap()
}

struct Cluster {
    /// What replicas are counted by that state no constraints.
    siblings: Option<Selector>,
    snapshot: Snapshot,
    decider: Decider,
    parser: Parser,
    dice: StdRng,
}

impl Cluster {
    fn new(nodes: &[(&str, Value)]) -> Self {
        Self::with_profile(nodes, Profile::default())
    }

    fn with_profile(nodes: &[(&str, Value)], profile: Profile) -> Self {
        let mut snapshot = Snapshot::new();
        for (name, change) in nodes {
            snapshot.set_node(node(name, change.clone()));
        }
        snapshot.set_namespace("default", Some(client::Labels::default()));
        snapshot.set_namespace("labelled", Some([("team", "a")].into_iter().collect()));
        let (decider, dice) = (Decider::new(Arc::new(profile)), StdRng::seed_from_u64(7));
        Self { siblings: None, snapshot, decider, parser: Parser::default(), dice }
    }

    fn pod(&mut self, name: &str, change: Value) -> Arc<Pod> {
        let item = Item::from_json(&pod_json(name, change).to_string()).unwrap();
        Arc::new(self.parser.parse(Arc::new(item)).unwrap())
    }

    fn place(&mut self, name: &str, node: &str, change: Value) -> Arc<Pod> {
        let pod = self.pod(name, change);
        self.snapshot.place(pod.clone(), node, Stage::Bound);
        pod
    }

    fn try_decide(&mut self, pod: &Pod) -> Result<String, Unfit> {
        let siblings = self.siblings.clone();
        let world = World { extensions: &[], siblings: siblings.as_ref(), extenders: &[], nodes: &|_| None };
        match self.decider.decide(pod, &mut self.snapshot, None, world, &mut self.dice) {
            Ok(decision) => Ok(self.snapshot.node_name(decision.slot).to_owned()),
            Err(Failure::Unfit(unfit)) => Err(unfit),
            Err(Failure::Broken(error)) => panic!("{error}"),
        }
    }

    fn preempt(&mut self, pod: &Pod, unfit: &Unfit) -> Outcome {
        self.preempt_with(pod, unfit, &[])
    }

    fn preempt_with(&mut self, pod: &Pod, unfit: &Unfit, budgets: &[Arc<Budget>]) -> Outcome {
        let world = World { extensions: &[], siblings: None, extenders: &[], nodes: &|_| None };
        let starts = Starts::default();
        let lives = Lives { budgets, newest: &|pod| pod.item.clone(), starts: &starts };
        preempt::find(&mut self.decider, pod, &mut self.snapshot, unfit, None, (world, lives), &mut self.dice)
    }

    /// The node, or why there is none.
    fn decide(&mut self, change: Value) -> Result<String, String> {
        let pod = self.pod("p", change);
        self.try_decide(&pod).map_err(|unfit| {
            let outcome = self.preempt(&pod, &unfit);
            unfit.diagnosis.message(&self.snapshot, &outcome, None)
        })
    }

    /// All nodes that the dice may choose.
    fn choices(&mut self, change: Value) -> BTreeSet<String> {
        (0..64).map(|_| self.decide(change.clone()).unwrap()).collect()
    }
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_pod_that_fits_nowhere_is_told_why_in_upstreams_words() {
    let taint = json!({"spec": {"taints": [{"key": "dedicated", "value": "db", "effect": "NoSchedule"}]}});
    let small = json!({"status": {"allocatable": {"cpu": "500m"}}});
    let full = json!({"status": {"allocatable": {"pods": "0"}}});
    let cordoned = json!({"spec": {"unschedulable": true}});
    let port =
        |ip: &str| json!({"spec": {"containers": [{"ports": [{"hostPort": 80, "hostIP": ip, "protocol": "TCP"}]}]}});
    let term = |key: &str| json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": "web"}}});
    let near = |kind: &str| json!({"spec": {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term("kubernetes.io/hostname")]}}}});
    let other = json!({"metadata": {"labels": {"app": "other"}}});
    let spread = |key: &str| {
        json!({"spec": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "web"}}}]}})
    };
    let helpless = |nodes: &str, n| {
        format!(
            "no new claims to deallocate, preemption: 0/{nodes} nodes are available: {n} Preemption is not helpful for scheduling."
        )
    };
    let victimless = |nodes: &str, n| {
        format!(
            "no new claims to deallocate, preemption: 0/{nodes} nodes are available: {n} No preemption victims found for incoming pod."
        )
    };
    type Row<'a> = (&'a [(&'a str, Value)], &'a [(&'a str, Value)], Value, String);
    let table: [Row<'_>; 13] = [
        (&[], &[], json!({}), "no nodes available to schedule pods".into()),
        (
            &[("a", small.clone()), ("b", taint.clone()), ("c", taint.clone())],
            &[],
            json!({}),
            format!("0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s). {}", helpless("3", 3)),
        ),
        (&[("a", full)], &[], json!({}), format!("0/1 nodes are available: 1 Too many pods. {}", helpless("1", 1))),
        (
            &[("a", json!({"status": {"allocatable": {"pods": "1", "cpu": "1500m"}}}))],
            &[("x", json!({}))],
            json!({}),
            format!("0/1 nodes are available: 1 Insufficient cpu, 1 Too many pods. {}", victimless("1", 1)),
        ),
        (
            &[("a", json!({})), ("b", cordoned)],
            &[],
            json!({"spec": {"nodeSelector": {"disk": "ssd"}}}),
            format!(
                "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) were unschedulable. {}",
                helpless("2", 2)
            ),
        ),
        (
            &[("a", json!({}))],
            &[],
            json!({"spec": {"containers": [{"resources": {"requests": {"example.com/gpu": "1"}}}], "preemptionPolicy": "Never"}}),
            "0/1 nodes are available: 1 Insufficient example.com/gpu. no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never."
                .into(),
        ),
        (
            &[("a", json!({}))],
            &[("x", port("10.0.0.1"))],
            port("0.0.0.0"),
            format!("0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. {}", victimless("1", 1)),
        ),
        (
            &[("a", json!({}))],
            &[("x", json!({}))],
            near("podAntiAffinity"),
            format!("0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules. {}", victimless("1", 1)),
        ),
        (
            &[("a", json!({}))],
            &[("x", near("podAntiAffinity"))],
            json!({}),
            format!("0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules. {}", victimless("1", 1)),
        ),
        (
            &[("a", json!({}))],
            &[],
            with(near("podAffinity"), other),
            format!("0/1 nodes are available: 1 node(s) didn't match pod affinity rules. {}", helpless("1", 1)),
        ),
        (
            &[("a", json!({})), ("b", small)],
            &[("x", json!({}))],
            spread("kubernetes.io/hostname"),
            "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match pod topology spread constraints. no new claims to deallocate, preemption: \
             0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling."
                .into(),
        ),
        (
            &[("a", json!({}))],
            &[],
            spread("zone"),
            format!(
                "0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label). {}",
                helpless("1", 1)
            ),
        ),
        (
            &[("a", taint)],
            &[],
            json!({"spec": {"tolerations": [{"key": "dedicated", "operator": "Equal", "value": "web"}]}}),
            format!("0/1 nodes are available: 1 node(s) had untolerated taint(s). {}", helpless("1", 1)),
        ),
    ];
    for (nodes, pods, pod, expected) in table {
        let mut cluster = Cluster::new(nodes);
        for (name, change) in pods {
            cluster.place(name, nodes[0].0, change.clone());
        }
        assert_eq!(cluster.decide(pod.clone()), Err(expected), "{pod}");
    }
}

#[test]
fn a_pod_goes_where_its_demands_are_met() {
    let zone = |zone: &str| json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}});
    let affinity = |term: Value| {
        json!({"spec": {"affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}}})
    };
    let term = json!({"topologyKey": "topology.kubernetes.io/zone", "labelSelector": {"matchLabels": {"app": "db"}}});
    let pods = |kind: &str, term: &Value| json!({"spec": {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}});
    let db = json!({"metadata": {"labels": {"app": "db"}}});
    let elsewhere = with(db.clone(), json!({"metadata": {"namespace": "labelled"}}));
    let own = with(pods("podAffinity", &term), db.clone());
    let selector = json!({"namespaceSelector": {"matchLabels": {"team": "a"}}});
    let table = [
        (json!({}), None, set(&["a", "b", "c"])),
        (json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": "b"}}}), None, set(&["b"])),
        (
            affinity(json!({"matchExpressions": [
                {"key": "topology.kubernetes.io/zone", "operator": "NotIn", "values": ["east"]}]})),
            None,
            set(&["c"]),
        ),
        (
            affinity(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]})),
            None,
            set(&["a"]),
        ),
        (pods("podAffinity", &term), Some(("c", db.clone())), set(&["c"])),
        (pods("podAntiAffinity", &term), Some(("a", db.clone())), set(&["c"])),
        (pods("podAntiAffinity", &term), Some(("a", elsewhere.clone())), set(&["b", "c"])),
        (pods("podAffinity", &with(term.clone(), selector)), Some(("c", elsewhere)), set(&["c"])),
        // The first of a group that wants to be together.
        (own, None, set(&["a", "b", "c"])),
    ];
    for (pod, placed, expected) in table {
        let mut cluster = Cluster::new(&[("a", zone("east")), ("b", zone("east")), ("c", zone("west"))]);
        if let Some((node, change)) = placed {
            cluster.place("x", node, change);
        }
        assert_eq!(cluster.choices(pod.clone()), expected, "{pod}");
    }
}

#[test]
fn the_best_node_is_chosen() {
    let taint = json!({"spec": {"taints": [{"key": "old", "effect": "PreferNoSchedule"}]}});
    let image = json!({"status": {"images": [{"names": ["web:latest"], "sizeBytes": 900 << 20}]}});
    let busy = json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "2", "memory": "4Gi"}}}]}});
    let prefer = json!({"spec": {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 10, "preference": {"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": ["b"]}]}}]}}}});
    let near = |kind: &str| {
        json!({"spec": {"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 50, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname",
                "labelSelector": {"matchLabels": {"app": "web"}}}}]}}}})
    };
    let owner = json!({"metadata": {"ownerReferences": [
        {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]}});
    let none = || json!({});
    type Row<'a> = (&'a str, [Value; 2], Option<Value>, Value, &'a str);
    let table: [Row<'_>; 8] = [
        ("least allocated", [none(), none()], Some(busy), none(), "b"),
        ("larger", [none(), json!({"status": {"allocatable": {"cpu": "16", "memory": "32Gi"}}})], None, none(), "b"),
        ("no taint", [taint, none()], None, none(), "b"),
        ("preferred", [none(), none()], None, prefer, "b"),
        ("with the image", [none(), image], None, none(), "b"),
        ("spread by owner", [none(), none()], Some(owner.clone()), owner, "b"),
        ("near", [none(), none()], Some(none()), near("podAffinity"), "a"),
        ("far", [none(), none()], Some(none()), near("podAntiAffinity"), "b"),
    ];
    for (what, [a, b], placed, pod, expected) in table {
        let mut cluster = Cluster::new(&[("a", a), ("b", b)]);
        cluster.siblings =
            what.contains("owner").then(|| Selector(vec![Expression::equals("app".into(), "web".into())]));
        if let Some(change) = placed {
            cluster.place("x", "a", change);
        }
        assert_eq!(cluster.choices(pod), set(&[expected]), "{what}");
    }
}

#[test]
fn requests_are_those_of_containers_sidecars_and_init_containers_together() {
    let container = |cpu: &str, policy: &str| json!({"restartPolicy": policy, "resources": {"requests": {"cpu": cpu}}});
    let table = [
        (json!({"containers": [container("1", ""), container("500m", "")]}), 1500),
        (json!({"containers": [container("1", "")], "initContainers": [container("3", "")]}), 3000),
        (
            json!({"containers": [container("1", "")], "initContainers": [container("1", "Always"), container("3", "")]}),
            4000,
        ),
        (
            json!({"containers": [container("1", "")], "initContainers": [container("3", ""), container("1", "Always")]}),
            3000,
        ),
        (json!({"containers": [container("1", "")], "overhead": {"cpu": "10m"}}), 1010),
        (json!({"containers": [container("1", "")], "resources": {"requests": {"cpu": "2"}}}), 2000),
    ];
    for (spec, expected) in table {
        let pod = Cluster::new(&[]).pod("p", json!({"spec": spec}));
        assert_eq!(pod.needs.request("cpu"), expected, "{spec}");
    }
    let unstated = Cluster::new(&[]).pod("p", json!({"spec": {"containers": [{"image": "x"}]}}));
    assert_eq!((unstated.needs.requests.is_empty(), unstated.needs.assumed), (true, [100, 200 << 20]));
}

#[test]
fn only_what_may_help_wakes_a_pod() {
    let mut cluster = Cluster::new(&[("a", json!({"spec": {"unschedulable": true}}))]);
    let small = node("b", json!({"status": {"allocatable": {"cpu": "1"}}}));
    let large = node("b", json!({}));
    let cordoned = node("a", json!({"spec": {"unschedulable": true}}));
    let open = node("a", json!({}));
    let relabelled = node("a", json!({"metadata": {"labels": {"disk": "ssd"}}}));
    let other = cluster.pod("x", json!({}));
    let pod = cluster.pod("p", json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "2"}}}]}}));
    let picky = cluster.pod("p", json!({"spec": {"nodeSelector": {"disk": "ssd"}}}));
    let tiny = cluster.pod("x", json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "1m"}}}]}}));
    let renamed = cluster.pod("x", json!({"metadata": {"labels": {"app": "other"}}}));
    let leaving = cluster.pod("x", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    let zoned = node("z", json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "z"}}}));
    let web = json!({"topologyKey": "topology.kubernetes.io/zone", "labelSelector": {"matchLabels": {"app": "web"}}});
    let even = with(web.clone(), json!({"maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}));
    let even = cluster.pod("p", json!({"spec": {"topologySpreadConstraints": [even]}}));
    let pods =
        |kind: &str| json!({"spec": {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [web]}}}});
    let (lonely, social) = (cluster.pod("p", pods("podAntiAffinity")), cluster.pod("p", pods("podAffinity")));
    let (spread, near) = (Plugin::PodTopologySpread.bit(), Plugin::InterPodAffinity.bit());
    let rejected_by = |cluster: &mut Cluster, pod: &Pod| cluster.try_decide(pod).unwrap_err().diagnosis.plugins;
    let unschedulable = rejected_by(&mut cluster, &pod);
    cluster.snapshot.set_node(node("a", json!({"status": {"allocatable": {"cpu": "1"}}})));
    let short = rejected_by(&mut cluster, &pod);
    let unmatched = rejected_by(&mut cluster, &picky);
    let table = [
        ("uncordoned", unschedulable, &pod, Event::Node { old: Some(&cordoned), new: &open }, true),
        ("still cordoned", unschedulable, &pod, Event::Node { old: None, new: &cordoned }, false),
        ("a pod left a cordoned node", unschedulable, &pod, Event::Gone(&other), false),
        ("a pod left", short, &pod, Event::Gone(&other), true),
        ("a pod came", short, &pod, Event::Placed(&other), false),
        ("grew", short, &pod, Event::Node { old: Some(&small), new: &large }, true),
        ("shrank", short, &pod, Event::Node { old: Some(&large), new: &small }, false),
        ("a small node came", short, &pod, Event::Node { old: None, new: &small }, false),
        ("got the label", unmatched, &picky, Event::Node { old: Some(&open), new: &relabelled }, true),
        ("lost the label", unmatched, &picky, Event::Node { old: Some(&relabelled), new: &open }, false),
        ("a pod left nodes without the label", unmatched, &picky, Event::Gone(&other), false),
        ("no node at all", 0, &pod, Event::Node { old: None, new: &small }, true),
        ("a pod on a node got smaller", short, &pod, Event::Changed { old: &other, new: &tiny }, true),
        ("a pod on a node got larger", short, &pod, Event::Changed { old: &tiny, new: &other }, false),
        ("a pod on a node got another label", short, &pod, Event::Changed { old: &other, new: &renamed }, false),
        ("the last that counted got another label", spread, &even, Event::Changed { old: &other, new: &renamed }, true),
        ("it counts no more", spread, &even, Event::Changed { old: &other, new: &leaving }, true),
        ("its needs changed alone", spread, &even, Event::Changed { old: &other, new: &tiny }, false),
        ("the domain of the fewest went", spread, &even, Event::NodeGone(&zoned), true),
        ("a node in no domain went", spread, &even, Event::NodeGone(&open), false),
        ("a node went", short, &pod, Event::NodeGone(&zoned), false),
        ("who must be avoided got another label", near, &lonely, Event::Changed { old: &other, new: &renamed }, true),
        ("who must be avoided is one more", near, &lonely, Event::Changed { old: &renamed, new: &other }, false),
        ("who is wanted got the label", near, &social, Event::Changed { old: &renamed, new: &other }, true),
        ("who is wanted is the same", near, &social, Event::Changed { old: &other, new: &tiny }, false),
        ("the node of who must be avoided went", near, &lonely, Event::NodeGone(&zoned), true),
    ];
    for (what, plugins, pod, event, expected) in table {
        assert_eq!(helps(plugins, &[], pod, event), expected, "{what}");
        let is_asked = plugins == 0 || plugins & event.concerned() != 0;
        assert!(is_asked || !expected, "{what}: the queue looks for it");
    }
}

#[test]
fn a_pod_takes_the_place_of_the_fewest_and_least_important_that_must_go() {
    let of = |priority: i32, cpu: &str| json!({"spec": {"priority": priority, "containers": [{"resources": {"requests": {"cpu": cpu}}}]}});
    let port =
        json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "1"}}, "ports": [{"hostPort": 80}]}]}});
    type Row<'a> = (&'a str, &'a [(&'a str, &'a str, Value)], Value, Option<(&'a str, &'a [&'a str])>);
    let table: [Row<'_>; 6] = [
        ("all are as important", &[("x", "a", of(5, "4")), ("y", "b", of(5, "4"))], of(5, "1"), None),
        ("one is less important", &[("x", "a", of(5, "4")), ("y", "b", of(4, "4"))], of(5, "1"), Some(("b", &["y"]))),
        (
            "the least important goes",
            &[("x", "a", of(3, "4")), ("y", "b", of(2, "4"))],
            of(5, "1"),
            Some(("b", &["y"])),
        ),
        (
            "the more important are spared",
            &[("x", "a", of(3, "2")), ("y", "a", of(1, "2")), ("z", "b", of(5, "4"))],
            of(5, "2"),
            Some(("a", &["y"])),
        ),
        (
            "fewer go",
            &[("x", "a", of(1, "2")), ("y", "a", of(1, "2")), ("z", "b", of(1, "4"))],
            of(5, "4"),
            Some(("b", &["z"])),
        ),
        (
            "a port is freed",
            &[("x", "a", port.clone()), ("y", "b", of(5, "4"))],
            with(of(5, "1"), port),
            Some(("a", &["x"])),
        ),
    ];
    for (what, placed, pod, expected) in table {
        let mut cluster = Cluster::new(&[("a", json!({})), ("b", json!({}))]);
        for (name, node, change) in placed {
            cluster.place(name, node, change.clone());
        }
        let pod = cluster.pod("p", pod);
        let unfit = cluster.try_decide(&pod).unwrap_err();
        let found = match cluster.preempt(&pod, &unfit) {
            Outcome::Nominated(it) => {
                let victims: Vec<String> = it.victims.iter().map(|victim| victim.uid().to_owned()).collect();
                Some((cluster.snapshot.node_name(it.slot).to_owned(), victims))
            }
            _ => None,
        };
        let expected =
            expected.map(|(node, victims)| (node.to_owned(), victims.iter().map(|it| (*it).to_owned()).collect()));
        assert_eq!(found, expected, "{what}");
        assert!(placed.iter().all(|(name, ..)| cluster.snapshot.placed(name).is_some()), "{what}: all are still there");
    }
}

#[test]
fn what_leaves_the_snapshot_leaves_no_trace() {
    let mut cluster = Cluster::new(&[("a", json!({}))]);
    let port = json!({"spec": {"containers": [{"ports": [{"hostPort": 80}]}]}});
    let full = json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "4"}}}]}});
    for _ in 0..3 {
        let pod = cluster.place("x", "a", with(port.clone(), full.clone()));
        assert!(cluster.decide(full.clone()).is_err());
        cluster.snapshot.remove_pod(pod.uid());
        assert_eq!(cluster.decide(full.clone()), Ok("a".into()));
        assert_eq!(cluster.decide(port.clone()), Ok("a".into()));
    }
    // A node that goes and comes back has what its pods take, which were there all along.
    cluster.place("x", "a", full.clone());
    cluster.snapshot.remove_node("a");
    assert_eq!(cluster.decide(json!({})), Err("no nodes available to schedule pods".into()));
    cluster.snapshot.set_node(node("a", json!({})));
    assert!(cluster.decide(full).is_err());
}

#[test]
fn labels_that_pods_asked_for_once_are_forgotten_and_those_of_terms_are_not() {
    let labels = |rack: &str| json!({"metadata": {"labels": {"rack": rack, "row": "1"}}});
    let mut cluster = Cluster::new(&[("a", labels("1")), ("b", labels("2"))]);
    let app = json!({"metadata": {"labels": {"app": "web"}}});
    let apart = |key: &str| {
        let term = json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": "web"}}});
        json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}})
    };
    let spread = |key: &str| {
        json!({"spec": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": {"app": "web"}}}]}})
    };
    cluster.place("first", "a", with(app.clone(), apart("rack")));
    for number in 0..1000 {
        let key = format!("tenant.example/{number}");
        assert!(cluster.decide(if number % 2 == 0 { apart(&key) } else { spread(&key) }).is_ok());
        assert_eq!(cluster.decide(app.clone()), Ok("b".into()), "the first pod keeps others away by its rack");
        if number % 50 == 0 {
            // In the place of a label that was forgotten another one means what it says.
            assert_eq!(cluster.decide(apart("rack")), Ok("b".into()));
            assert!(cluster.decide(apart("row")).is_err());
        }
    }
    let known = cluster.snapshot.topologies();
    assert!(known < 300, "{known} labels");
    // However many labels are needed, those that are not go too.
    let pods: Vec<_> =
        (0..600).map(|number| cluster.place(&number.to_string(), "a", apart(&format!("k{number}")))).collect();
    (0..2000).for_each(|number| _ = cluster.decide(spread(&format!("other{number}"))));
    let known = cluster.snapshot.topologies();
    assert!((600..1300).contains(&known), "{known} labels");
    pods.iter().for_each(|pod| _ = cluster.snapshot.remove_pod(pod.uid()));
    (0..2000).for_each(|number| _ = cluster.decide(spread(&format!("last{number}"))));
    let known = cluster.snapshot.topologies();
    assert!(known < 300, "{known} labels");
}

#[test]
fn a_thousand_nodes_fill_evenly_and_fast() {
    let nodes: Vec<(String, Value)> = (0..1000).map(|n| (format!("node-{n}"), json!({}))).collect();
    let nodes: Vec<(&str, Value)> = nodes.iter().map(|(name, change)| (&**name, change.clone())).collect();
    let mut cluster = Cluster::new(&nodes);
    cluster.siblings = Some(Selector(vec![Expression::equals("app".into(), "web".into())]));
    let pods: Vec<_> = (0..3000).map(|n| cluster.pod(&format!("pod-{n}"), json!({}))).collect();
    let start = std::time::Instant::now();
    for pod in &pods {
        let node = cluster.try_decide(pod).unwrap();
        cluster.snapshot.place(pod.clone(), &node, Stage::Assumed);
    }
    println!("{:?} a decision", start.elapsed() / 3000);
    let counts = (0..1000).map(|slot| cluster.snapshot.pods_on(slot).len());
    let (least, most) = (counts.clone().min().unwrap(), counts.max().unwrap());
    assert!(least >= 2 && most <= 4, "nodes have from {least} to {most}");
}
