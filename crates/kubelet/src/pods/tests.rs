//! Decisions and statuses as tables: a pod, what the runtime has of it and what was tried, and what follows.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1;
use runtime::cri::LinuxContainerResources;
use serde_json::{Value, json};

use super::backoff::MAXIMUM;
use super::decide::{Action, decide};
use super::memory::{Findings, ImageStep, Memory, Present, Step};
use super::observed::{Container, Observed, Sandbox, State};
use super::pod::Pod;
use super::status::{Host, compute};

fn now() -> Timestamp {
    "2024-05-01T12:00:00Z".parse().unwrap()
}

fn pod(spec: Value) -> Pod {
    pod_with(json!({}), spec)
}

fn pod_with(metadata: Value, mut spec: Value) -> Pod {
    let mut meta = json!({"name": "p", "namespace": "n", "uid": "u"});
    meta.as_object_mut().unwrap().extend(metadata.as_object().cloned().unwrap());
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{"name": "a", "image": "i"}]);
    }
    Pod::new(serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap())
}

/// Containers as `name=state`, newest last: `c` created, `r` running, a number an exit code; `@n` seconds ago.
fn seen(text: &str) -> Observed {
    let sandbox = Sandbox { id: "s".into(), attempt: 0, ready: true, created_at: now(), ips: vec!["10.0.0.2".into()] };
    let mut attempts = std::collections::HashMap::new();
    let containers = text.split_whitespace().map(|word| {
        let (name, state) = word.split_once('=').unwrap();
        let (state, ago) = state.split_once('@').unwrap_or((state, "0"));
        let attempt = attempts.entry(name.to_owned()).and_modify(|n| *n += 1).or_insert(0_u32);
        let at = now() - SignedDuration::from_secs(ago.parse().unwrap());
        let spec = v1::Container { name: name.into(), image: Some("i".into()), ..Default::default() };
        Container {
            id: format!("{name}{attempt}"),
            sandbox_id: "s".into(),
            name: name.into(),
            image: "i".into(),
            image_id: "sha256:1".into(),
            attempt: *attempt,
            state: match state {
                "c" => State::Created,
                "r" => State::Running,
                _ => State::Exited,
            },
            created_at: at,
            started_at: Some(at),
            finished_at: state.parse::<i32>().ok().map(|_| at),
            exit_code: state.parse().unwrap_or(0),
            reason: String::new(),
            message: String::new(),
            hash: crate::containers::hash(&spec),
            log_path: String::new(),
            resources: None,
            user: None,
            stop_signal: String::new(),
            mounted_images: Default::default(),
        }
    });
    let containers = containers.collect();
    Observed::new(vec![sandbox], containers)
}

/// A memory in which everything that a start needs is there.
fn prepared(pod: &Pod) -> Memory {
    let mut memory = Memory { volumes: Step::Done, sandbox: Step::Done, ..Default::default() };
    for member in &pod.members {
        memory.starts(&member.spec.name).image = ImageStep::Present(Present::default());
    }
    memory
}

/// The actions in short, in order.
fn actions(pod: &Pod, seen: &Observed, memory: &Memory) -> String {
    let short = |action: &Action| match action {
        Action::PrepareVolumes => "volumes".to_owned(),
        Action::CreateSandbox { attempt } => format!("sandbox#{attempt}"),
        Action::EnsureImage { container } => format!("image:{container}"),
        Action::Start { container, attempt, .. } => format!("start:{container}#{attempt}"),
        Action::Stop { id, grace, .. } => format!("stop:{id}/{grace}"),
        Action::RemoveContainer { id } => format!("remove:{id}"),
        Action::StopSandbox { .. } => "stop-sandbox".to_owned(),
        Action::RemoveSandbox { .. } => "remove-sandbox".to_owned(),
        Action::TearDown => "tear-down".to_owned(),
        Action::Finish => "finish".to_owned(),
        Action::PreStop { id, .. } => format!("hook:{id}"),
        Action::Resize => "resize".to_owned(),
        Action::Fail { reason, .. } => format!("fail:{reason}"),
        Action::Wait { container, why, .. } => format!("wait:{container}:{}", why.reason),
    };
    decide(pod, seen, memory, now()).actions.iter().map(short).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_new_pod_does_everything_at_once() {
    let pod = pod(json!({}));
    assert_eq!(actions(&pod, &Observed::default(), &Memory::default()), "image:a sandbox#0 volumes");
    assert_eq!(actions(&pod, &seen(""), &prepared(&pod)), "start:a#0");
}

#[test]
fn containers_start_and_restart_in_order_and_by_policy() {
    let two = json!([{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]);
    let init = json!([{"name": "x", "image": "i"}, {"name": "y", "image": "i"}]);
    let sidecar = json!([{"name": "x", "image": "i", "restartPolicy": "Always"}, {"name": "y", "image": "i"}]);
    for (spec, have, expected) in [
        (json!({"containers": two}), "", "start:a#0 start:b#0"),
        (json!({"containers": two}), "a=r b=0", "start:b#1"),
        (json!({"containers": two, "restartPolicy": "OnFailure"}), "a=r b=0", ""),
        (json!({"containers": two, "restartPolicy": "OnFailure"}), "a=r b=1", "start:b#1"),
        (json!({"containers": two, "restartPolicy": "Never"}), "a=r b=1", ""),
        (json!({"containers": two, "restartPolicy": "Never"}), "a=0 b=1", "stop-sandbox"),
        (json!({"initContainers": init}), "", "start:x#0"),
        (json!({"initContainers": init}), "x=r", ""),
        (json!({"initContainers": init}), "x=0", "start:y#0"),
        (json!({"initContainers": init}), "x=1", "start:x#1"),
        (json!({"initContainers": init, "restartPolicy": "Never"}), "x=1", "stop-sandbox"),
        (json!({"initContainers": init}), "x=0 y=0", "start:a#0"),
        (json!({"initContainers": init}), "x=0 y=0 a=0", "start:a#1"),
        (json!({"initContainers": init}), "a=r", ""),
        (json!({"initContainers": sidecar}), "x=r", ""),
        (json!({"initContainers": sidecar}), "x=1", "start:x#1"),
        (json!({"initContainers": sidecar}), "x=1 y=0 a=r", "start:x#1"),
        (json!({"initContainers": sidecar, "restartPolicy": "Never"}), "x=r y=0 a=0", "stop:x0/30"),
        (json!({}), "a=c", "remove:a0"),
        (json!({}), "a=1 a=1 a=1 a=r", "remove:a1 remove:a0"),
        (json!({"containers": [{"name": "a", "image": "j"}]}), "a=r", "stop:a0/30"),
    ] {
        let pod = pod(spec.clone());
        assert_eq!(actions(&pod, &seen(have), &prepared(&pod)), expected, "{spec} {have}");
    }
}

#[test]
fn another_image_is_brought_before_the_container_of_the_old_one_is_stopped() {
    let pod = pod(json!({"containers": [{"name": "a", "image": "j"}]}));
    let mut memory = prepared(&pod);
    let failed = ImageStep::Failed { turn_at: now(), retry_at: now() };
    for (image, expected) in [(ImageStep::Todo, "image:a"), (ImageStep::Busy, ""), (failed, "stop:a0/30")] {
        memory.starts("a").image = image;
        assert_eq!(actions(&pod, &seen("a=r"), &memory), expected);
    }
}

#[test]
fn only_volumes_of_containers_are_used() {
    let file = json!({"valueFrom": {"fileKeyRef": {"volumeName": "file", "path": "p", "key": "k"}}, "name": "N"});
    let pod = pod(json!({
        "containers": [{"name": "a", "volumeMounts": [{"name": "map", "mountPath": "/m"}], "env": [file]}],
        "initContainers": [{"name": "x", "volumeDevices": [{"name": "disk", "devicePath": "/d"}]}],
        "volumes": [{"name": "nobody"}],
    }));
    assert_eq!(Vec::from_iter(pod.used_volumes()), ["disk", "file", "map"]);
}

#[test]
fn a_started_sidecar_lets_the_next_container_start() {
    let pod = pod(json!({"initContainers": [{"name": "x", "image": "i", "restartPolicy": "Always"}]}));
    let mut memory = prepared(&pod);
    memory.starts("x").findings = Findings { id: "x0".into(), started: true, ..Default::default() };
    assert_eq!(actions(&pod, &seen("x=r"), &memory), "start:a#0");
}

#[test]
fn a_failed_liveness_probe_restarts_the_container_within_the_probes_grace() {
    let pod = pod(json!({}));
    let mut memory = prepared(&pod);
    let failed = Some(("liveness probe".to_owned(), Some(5)));
    memory.starts("a").findings = Findings { id: "a0".into(), started: true, ready: true, failed };
    assert_eq!(actions(&pod, &seen("a=r"), &memory), "stop:a0/5");
    assert_eq!(actions(&pod, &seen("a=r a=r"), &memory), "");
}

#[test]
fn a_period_without_end_is_one_that_times_can_be_added_to() {
    let endless = json!({"terminationGracePeriodSeconds": i64::MAX, "activeDeadlineSeconds": i64::MAX});
    let spec = pod(endless.clone());
    assert!(spec.grace() > 3_000_000_000 && now() + SignedDuration::from_secs(spec.grace()) > now());
    let mut memory = prepared(&spec);
    memory.start_time = Some(now());
    memory.starts("a").findings = Findings {
        id: "a0".into(),
        started: true,
        ready: true,
        failed: Some(("liveness probe".to_owned(), Some(i64::MAX))),
    };
    let grace = spec.grace();
    assert_eq!(actions(&spec, &seen("a=r"), &memory), format!("stop:a0/{grace}"));
    let deleted = pod_with(json!({"deletionTimestamp": "2024-05-01T12:00:00Z"}), endless);
    memory.stop_began = Some(now());
    assert_eq!(actions(&deleted, &seen("a=r"), &memory), format!("stop:a0/{grace}"));
}

#[test]
fn volumes_are_refreshed_in_their_time_only_while_they_are_there() {
    let failed = Step::Failed { message: String::new(), retry_at: now() };
    for (volumes, stop_began, expected) in [
        (Step::Done, None, true),
        (Step::Done, Some(now()), false),
        (Step::Todo, None, false),
        (Step::Busy, None, false),
        (failed, None, false),
    ] {
        let memory = Memory { volumes: volumes.clone(), stop_began, ..Default::default() };
        assert_eq!(memory.refreshes(), expected, "{volumes:?} {stop_began:?}");
    }
}

#[test]
fn a_crashing_container_waits_longer_each_time() {
    let pod = pod(json!({}));
    let mut memory = prepared(&pod);
    memory.starts("a").crash.next(now(), MAXIMUM);
    assert_eq!(actions(&pod, &seen("a=1@4"), &memory), "wait:a:CrashLoopBackOff");
    let decision = decide(&pod, &seen("a=1@4"), &memory, now());
    assert_eq!(decision.wake, Some(now() + SignedDuration::from_secs(6)));
    let Action::Wait { why, .. } = &decision.actions[0] else { panic!() };
    assert_eq!(why.message, "back-off 10s restarting failed container=a pod=p_n(u)");
    assert_eq!(actions(&pod, &seen("a=1@10"), &memory), "start:a#1");
}

#[test]
fn a_deleted_pod_stops_in_order_and_is_finished_last() {
    let spec = json!({"initContainers": [{"name": "x", "image": "i", "restartPolicy": "Always"},
        {"name": "y", "image": "i", "restartPolicy": "Always"}]});
    let deleted = json!({"deletionTimestamp": "2024-05-01T12:00:00Z", "deletionGracePeriodSeconds": 20});
    let pod = pod_with(deleted, spec);
    let mut memory = prepared(&pod);
    memory.stop_began = Some(now() - SignedDuration::from_secs(5));
    for (have, expected) in [
        ("x=r y=r a=r", "stop:a0/15"),
        ("x=r y=r a=0", "stop:y0/15"),
        ("x=r y=0 a=0", "stop:x0/15"),
        ("x=0 y=0 a=0", "stop-sandbox"),
    ] {
        assert_eq!(actions(&pod, &seen(have), &memory), expected, "{have}");
    }
    let mut stopped = seen("a=0");
    stopped.sandboxes[0].ready = false;
    assert_eq!(actions(&pod, &stopped, &memory), "tear-down");
    memory.torn_down = true;
    assert_eq!(actions(&pod, &stopped, &memory), "");
    memory.status_settled = true;
    assert_eq!(actions(&pod, &stopped, &memory), "finish");
}

#[test]
fn hooks_of_sidecars_run_when_the_pod_begins_to_stop() {
    let spec = json!({"initContainers": [{"name": "x", "image": "i", "restartPolicy": "Always",
        "lifecycle": {"preStop": {"sleep": {"seconds": 5}}}}]});
    let deleted = json!({"deletionTimestamp": "2024-05-01T12:00:00Z", "deletionGracePeriodSeconds": 20});
    let pod = pod_with(deleted, spec);
    let mut memory = prepared(&pod);
    memory.stop_began = Some(now());
    assert_eq!(actions(&pod, &seen("x=r a=r"), &memory), "hook:x0 stop:a0/20");
    memory.hooked.insert("x0".into());
    memory.hooking.insert("x0".into());
    assert_eq!(actions(&pod, &seen("x=r a=r"), &memory), "stop:a0/20");
    assert_eq!(actions(&pod, &seen("x=r a=0"), &memory), "");
    memory.hooking.clear();
    assert_eq!(actions(&pod, &seen("x=r a=0"), &memory), "stop:x0/20");
}

#[test]
fn a_rule_begins_all_containers_again() {
    let rule = |action: &str| json!([{"action": action, "exitCodes": {"operator": "In", "values": [42]}}]);
    let spec = |action: &str| {
        json!({"restartPolicy": "Never", "initContainers": [{"name": "x", "image": "i"}], "containers": [
            {"name": "a", "image": "i", "restartPolicy": "Never", "restartPolicyRules": rule(action)},
            {"name": "b", "image": "i"}]})
    };
    let all = pod(spec("RestartAllContainers"));
    for (have, expected) in [
        ("x=0@9 a=42@5 b=r@8", "stop:b0/0"),
        ("x=0@9 a=42@5 b=137@8", "start:x#1"),
        ("x=0@9 a=42@5 b=137@8 x=0@3", "start:a#1 start:b#1"),
        ("x=0@9 a=42@5 b=137@8 x=0@3 a=0@2 b=0@2", "stop-sandbox"),
        ("x=0@9 a=1@5 b=r@8", ""),
    ] {
        let mut have_seen = seen(have);
        have_seen.since = all.began_again(&have_seen);
        assert_eq!(actions(&all, &have_seen, &prepared(&all)), expected, "{have}");
    }
    let one = pod(spec("Restart"));
    assert_eq!(actions(&one, &seen("x=0@9 a=42@5 b=r@8"), &prepared(&one)), "start:a#1");
    let mut memory = prepared(&all);
    memory.starts("a").crash.next(now() - SignedDuration::from_secs(5), MAXIMUM);
    let mut again = seen("x=0@9 a=42@5 b=137@8 x=0@3");
    again.since = all.began_again(&again);
    assert_eq!(
        actions(&all, &again, &memory),
        "wait:a:CrashLoopBackOff start:b#1",
        "the cause waits, so that there is no loop"
    );
}

#[test]
fn a_condemned_container_that_never_restarts_is_not_said_to() {
    let pod = pod(json!({"restartPolicy": "Never"}));
    let mut memory = prepared(&pod);
    let failed = Some(("liveness probe".to_owned(), None));
    memory.starts("a").findings = Findings { id: "a0".into(), started: true, ready: true, failed };
    let decision = decide(&pod, &seen("a=r"), &memory, now());
    let Action::Stop { why, .. } = &decision.actions[0] else { panic!() };
    assert_eq!(why.as_deref(), Some("Container a failed liveness probe"));
}

#[test]
fn an_ephemeral_container_waits_for_no_other() {
    let spec = json!({"initContainers": [{"name": "x", "image": "i"}],
        "ephemeralContainers": [{"name": "e", "image": "i"}]});
    let pod = pod(spec);
    assert_eq!(actions(&pod, &seen("x=r"), &prepared(&pod)), "start:e#0");
    assert_eq!(actions(&pod, &seen("x=r e=1"), &prepared(&pod)), "");
}

#[test]
fn a_changed_allocation_is_brought_to_the_container_or_restarts_it() {
    let resized = |policy: Value| pod(json!({"containers": [{"name": "a", "image": "i", "resizePolicy": policy}]}));
    let settings = |memory: i64| LinuxContainerResources { memory_limit_in_bytes: memory, ..Default::default() };
    for (policy, expected) in [
        (json!([]), "resize"),
        (json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]), "resize"),
        (json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]), "stop:a0/30 resize"),
    ] {
        let pod = resized(policy.clone());
        let mut memory = prepared(&pod);
        let mut have = seen("a=r");
        have.containers[0].resources = Some(settings(64));
        memory.wanted.insert("a".into(), settings(96));
        memory.resize.in_progress = true;
        assert_eq!(actions(&pod, &have, &memory), expected, "{policy}");
        memory.wanted.insert("a".into(), settings(64));
        memory.resize.in_progress = false;
        assert_eq!(actions(&pod, &have, &memory), "", "{policy}");
    }
}

#[test]
fn a_shorter_grace_hurries_a_container_that_is_being_stopped() {
    let deleted = |grace: i64| {
        let meta = json!({"deletionTimestamp": "2024-05-01T12:00:00Z", "deletionGracePeriodSeconds": grace});
        pod_with(meta, json!({}))
    };
    let mut memory = prepared(&deleted(30));
    memory.stop_began = Some(now());
    memory.stopping.insert("a0".into(), now() + SignedDuration::from_secs(30));
    assert_eq!(actions(&deleted(30), &seen("a=r"), &memory), "");
    assert_eq!(actions(&deleted(0), &seen("a=r"), &memory), "stop:a0/0");
}

#[test]
fn a_dead_sandbox_is_made_anew_once_its_containers_are_gone() {
    let pod = pod(json!({}));
    let mut memory = prepared(&pod);
    let mut have = seen("a=r");
    have.sandboxes[0].ready = false;
    assert_eq!(actions(&pod, &have, &memory), "stop:a0/30");
    memory.stopping.insert("a0".into(), now());
    have.containers[0].state = State::Exited;
    assert_eq!(actions(&pod, &have, &memory), "sandbox#1");
}

#[test]
fn a_deadline_fails_the_pod() {
    let pod = pod(json!({"activeDeadlineSeconds": 60}));
    let mut memory = prepared(&pod);
    memory.start_time = Some(now() - SignedDuration::from_secs(59));
    assert_eq!(decide(&pod, &seen("a=r"), &memory, now()).wake, Some(now() + SignedDuration::from_secs(1)));
    memory.start_time = Some(now() - SignedDuration::from_secs(60));
    assert_eq!(actions(&pod, &seen("a=r"), &memory), "fail:DeadlineExceeded");
}

/// `phase conditions-that-are-true | name:state...` of a status.
fn shown(pod: &Pod, seen: &Observed, memory: &Memory) -> String {
    let host = Host { ips: vec!["192.0.2.1".into()], runtime: "regatta".into(), recursive_read_only: true };
    let status = compute(pod, seen, memory, &host, &v1::PodStatus::default(), now());
    let yes: Vec<_> =
        status.conditions.iter().flatten().filter(|c| c.status == "True").map(|c| c.type_.as_str()).collect();
    let containers = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    let containers: Vec<_> = containers
        .map(|c| {
            let state = c.state.clone().unwrap_or_default();
            let state = match (state.waiting, state.terminated) {
                (Some(waiting), _) => waiting.reason.unwrap_or_default(),
                (_, Some(ended)) => format!("{}({})", ended.reason.unwrap_or_default(), ended.exit_code),
                _ => "running".to_owned(),
            };
            let last = c.last_state.clone().and_then(|s| s.terminated).map(|t| format!("<{}", t.exit_code));
            let ready = if c.ready { "+" } else { "" };
            format!("{}:{state}{ready}{}#{}", c.name, last.unwrap_or_default(), c.restart_count)
        })
        .collect();
    format!("{} {} | {}", status.phase.unwrap_or_default(), yes.join(" "), containers.join(" "))
}

#[test]
fn the_status_says_how_the_pod_is() {
    let init = json!([{"name": "x", "image": "i"}]);
    for (spec, have, expected) in [
        (json!({}), "", "Pending PodReadyToStartContainers Initialized PodScheduled | a:ContainerCreating#0"),
        (
            json!({}),
            "a=r",
            "Running PodReadyToStartContainers Initialized Ready ContainersReady PodScheduled | a:running+#0",
        ),
        (
            json!({}),
            "a=1 a=r",
            "Running PodReadyToStartContainers Initialized Ready ContainersReady PodScheduled | a:running+<1#1",
        ),
        // A run counts when it runs.
        (json!({}), "a=1 a=c", "Running PodReadyToStartContainers Initialized PodScheduled | a:Error(1)#0"),
        (json!({}), "a=1", "Running PodReadyToStartContainers Initialized PodScheduled | a:Error(1)#0"),
        (
            json!({"restartPolicy": "Never"}),
            "a=0",
            "Succeeded PodReadyToStartContainers Initialized PodScheduled | a:Completed(0)#0",
        ),
        (
            json!({"restartPolicy": "Never"}),
            "a=2",
            "Failed PodReadyToStartContainers Initialized PodScheduled | a:Error(2)#0",
        ),
        (
            json!({"initContainers": init}),
            "x=r",
            "Pending PodReadyToStartContainers PodScheduled | x:running#0 a:PodInitializing#0",
        ),
        (
            json!({"initContainers": init}),
            "x=0",
            "Pending PodReadyToStartContainers Initialized PodScheduled | x:Completed(0)+#0 a:ContainerCreating#0",
        ),
        (
            json!({"initContainers": init, "restartPolicy": "Never"}),
            "x=1",
            "Failed PodReadyToStartContainers PodScheduled | x:Error(1)#0 a:PodInitializing#0",
        ),
    ] {
        let pod = pod(spec.clone());
        assert_eq!(shown(&pod, &seen(have), &prepared(&pod)), expected, "{spec} {have}");
    }
}

#[test]
fn a_pod_that_the_node_refuses_fails_without_containers() {
    let pod = pod(json!({}));
    let failure = Some(super::memory::Failure::new("OutOfcpu", "m"));
    let memory = Memory { failure, rejected: true, torn_down: true, ..Default::default() };
    let mut none = seen("");
    none.sandboxes.clear();
    assert_eq!(shown(&pod, &none, &memory), "Failed Initialized PodScheduled | ");
}

#[test]
fn a_pod_that_is_deleted_before_it_runs_fails_when_nothing_of_it_is_left() {
    let deleted = json!({"deletionTimestamp": "2024-05-01T12:00:00Z", "deletionGracePeriodSeconds": 20});
    let init = json!({"initContainers": [{"name": "x", "image": "i"}, {"name": "y", "image": "i"}]});
    let gone = "ContainerStatusUnknown(137)";
    for (spec, have, expected) in [
        (json!({}), "", format!("Failed Initialized PodScheduled | a:{gone}#0")),
        (json!({}), "a=0", "Succeeded Initialized PodScheduled | a:Completed(0)#0".into()),
        (init.clone(), "", format!("Failed PodScheduled | x:{gone}#0 y:PodInitializing#0 a:PodInitializing#0")),
        (init.clone(), "x=0", "Failed PodScheduled | x:Completed(0)+#0 y:PodInitializing#0 a:PodInitializing#0".into()),
        (init, "x=0 y=0", format!("Failed Initialized PodScheduled | x:Completed(0)+#0 y:Completed(0)+#0 a:{gone}#0")),
    ] {
        let pod = pod_with(deleted.clone(), spec);
        let mut memory = prepared(&pod);
        let mut seen = seen(have);
        seen.sandboxes[0].ready = false;
        assert!(shown(&pod, &seen, &memory).starts_with(if have == "a=0" { "Succeeded" } else { "Pending" }));
        memory.torn_down = true;
        assert_eq!(shown(&pod, &seen, &memory), expected, "{have}");
    }
}

#[test]
fn termination_messages_of_a_pod_fit_into_its_status() {
    let pod = pod(json!({"restartPolicy": "Never", "containers": [
        {"name": "a", "image": "i"}, {"name": "b", "image": "i"}, {"name": "c", "image": "i"}, {"name": "d", "image": "i"}]}));
    let mut have = seen("a=1 b=1 c=1 d=1");
    have.containers.iter_mut().for_each(|c| c.message = "x".repeat(4096));
    let host = Host::default();
    let status = compute(&pod, &have, &prepared(&pod), &host, &v1::PodStatus::default(), now());
    for container in status.container_statuses.unwrap() {
        assert_eq!(container.state.unwrap().terminated.unwrap().message.unwrap().len(), 3072);
    }
}

#[test]
fn a_waiting_reason_takes_the_place_of_how_the_container_ended() {
    let pod = pod(json!({}));
    let mut memory = prepared(&pod);
    memory.starts("a").waiting = Some(super::memory::Reason::new("CrashLoopBackOff", "m"));
    assert_eq!(
        shown(&pod, &seen("a=1"), &memory),
        "Running PodReadyToStartContainers Initialized PodScheduled | a:CrashLoopBackOff<1#0"
    );
}

#[test]
fn a_readiness_probe_decides_whether_a_running_container_is_ready() {
    let pod = pod(json!({"containers": [{"name": "a", "image": "i", "readinessProbe": {"tcpSocket": {"port": 1}}}]}));
    let mut memory = prepared(&pod);
    memory.starts("a").findings = Findings { id: "a0".into(), started: true, ready: false, failed: None };
    assert!(shown(&pod, &seen("a=r"), &memory).ends_with("PodScheduled | a:running#0"));
    memory.starts("a").findings.ready = true;
    assert!(shown(&pod, &seen("a=r"), &memory).ends_with("ContainersReady PodScheduled | a:running+#0"));
}
