use serde_json::json;

use super::*;
use crate::pods::tests::item;

/// Places from `n1:old+new`; `old`, `new`, `oldbad`, `newbad` (not ready), `failed`, `succeeded`, `going`, `gone` (deleted and
/// ended), `free` (old, not bound). Before the node: `!` unwanted, `~` unwanted but may stay, `-` the node is gone.
fn places(text: &str) -> Vec<Place> {
    let place = |text: &str| {
        let (name, pods) = text.split_once(':').unwrap();
        let node = name.trim_start_matches(['!', '~', '-']);
        let should_run = node == name;
        let daemon = |(number, kind): (usize, &str)| {
            let ready = if kind.contains("bad") || kind == "failed" { "False" } else { "True" };
            let phase = match kind {
                "failed" | "gone" => "Failed",
                "succeeded" => "Succeeded",
                _ => "Running",
            };
            let mut pod = json!({"metadata": {"name": format!("{node}-{kind}"), "uid": format!("{node}-{kind}"),
                "creationTimestamp": format!("2026-01-01T00:00:0{number}Z")},
                "spec": {"nodeName": if kind == "free" { "" } else { node }},
                "status": {"phase": phase, "conditions": [
                    {"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
            if matches!(kind, "going" | "gone") {
                pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            }
            Daemon { pod: PodView::new(item(pod)).unwrap(), updated: kind.starts_with("new") }
        };
        let daemons = pods.split('+').filter(|pod| !pod.is_empty()).enumerate().map(daemon).collect();
        let belongs = (should_run, should_run || name.starts_with('~'));
        Place::new(node, !name.starts_with('-'), belongs, daemons)
    };
    text.split_whitespace().map(place).collect()
}

fn told(plan: &Plan) -> String {
    let created = plan.create.iter().map(|node| format!("+{node}"));
    created.chain(plan.delete.iter().map(|pod| format!("-{pod}"))).collect::<Vec<_>>().join(" ")
}

fn desired(max_surge: usize, max_unavailable: usize) -> Desired {
    Desired { on_delete: false, surges: max_surge > 0, max_surge, max_unavailable, min_ready_seconds: 0 }
}

#[test]
fn each_place_has_one_pod_and_updates_keep_within_bounds() {
    let cases = [
        (0, 1, "n1: n2:new", "+n1"),
        (0, 1, "n1:new !n2:new", "-n2-new"),
        (0, 1, "n1:new ~n2:new", ""),
        // The pod is replaced once it is gone.
        (0, 1, "n1:failed", "-n1-failed"),
        (0, 1, "n1:succeeded", "-n1-succeeded"),
        (0, 1, "n1:going", ""),
        (0, 1, "n1:gone", "+n1"),
        (0, 1, "n1:new+new2", "-n1-new2"),
        (0, 1, "n1:free+new", "-n1-free"),
        (0, 1, "n1:new -n2:new", ""),
        (0, 1, "n1:new -n2:free", "-n2-free"),
        (0, 1, "n1:old n2:old n3:old", "-n1-old"),
        (0, 1, "n1:going n2:old n3:old", ""),
        (0, 2, "n1:going n2:old n3:old", "-n2-old"),
        (0, 1, "n1:oldbad n2:old n3:old", "-n1-oldbad"),
        (0, 1, "n1:new n2:old n3:old", "-n2-old"),
        (0, 1, "n1:newbad n2:old n3:old", ""),
        // Nothing is replaced while a place is without its pod.
        (0, 2, "n1: n2:old", "+n1"),
        (1, 0, "n1:old n2:old", "+n1"),
        (1, 0, "n1:old+newbad n2:old", ""),
        (1, 0, "n1:old+new n2:old", "-n1-old"),
        (1, 0, "n1:oldbad n2:oldbad n3:old n4:old", "+n1 +n2 +n3"),
        (1, 0, "n1:oldbad+newbad", "-n1-oldbad"),
        (1, 0, "n1:going", "+n1"),
        (1, 0, "n1:new ~n2:old", "-n2-old"),
        (1, 0, "n1:newbad ~n2:old", ""),
        (1, 0, "n1:newbad ~n2:oldbad", "-n2-oldbad"),
        (2, 0, "n1:old+newbad n2:old n3:old", "+n2"),
    ];
    for (max_surge, max_unavailable, text, expected) in cases {
        let plan = plan(&desired(max_surge, max_unavailable), &places(text), Timestamp::now(), |_| Ok(()));
        assert_eq!(told(&plan), expected, "{text}");
    }
}

#[test]
fn failed_pods_wait_for_their_node_and_others_do_not() {
    let wait = Duration::from_secs(4);
    let rests = |node: &str| if node == "n1" { Err(wait) } else { Ok(()) };
    let plan = plan(&desired(0, 1), &places("n1:failed n2:failed n3:succeeded"), Timestamp::now(), rests);
    let pod = |pod: &str, node: &str| vec![(pod.to_owned(), node.to_owned())];
    assert_eq!(told(&plan), "-n2-failed -n3-succeeded");
    assert_eq!((plan.failed, plan.succeeded), (pod("n2-failed", "n2"), pod("n3-succeeded", "n3")));
    assert_eq!(plan.again, Some(wait));
}

#[test]
fn the_first_pod_of_a_place_stands_for_it_in_the_status() {
    // Desired, current, ready, available, updated, misscheduled.
    let cases = [
        ("n1:new n2:old n3:", [3, 2, 2, 2, 1, 0]),
        ("n1:old+new", [1, 1, 1, 1, 0, 0]),
        ("n1:oldbad+new", [1, 1, 0, 0, 0, 0]),
        ("n1:new+newbad", [1, 1, 1, 1, 1, 0]),
        ("n1:free+new", [1, 1, 1, 1, 1, 0]),
        ("n1:new !n2:old ~n3:old -n4:old", [1, 1, 1, 1, 1, 2]),
        ("n1:gone", [1, 0, 0, 0, 0, 0]),
    ];
    for (text, expected) in cases {
        let set = DaemonSet::default();
        let status = status(&set, &desired(1, 0), &places(text), None, true, Timestamp::now());
        let some = |count: Option<i32>| count.unwrap_or(0);
        let counts = [
            status.desired_number_scheduled,
            status.current_number_scheduled,
            status.number_ready,
            some(status.number_available),
            some(status.updated_number_scheduled),
            status.number_misscheduled,
        ];
        assert_eq!(counts, expected, "{text}");
        assert_eq!(some(status.number_unavailable), counts[0] - counts[3], "{text}");
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
