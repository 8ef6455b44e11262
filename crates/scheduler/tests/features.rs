//! Profiles, extenders, budgets, resizes and devices, against the real API server in memory.

mod cluster;

use std::sync::{Arc, Mutex};

use cluster::{Cluster, eventually};
use k8s_openapi::api::{
    core::v1::Pod,
    policy::v1::PodDisruptionBudget,
    resource::v1::{DeviceClass, ResourceClaim, ResourceSlice},
    scheduling::v1::PriorityClass,
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use scheduler::Options;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

fn options(body: &str) -> Options {
    let head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";
    Options::parse(&format!("{head}{body}")).unwrap()
}

#[tokio::test]
async fn each_scheduler_name_has_its_own_profile() {
    let packing = "profiles: [{schedulerName: default-scheduler}, {schedulerName: packing, pluginConfig: [{name: \
                   NodeResourcesFit, args: {scoringStrategy: {type: MostAllocated}}}], plugins: {score: {disabled: \
                   [{name: NodeResourcesBalancedAllocation}]}}}]";
    let cluster = Cluster::start_with(options(packing), |client| client).await;
    cluster.node("a", "8").await;
    cluster.node("b", "8").await;
    cluster.pod("first", "1", json!({"nodeSelector": {"kubernetes.io/hostname": "b"}})).await;
    eventually("bound", || cluster.node_of("first")).await;
    cluster.pod("packed", "1", json!({"schedulerName": "packing"})).await;
    assert_eq!(eventually("bound", || cluster.node_of("packed")).await, "b");
    cluster.pod("apart", "1", json!({})).await;
    assert_eq!(eventually("bound", || cluster.node_of("apart")).await, "a");
    let assigned = eventually("told so", || cluster.event("packed", "Scheduled")).await;
    assert_eq!(assigned, "Successfully assigned default/packed to b");
    cluster.pod("nobodys", "1", json!({"schedulerName": "other"})).await;
    cluster.pod("last", "1", json!({})).await;
    eventually("bound", || cluster.node_of("last")).await;
    assert_eq!(cluster.node_of("nobodys").await, None);
}

/// An extender that answers each verb with a text, and keeps what it was asked.
async fn extender(answers: Vec<(&'static str, String)>) -> (String, Arc<Mutex<Vec<(String, Value)>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/scheduler", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (answers, log) = (answers.clone(), log.clone());
            tokio::spawn(async move {
                let mut request = Vec::new();
                let mut buffer = [0; 65536];
                let (verb, body) = loop {
                    let Ok(read @ 1..) = stream.read(&mut buffer).await else { return };
                    request.extend_from_slice(&buffer[..read]);
                    let text = String::from_utf8_lossy(&request).into_owned();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    let lower = head.to_ascii_lowercase();
                    let length = lower.split("content-length: ").nth(1).and_then(|it| it.lines().next()?.parse().ok());
                    if body.len() >= length.unwrap_or(0) {
                        break (head.split(' ').nth(1).unwrap_or_default().to_owned(), body.to_owned());
                    }
                };
                log.lock().unwrap().push((verb.clone(), serde_json::from_str(&body).unwrap_or_default()));
                let answer = answers.iter().find(|(it, _)| verb == format!("/scheduler/{it}"));
                let (code, answer) = answer.map_or((500, ""), |(_, answer)| (200, answer));
                let length = answer.len();
                let head = format!("HTTP/1.1 {code} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
                _ = stream.write_all(format!("{head}{answer}").as_bytes()).await;
            });
        }
    });
    (url, asked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn extenders_filter_prefer_and_fail() {
    let filter = r#"{"NodeNames": ["a", "b"], "FailedNodes": {"c": "too far"}}"#;
    let prefer = r#"[{"Host": "a", "Score": 0}, {"Host": "b", "Score": 10}]"#;
    let (url, asked) = extender(vec![("filter", filter.into()), ("prefer", prefer.into())]).await;
    let body = format!(
        "extenders: [{{urlPrefix: '{url}', filterVerb: filter, prioritizeVerb: prefer, weight: 5, nodeCacheCapable: true, \
         managedResources: [{{name: example.com/gpu, ignoredByScheduler: true}}]}}, {{urlPrefix: '{url}', filterVerb: missing, \
         ignorable: true, nodeCacheCapable: true}}]"
    );
    let cluster = Cluster::start_with(options(&body), |client| client).await;
    for name in ["a", "b", "c"] {
        cluster.node(name, "8").await;
    }
    let gpu = json!({"containers": [{"name": "c", "image": "web", "resources": {"limits": {"example.com/gpu": "1"}}}]});
    cluster.pod("managed", "1", gpu).await;
    assert_eq!(eventually("bound", || cluster.node_of("managed")).await, "b");
    let first = asked.lock().unwrap().iter().find(|(verb, _)| verb.ends_with("/filter")).cloned().unwrap().1;
    assert_eq!(first["Pod"]["metadata"]["name"], "managed");
    let mut names: Vec<_> = first["NodeNames"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    names.sort_unstable();
    assert_eq!((names, &first["Nodes"]), (vec!["a", "b", "c"], &Value::Null));
    asked.lock().unwrap().clear();
    cluster.pod("own", "1", json!({})).await;
    eventually("bound", || cluster.node_of("own")).await;
    let asked = asked.lock().unwrap();
    assert!(
        asked.iter().all(|(verb, _)| verb.ends_with("/missing")),
        "a pod without its resource is not its own: {asked:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_extender_that_rejects_or_fails_is_named_and_one_that_binds_does() {
    let reject =
        r#"{"nodes": {"items": []}, "failedNodes": {"a": "too warm"}, "failedAndUnresolvableNodes": {"b": "broken"}}"#;
    let (url, _) = extender(vec![("filter", reject.into())]).await;
    let body = format!("extenders: [{{urlPrefix: '{url}', filterVerb: filter}}]");
    let cluster = Cluster::start_with(options(&body), |client| client).await;
    cluster.node("a", "8").await;
    cluster.node("b", "8").await;
    cluster.pod("p", "1", json!({})).await;
    let why = eventually("told why", || async { cluster.condition("p").await }).await;
    assert_eq!(
        why.2,
        "0/2 nodes are available: 1 broken, 1 too warm. no new claims to deallocate, preemption: 0/2 nodes are available: 1 No \
         preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling."
    );

    let (url, asked) = extender(vec![("bind", "{\"Error\": \"no\"}".into())]).await;
    let failing = format!("extenders: [{{urlPrefix: '{url}', bindVerb: bind}}]");
    let cluster = Cluster::start_with(options(&failing), |client| client).await;
    cluster.node("a", "8").await;
    cluster.pod("p", "1", json!({})).await;
    let told = eventually("told why", || async { cluster.condition("p").await }).await;
    assert_eq!(told, ("False".into(), "SchedulerError".into(), "binding rejected: no".into()));
    let binding = asked.lock().unwrap()[0].1.clone();
    assert_eq!(
        (&binding["PodName"], &binding["PodNamespace"], &binding["Node"]),
        (&json!("p"), &json!("default"), &json!("a"))
    );

    let failing = format!("extenders: [{{urlPrefix: '{url}', filterVerb: missing}}]");
    let cluster = Cluster::start_with(options(&failing), |client| client).await;
    cluster.node("a", "8").await;
    cluster.pod("p", "1", json!({})).await;
    let told = eventually("told why", || async { cluster.condition("p").await }).await;
    let message = format!("failed missing with extender at URL {url}/missing, code 500");
    assert_eq!(told, ("False".into(), "SchedulerError".into(), message));
}

#[tokio::test]
async fn pods_whose_budget_allows_it_go_before_less_important_ones_without() {
    let cluster = Cluster::start().await;
    for (name, value) in [("low", 1), ("medium", 5), ("high", 100)] {
        cluster.create_global::<PriorityClass>(json!({"metadata": {"name": name}, "value": value})).await;
    }
    cluster.node("a", "1").await;
    cluster.node("b", "1").await;
    let at =
        |node: &str, class: &str| json!({"priorityClassName": class, "nodeSelector": {"kubernetes.io/hostname": node}});
    cluster.pod("guarded", "1", at("a", "low")).await;
    cluster.pod("free", "1", at("b", "medium")).await;
    eventually("bound", || cluster.node_of("guarded")).await;
    eventually("bound", || cluster.node_of("free")).await;
    let labels = Patch::Merge(json!({"metadata": {"labels": {"app": "db"}}}));
    cluster.pods().patch("guarded", &PatchParams::default(), &labels).await.unwrap();
    let budget =
        json!({"metadata": {"name": "db"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "db"}}}});
    cluster.create::<PodDisruptionBudget>(budget).await;
    // A marker after which the scheduler has seen the budget and the label: both come before it.
    cluster.pod("marker", "1", json!({"priorityClassName": "low"})).await;
    eventually("told why", || async { cluster.condition("marker").await }).await;
    cluster.pod("urgent", "1", json!({"priorityClassName": "high"})).await;
    let victim = || async {
        let pods = cluster.pods().list(&kube::api::ListParams::default()).await.unwrap();
        pods.into_iter().find(|pod| pod.metadata.deletion_timestamp.is_some()).and_then(|pod| pod.metadata.name)
    };
    assert_eq!(eventually("evicted", victim).await, "free");
    let nominated = || async { cluster.pods().get("urgent").await.unwrap().status.unwrap().nominated_node_name };
    assert_eq!(eventually("nominated", nominated).await, "b");
    let uid = cluster.pods().get("urgent").await.unwrap().metadata.uid.unwrap();
    let told = eventually("told so", || cluster.event("free", "Preempted")).await;
    assert_eq!(told, format!("Preempted by pod {uid} on node b"));
}

#[tokio::test]
async fn replicas_that_say_nothing_are_spread_by_their_service() {
    let cluster = Cluster::start().await;
    for name in ["a", "b", "c"] {
        cluster.node(name, "64").await;
    }
    let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    cluster.create::<k8s_openapi::api::core::v1::Service>(service).await;
    let mut counts = std::collections::BTreeMap::new();
    for index in 0..9 {
        let name = format!("web-{index}");
        let pod = json!({"metadata": {"name": name, "labels": {"app": "web"}}, "spec": {"containers": [
            {"name": "c", "image": "web", "resources": {"requests": {"cpu": "10m"}}}]}});
        cluster.create::<Pod>(pod).await;
        *counts.entry(eventually("bound", || cluster.node_of(&name)).await).or_insert(0) += 1;
    }
    assert!(counts.len() == 3 && counts.values().all(|count| *count == 3), "{counts:?}");
}

#[tokio::test]
async fn a_pod_that_is_resized_keeps_what_it_has_until_it_has_less() {
    let cluster = Cluster::start().await;
    cluster.node("a", "4").await;
    cluster.pod("large", "3", json!({})).await;
    eventually("bound", || cluster.node_of("large")).await;
    let has = |cpu: &str| {
        json!({"status": {"phase": "Running", "containerStatuses": [{"name": "c", "image": "web", "imageID": "x",
        "ready": true, "restartCount": 0, "allocatedResources": {"cpu": cpu}, "resources": {"requests": {"cpu": cpu}}}]}})
    };
    let status = |cpu: &str| Patch::Merge(has(cpu));
    cluster.pods().patch_status("large", &PatchParams::default(), &status("3")).await.unwrap();
    let smaller = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}});
    let params = PatchParams::default();
    cluster.pods().patch_subresource("resize", "large", &params, &Patch::Strategic(smaller)).await.unwrap();
    cluster.pod("next", "3", json!({})).await;
    let why = eventually("told why", || async { cluster.condition("next").await }).await;
    assert!(why.2.starts_with("0/1 nodes are available: 1 Insufficient cpu."), "{why:?}");
    cluster.pods().patch_status("large", &PatchParams::default(), &status("1")).await.unwrap();
    assert_eq!(eventually("bound", || cluster.node_of("next")).await, "a");
}

#[tokio::test]
async fn a_claim_is_allocated_where_its_devices_are_and_shared_by_its_pods() {
    let cluster = Cluster::start().await;
    for name in ["a", "b"] {
        cluster.node(name, "8").await;
    }
    let expression = "device.attributes['gpu.example'].model == 'a100'";
    let class = json!({"metadata": {"name": "gpu"}, "spec": {"selectors": [{"cel": {"expression": expression}}]}});
    cluster.create_global::<DeviceClass>(class).await;
    let claim = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"devices": {"requests": [
            {"name": "one", "exactly": {"deviceClassName": "gpu"}}]}}})
    };
    let with = |claim: &str| json!({"resourceClaims": [{"name": "gpu", "resourceClaimName": claim}]});
    cluster.pod("early", "1", with("first")).await;
    cluster.create::<ResourceClaim>(claim("first")).await;
    let why = eventually("told why", || async { cluster.condition("early").await }).await;
    assert!(why.2.starts_with("0/2 nodes are available: 2 cannot allocate all claims."), "{why:?}");
    let device = |name: &str, model: &str| json!({"name": name, "attributes": {"model": {"string": model}}});
    let slice = json!({"metadata": {"name": "b-gpus"}, "spec": {"driver": "gpu.example", "nodeName": "b",
        "pool": {"name": "b", "generation": 1, "resourceSliceCount": 1},
        "devices": [device("old", "k80"), device("new", "a100")]}});
    cluster.create_global::<ResourceSlice>(slice).await;
    assert_eq!(eventually("bound", || cluster.node_of("early")).await, "b");
    let claims = Api::<ResourceClaim>::namespaced(cluster.admin.clone(), "default");
    let first = claims.get("first").await.unwrap();
    let status = first.status.unwrap();
    let allocation = serde_json::to_value(status.allocation.unwrap()).unwrap();
    assert_eq!(
        allocation["devices"]["results"],
        json!([{"request": "one", "driver": "gpu.example", "pool": "b", "device": "new"}])
    );
    assert_eq!(
        allocation["nodeSelector"]["nodeSelectorTerms"][0]["matchFields"][0]["values"],
        json!(["b"]),
        "{allocation}"
    );
    assert!(first.metadata.finalizers.unwrap().contains(&"resource.kubernetes.io/delete-protection".to_owned()));

    cluster.pod("sharing", "1", with("first")).await;
    assert_eq!(eventually("bound", || cluster.node_of("sharing")).await, "b");
    let users = claims.get("first").await.unwrap().status.unwrap().reserved_for.unwrap();
    let names: Vec<_> = users.iter().map(|user| &*user.name).collect();
    assert_eq!(names, ["early", "sharing"]);

    cluster.create::<ResourceClaim>(claim("second")).await;
    cluster.pod("late", "1", with("second")).await;
    eventually("told why", || async { cluster.condition("late").await }).await;
    // What a controller does when the pods of a claim are gone.
    for name in ["early", "sharing"] {
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        cluster.pods().delete(name, &now).await.unwrap();
    }
    let free = Patch::Merge(json!({"status": {"reservedFor": null, "allocation": null}}));
    claims.patch_status("first", &PatchParams::default(), &free).await.unwrap();
    assert_eq!(eventually("bound", || cluster.node_of("late")).await, "b");
}
