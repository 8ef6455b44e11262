//! Evictions: what budgets refuse, and what an evicted pod's status says.

mod harness;

use client::Identity;
use harness::{Cluster, get, send};
use serde_json::{Value, json};

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const PODS: &str = "/api/v1/namespaces/default/pods";
const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

async fn post(client: &kube::Client, path: &str, body: Value) -> (u16, Value) {
    send(client, "POST", path, JSON, &body.to_string()).await
}

async fn read(client: &kube::Client, path: &str) -> Value {
    serde_json::from_str(&get(client, path).await.1).expect("JSON")
}

/// A pod of the node `n` in the phase given, ready or not.
async fn pod(client: &kube::Client, name: &str, phase: &str, ready: bool) -> Value {
    post(client, "/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    let body = json!({"metadata": {"name": name, "labels": {"app": "a"}},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(post(client, PODS, body).await.0, 201);
    let ready = if ready { "True" } else { "False" };
    let status = json!({"status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}});
    let (code, pod) = send(client, "PATCH", &format!("{PODS}/{name}/status"), MERGE, &status.to_string()).await;
    assert_eq!(code, 200, "{pod}");
    pod
}

async fn budget(client: &kube::Client, name: &str, allowed: i64) {
    let body =
        json!({"metadata": {"name": name}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}}});
    assert_eq!(post(client, BUDGETS, body).await.0, 201);
    let status = json!({"status": {"disruptionsAllowed": allowed, "currentHealthy": 2, "desiredHealthy": 1,
        "expectedPods": 2, "observedGeneration": 1}});
    let (code, answer) = send(client, "PATCH", &format!("{BUDGETS}/{name}/status"), MERGE, &status.to_string()).await;
    assert_eq!(code, 200, "{answer}");
}

async fn evict(client: &kube::Client, name: &str, version: &str, options: Value) -> (u16, Value) {
    let body = json!({"kind": "Eviction", "apiVersion": version, "metadata": {"name": name, "namespace": "default"},
        "deleteOptions": options});
    post(client, &format!("{PODS}/{name}/eviction"), body).await
}

#[tokio::test]
async fn an_evicted_pod_says_why_it_goes_and_its_budget_is_spent() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    pod(&client, "p", "Running", true).await;
    budget(&client, "b", 1).await;
    let (code, answer) = evict(&client, "p", "policy/v1beta1", json!({"dryRun": ["All"]})).await;
    assert_eq!(code, 201, "{answer}");
    assert!(read(&client, &format!("{PODS}/p")).await["metadata"].get("deletionTimestamp").is_none());
    let (code, answer) = evict(&client, "p", "policy/v1", json!({})).await;
    assert_eq!((code, &answer["status"]), (201, &json!("Success")), "{answer}");
    let going = read(&client, &format!("{PODS}/p")).await;
    assert!(going["metadata"]["deletionTimestamp"].is_string(), "{going}");
    let conditions = going["status"]["conditions"].as_array().expect("conditions");
    let target = conditions.iter().find(|c| c["type"] == "DisruptionTarget").expect("the condition");
    assert_eq!(
        (&target["status"], &target["reason"], &target["message"]),
        (&json!("True"), &json!("EvictionByEvictionAPI"), &json!("Eviction API: evicting"))
    );
    let spent = read(&client, &format!("{BUDGETS}/b")).await;
    assert_eq!(spent["status"]["disruptionsAllowed"].as_i64().unwrap_or(0), 0, "{spent}");
    assert_eq!(spent["status"]["conditions"][0]["type"], "DisruptionAllowed");
    assert!(spent["status"]["disruptedPods"]["p"].is_string(), "{spent}");
    pod(&client, "q", "Running", true).await;
    let (code, refused) = evict(&client, "q", "policy/v1", json!({})).await;
    assert_eq!((code, &refused["details"]["causes"][0]["reason"]), (429, &json!("DisruptionBudget")), "{refused}");
    assert!(read(&client, &format!("{PODS}/q")).await["metadata"].get("deletionTimestamp").is_none());
    // What has not begun is not disrupted.
    pod(&client, "pending", "Pending", false).await;
    assert_eq!(evict(&client, "pending", "policy/v1", json!({})).await.0, 201);
    budget(&client, "another", 5).await;
    let (code, both) = evict(&client, "q", "policy/v1", json!({})).await;
    assert_eq!(code, 500);
    assert_eq!(
        both["message"],
        "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
    );
    assert_eq!(both.get("reason"), None);
}

#[tokio::test]
async fn an_eviction_is_held_to_its_preconditions_and_a_node_to_its_own_pods() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    let made = pod(&client, "p", "Running", true).await;
    let stale = json!({"preconditions": {"resourceVersion": "1"}});
    let (code, refused) = evict(&client, "p", "policy/v1", stale).await;
    assert_eq!(code, 409, "{refused}");
    let (code, refused) = evict(&client, "p", "policy/v1", json!({"gracePeriodSeconds": "x"})).await;
    assert_eq!(code, 400, "{refused}");
    let node = cluster.memory(Identity::node("m"));
    let (code, refused) = evict(&node, "p", "policy/v1", json!({})).await;
    assert_eq!(code, 403, "{refused}");
    assert!(
        refused["message"]
            .as_str()
            .expect("a message")
            .ends_with("can only evict pods with spec.nodeName set to itself")
    );
    let exact = json!({"preconditions": {"resourceVersion": made["metadata"]["resourceVersion"]}});
    let (code, answer) = evict(&client, "p", "policy/v1", exact).await;
    assert_eq!(code, 201, "{answer}");
}
