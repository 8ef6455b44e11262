//! States of a Job and its pods in, actions out.

use serde_json::{Value, json};

use super::*;
use crate::pods::tests::item;

const NOW: &str = "2026-01-01T01:00:00Z";

fn job(spec: Value, status: Value) -> Job {
    serde_json::from_value(
        json!({"metadata": {"name": "j", "namespace": "n", "uid": "j"}, "spec": spec, "status": status}),
    )
    .unwrap()
}

/// A pod from `name:phase`, with `@index` and `#failures` of it before, `-` if its finalizer is gone, `!` if it is being deleted.
fn pod(text: &str) -> JobPod {
    let (name, rest) = text.split_once(':').unwrap();
    let (phase, index) = rest.split_once('@').map_or((rest, None), |(phase, index)| (phase, Some(index.to_owned())));
    let tracked = !phase.contains('-');
    let deleting = phase.contains('!');
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "n", "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z",
            "finalizers": if tracked { vec![super::super::pod::FINALIZER] } else { vec![] }},
        "status": {"phase": phase.trim_end_matches(['-', '!']), "containerStatuses": [{"name": "c",
            "state": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:00:00Z"}}}]},
    });
    if let Some(index) = index {
        let (index, failures) = index.split_once('#').unwrap_or((&index, "0"));
        pod["metadata"]["annotations"] =
            json!({super::super::pod::INDEX: index, super::super::pod::INDEX_FAILURES: failures});
    }
    if deleting {
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    }
    JobPod::new(item(pod)).unwrap()
}

fn run(spec: Value, status: Value, pods: &str) -> Decision {
    let pods: Vec<JobPod> = pods.split_whitespace().map(pod).collect();
    decide(&job(spec, status), &pods, NOW.parse().unwrap())
}

/// The decision in one line.
fn told(decision: &Decision) -> String {
    let names = |items: &[Arc<Item>]| items.iter().map(|item| item.name().to_owned()).collect::<Vec<_>>().join(",");
    let indexes: Vec<String> =
        decision.create.iter().map(|new| new.index.map_or("*".to_owned(), |i| i.to_string())).collect();
    let conditions: Vec<String> = decision
        .status
        .conditions
        .iter()
        .flatten()
        .map(|condition| format!("{}={}/{}", condition.type_, condition.status, condition.reason()))
        .collect();
    let uncounted = decision.status.uncounted_terminated_pods.clone().unwrap_or_default();
    format!(
        "+[{}] -[{}] free[{}] s{} f{} u{}/{} {}",
        indexes.join(","),
        names(&decision.delete),
        names(&decision.untrack),
        decision.status.succeeded.unwrap_or(0),
        decision.status.failed.unwrap_or(0),
        uncounted.succeeded.map_or(0, |uids| uids.len()),
        uncounted.failed.map_or(0, |uids| uids.len()),
        conditions.join(" "),
    )
}

#[test]
fn indexes_beyond_the_end_of_a_job_that_was_made_smaller_are_forgotten() {
    for (completions, pods, expected) in [(1, "a:Running@0", None), (3, "", Some("1,2")), (2, "", Some("1"))] {
        let spec = json!({"completions": completions, "parallelism": completions, "completionMode": "Indexed"});
        let status = run(spec, json!({"completedIndexes": "1-3", "succeeded": 3}), pods).status;
        assert_eq!(status.completed_indexes.as_deref(), expected);
        assert_eq!(status.succeeded, (completions > 1).then_some(completions - 1));
    }
}

#[test]
fn jobs_of_every_kind_do_what_is_documented() {
    let three = json!({"completions": 3, "parallelism": 2});
    let queue = json!({"parallelism": 2});
    let indexed = json!({"completions": 3, "parallelism": 2, "completionMode": "Indexed"});
    let done = "SuccessCriteriaMet=True/CompletionsReached Complete=True/CompletionsReached";
    let cases = [
        (&three, json!({}), "", "+[*,*] -[] free[] s0 f0 u0/0".to_owned()),
        (&three, json!({}), "a:Running b:Pending", "+[] -[] free[] s0 f0 u0/0".to_owned()),
        (&three, json!({}), "a:Running b:Succeeded", "+[*] -[] free[b] s0 f0 u1/0".to_owned()),
        (
            &three,
            json!({"uncountedTerminatedPods": {"succeeded": ["b"]}}),
            "a:Running b:Succeeded-",
            "+[*] -[] free[] s1 f0 u0/0".to_owned(),
        ),
        (
            &three,
            json!({"succeeded": 1, "uncountedTerminatedPods": {"succeeded": ["b"]}}),
            "a:Running",
            "+[] -[] free[] s2 f0 u0/0".to_owned(),
        ),
        (
            &three,
            json!({"succeeded": 2}),
            "a:Succeeded",
            "+[] -[] free[a] s2 f0 u1/0 SuccessCriteriaMet=True/CompletionsReached".to_owned(),
        ),
        (&three, json!({"succeeded": 3}), "", format!("+[] -[] free[] s3 f0 u0/0 {done}")),
        (&three, json!({"succeeded": 2}), "a:Running b:Running", "+[] -[a] free[a] s2 f0 u0/0".to_owned()),
        (&queue, json!({}), "a:Running b:Succeeded", "+[] -[] free[b] s0 f0 u1/0".to_owned()),
        (&queue, json!({"succeeded": 1}), "", format!("+[] -[] free[] s1 f0 u0/0 {done}")),
        (&indexed, json!({}), "", "+[0,1] -[] free[] s0 f0 u0/0".to_owned()),
        (&indexed, json!({}), "a:Succeeded@0 b:Running@1", "+[2] -[] free[a] s1 f0 u0/0".to_owned()),
        (&indexed, json!({}), "a:Running@1 b:Running@1", "+[] -[b] free[b] s0 f0 u0/0".to_owned()),
        (&indexed, json!({"completedIndexes": "0-2"}), "", format!("+[] -[] free[] s3 f0 u0/0 {done}")),
    ];
    for (spec, status, pods, expected) in cases {
        assert_eq!(told(&run(spec.clone(), status.clone(), pods)).trim_end(), expected, "{spec} {status} {pods}");
    }
}

#[test]
fn failures_count_up_to_the_limit_and_end_what_runs() {
    let spec = json!({"completions": 2, "parallelism": 2, "backoffLimit": 1});
    let target = "FailureTarget=True/BackoffLimitExceeded";
    let cases = [
        (json!({}), "a:Running b:Failed", "+[*] -[] free[b] s0 f0 u0/1".to_owned()),
        (json!({"failed": 1}), "a:Running b:Failed", format!("+[] -[a] free[b] s0 f1 u0/1 {target}")),
        (json!({"failed": 2}), "", format!("+[] -[] free[] s0 f2 u0/0 {target} Failed=True/BackoffLimitExceeded")),
        (json!({"failed": 2}), "a:Running!-", format!("+[] -[] free[] s0 f2 u0/0 {target}")),
        (json!({}), "a:Running!", "+[*,*] -[] free[a] s0 f0 u0/1".to_owned()),
    ];
    for (status, pods, expected) in cases {
        assert_eq!(told(&run(spec.clone(), status.clone(), pods)).trim_end(), expected, "{status} {pods}");
    }
}

#[test]
fn a_new_pod_waits_longer_after_each_failure() {
    let failed = pod("a:Failed-").with(|pod| pod.finished = Some("2026-01-01T00:59:55Z".parse().unwrap()));
    let spec = json!({"completions": 1, "parallelism": 1});
    let wait = |pods: &[JobPod]| decide(&job(spec.clone(), json!({})), pods, NOW.parse().unwrap()).again;
    assert_eq!(wait(std::slice::from_ref(&failed)), Some(Duration::from_secs(5)));
    assert_eq!(wait(&[failed.clone(), failed.clone()]), Some(Duration::from_secs(15)));
    let failed = failed.with(|pod| pod.finished = Some("2026-01-01T00:00:00Z".parse().unwrap()));
    assert_eq!(wait(&[failed]), None);
}

#[test]
fn suspending_stops_pods_without_counting_them() {
    let spec = json!({"completions": 2, "parallelism": 2, "suspend": true});
    let suspended = run(spec.clone(), json!({"startTime": NOW}), "a:Running");
    assert_eq!(told(&suspended), "+[] -[a] free[a] s0 f0 u0/0 Suspended=True/JobSuspended");
    assert_eq!((suspended.status.start_time, suspended.events.len()), (None, 1));
    let status = serde_json::to_value(run(spec, json!({}), "").status).unwrap();
    let resumed = run(json!({"completions": 1, "parallelism": 1}), status, "");
    assert_eq!(told(&resumed), "+[*] -[] free[] s0 f0 u0/0 Suspended=False/JobResumed");
}

#[test]
fn deadlines_and_indexes_that_fail_for_good_end_a_job() {
    let late = run(json!({"activeDeadlineSeconds": 60}), json!({"startTime": "2026-01-01T00:58:00Z"}), "a:Running");
    assert!(told(&late).contains("-[a]") && told(&late).contains("FailureTarget=True/DeadlineExceeded"));
    let early = run(json!({"activeDeadlineSeconds": 60}), json!({"startTime": "2026-01-01T00:59:30Z"}), "a:Running");
    assert_eq!(early.again, Some(Duration::from_secs(30)));
    let spec = json!({"completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 0, "backoffLimit": 100});
    let one = run(spec.clone(), json!({}), "a:Failed@0 b:Running@1");
    assert_eq!((told(&one).as_str(), one.status.failed_indexes.as_deref()), ("+[] -[] free[a] s0 f0 u0/1 ", Some("0")));
    let all = run(spec, json!({"failedIndexes": "0", "completedIndexes": "1", "failed": 1}), "");
    assert!(told(&all).ends_with("FailureTarget=True/FailedIndexes Failed=True/FailedIndexes"), "{}", told(&all));
}

#[test]
fn the_failures_of_an_index_are_handed_on_from_pod_to_pod() {
    let spec = json!({"completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 1,
        "backoffLimit": 100, "podFailurePolicy": {"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]}});
    let first = run(spec.clone(), json!({}), "a:Failed@0 b:Running@1");
    assert_eq!(told(&first), "+[0] -[] free[] s0 f0 u0/0 ", "the failed pod stays until another one knows of it");
    assert_eq!(first.create[0].index_failures, Some((1, 0)));
    let replaced = run(spec.clone(), json!({}), "a:Failed@0 b:Running@1 c:Running@0#1");
    assert_eq!(told(&replaced), "+[] -[] free[a] s0 f0 u0/1 ");
    let last = run(spec.clone(), json!({"failed": 1}), "c:Failed@0#1 b:Running@1");
    assert_eq!(
        (told(&last).as_str(), last.status.failed_indexes.as_deref()),
        ("+[] -[] free[c] s0 f1 u0/1 ", Some("0"))
    );
    let disrupted = ("DisruptionTarget".to_owned(), "True".to_owned());
    let ignored = pod("a:Failed@0#1").with(|pod| pod.conditions.push(disrupted));
    let after = decide(&job(spec, json!({})), &[ignored, pod("b:Running@1")], NOW.parse().unwrap());
    assert_eq!((told(&after).as_str(), after.create[0].index_failures), ("+[0] -[] free[] s0 f0 u0/0 ", Some((1, 1))));
}

#[test]
fn what_is_stopped_after_enough_has_succeeded_is_no_failure() {
    let spec = json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed",
        "successPolicy": {"rules": [{"succeededCount": 1}]}});
    let met = run(spec.clone(), json!({}), "a:Succeeded@0 b:Running@1");
    assert_eq!(told(&met), "+[] -[b] free[a] s1 f0 u0/0 SuccessCriteriaMet=True/SuccessPolicy");
    let status = serde_json::to_value(&met.status).unwrap();
    assert!(told(&run(spec.clone(), status.clone(), "b:Running!@1")).starts_with("+[] -[] free[b] s1 f0 u0/0"));
    assert!(told(&run(spec, status, "")).ends_with("Complete=True/SuccessPolicy"));
}

#[test]
fn so_many_pods_are_counted_at_once_and_the_rest_later() {
    let all = |phase: &str, mark: &str| (0..600).map(|number| format!("p{number}:{phase}{mark} ")).collect::<String>();
    let spec = json!({"completions": 600, "parallelism": 600});
    let first = run(spec.clone(), json!({}), &all("Succeeded", ""));
    let uncounted = first.status.uncounted_terminated_pods.clone().unwrap().succeeded.unwrap();
    assert_eq!((uncounted.len(), first.untrack.len()), (500, 500));
    // All of them count for what is done next, but the Job is not over before all are in the counters.
    assert!(told(&first).ends_with("SuccessCriteriaMet=True/CompletionsReached"), "{}", told(&first));
    assert!(first.create.is_empty() && first.delete.is_empty());
    // The first five hundred are free; the others are next.
    let pods: String = (0..600).map(|n| format!("p{n}:Succeeded{} ", if n < 500 { "-" } else { "" })).collect();
    let second = run(spec, serde_json::to_value(&first.status).unwrap(), &pods);
    assert_eq!((second.status.succeeded, second.untrack.len()), (Some(500), 100));
    let failing = run(json!({"completions": 600, "backoffLimit": 550}), json!({}), &all("Failed", ""));
    assert_eq!(failing.untrack.len(), 500);
    assert!(told(&failing).contains("FailureTarget=True/BackoffLimitExceeded"), "those that wait have failed too");
    let indexed = json!({"completions": 600, "parallelism": 600, "completionMode": "Indexed"});
    let pods: String = (0..600).map(|number| format!("p{number}:Succeeded@{number} ")).collect();
    let done = run(indexed, json!({}), &pods);
    assert_eq!((done.untrack.len(), done.status.completed_indexes.as_deref()), (500, Some("0-599")));
}
