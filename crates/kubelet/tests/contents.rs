//! What containers are given: environment, volumes, security, resources.

mod harness;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use harness::{Node, ready};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

async fn config_map(node: &Node, name: &str, data: Value) {
    let maps: Api<ConfigMap> = Api::namespaced(node.client.clone(), "default");
    let map = serde_json::from_value(json!({"metadata": {"name": name}, "data": data})).unwrap();
    maps.create(&PostParams::default(), &map).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_environment_comes_from_all_its_sources() {
    let node = Node::start().await;
    config_map(&node, "conf", json!({"KEY": "from-map", "other": "x"})).await;
    let secrets: Api<Secret> = Api::namespaced(node.client.clone(), "default");
    let secret = serde_json::from_value(json!({"metadata": {"name": "s"}, "stringData": {"pw": "secret"}})).unwrap();
    secrets.create(&PostParams::default(), &secret).await.unwrap();
    node.create(
        "p",
        json!({"containers": [{"name": "a", "image": "app", "command": ["run"], "args": ["$(PLAIN)-$(NONE)-$$(PLAIN)"],
        "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}},
        "envFrom": [{"prefix": "C_", "configMapRef": {"name": "conf"}}],
        "env": [
            {"name": "PLAIN", "value": "1"},
            {"name": "REFERS", "value": "<$(PLAIN)$(C_KEY)>"},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['l']"}}},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            {"name": "MILLI", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
            {"name": "MI", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
            {"name": "PW", "valueFrom": {"secretKeyRef": {"name": "s", "key": "pw"}}},
            {"name": "ABSENT", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "k", "optional": true}}}]}]}),
    )
    .await;
    node.until("p", ready).await;
    let config = node.runtime.config("a");
    let get = |name: &str| config.envs.iter().find(|e| e.key == name).map(|e| e.value.as_str());
    for (name, value) in [
        ("C_KEY", "from-map"),
        ("PLAIN", "1"),
        ("REFERS", "<1from-map>"),
        ("IP", "127.0.0.1"),
        ("NAME", "1"),
        ("CPU", "2"),
        ("MILLI", "1500"),
        ("MI", "64"),
        ("PW", "secret"),
        ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
    ] {
        assert_eq!(get(name), Some(value), "{name}");
    }
    assert_eq!(get("ABSENT"), None);
    assert_eq!(config.args, ["1-$(NONE)-$(PLAIN)"]);
    let resources = &config.linux.resources;
    assert_eq!((resources.cpu_shares, resources.cpu_quota, resources.memory_limit_in_bytes), (1536, 150_000, 64 << 20));
    assert_eq!(resources.oom_score_adj, -997);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_said_and_waited_for() {
    let node = Node::start().await;
    let waiting = |p: &Value| p["status"]["containerStatuses"][0]["state"]["waiting"].clone();
    node.create(
        "env",
        json!({"containers": [{"name": "a", "image": "app", "command": ["run"],
        "env": [{"name": "E", "valueFrom": {"configMapKeyRef": {"name": "late", "key": "k"}}}]}]}),
    )
    .await;
    let pod = node.until("env", |p| waiting(p)["reason"] == "CreateContainerConfigError").await;
    assert_eq!(waiting(&pod)["message"], "configmap \"late\" not found");
    node.create(
        "volume",
        json!({"containers": [{"name": "b", "image": "app", "command": ["run"],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        // What no container mounts is not waited for.
        "volumes": [{"name": "v", "configMap": {"name": "late"}}, {"name": "w", "configMap": {"name": "never"}}]}),
    )
    .await;
    let began = Instant::now();
    let wanted = "FailedMount: MountVolume.SetUp failed for volume \"v\" : configmap \"late\" not found";
    while !node.events("volume").await.iter().any(|e| e == wanted) {
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", node.events("volume").await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let began = Instant::now();
    config_map(&node, "late", json!({"k": "v"})).await;
    node.until("env", ready).await;
    node.until("volume", ready).await;
    assert!(began.elapsed() < Duration::from_secs(5), "nothing woke the pods: {:?}", began.elapsed());

    node.create(
        "root",
        json!({"containers": [{"name": "a", "image": "app", "command": ["run"],
        "securityContext": {"runAsNonRoot": true}}]}),
    )
    .await;
    let pod = node.until("root", |p| waiting(p)["reason"] == "CreateContainerConfigError").await;
    let message = waiting(&pod)["message"].as_str().unwrap().to_owned();
    assert!(
        message.starts_with("container has runAsNonRoot and image will run as root (pod: \"root_default("),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_hold_what_they_should_and_follow_changes() {
    let node = Node::start().await;
    config_map(&node, "conf", json!({"a": "1", "b": "2"})).await;
    let shared = tempfile::tempdir().unwrap();
    node.create("p", json!({
        "securityContext": {"fsGroup": 4321},
        "containers": [{"name": "a", "image": "app", "command": ["run"], "volumeMounts": [
            {"name": "conf", "mountPath": "/conf"}, {"name": "conf", "mountPath": "/one", "subPath": "a"},
            {"name": "empty", "mountPath": "/empty", "subPathExpr": "x/$(SUB)"}, {"name": "host", "mountPath": "/host", "readOnly": true},
            {"name": "down", "mountPath": "/down"}], "env": [{"name": "SUB", "value": "y"}]}],
        "volumes": [
            {"name": "conf", "configMap": {"name": "conf", "defaultMode": 0o400}},
            {"name": "empty", "emptyDir": {}},
            {"name": "host", "hostPath": {"path": shared.path(), "type": "Directory"}},
            {"name": "down", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]})).await;
    node.until("p", ready).await;
    let config = node.runtime.config("a");
    let at = |path: &str| {
        std::path::PathBuf::from(&config.mounts.iter().find(|m| m.container_path == path).unwrap().host_path)
    };
    assert_eq!(fs::read_to_string(at("/conf").join("b")).unwrap(), "2");
    assert_eq!(fs::metadata(at("/conf").join("b")).unwrap().permissions().mode() & 0o777, 0o440);
    assert_eq!(fs::read_to_string(at("/one")).unwrap(), "1");
    assert!(at("/empty").is_dir() && at("/host") == shared.path());
    assert_eq!(fs::read_to_string(at("/down").join("labels")).unwrap(), "l=\"1\"");
    let token = at("/var/run/secrets/kubernetes.io/serviceaccount");
    assert_eq!(fs::read_to_string(token.join("token")).unwrap().split('.').count(), 3);
    assert_eq!(fs::metadata(token.join("token")).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(fs::read_to_string(token.join("namespace")).unwrap(), "default");
    let hosts = fs::read_to_string(at("/etc/hosts")).unwrap();
    assert!(hosts.ends_with("127.0.0.1\tp\n"), "{hosts}");

    let maps: Api<ConfigMap> = Api::namespaced(node.client.clone(), "default");
    let patch = Patch::Merge(json!({"data": {"b": "3"}}));
    maps.patch("conf", &PatchParams::default(), &patch).await.unwrap();
    let patch = Patch::Merge(json!({"metadata": {"labels": {"l": "2"}}}));
    node.pods().patch("p", &PatchParams::default(), &patch).await.unwrap();
    let began = Instant::now();
    while fs::read_to_string(at("/conf").join("b")).unwrap() != "3"
        || fs::read_to_string(at("/down").join("labels")).unwrap() != "l=\"2\""
    {
        assert!(began.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    node.pods().delete("p", &DeleteParams { grace_period_seconds: Some(0), ..Default::default() }).await.unwrap();
    let data = node.data.path().join("pods");
    let began = Instant::now();
    while fs::read_dir(&data).unwrap().count() > 0 {
        assert!(began.elapsed() < Duration::from_secs(30), "volumes were left behind");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(data.to_str().unwrap()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sub_path_cannot_lead_out_of_its_volume() {
    let node = Node::start().await;
    let shared = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/etc", shared.path().join("out")).unwrap();
    node.create(
        "p",
        json!({
        "containers": [{"name": "a", "image": "app", "command": ["run"],
            "volumeMounts": [{"name": "host", "mountPath": "/x", "subPath": "out"}]}],
        "volumes": [{"name": "host", "hostPath": {"path": shared.path()}}]}),
    )
    .await;
    let waiting = |p: &Value| p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
    node.until("p", |p| waiting(p) == "CreateContainerConfigError").await;
    assert!(node.runtime.running("a").is_empty());
}
