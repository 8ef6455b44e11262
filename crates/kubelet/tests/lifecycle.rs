//! Pods from their creation in the API to their end, through a kubelet on a runtime without processes.

mod harness;

use std::time::{Duration, Instant};

use harness::{Node, is, ready};
use kube::api::DeleteParams;
use serde_json::{Value, json};

fn container(command: &[&str]) -> Value {
    json!([{"name": "a", "image": "app", "command": command}])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_runs_is_reported_and_goes() {
    let node = Node::start().await;
    let began = Instant::now();
    node.create("p", json!({})).await;
    let pod = node.until("p", ready).await;
    println!("created to Ready: {:?}", began.elapsed());
    let status = &pod["status"];
    assert_eq!(status["phase"], "Running");
    assert_eq!((&status["podIP"], &status["hostIP"]), (&json!("127.0.0.1"), &json!("192.0.2.1")));
    assert_eq!(status["qosClass"], "BestEffort");
    let container = &status["containerStatuses"][0];
    assert!(container["containerID"].as_str().unwrap().starts_with("fake://container"));
    assert_eq!(
        (&container["ready"], &container["started"], &container["restartCount"]),
        (&json!(true), &json!(true), &json!(0))
    );
    assert!(container["state"]["running"]["startedAt"].is_string());

    let began = Instant::now();
    node.pods().delete("p", &DeleteParams::default()).await.unwrap();
    node.until("p", Value::is_null).await;
    println!("deleted to gone: {:?}", began.elapsed());
    assert!(node.runtime.running("a").is_empty());
    assert!(node.runtime.state.lock().calls.contains(&"stop a 30".to_owned()));
    let began = Instant::now();
    while !node.runtime.state.lock().sandboxes.is_empty()
        || std::fs::read_dir(node.data.path().join("pods")).unwrap().count() > 0
    {
        assert!(began.elapsed() < Duration::from_secs(30), "something was left behind");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_end_are_succeeded_or_failed() {
    let node = Node::start().await;
    for (name, command, policy, phase, reason) in [
        ("good", &["exit", "0"], "Never", "Succeeded", "Completed"),
        ("bad", &["exit", "3"], "Never", "Failed", "Error"),
        ("once", &["exit", "0"], "OnFailure", "Succeeded", "Completed"),
    ] {
        node.create(name, json!({"restartPolicy": policy, "containers": container(command)})).await;
        let pod = node.until(name, |p| p["status"]["phase"] == phase).await;
        assert_eq!(pod["status"]["containerStatuses"][0]["state"]["terminated"]["reason"], reason, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crashing_container_restarts_at_once_and_then_backs_off() {
    let node = Node::start().await;
    node.create("p", json!({"containers": container(&["exit", "3"])})).await;
    let pod = node
        .until("p", |p| p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff")
        .await;
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(status["restartCount"], 1);
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 3);
    let message = status["state"]["waiting"]["message"].as_str().unwrap();
    assert!(message.starts_with("back-off 10s restarting failed container=a pod=p_default("), "{message}");
    assert_eq!(pod["status"]["phase"], "Running");
    let began = Instant::now();
    while !node
        .events("p")
        .await
        .iter()
        .any(|e| e.starts_with("BackOff: Back-off restarting failed container a in pod p_default("))
    {
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", node.events("p").await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_kubelet_adopts_what_runs_and_ends_what_nobody_wants() {
    let mut node = Node::start().await;
    node.create(
        "p",
        json!({"containers": [{"name": "a", "image": "app", "command": ["run"],
        "readinessProbe": {"exec": {"command": ["check", "ok"]}, "periodSeconds": 1}}]}),
    )
    .await;
    node.runtime.state.lock().flags.insert("ok".into());
    let before = node.until("p", ready).await;
    node.create("orphan", json!({"containers": [{"name": "b", "image": "app", "command": ["run"]}]})).await;
    node.until("orphan", ready).await;
    node.kubelet = None;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let delete = DeleteParams { grace_period_seconds: Some(0), ..Default::default() };
    node.pods().delete("orphan", &delete).await.unwrap();
    node.runtime.state.lock().calls.clear();
    node.boot().await;
    let began = Instant::now();
    while !node.runtime.running("b").is_empty() || node.runtime.state.lock().sandboxes.len() > 1 {
        let state = node.runtime.state.lock();
        assert!(began.elapsed() < Duration::from_secs(30), "{:?} {:?}", state.calls, state.sandboxes.keys());
        drop(state);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let after = node.until("p", ready).await;
    assert_eq!(before["status"]["containerStatuses"], after["status"]["containerStatuses"]);
    assert_eq!(before["status"]["conditions"], after["status"]["conditions"]);
    let calls = node.runtime.state.lock().calls.clone();
    assert!(!calls.iter().any(|c| c.contains(" a")), "{calls:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn init_containers_and_sidecars_start_in_order_and_stop_in_reverse() {
    let node = Node::start().await;
    let spec = json!({"initContainers": [
        {"name": "first", "image": "app", "command": ["exit", "0"]},
        {"name": "side", "image": "app", "command": ["run"], "restartPolicy": "Always"},
        {"name": "second", "image": "app", "command": ["exit", "0"]}]});
    node.create("p", spec).await;
    let pod = node.until("p", ready).await;
    assert_eq!(pod["status"]["initContainerStatuses"].as_array().unwrap().len(), 3);
    node.pods().delete("p", &DeleteParams::default()).await.unwrap();
    node.until("p", Value::is_null).await;
    let calls = node.runtime.state.lock().calls.clone();
    let order: Vec<_> = calls
        .iter()
        .filter(|c| !c.contains("sandbox"))
        .map(|c| c.trim_end_matches(char::is_numeric).trim_end())
        .collect();
    assert_eq!(order, ["start first", "start side", "start second", "start a", "stop a", "stop side"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_decide_readiness_and_restarts_and_hooks_run() {
    let node = Node::start().await;
    node.runtime.state.lock().flags.insert("alive".into());
    node.create(
        "p",
        json!({"terminationGracePeriodSeconds": 7, "containers": [{"name": "a", "image": "app", "command": ["run"],
        "readinessProbe": {"exec": {"command": ["check", "ok"]}, "periodSeconds": 1, "failureThreshold": 1},
        "livenessProbe": {"exec": {"command": ["check", "alive"]}, "periodSeconds": 1, "failureThreshold": 1},
        "lifecycle": {"postStart": {"exec": {"command": ["hello"]}}, "preStop": {"exec": {"command": ["bye"]}}}}]}),
    )
    .await;
    let pod = node.until("p", |p| p["status"]["phase"] == "Running" && is(p, "Initialized")).await;
    assert!(!ready(&pod));
    node.runtime.state.lock().flags.insert("ok".into());
    node.until("p", ready).await;
    node.runtime.state.lock().flags.clear();
    node.until("p", |p| p["status"]["containerStatuses"][0]["restartCount"] == 1).await;
    let calls = node.runtime.state.lock().calls.clone();
    assert!(
        calls.starts_with(&["start a", "exec a hello", "exec a bye", "stop a 7", "start a"].map(str::to_owned)),
        "{calls:?}"
    );
    let began = Instant::now();
    for wanted in
        ["Unhealthy: Liveness probe failed: no", "Killing: Container a failed liveness probe, will be restarted"]
    {
        while !node.events("p").await.iter().any(|e| e == wanted) {
            assert!(began.elapsed() < Duration::from_secs(30), "{wanted}: {:?}", node.events("p").await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_is_nowhere_is_an_error_and_then_a_back_off() {
    let node = Node::start().await;
    node.runtime.state.lock().missing.insert("nowhere:1".into());
    let waiting = |p: &Value| p["status"]["containerStatuses"][0]["state"]["waiting"].clone();
    node.create("p", json!({"containers": [{"name": "a", "image": "nowhere:1"}]})).await;
    let pod = node.until("p", |p| waiting(p)["reason"] == "ErrImagePull").await;
    assert_eq!(waiting(&pod)["message"], "nowhere:1: not found");
    let pod = node.until("p", |p| waiting(p)["reason"] == "ImagePullBackOff").await;
    assert_eq!(waiting(&pod)["message"], "Back-off pulling image \"nowhere:1\": ErrImagePull: nowhere:1: not found");
    assert_eq!(pod["status"]["phase"], "Pending");

    node.create("never", json!({"containers": [{"name": "a", "image": "other:1", "imagePullPolicy": "Never"}]})).await;
    let pod = node.until("never", |p| waiting(p)["reason"] == "ErrImageNeverPull").await;
    assert_eq!(waiting(&pod)["message"], "Container image \"other:1\" is not present with pull policy of Never");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_does_not_fit_fails_with_the_reason() {
    let node = Node::start().await;
    node.create(
        "p",
        json!({"containers": [{"name": "a", "image": "app", "resources": {"requests": {"cpu": "1000"}}}]}),
    )
    .await;
    let pod = node.until("p", |p| p["status"]["phase"] == "Failed").await;
    assert_eq!(pod["status"]["reason"], "OutOfcpu");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stubborn_container_is_killed_sooner_when_the_grace_is_cut() {
    let node = Node::start().await;
    node.create("p", json!({"containers": container(&["stubborn"])})).await;
    node.until("p", ready).await;
    node.pods().delete("p", &DeleteParams::default()).await.unwrap();
    node.until("p", |p| p["metadata"]["deletionTimestamp"].is_string()).await;
    let began = Instant::now();
    let delete = DeleteParams { grace_period_seconds: Some(1), ..Default::default() };
    node.pods().delete("p", &delete).await.unwrap();
    node.until("p", Value::is_null).await;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_defect_of_the_kubelet_is_told() {
    let node = Node::start().await;
    let kubelet = node.kubelet.as_ref().unwrap();
    node.runtime.state.lock().defect = true;
    kubelet.node_changed();
    let why = tokio::time::timeout(Duration::from_secs(30), kubelet.broken()).await.expect("told");
    assert!(why.contains("a defect"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_with_users_of_its_own_keeps_them_over_a_restart_and_nobody_else_has_them() {
    let mut node = Node::start().await;
    let own =
        |name: &str| json!({"hostUsers": false, "containers": [{"name": name, "image": "app", "command": ["run"]}]});
    node.create("early", own("early")).await;
    let refused = "FailedCreatePodSandBox: Failed to create pod sandbox: can't set `spec.hostUsers: false`, runtime does not \
                   support user namespaces";
    let deadline = Instant::now() + Duration::from_secs(30);
    while !node.events("early").await.contains(&refused.to_owned()) {
        assert!(Instant::now() < deadline, "{:?}", node.events("early").await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    node.runtime.state.lock().maps_users = true;
    node.until("early", ready).await;
    node.create("late", own("late")).await;
    node.create("host", json!({})).await;
    for name in ["late", "host"] {
        node.until(name, ready).await;
    }
    let first = |node: &Node, name: &str| {
        let options = node.runtime.config(name).linux.security_context.namespace_options;
        options.own_users().map(|users| (users.uids[0], users.gids[0].host_id))
    };
    let range = |host_id| runtime::cri::IDMapping { host_id, container_id: 0, length: 65_536 };
    assert_eq!(first(&node, "early"), Some((range(65_536), 65_536)));
    assert_eq!(first(&node, "late"), Some((range(131_072), 131_072)));
    assert_eq!(first(&node, "a"), None);
    for (config, _) in node.runtime.state.lock().sandboxes.values() {
        let of_sandbox = config.linux.security_context.namespace_options.own_users().map(|users| users.uids[0].host_id);
        let expected = [("early", Some(65_536)), ("late", Some(131_072)), ("host", None)];
        assert!(expected.contains(&(config.metadata.name.as_str(), of_sandbox)), "{}", config.metadata.name);
    }

    node.pods().delete("early", &DeleteParams::default()).await.unwrap();
    node.until("early", Value::is_null).await;
    node.boot().await;
    node.create("next", own("next")).await;
    node.create("more", own("more")).await;
    for name in ["next", "more"] {
        node.until(name, ready).await;
    }
    let mut firsts = ["late", "next", "more"].map(|name| first(&node, name).unwrap().1);
    assert_eq!(firsts[0], 131_072);
    firsts.sort_unstable();
    assert_eq!(firsts, [65_536, 131_072, 196_608]);
}
