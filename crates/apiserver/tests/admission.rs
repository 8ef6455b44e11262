//! Admission of what is no plain object: tokens, scales, streams.

mod harness;

use client::Identity;
use harness::{Cluster, get, send};
use serde_json::{Value, json};

const JSON: &str = "application/json";
const TOKENS: &str = "/api/v1/namespaces/default/serviceaccounts/default/token";
const PODS: &str = "/api/v1/namespaces/default/pods";

async fn post(client: &kube::Client, path: &str, body: Value) -> (u16, Value) {
    send(client, "POST", path, JSON, &body.to_string()).await
}

#[tokio::test]
async fn a_node_gets_tokens_for_its_own_pods_and_their_audiences_only() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    post(&client, "/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    let projected =
        json!([{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "audience": "vault"}}]}}]);
    let body = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "volumes": projected, "containers": [{"name": "c", "image": "i"}]}});
    let (code, pod) = post(&client, PODS, body).await;
    assert_eq!(code, 201, "{pod}");
    let uid = &pod["metadata"]["uid"];
    let bound = |uid: &Value| json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid});
    let (own, other) = (cluster.memory(Identity::node("n")), cluster.memory(Identity::node("m")));
    for (node, spec, expected) in [
        (&own, json!({}), Err("node requested token not bound to a pod")),
        (
            &own,
            json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p"}}),
            Err("node requested token with a pod binding without a uid"),
        ),
        (&own, json!({"boundObjectRef": bound(&json!("x"))}), Err("does not match the UID in record")),
        (&other, json!({"boundObjectRef": bound(uid)}), Err("scheduled on a different node")),
        (&own, json!({"boundObjectRef": bound(uid), "audiences": ["else"]}), Err("not found in pod spec volume")),
        (
            &own,
            json!({"boundObjectRef": bound(uid), "audiences": ["a", "b"]}),
            Err("may only request 0 or 1 audiences"),
        ),
        (&own, json!({"boundObjectRef": bound(uid), "audiences": ["vault"]}), Ok(())),
        (&own, json!({"boundObjectRef": bound(uid)}), Ok(())),
    ] {
        let (code, answer) = post(node, TOKENS, json!({"spec": spec})).await;
        match expected {
            Ok(()) => assert_eq!(code, 201, "{spec}: {answer}"),
            Err(why) => {
                assert_eq!(code, 403, "{spec}: {answer}");
                assert!(answer["message"].as_str().is_some_and(|m| m.contains(why)), "{spec}: {answer}");
            }
        }
    }
}

#[tokio::test]
async fn a_node_publishes_only_its_own_devices() {
    let cluster = Cluster::start().await;
    let node = cluster.memory(Identity::node("n"));
    let slice = |name: &str, node: &str| {
        json!({"metadata": {"name": name}, "spec": {"driver": "d.example.com", "nodeName": node,
            "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}, "devices": []}})
    };
    let path = "/apis/resource.k8s.io/v1/resourceslices";
    let (code, refused) = post(&node, path, slice("a", "m")).await;
    assert_eq!(code, 403, "{refused}");
    assert!(
        refused["message"].as_str().is_some_and(|m| m.contains("can only create ResourceSlice with the same NodeName"))
    );
    let (code, made) = post(&node, path, slice("b", "n")).await;
    assert_eq!(code, 201, "{made}");
    // Nor does it change what another one publishes.
    let (code, other) = post(&cluster.admin(), path, slice("c", "m")).await;
    assert_eq!(code, 201, "{other}");
    let change = r#"{"metadata": {"labels": {"a": "b"}}}"#;
    for (name, expected) in [("b", 200), ("c", 403)] {
        let one = format!("{path}/{name}");
        let (code, answer) = send(&node, "PATCH", &one, "application/merge-patch+json", change).await;
        assert_eq!(code, expected, "{answer}");
    }
}

#[tokio::test]
async fn a_scale_is_read_and_written_in_every_way_and_keeps_its_owners() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    let sets = "/apis/apps/v1/namespaces/default/replicasets";
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template});
    let (code, made) = post(&client, sets, json!({"metadata": {"name": "r"}, "spec": spec})).await;
    assert_eq!(code, 201, "{made}");
    let scale = format!("{sets}/r/scale");
    let replicas = |n: i64| json!({"spec": {"replicas": n}}).to_string();
    for (content, body, expected) in [
        ("application/merge-patch+json", replicas(2), 2),
        ("application/strategic-merge-patch+json", replicas(3), 3),
        ("application/json-patch+json", r#"[{"op":"replace","path":"/spec/replicas","value":4}]"#.to_owned(), 4),
    ] {
        let (code, answer) = send(&client, "PATCH", &scale, content, &body).await;
        assert_eq!((code, &answer["spec"]["replicas"]), (200, &json!(expected)), "{content}: {answer}");
    }
    let (code, answer) = send(&client, "PATCH", &scale, "text/plain", "{}").await;
    assert_eq!(code, 415, "{answer}");
    let strict = format!("{scale}?fieldValidation=Strict");
    let unknown = r#"{"spec":{"replicas":4,"more":1}}"#;
    let (code, answer) = send(&client, "PATCH", &strict, "application/merge-patch+json", unknown).await;
    assert_eq!(code, 400, "{answer}");
    let apply = r#"{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"r"},"spec":{"replicas":5}}"#;
    let by = format!("{scale}?fieldManager=scaler");
    let (code, conflict) = send(&client, "PATCH", &by, "application/apply-patch+yaml", apply).await;
    assert_eq!(code, 409, "{conflict}");
    let (code, answer) =
        send(&client, "PATCH", &format!("{by}&force=true"), "application/apply-patch+yaml", apply).await;
    assert_eq!((code, &answer["spec"]["replicas"]), (200, &json!(5)), "{answer}");
    let (_, set) = get(&client, &format!("{sets}/r")).await;
    let set: Value = serde_json::from_str(&set).expect("JSON");
    let owners = set["metadata"]["managedFields"].as_array().expect("owners");
    let own: Vec<&Value> = owners.iter().filter(|o| o["fieldsV1"]["f:spec"].get("f:replicas").is_some()).collect();
    assert_eq!(own.len(), 1, "{owners:?}");
    assert_eq!(
        (&own[0]["manager"], &own[0]["operation"], &own[0]["subresource"], &own[0]["apiVersion"]),
        (&json!("scaler"), &json!("Apply"), &json!("scale"), &json!("apps/v1"))
    );
    let negative = json!({"metadata": {"name": "r"}, "spec": {"replicas": -1}}).to_string();
    assert_eq!(send(&client, "PUT", &scale, JSON, &negative).await.0, 422);
}

#[tokio::test]
async fn a_pod_takes_over_where_its_node_is_and_keeps_what_it_says_itself() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    post(&client, "/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    let places = json!({"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r", "other": "o"});
    post(&client, "/api/v1/nodes", json!({"metadata": {"name": "n", "labels": places}})).await;
    let pod = |name: &str, labels: Value, node: &str| {
        let mut spec = json!({"containers": [{"name": "c", "image": "i"}]});
        if !node.is_empty() {
            spec["nodeName"] = node.into();
        }
        json!({"metadata": {"name": name, "labels": labels}, "spec": spec})
    };
    let own = json!({"topology.kubernetes.io/zone": "mine"});
    let expected = json!({"topology.kubernetes.io/zone": "mine", "topology.kubernetes.io/region": "r"});
    let (code, made) = post(&client, PODS, pod("a", own.clone(), "n")).await;
    assert_eq!((code, &made["metadata"]["labels"]), (201, &expected), "{made}");
    post(&client, PODS, pod("b", own, "")).await;
    let binding = json!({"metadata": {"name": "b"}, "target": {"kind": "Node", "name": "n"}});
    let (code, bound) = post(&client, &format!("{PODS}/b/binding"), binding).await;
    assert_eq!(code, 201, "{bound}");
    let (_, made) = get(&client, &format!("{PODS}/b")).await;
    let made: Value = serde_json::from_str(&made).expect("JSON");
    assert_eq!(made["metadata"]["labels"], expected);
}

#[tokio::test]
async fn quotas_and_limits_hold_for_claims_and_for_pods_that_are_resized() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    post(&client, "/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    let selector =
        json!({"matchExpressions": [{"scopeName": "VolumeAttributesClass", "operator": "In", "values": ["gold"]}]});
    let hard = json!({"persistentvolumeclaims": "1"});
    let (code, made) =
        post(&client, quotas, json!({"metadata": {"name": "q"}, "spec": {"hard": hard, "scopeSelector": selector}}))
            .await;
    assert_eq!(code, 201, "{made}");
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let claim = |name: &str, class: &str| {
        json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"], "volumeAttributesClassName": class,
            "resources": {"requests": {"storage": "1Gi"}}}})
    };
    for (name, class, code) in [("a", "gold", 201), ("b", "silver", 201), ("c", "gold", 403)] {
        let (got, answer) = post(&client, claims, claim(name, class)).await;
        assert_eq!(got, code, "{name}: {answer}");
    }
    let limits = json!([{"type": "Container", "max": {"cpu": "2"}}]);
    post(
        &client,
        "/api/v1/namespaces/default/limitranges",
        json!({"metadata": {"name": "l"}, "spec": {"limits": limits}}),
    )
    .await;
    let resources = |cpu: &str| json!({"requests": {"cpu": cpu}, "limits": {"cpu": cpu}});
    let body = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i", "resources": resources("1")}]}});
    let (code, made) = post(&client, PODS, body).await;
    assert_eq!(code, 201, "{made}");
    for (cpu, code) in [("3", 403), ("2", 200)] {
        let patch = json!({"spec": {"containers": [{"name": "c", "resources": resources(cpu)}]}}).to_string();
        let strategic = "application/strategic-merge-patch+json";
        let (got, answer) = send(&client, "PATCH", &format!("{PODS}/p/resize"), strategic, &patch).await;
        assert_eq!(got, code, "{cpu}: {answer}");
    }
}

#[tokio::test]
async fn pods_that_should_be_gone_hold_no_quota_and_may_still_be_written() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    post(&client, "/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "1", "count/pods": "9"}}});
    let (code, made) = post(&client, quotas, quota).await;
    assert_eq!(code, 201, "{made}");
    let pod = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"nodeName": "lost", "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": "i"}]}})
    };
    for (name, expected) in [("a", 201), ("b", 403)] {
        let (code, answer) = post(&client, PODS, pod(name)).await;
        assert_eq!(code, expected, "{answer}");
    }
    let (code, going) = send(&client, "DELETE", &format!("{PODS}/a"), JSON, "").await;
    assert_eq!(code, 200, "{going}");
    // Nobody confirms that it has ended; when its time is over, its place is free.
    let since = std::time::Instant::now();
    loop {
        let (code, answer) = post(&client, PODS, pod("b")).await;
        if code == 201 {
            break;
        }
        assert!(code == 403 && since.elapsed().as_secs() < 30, "{answer}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let lower = r#"{"spec": {"hard": {"count/pods": "1"}}}"#;
    let merge = "application/merge-patch+json";
    let (code, answer) = send(&client, "PATCH", &format!("{quotas}/q"), merge, lower).await;
    assert_eq!(code, 200, "{answer}");
    let ended = r#"{"status": {"phase": "Failed"}}"#;
    let (code, answer) = send(&client, "PATCH", &format!("{PODS}/a/status"), merge, ended).await;
    assert_eq!(code, 200, "{answer}");
}
