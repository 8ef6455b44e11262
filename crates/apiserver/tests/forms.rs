//! Small things that clients of single kinds rely on: which form an answer can have, what the server adds, what selectors find.

mod harness;

use client::Identity;
use harness::{Cluster, get, raw, send};
use serde_json::{Value, json};

const JSON: &str = "application/json";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

#[tokio::test]
async fn what_has_no_table_is_not_given_as_one() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let initial = "/api/v1/configmaps?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
                   &allowWatchBookmarks=true&timeoutSeconds=1";
    let both = format!("{TABLE},{JSON}");
    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let cases = [
        ("POST", reviews, review.to_string(), TABLE, 406),
        ("POST", reviews, review.to_string(), both.as_str(), 201),
        ("GET", "/api/v1/configmaps", String::new(), TABLE, 200),
        ("GET", initial, String::new(), TABLE, 406),
        ("GET", initial, String::new(), both.as_str(), 200),
    ];
    for (method, path, body, accept, expected) in cases {
        let request = http::Request::builder().method(method).uri(path).header("accept", accept);
        let request = request.header("content-type", JSON).body(body.into_bytes()).expect("a request");
        let (code, _, answer) = raw(&client, request).await;
        assert_eq!(code, expected, "{method} {path} as {accept}: {answer}");
    }
}

#[tokio::test]
async fn core_events_are_found_by_who_reported_them() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    let new = json!({"metadata": {"name": "a"}, "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "test-controller", "reportingInstance": "i", "action": "Do", "reason": "Test",
        "type": "Normal", "regarding": {"namespace": "default"}});
    let old = json!({"metadata": {"name": "b"}, "source": {"component": "other"}, "reason": "Test", "type": "Normal",
        "involvedObject": {"namespace": "default"}});
    for (base, event) in [("/apis/events.k8s.io/v1", new), ("/api/v1", old)] {
        let path = format!("{base}/namespaces/default/events");
        let (code, made) = send(&client, "POST", &path, JSON, &event.to_string()).await;
        assert_eq!(code, 201, "{made}");
    }
    for (source, found) in [("test-controller", vec!["a"]), ("other", vec!["b"]), ("none", vec![])] {
        let (_, list) =
            get(&client, &format!("/api/v1/namespaces/default/events?fieldSelector=source%3D{source}")).await;
        let list: Value = serde_json::from_str(&list).expect("JSON");
        let names: Vec<_> = list["items"].as_array().into_iter().flatten().map(|e| &e["metadata"]["name"]).collect();
        assert_eq!(names, found, "{source}");
    }
}

#[tokio::test]
async fn keys_say_what_they_are_and_who_asks_for_a_certificate_is_written_down() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    let request = http::Request::builder().uri("/openid/v1/jwks").body(Vec::new()).expect("a request");
    let (code, headers, keys) = raw(&client, request).await;
    assert_eq!((code, headers["content-type"].to_str().expect("text")), (200, "application/jwk-set+json"), "{keys}");
    let mut jane = Identity::component("jane");
    jane.groups = vec!["system:masters".to_owned()];
    jane.uid = "u1".to_owned();
    jane.extra.insert("team".to_owned(), vec!["blue".to_owned()]);
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let pem = rcgen::CertificateParams::default()
        .serialize_request(&rcgen::KeyPair::generate().expect("a key"))
        .and_then(|request| request.pem())
        .expect("a request");
    let body = json!({"metadata": {"name": "r"}, "spec": {"request": base64(pem.as_bytes()), "usages": ["client auth"],
        "signerName": "example.com/s", "username": "else", "uid": "else", "extra": {"else": ["x"]}}});
    let (code, made) = send(&cluster.memory(jane), "POST", path, JSON, &body.to_string()).await;
    let spec = &made["spec"];
    assert_eq!(
        (code, &spec["username"], &spec["uid"], &spec["extra"]),
        (201, &json!("jane"), &json!("u1"), &json!({"team": ["blue"]})),
        "{made}"
    );
}

#[tokio::test]
async fn a_pods_new_tolerations_may_replace_all_but_the_servers_own() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    send(&client, "POST", accounts, JSON, r#"{"metadata": {"name": "default"}}"#).await;
    let pods = "/api/v1/namespaces/default/pods";
    let body = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let (code, mut pod) = send(&client, "POST", pods, JSON, &body.to_string()).await;
    assert_eq!(code, 201, "{pod}");
    pod["spec"]["tolerations"] = json!([{"key": "k", "operator": "Exists", "effect": "NoSchedule"}]);
    let (code, changed) = send(&client, "PUT", &format!("{pods}/p"), JSON, &pod.to_string()).await;
    assert_eq!(code, 200, "{changed}");
    let keys: Vec<_> = changed["spec"]["tolerations"].as_array().into_iter().flatten().map(|t| &t["key"]).collect();
    assert_eq!(keys, ["k", "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]);
    assert_eq!(changed["metadata"]["generation"], 2);
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
