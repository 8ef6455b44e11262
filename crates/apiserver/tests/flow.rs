//! Priority and fairness, as clients see it.

mod harness;

use std::time::Duration;

use client::Identity;
use harness::{Cluster, get, raw, send};
use serde_json::{Value, json};

const JSON: &str = "application/json";
const SCHEMAS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
const LEVELS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations";

async fn object(client: &kube::Client, path: &str) -> Value {
    serde_json::from_str(&get(client, path).await.1).expect("JSON")
}

/// Asks until the answer is as wanted.
async fn until(client: &kube::Client, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..500 {
        let found = object(client, path).await;
        if wanted(&found) {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{path} stays {}", object(client, path).await);
}

#[tokio::test]
async fn the_default_objects_are_there_stay_there_and_nothing_is_written_while_nothing_changes() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().expect("items").iter();
        items.map(|o| o["metadata"]["name"].as_str().unwrap_or("").to_owned()).collect()
    };
    let (schemas, levels) = (object(&client, SCHEMAS).await, object(&client, LEVELS).await);
    assert_eq!((names(&schemas).len(), names(&levels).len()), (14, 9), "{:?}", names(&schemas));
    for schema in schemas["items"].as_array().expect("items") {
        assert_eq!(schema["status"]["conditions"][0]["status"], "False", "{schema}");
        assert_eq!(schema["metadata"]["generation"], 1, "what is ours is not rewritten: {schema}");
    }
    // What is mandatory comes back and is put right; what somebody took over stays.
    let uid = object(&client, &format!("{SCHEMAS}/catch-all")).await["metadata"]["uid"].clone();
    assert_eq!(send(&client, "DELETE", &format!("{SCHEMAS}/catch-all"), JSON, "").await.0, 200);
    until(&client, &format!("{SCHEMAS}/catch-all"), |o| {
        o["metadata"]["uid"].is_string() && o["metadata"]["uid"] != uid
    })
    .await;
    let merge = "application/merge-patch+json";
    let patch = json!({"spec": {"limited": {"nominalConcurrencyShares": 7}}});
    let path = format!("{LEVELS}/catch-all");
    let (code, refused) = send(&client, "PATCH", &path, merge, &patch.to_string()).await;
    assert_eq!(code, 422, "{refused}");
    let path = format!("{LEVELS}/workload-high");
    assert_eq!(send(&client, "PATCH", &path, merge, &patch.to_string()).await.0, 200);
    until(&client, &path, |o| o["spec"]["limited"]["nominalConcurrencyShares"] == 40).await;
    let lends = json!({
        "metadata": {"annotations": {"apf.kubernetes.io/autoupdate-spec": "false"}},
        "spec": {"exempt": {"lendablePercent": 20}},
    });
    assert_eq!(send(&client, "PATCH", &format!("{LEVELS}/exempt"), merge, &lends.to_string()).await.0, 200);
    let patch = json!({
        "metadata": {"annotations": {"apf.kubernetes.io/autoupdate-spec": "false"}},
        "spec": {"limited": {"nominalConcurrencyShares": 7}},
    });
    assert_eq!(send(&client, "PATCH", &format!("{LEVELS}/workload-low"), merge, &patch.to_string()).await.0, 200);
    // A dangling schema is told so, and also that is found in time; by then the patch above would have been undone.
    let schema = json!({"metadata": {"name": "mine"}, "spec": {
        "priorityLevelConfiguration": {"name": "none"}, "matchingPrecedence": 50,
        "rules": [{"subjects": [{"kind": "User", "user": {"name": "noisy"}}],
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}]}],
    }});
    assert_eq!(send(&client, "POST", SCHEMAS, JSON, &schema.to_string()).await.0, 201);
    let told = until(&client, &format!("{SCHEMAS}/mine"), |o| o["status"]["conditions"][0]["status"] == "True").await;
    assert_eq!(
        told["status"]["conditions"][0]["message"],
        "This FlowSchema references the PriorityLevelConfiguration object named \"none\" but there is no such object"
    );
    assert_eq!(
        object(&client, &format!("{LEVELS}/workload-low")).await["spec"]["limited"]["nominalConcurrencyShares"],
        7
    );
    assert_eq!(object(&client, &format!("{LEVELS}/exempt")).await["spec"]["exempt"]["lendablePercent"], 20);
    let before = cluster.store.revision();
    get(&client, SCHEMAS).await;
    assert_eq!(cluster.store.revision(), before);
}

#[tokio::test]
async fn answers_name_their_flow_schema_and_level_and_a_full_level_refuses_its_own_only() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let level = json!({"metadata": {"name": "narrow"}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": 0, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}}}});
    let (code, level) = send(&admin, "POST", LEVELS, JSON, &level.to_string()).await;
    assert_eq!(code, 201, "{level}");
    let schema = json!({"metadata": {"name": "narrow"}, "spec": {
        "priorityLevelConfiguration": {"name": "narrow"}, "matchingPrecedence": 50,
        "rules": [{"subjects": [{"kind": "User", "user": {"name": "noisy"}}],
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}]}],
    }});
    let (code, schema) = send(&admin, "POST", SCHEMAS, JSON, &schema.to_string()).await;
    assert_eq!(code, 201, "{schema}");
    let noisy = cluster.memory(Identity { groups: vec!["system:masters".to_owned()], ..Identity::component("noisy") });
    let quiet = cluster.memory(Identity::admin("quiet"));
    let asked = |client: kube::Client| async move {
        let request = http::Request::get("/api/v1/namespaces").body(Vec::new()).expect("a request");
        let (code, headers, _) = raw(&client, request).await;
        let uid = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
        (code, uid("x-kubernetes-pf-flowschema-uid"), uid("x-kubernetes-pf-prioritylevel-uid"))
    };
    let wanted = (schema["metadata"]["uid"].as_str().expect("uid"), level["metadata"]["uid"].as_str().expect("uid"));
    // `exempt` comes first for administrators; the new schema is for whoever is none.
    let exempt = object(&admin, &format!("{SCHEMAS}/exempt")).await["metadata"]["uid"].clone();
    assert_eq!(asked(quiet.clone()).await.1, exempt.as_str().expect("uid"));
    assert_eq!(asked(noisy).await.1, exempt.as_str().expect("uid"));
    let noisy = cluster.memory(Identity::component("noisy"));
    for _ in 0..500 {
        let (_, schema, level) = asked(noisy.clone()).await;
        if (schema.as_str(), level.as_str()) == wanted {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (_, schema, level) = asked(noisy.clone()).await;
    assert_eq!((schema.as_str(), level.as_str()), wanted);
    assert_eq!(asked(quiet).await.0, 200);
    let (_, metrics) = get(&admin, "/metrics").await;
    for series in [
        "apiserver_flowcontrol_dispatched_requests_total{flow_schema=\"narrow\",priority_level=\"narrow\"}",
        "apiserver_flowcontrol_nominal_limit_seats{priority_level=\"global-default\"}",
        "apiserver_flowcontrol_current_executing_seats{flow_schema=\"exempt\",priority_level=\"exempt\"} 1",
        "apiserver_flowcontrol_request_wait_duration_seconds_count{execute=\"true\",flow_schema=\"narrow\",",
        "apiserver_admission_step_admission_duration_seconds_bucket{type=\"admit\",operation=\"CREATE\",rejected=\"false\",le=\"0.005\"}",
        "apiserver_admission_controller_admission_duration_seconds_count{name=\"NamespaceLifecycle\",type=\"validate\",",
        "apiserver_response_sizes_bucket{component=\"apiserver\",",
        "kubernetes_healthcheck{name=\"etcd-readiness\",type=\"readyz\"} 1",
    ] {
        assert!(metrics.contains(series), "{series}");
    }
}
