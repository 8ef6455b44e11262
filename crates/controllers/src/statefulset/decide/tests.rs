use serde_json::json;

use super::*;
use crate::pods::tests::item;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000_000 + second).unwrap()
}

/// Members from `0:ready@1`: ordinal, state, revision. States: `ready` (for a minute), `fresh` (for a second), `waiting`
/// (Pending), `unready`, `failed`, `succeeded`, `going` (ready).
fn members(text: &str) -> BTreeMap<i32, Member> {
    let member = |text: &str| {
        let (ordinal, rest) = text.split_once(':').unwrap();
        let (state, revision) = rest.split_once('@').unwrap();
        let phase = match state {
            "waiting" => "Pending",
            "failed" => "Failed",
            "succeeded" => "Succeeded",
            _ => "Running",
        };
        let ready = if matches!(state, "ready" | "fresh" | "going") { "True" } else { "False" };
        let since = if state == "fresh" { at(-1) } else { at(-60) };
        let mut pod = json!({"metadata": {"name": format!("db-{ordinal}"), "uid": ordinal},
            "status": {"phase": phase, "conditions": [
                {"type": "Ready", "status": ready, "lastTransitionTime": since.to_string()}]}});
        if state == "going" {
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        let member = Member { pod: PodView::new(item(pod)).unwrap(), revision: revision.to_owned() };
        (ordinal.parse().unwrap(), member)
    };
    text.split_whitespace().map(member).collect()
}

fn set(spec: &serde_json::Value) -> StatefulSet {
    serde_json::from_value(json!({"metadata": {"name": "db"}, "spec": spec})).unwrap()
}

fn planned(spec: &serde_json::Value, pods: &str, current_replicas: i32, stale: &[i32]) -> Plan {
    let status = StatefulSetStatus { current_replicas: Some(current_replicas), ..StatefulSetStatus::default() };
    let stale = stale.iter().copied().collect();
    plan(&Desired::of(&set(spec)), &members(pods), &status, ("1", "2"), &stale, at(0))
}

fn told(plan: &Plan) -> String {
    let created = plan.create.iter().map(|(ordinal, current)| format!("+{ordinal}@{}", if *current { 1 } else { 2 }));
    created.chain(plan.delete.iter().map(|ordinal| format!("-{ordinal}"))).collect::<Vec<_>>().join(" ")
}

fn rolling(replicas: i32, rolling: serde_json::Value) -> serde_json::Value {
    json!({"replicas": replicas, "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling}})
}

#[test]
fn pods_come_go_and_are_updated_in_order() {
    let three = rolling(3, json!({"partition": 0}));
    let undefaulted = json!({"replicas": 3, "updateStrategy": {"type": "RollingUpdate"}});
    let patient = json!({"replicas": 2, "minReadySeconds": 10});
    let partition = rolling(3, json!({"partition": 2}));
    let two_at_once = rolling(3, json!({"maxUnavailable": 2}));
    let on_delete = json!({"replicas": 3, "updateStrategy": {"type": "OnDelete"}});
    let cases = [
        (&three, "", 0, "+0@2"),
        (&three, "0:waiting@2", 0, ""),
        (&three, "0:ready@2", 0, "+1@2"),
        (&three, "0:ready@2 1:failed@2", 0, "-1"),
        (&three, "0:ready@2 1:succeeded@2", 0, "-1"),
        (&three, "0:ready@2 1:going@2", 0, ""),
        (&three, "0:ready@2 1:ready@2 2:ready@2 3:ready@2 4:ready@2", 0, "-4"),
        (&three, "0:ready@2 1:ready@2 2:ready@2 3:ready@2 4:going@2", 0, ""),
        // What is well goes whatever those before it are like, or neither would ever go.
        (&three, "0:ready@2 1:ready@2 2:ready@2 3:unready@2 4:ready@2", 0, "-4"),
        (&three, "0:ready@2 1:ready@2 2:ready@2 3:unready@2", 0, "-3"),
        (&three, "0:ready@2 1:ready@2 2:ready@2 3:ready@2 4:unready@2", 0, "-4"),
        (&three, "0:ready@2 1:ready@2 2:ready@2 3:unready@2 4:unready@2", 0, ""),
        (&three, "0:ready@2 1:unready@2 2:ready@2 3:ready@2", 0, ""),
        // Ready is not enough where the set asks for longer.
        (&patient, "0:fresh@2", 0, ""),
        (&patient, "0:ready@2", 0, "+1@2"),
        (&patient, "0:ready@2 1:ready@2 2:fresh@2", 0, "-2"),
        (&patient, "0:ready@2 1:ready@2 2:fresh@2 3:fresh@2", 0, ""),
        (&patient, "0:ready@1 1:fresh@2", 0, ""),
        (&three, "0:ready@1 1:ready@1 2:ready@1", 3, "-2"),
        (&three, "0:ready@1 1:ready@1 2:waiting@2", 2, ""),
        (&three, "0:ready@1 1:ready@1 2:ready@2", 2, "-1"),
        // A pod that is lost meanwhile comes back as the set is now, but below the partition as it was.
        (&three, "0:ready@1 2:ready@2", 2, "+1@2"),
        (&undefaulted, "0:ready@1 2:ready@2", 2, "+1@1"),
        (&partition, "0:ready@1 1:ready@1 2:ready@2", 2, ""),
        (&partition, "0:ready@1 2:ready@2", 2, "+1@1"),
        (&two_at_once, "0:ready@1 1:ready@1 2:ready@1", 3, "-2 -1"),
        (&on_delete, "0:ready@1 1:ready@1 2:ready@1", 3, ""),
        (&on_delete, "0:ready@1 1:ready@1", 3, "+2@2"),
    ];
    for (spec, pods, current, expected) in cases {
        assert_eq!(told(&planned(spec, pods, current, &[])), expected, "{spec} {pods}");
    }
}

#[test]
fn numbers_as_great_as_the_api_takes_do_not_overflow() {
    let from = |start: i32, mut spec: serde_json::Value| {
        spec["ordinals"] = json!({ "start": start });
        spec
    };
    let cases = [
        (from(i32::MAX - 1, rolling(3, json!({}))), "", "+2147483646@2"),
        (from(1, rolling(2, json!({"partition": i32::MAX}))), "1:ready@1 2:ready@1", ""),
        (from(1, rolling(2, json!({"partition": i32::MAX}))), "1:ready@1", "+2@1"),
        (from(i32::MAX, rolling(i32::MAX, json!({"partition": i32::MAX}))), "0:ready@1", "-0"),
    ];
    for (spec, pods, expected) in cases {
        assert_eq!(told(&planned(&spec, pods, 0, &[])), expected, "{spec} {pods}");
    }
}

#[test]
fn parallel_pods_do_not_wait_for_each_other_but_updates_keep_within_bounds() {
    let mut parallel = rolling(3, json!({"partition": 0, "maxUnavailable": 1}));
    parallel["podManagementPolicy"] = "Parallel".into();
    let cases = [
        ("", "+0@2 +1@2 +2@2"),
        ("0:waiting@2 1:failed@2", "+2@2 -1"),
        ("0:ready@2 1:ready@2 2:ready@2 3:ready@2 4:unready@2", "-4 -3"),
        ("0:ready@2 1:ready@2 2:ready@2 3:going@2 4:ready@2", "-4"),
        ("0:ready@1 1:ready@1 2:ready@1", "-2"),
        ("0:ready@1 1:ready@1 2:waiting@2", ""),
        // Broken pods of the earlier revision are replaced however many they are, and no others beside them.
        ("0:ready@1 1:unready@1 2:unready@1", "-2 -1"),
        ("0:ready@1 1:failed@1 2:ready@1", "-1"),
        ("0:ready@1 1:ready@1", "+2@2"),
    ];
    for (pods, expected) in cases {
        assert_eq!(told(&planned(&parallel, pods, 0, &[])), expected, "{pods}");
    }
    assert_eq!(told(&planned(&parallel, "", 0, &[1])), "+0@2 +2@2", "one that waits for a claim holds nobody up");
    assert_eq!(told(&planned(&rolling(2, json!({})), "", 0, &[0])), "");
}

#[test]
fn claims_and_names_are_put_right_as_far_as_the_order_allows() {
    let three = rolling(3, json!({"partition": 0}));
    let mut parallel = three.clone();
    parallel["podManagementPolicy"] = "Parallel".into();
    // Provided, repaired, released.
    let cases = [
        (&three, "0:ready@2 1:waiting@2 2:ready@2", "[1] [0] []"),
        (&three, "0:ready@2 1:ready@2 2:ready@2 3:ready@2 4:ready@2", "[] [0, 1, 2] [3, 4]"),
        (&parallel, "0:ready@2 1:waiting@2 2:unready@2 3:ready@2", "[1] [0, 1, 2] [3]"),
    ];
    for (spec, pods, expected) in cases {
        let Plan { provide, repair, release, .. } = planned(spec, pods, 0, &[]);
        assert_eq!(format!("{provide:?} {repair:?} {release:?}"), expected, "{pods}");
    }
}

#[test]
fn the_status_counts_what_is_there() {
    // Replicas, ready, available, of the earlier and of the present revision; the earlier one's name.
    let cases = [
        ("", [0, 0, 0, 0, 0], "1"),
        ("0:ready@1 1:fresh@2 2:waiting@2", [3, 2, 1, 1, 2], "1"),
        ("0:ready@1 1:going@2 2:failed@2", [3, 2, 2, 1, 1], "1"),
        ("0:ready@2 1:ready@2 2:fresh@2", [3, 3, 2, 3, 3], "2"),
        ("0:ready@2 1:ready@2 2:unready@2", [3, 2, 2, 0, 3], "1"),
        ("0:ready@2 1:ready@2 2:ready@2 3:ready@2", [4, 4, 4, 0, 4], "1"),
    ];
    for (pods, expected, current) in cases {
        let set = set(&json!({"replicas": 3, "minReadySeconds": 10}));
        let status = status(&set, &Desired::of(&set), &members(pods), ("1", "2"), 4, at(0));
        let counts = [
            Some(status.replicas),
            status.ready_replicas,
            status.available_replicas,
            status.current_replicas,
            status.updated_replicas,
        ];
        assert_eq!(counts.map(|count| count.unwrap_or(0)), expected, "{pods}");
        assert_eq!(status.current_revision.as_deref(), Some(current), "{pods}");
        assert_eq!((status.update_revision.as_deref(), status.collision_count), (Some("2"), Some(4)));
    }
}

#[test]
fn ordinals_are_read_from_names() {
    let cases =
        [("db-0", Some(0)), ("db-12", Some(12)), ("db-01", None), ("db", None), ("dbx-1", None), ("db-a", None)];
    for (name, expected) in cases {
        assert_eq!(ordinal("db", name), expected, "{name}");
    }
}
