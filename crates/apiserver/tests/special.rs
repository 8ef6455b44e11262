//! What is no plain object: namespaces that go, pods that end gracefully, bindings, tokens, reviews, addresses, streams.

mod harness;

use std::sync::Arc;

use client::{Credential, Identity};
use harness::{Cluster, get, send};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const JSON: &str = "application/json";
const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";

async fn post(client: &kube::Client, path: &str, body: Value) -> (u16, Value) {
    send(client, "POST", path, JSON, &body.to_string()).await
}

/// A pod of the default account, which no controller made here.
async fn pod(client: &kube::Client, name: &str) -> Value {
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let (code, _) = post(client, accounts, json!({"metadata": {"name": "default"}})).await;
    assert!(matches!(code, 201 | 409));
    let body = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let (code, pod) = post(client, PODS, body).await;
    assert_eq!(code, 201, "{pod}");
    pod
}

#[tokio::test]
async fn a_namespace_goes_when_its_finalizer_is_gone_and_takes_nothing_new_meanwhile() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    let (code, made) = post(&client, "/api/v1/namespaces", json!({"metadata": {"name": "n"}})).await;
    assert_eq!((code, &made["spec"]["finalizers"]), (201, &json!(["kubernetes"])));
    let (code, going) = send(&client, "DELETE", "/api/v1/namespaces/n", JSON, "").await;
    assert_eq!((code, &going["status"]["phase"]), (200, &json!("Terminating")), "{going}");
    let (code, refused) = post(&client, "/api/v1/namespaces/n/configmaps", json!({"metadata": {"name": "c"}})).await;
    assert_eq!(code, 403, "{refused}");
    assert!(refused["message"].as_str().expect("a message").contains("because it is being terminated"));
    let mut last = going;
    last["spec"]["finalizers"] = json!([]);
    let (code, gone) = send(&client, "PUT", "/api/v1/namespaces/n/finalize", JSON, &last.to_string()).await;
    assert_eq!(code, 200, "{gone}");
    assert_eq!(get(&client, "/api/v1/namespaces/n").await.0, 404);
    let (code, kept) = send(&client, "DELETE", "/api/v1/namespaces/default", JSON, "").await;
    assert_eq!(code, 403, "{kept}");
    let (code, missing) = post(&client, "/api/v1/namespaces/none/configmaps", json!({"metadata": {"name": "c"}})).await;
    assert_eq!((code, &missing["message"]), (404, &json!("namespaces \"none\" not found")));
}

#[tokio::test]
async fn a_pod_is_bound_once_and_ends_gracefully() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    let made = pod(&client, "p").await;
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    assert_eq!(
        made["spec"]["containers"][0]["volumeMounts"][0]["mountPath"],
        "/var/run/secrets/kubernetes.io/serviceaccount"
    );
    assert_eq!(made["spec"]["tolerations"].as_array().map(Vec::len), Some(2));
    let scheduler = cluster.memory(Identity::component("system:kube-scheduler"));
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    let (code, bound) = post(&scheduler, &format!("{PODS}/p/binding"), binding.clone()).await;
    assert_eq!(code, 201, "{bound}");
    let (code, again) = post(&scheduler, &format!("{PODS}/p/binding"), binding).await;
    assert_eq!(code, 409, "{again}");
    assert!(again["message"].as_str().expect("a message").ends_with("pod p is already assigned to node \"n1\""));
    let (_, list) = get(&client, "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await;
    let list: Value = serde_json::from_str(&list).expect("JSON");
    assert_eq!(list["items"][0]["status"]["conditions"][0]["type"], "PodScheduled");
    let (code, going) = send(&client, "DELETE", &format!("{PODS}/p"), JSON, "").await;
    assert_eq!((code, &going["metadata"]["deletionGracePeriodSeconds"]), (200, &json!(30)), "{going}");
    assert_eq!(get(&client, &format!("{PODS}/p")).await.0, 200);
    let node = cluster.memory(Identity::node("n1"));
    let (code, _) = send(&node, "DELETE", &format!("{PODS}/p"), JSON, r#"{"gracePeriodSeconds":0}"#).await;
    assert_eq!(code, 200);
    assert_eq!(get(&client, &format!("{PODS}/p")).await.0, 404);
    // One that was never bound goes at once.
    pod(&client, "q").await;
    assert_eq!(send(&client, "DELETE", &format!("{PODS}/q"), JSON, "").await.0, 200);
    assert_eq!(get(&client, &format!("{PODS}/q")).await.0, 404);
}

#[tokio::test]
async fn finalizers_hold_an_object_and_propagation_policies_become_finalizers() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    let maps = "/api/v1/namespaces/default/configmaps";
    post(&client, maps, json!({"metadata": {"name": "c", "finalizers": ["example.com/hold"]}})).await;
    let options = r#"{"propagationPolicy":"Foreground"}"#;
    let (code, held) = send(&client, "DELETE", &format!("{maps}/c"), JSON, options).await;
    assert_eq!(
        (code, &held["metadata"]["finalizers"]),
        (200, &json!(["example.com/hold", "foregroundDeletion"])),
        "{held}"
    );
    let patch = r#"{"metadata":{"finalizers":null}}"#;
    assert_eq!(send(&client, "PATCH", &format!("{maps}/c"), "application/merge-patch+json", patch).await.0, 200);
    assert_eq!(get(&client, &format!("{maps}/c")).await.0, 404);
    post(&client, maps, json!({"metadata": {"name": "d"}})).await;
    let options = r#"{"preconditions":{"uid":"other"}}"#;
    assert_eq!(send(&client, "DELETE", &format!("{maps}/d"), JSON, options).await.0, 409);
    let dry = format!("{maps}/d?dryRun=All");
    assert_eq!(send(&client, "DELETE", &dry, JSON, "").await.0, 200);
    assert_eq!(get(&client, &format!("{maps}/d")).await.0, 200);
    let (code, gone) = send(&client, "DELETE", maps, JSON, "").await;
    assert_eq!((code, gone["items"].as_array().map(Vec::len)), (200, Some(1)), "{gone}");
    assert_eq!(get(&client, &format!("{maps}/d")).await.0, 404);
}

#[tokio::test]
async fn a_token_says_who_its_bearer_is_until_what_it_is_bound_to_is_gone() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    let made = pod(&client, "p").await;
    let body = json!({"spec": {"audiences": [], "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": made["metadata"]["uid"]}}});
    let (code, issued) = post(&client, "/api/v1/namespaces/default/serviceaccounts/default/token", body).await;
    assert_eq!(code, 201, "{issued}");
    let token = issued["status"]["token"].as_str().expect("a token").to_owned();
    let bearer = cluster.connect(Credential::Token(token.clone()));
    let (code, oneself) = post(&bearer, "/apis/authentication.k8s.io/v1/selfsubjectreviews", json!({})).await;
    assert_eq!(
        (code, &oneself["status"]["userInfo"]["username"]),
        (201, &json!("system:serviceaccount:default:default")),
        "{oneself}"
    );
    assert_eq!(oneself["status"]["userInfo"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    let (code, _) = get(&bearer, "/api/v1/namespaces/default/secrets").await;
    assert_eq!(code, 403);
    let review = json!({"spec": {"token": token}});
    let (_, reviewed) = post(&client, "/apis/authentication.k8s.io/v1/tokenreviews", review).await;
    assert_eq!(reviewed["status"]["authenticated"], true, "{reviewed}");
    let access = json!({"spec": {"user": "x", "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "default"}}});
    let (_, access) = post(&client, "/apis/authorization.k8s.io/v1/subjectaccessreviews", access).await;
    assert_eq!(access["status"]["allowed"], false, "{access}");
    assert_eq!(send(&client, "DELETE", &format!("{PODS}/p"), JSON, "").await.0, 200);
    assert_eq!(get(&bearer, "/version").await.0, 401);
}

#[tokio::test]
async fn services_get_addresses_and_ports_that_nobody_else_has_and_give_them_back() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    let (_, kubernetes) = get(&client, &format!("{SERVICES}/kubernetes")).await;
    let kubernetes: Value = serde_json::from_str(&kubernetes).expect("JSON");
    assert_eq!(kubernetes["spec"]["clusterIP"], "10.96.0.1");
    let service = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let ports = json!([{"port": 80}]);
    let (code, first) = post(&client, SERVICES, service("a", json!({"type": "NodePort", "ports": ports}))).await;
    assert_eq!(code, 201, "{first}");
    let (address, port) = (first["spec"]["clusterIP"].clone(), first["spec"]["ports"][0]["nodePort"].clone());
    assert!(port.as_u64().is_some_and(|p| (30000..=32767).contains(&p)), "{first}");
    let (code, taken) = post(&client, SERVICES, service("b", json!({"clusterIP": address, "ports": ports}))).await;
    assert_eq!(code, 422);
    assert!(taken["message"].as_str().expect("a message").contains("provided IP is already allocated"), "{taken}");
    let (code, outside) = post(&client, SERVICES, service("b", json!({"clusterIP": "1.2.3.4", "ports": ports}))).await;
    assert_eq!(code, 422);
    assert!(outside["message"].as_str().expect("a message").contains("is not in the valid range"), "{outside}");
    let spec = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
    let (code, taken) = post(&client, SERVICES, service("b", spec.clone())).await;
    assert_eq!(code, 422);
    assert!(taken["message"].as_str().expect("a message").contains("provided port is already allocated"), "{taken}");
    assert_eq!(send(&client, "DELETE", &format!("{SERVICES}/a"), JSON, "").await.0, 200);
    let (code, second) = post(&client, SERVICES, service("b", spec)).await;
    assert_eq!(code, 201, "{second}");
    let patch = r#"{"spec":{"type":"ClusterIP"}}"#;
    let (code, plain) = send(&client, "PATCH", &format!("{SERVICES}/b"), "application/merge-patch+json", patch).await;
    assert_eq!((code, plain["spec"]["ports"][0].get("nodePort")), (200, None), "{plain}");
    let (code, headless) = post(&client, SERVICES, service("h", json!({"clusterIP": "None", "ports": ports}))).await;
    assert_eq!((code, &headless["spec"]["clusterIP"]), (201, &json!("None")), "{headless}");
    let (_, addresses) = get(&client, "/apis/networking.k8s.io/v1/ipaddresses").await;
    let addresses: Value = serde_json::from_str(&addresses).expect("JSON");
    assert_eq!(addresses["items"].as_array().map(Vec::len), Some(2), "{addresses}");
    let owner = &addresses["items"][0]["metadata"]["managedFields"][0];
    assert_eq!((&owner["manager"], &owner["operation"]), (&json!("kube-apiserver"), &json!("Update")), "{addresses}");
    assert!(owner["fieldsV1"]["f:spec"]["f:parentRef"].is_object(), "{addresses}");
}

#[tokio::test]
async fn further_ranges_and_a_second_family_give_services_addresses() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    let ranges = "/apis/networking.k8s.io/v1/servicecidrs";
    let (code, made) =
        post(&client, ranges, json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.97.0.0/24"]}})).await;
    assert_eq!(code, 201, "{made}");
    let ports = json!([{"port": 80}]);
    let service = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let spec = json!({"clusterIP": "10.97.0.7", "ports": ports});
    let (code, made) = post(&client, SERVICES, service("a", spec)).await;
    assert_eq!((code, &made["spec"]["ipFamilies"]), (201, &json!(["IPv4"])), "{made}");
    // A cluster whose own range has two families.
    let kind = "/registry/servicecidrs/kubernetes";
    let entry = cluster.store.get(kind).expect("the default range");
    let mut default: Value = serde_json::from_slice(&entry.value).expect("JSON");
    default["spec"]["cidrs"] = json!(["10.96.0.0/16", "fd00:96::/112"]);
    let txn = store::Txn { guards: Vec::new(), ops: vec![store::Op::put(kind, default.to_string().into_bytes())] };
    cluster.store.commit(txn).await.expect("stored");
    let spec = json!({"ipFamilyPolicy": "PreferDualStack", "ports": ports});
    let (code, both) = post(&client, SERVICES, service("b", spec)).await;
    assert_eq!((code, &both["spec"]["ipFamilies"]), (201, &json!(["IPv4", "IPv6"])), "{both}");
    let second = both["spec"]["clusterIPs"][1].as_str().expect("a second address").to_owned();
    assert!(second.starts_with("fd00:96::"), "{second}");
    let held = format!("/apis/networking.k8s.io/v1/ipaddresses/{second}");
    assert_eq!(get(&client, &held).await.0, 200);
    let patch = r#"{"spec":{"ipFamilyPolicy":"SingleStack"}}"#;
    let (code, one) = send(&client, "PATCH", &format!("{SERVICES}/b"), "application/merge-patch+json", patch).await;
    assert_eq!((code, &one["spec"]["clusterIPs"]), (200, &json!([both["spec"]["clusterIP"]])), "{one}");
    assert_eq!(get(&client, &held).await.0, 404);
}

#[tokio::test]
async fn logs_and_upgrades_go_to_the_kubelet_and_back() {
    let dialer: apiserver::KubeletDialer = Arc::new(|node| {
        Box::pin(async move {
            assert_eq!(node, "n1");
            let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
            tokio::spawn(async move {
                let mut head = vec![0; 4096];
                let read = theirs.read(&mut head).await.expect("a request");
                let head = String::from_utf8_lossy(&head[..read]).into_owned();
                let first = head.lines().next().unwrap_or("").to_owned();
                if first.contains("/exec/") {
                    theirs
                        .write_all(
                            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
                        )
                        .await
                        .expect("written");
                    let mut byte = [0; 4];
                    theirs.read_exact(&mut byte).await.expect("echoed");
                    theirs.write_all(&byte).await.expect("written");
                } else {
                    let body = format!("{first}\n");
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    theirs.write_all(answer.as_bytes()).await.expect("written");
                }
            });
            Ok(Box::new(ours) as Box<dyn apiserver::Stream>)
        })
    });
    let cluster = Cluster::with(store::Store::memory(), Some(dialer)).await;
    let client = cluster.admin();
    pod(&client, "p").await;
    post(&client, &format!("{PODS}/p/binding"), json!({"metadata": {"name": "p"}, "target": {"name": "n1"}})).await;
    let (code, log) = get(&client, &format!("{PODS}/p/log?tailLines=5&follow=true")).await;
    assert_eq!((code, log.as_str()), (200, "GET /containerLogs/default/p/c?follow=true&tailLines=5 HTTP/1.1\n"));
    assert_eq!(get(&client, &format!("{PODS}/p/log?container=x")).await.0, 400);
    let (stream, theirs) = tokio::io::duplex(64 * 1024);
    (cluster.server.acceptor())(theirs, Identity::admin("a"));
    let mut stream = stream;
    let request = format!(
        "GET {PODS}/p/exec?command=ls&stdout=true HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut head = vec![0; 4096];
    let read = stream.read(&mut head).await.expect("an answer");
    assert!(head[..read].starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head[..read]));
    stream.write_all(b"ping").await.expect("sent");
    let mut back = [0; 4];
    stream.read_exact(&mut back).await.expect("echoed");
    assert_eq!(&back, b"ping");
}
