//! What a DaemonSet does next. Functions of values.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, DaemonSetStatus},
        core::v1::{Node, PodSpec, Taint, Toleration},
    },
    apimachinery::pkg::util::intstr::IntOrString,
    jiff::Timestamp,
};

use super::fit;
use crate::{intstr::scaled, owner::Named, pods::PodView};

/// A DaemonSet's specification with defaults resolved, for so many nodes.
#[derive(Clone, Debug)]
pub(super) struct Desired {
    pub on_delete: bool,
    pub max_surge: usize,
    pub max_unavailable: usize,
    pub min_ready_seconds: i32,
}

impl Desired {
    pub fn of(set: &DaemonSet, nodes: usize) -> Desired {
        let spec = set.spec.as_ref();
        let strategy = spec.and_then(|spec| spec.update_strategy.clone()).unwrap_or_default();
        let rolling = strategy.rolling_update.unwrap_or_default();
        let nodes = i32::try_from(nodes).unwrap_or(i32::MAX);
        let number = |value: &IntOrString| usize::try_from(scaled(value, nodes, true)).unwrap_or(0);
        let max_surge = rolling.max_surge.as_ref().map_or(0, number);
        let max_unavailable = rolling.max_unavailable.as_ref().map_or(1, number);
        Desired {
            on_delete: strategy.type_.as_deref() == Some("OnDelete"),
            max_surge,
            // Both at nothing would never move.
            max_unavailable: if max_surge == 0 { max_unavailable.max(1) } else { max_unavailable },
            min_ready_seconds: spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0),
        }
    }
}

/// A pod of the set.
#[derive(Clone, Debug)]
pub(super) struct Daemon {
    pub pod: PodView,
    /// Whether it is of the present template.
    pub updated: bool,
}

/// A node, and the set's pods on it or meant for it.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub node: String,
    pub should_run: bool,
    pub may_stay: bool,
    pub daemons: Vec<Daemon>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Names of nodes that get a pod.
    pub create: Vec<String>,
    /// Names of pods.
    pub delete: Vec<String>,
    /// Of these, which had failed.
    pub failed: Vec<(String, String)>,
}

/// The tolerations that every daemon has beside its own.
pub(super) fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let exists = |key: &str, effect: &str| Toleration {
        key: Some(format!("node.kubernetes.io/{key}")),
        operator: Some("Exists".to_owned()),
        effect: Some(effect.to_owned()),
        ..Toleration::default()
    };
    let mut all = spec.tolerations.clone().unwrap_or_default();
    let mut added = vec![
        exists("not-ready", "NoExecute"),
        exists("unreachable", "NoExecute"),
        exists("disk-pressure", "NoSchedule"),
        exists("memory-pressure", "NoSchedule"),
        exists("pid-pressure", "NoSchedule"),
        exists("unschedulable", "NoSchedule"),
    ];
    if spec.host_network == Some(true) {
        added.push(exists("network-unavailable", "NoSchedule"));
    }
    added.retain(|new| !all.contains(new));
    all.extend(added);
    all
}

/// Whether a daemon should run on a node, and whether one that does may stay.
pub(super) fn belongs(spec: &PodSpec, node: &Node) -> (bool, bool) {
    if spec.node_name.as_deref().is_some_and(|name| !name.is_empty() && name != node.name())
        || !fit::matches(spec, node)
    {
        return (false, false);
    }
    let tolerations = tolerations(spec);
    let taints: Vec<&Taint> = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).collect();
    let tolerated =
        |taint: &&Taint| tolerations.iter().any(|toleration| crate::node::eviction::tolerates(toleration, taint));
    let untolerated =
        |effects: &[&str]| taints.iter().any(|taint| effects.contains(&taint.effect.as_str()) && !tolerated(taint));
    (!untolerated(&["NoSchedule", "NoExecute"]), !untolerated(&["NoExecute"]))
}

/// Which pods are made and deleted so that each place has one, of the present template in the end.
pub(super) fn plan(desired: &Desired, places: &[Place], now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let name = |daemon: &Daemon| daemon.pod.item.name().to_owned();
    let mut settled = Vec::new();
    for place in places {
        let (mut over, mut daemons): (Vec<&Daemon>, Vec<&Daemon>) = place
            .daemons
            .iter()
            .filter(|daemon| !daemon.pod.item.deleting)
            .partition(|daemon| matches!(&*daemon.pod.item.phase, "Failed" | "Succeeded"));
        if !place.may_stay {
            plan.delete.extend(over.into_iter().chain(daemons).map(name));
            continue;
        }
        for daemon in over.drain(..) {
            plan.delete.push(name(daemon));
            plan.failed.push((name(daemon), place.node.clone()));
        }
        // The oldest stays, but where surging, beside it the new one that will replace it.
        daemons.sort_by_key(|daemon| daemon.pod.created);
        let mut kept: Vec<&Daemon> = Vec::new();
        for daemon in daemons {
            let replaces = desired.max_surge > 0 && kept.len() == 1 && kept[0].updated != daemon.updated;
            if kept.is_empty() || replaces {
                kept.push(daemon);
            } else {
                plan.delete.push(name(daemon));
            }
        }
        let going = place.daemons.iter().any(|daemon| daemon.pod.item.deleting);
        if kept.is_empty() && place.should_run && !going {
            plan.create.push(place.node.clone());
        }
        if place.should_run {
            settled.push((place, kept));
        }
    }
    if !desired.on_delete {
        update(desired, &settled, now, &mut plan);
    }
    plan
}

fn update(desired: &Desired, places: &[(&Place, Vec<&Daemon>)], now: Timestamp, plan: &mut Plan) {
    let available = |daemon: &Daemon| daemon.pod.is_available(desired.min_ready_seconds, now);
    let name = |daemon: &Daemon| daemon.pod.item.name().to_owned();
    if desired.max_surge > 0 {
        let mut surging = places.iter().filter(|(_, kept)| kept.len() > 1).count();
        for (place, kept) in places {
            let old = kept.iter().find(|daemon| !daemon.updated);
            let new = kept.iter().find(|daemon| daemon.updated);
            match (old, new) {
                (Some(old), Some(new)) if available(new) || !available(old) => plan.delete.push(name(old)),
                (Some(_), None) if surging < desired.max_surge => {
                    surging += 1;
                    plan.create.push(place.node.clone());
                }
                _ => {}
            }
        }
        return;
    }
    let mut unavailable = places.iter().filter(|(_, kept)| !kept.iter().any(|daemon| available(daemon))).count();
    let outdated = |(_, kept): &(&Place, Vec<&Daemon>)| {
        kept.first().filter(|daemon| !daemon.updated).map(|daemon| (*daemon).clone())
    };
    for old in places.iter().filter_map(outdated) {
        // One that serves nobody is replaced whatever the others do.
        if !available(&old) {
            plan.delete.push(name(&old));
        } else if unavailable < desired.max_unavailable {
            unavailable += 1;
            plan.delete.push(name(&old));
        }
    }
}

/// The status that follows from the places.
pub(super) fn status(set: &DaemonSet, desired: &Desired, places: &[Place], now: Timestamp) -> DaemonSetStatus {
    let mut counts: BTreeMap<&str, i32> = BTreeMap::new();
    for place in places {
        let mut count = |what| *counts.entry(what).or_default() += 1;
        let daemons = &place.daemons;
        if !place.should_run {
            if !daemons.is_empty() && !place.may_stay {
                count("misscheduled");
            }
            continue;
        }
        count("desired");
        if daemons.is_empty() {
            continue;
        }
        count("current");
        if daemons.iter().any(|daemon| daemon.pod.is_ready()) {
            count("ready");
        }
        if daemons.iter().any(|daemon| daemon.pod.is_available(desired.min_ready_seconds, now)) {
            count("available");
        }
        if daemons.iter().any(|daemon| daemon.updated) {
            count("updated");
        }
    }
    let get = |what| counts.get(what).copied().unwrap_or(0);
    let some = |number: i32| (number != 0).then_some(number);
    let old = set.status.clone().unwrap_or_default();
    DaemonSetStatus {
        current_number_scheduled: get("current"),
        desired_number_scheduled: get("desired"),
        number_misscheduled: get("misscheduled"),
        number_ready: get("ready"),
        number_available: some(get("available")),
        number_unavailable: some(get("desired") - get("available")),
        updated_number_scheduled: some(get("updated")),
        observed_generation: Some(set.generation()),
        collision_count: old.collision_count,
        conditions: old.conditions,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pods::tests::item;

    /// Places from `n1:old+new`; `old`, `new`, `bad` (old, not ready), `failed`, `going`; `!` before the node: unwanted.
    fn places(text: &str) -> Vec<Place> {
        let place = |text: &str| {
            let (node, pods) = text.split_once(':').unwrap();
            let wanted = !node.starts_with('!');
            let daemon = |(number, kind): (usize, &str)| {
                let ready = if matches!(kind, "old" | "new") { "True" } else { "False" };
                let phase = if kind == "failed" { "Failed" } else { "Running" };
                let mut pod = json!({"metadata": {"name": format!("{node}-{kind}"), "uid": kind,
                    "creationTimestamp": format!("2026-01-01T00:00:0{number}Z")},
                    "status": {"phase": phase, "conditions": [
                        {"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
                if kind == "going" {
                    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
                }
                Daemon { pod: PodView::new(item(pod)).unwrap(), updated: kind.starts_with("new") }
            };
            let daemons = pods.split('+').filter(|pod| !pod.is_empty()).enumerate().map(daemon).collect();
            Place { node: node.to_owned(), should_run: wanted, may_stay: wanted, daemons }
        };
        text.split_whitespace().map(place).collect()
    }

    #[test]
    fn each_place_has_one_pod_and_updates_keep_within_bounds() {
        let cases = [
            (0, 1, "n1: n2:new", "+n1"),
            (0, 1, "n1:new !n2:new", "-!n2-new"),
            (0, 1, "n1:failed", "+n1 -n1-failed"),
            (0, 1, "n1:going", ""),
            (0, 1, "n1:new+new2", "-n1-new2"),
            (0, 1, "n1:old n2:old n3:old", "-n1-old"),
            (0, 1, "n1:going n2:old n3:old", ""),
            (0, 2, "n1:going n2:old n3:old", "-n2-old"),
            (0, 1, "n1:bad n2:old n3:old", "-n1-bad"),
            (0, 1, "n1:new n2:old n3:old", "-n2-old"),
            (1, 0, "n1:old n2:old", "+n1"),
            (1, 0, "n1:old+newbad n2:old", ""),
            (1, 0, "n1:old+new n2:old", "-n1-old"),
        ];
        for (max_surge, max_unavailable, text, expected) in cases {
            let desired = Desired { on_delete: false, max_surge, max_unavailable, min_ready_seconds: 0 };
            let plan = plan(&desired, &places(text), Timestamp::now());
            let created = plan.create.iter().map(|node| format!("+{node}"));
            let told: Vec<String> = created.chain(plan.delete.iter().map(|pod| format!("-{pod}"))).collect();
            assert_eq!(told.join(" "), expected, "{text}");
        }
    }

    #[test]
    fn daemons_belong_where_their_template_and_the_taints_allow() {
        let run = |spec: serde_json::Value, node: serde_json::Value| {
            belongs(&serde_json::from_value(spec).unwrap(), &serde_json::from_value(node).unwrap())
        };
        let plain = json!({"containers": []});
        let node = |taints| json!({"metadata": {"name": "n1", "labels": {"disk": "ssd"}}, "spec": {"taints": taints}});
        let taint = |key: &str, effect: &str| json!([{"key": key, "effect": effect}]);
        assert_eq!(run(plain.clone(), node(json!([]))), (true, true));
        assert_eq!(run(plain.clone(), node(taint("gpu", "NoSchedule"))), (false, true));
        assert_eq!(run(plain.clone(), node(taint("gpu", "NoExecute"))), (false, false));
        assert_eq!(run(plain, node(taint("node.kubernetes.io/not-ready", "NoExecute"))), (true, true));
        assert_eq!(run(json!({"containers": [], "nodeSelector": {"disk": "ssd"}}), node(json!([]))), (true, true));
        assert_eq!(run(json!({"containers": [], "nodeSelector": {"disk": "hdd"}}), node(json!([]))), (false, false));
        assert_eq!(run(json!({"containers": [], "nodeName": "n2"}), node(json!([]))), (false, false));
    }
}
