//! DELETE: its options, and what it answers with.

mod harness;

use harness::{Cluster, get, raw, send};
use serde_json::{Value, json};

const JSON: &str = "application/json";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn post(client: &kube::Client, path: &str, body: Value) -> (u16, Value) {
    send(client, "POST", path, JSON, &body.to_string()).await
}

#[tokio::test]
async fn options_that_cannot_be_read_delete_nothing() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    post(&client, MAPS, json!({"metadata": {"name": "c"}})).await;
    for (body, code) in [
        (r#"{"dryRun":"All"}"#, 400),
        (r#"{"dryRun":["Everything"]}"#, 422),
        (r#"{"gracePeriodSeconds":"5"}"#, 400),
        (r#"{"kind":"Pod","apiVersion":"v1"}"#, 400),
        (r#"{"orphanDependents":true,"propagationPolicy":"Background"}"#, 422),
        (r#"{"preconditions":"x"}"#, 400),
        ("{", 400),
        (r#"{"dryRun":["All"]}"#, 200),
    ] {
        let (got, answer) = send(&client, "DELETE", &format!("{MAPS}/c"), JSON, body).await;
        assert_eq!(got, code, "{body}: {answer}");
        let (got, answer) = send(&client, "DELETE", MAPS, JSON, body).await;
        assert_eq!(got, code, "{body}: {answer}");
    }
    let (got, answer) = send(&client, "DELETE", &format!("{MAPS}/c?dryRun=Some"), JSON, "").await;
    assert_eq!(got, 422, "{answer}");
    assert_eq!(get(&client, &format!("{MAPS}/c")).await.0, 200);
}

#[tokio::test]
async fn what_is_gone_is_answered_with_where_the_published_document_says_so() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    for (path, body, kind) in [
        ("/api/v1/namespaces/default/configmaps", json!({}), "Status"),
        ("/api/v1/namespaces/default/podtemplates", json!({"template": template}), "PodTemplate"),
        ("/api/v1/namespaces/default/serviceaccounts", json!({}), "ServiceAccount"),
        ("/apis/storage.k8s.io/v1/storageclasses", json!({"provisioner": "p"}), "StorageClass"),
        ("/apis/storage.k8s.io/v1/csidrivers", json!({"spec": {}}), "CSIDriver"),
        ("/apis/resource.k8s.io/v1/deviceclasses", json!({"spec": {}}), "DeviceClass"),
        ("/apis/scheduling.k8s.io/v1/priorityclasses", json!({"value": 1}), "Status"),
    ] {
        let mut body = body;
        body["metadata"] = json!({"name": "x"});
        let (code, made) = post(&client, path, body).await;
        assert_eq!(code, 201, "{path}: {made}");
        let (code, answer) = send(&client, "DELETE", &format!("{path}/x"), JSON, "").await;
        assert_eq!((code, &answer["kind"]), (200, &json!(kind)), "{path}: {answer}");
    }
}

#[tokio::test]
async fn who_deletes_a_job_without_a_policy_is_told_of_its_pods() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let spec = json!({"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}});
    for (query, warned) in [("", true), ("?propagationPolicy=Background", false)] {
        let (code, made) = post(&client, jobs, json!({"metadata": {"name": "j"}, "spec": spec})).await;
        assert_eq!(code, 201, "{made}");
        let request = http::Request::delete(format!("{jobs}/j{query}")).body(Vec::new()).expect("a request");
        let (_, headers, _) = raw(&client, request).await;
        let text = headers.get("warning").map(|value| value.to_str().expect("text").to_owned());
        assert_eq!(text.is_some_and(|t| t.contains("child pods are preserved by default")), warned, "{query}");
        let patch = r#"{"metadata":{"finalizers":null}}"#;
        send(&client, "PATCH", &format!("{jobs}/j"), "application/merge-patch+json", patch).await;
    }
}

#[tokio::test]
async fn options_of_writes_are_checked_and_named_by_their_verb() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    let body = json!({"metadata": {"name": "c"}}).to_string();
    post(&client, MAPS, json!({"metadata": {"name": "c"}})).await;
    let one = format!("{MAPS}/c");
    let merge = "application/merge-patch+json";
    let long = "x".repeat(129);
    for (method, path, content, expected) in [
        (
            "POST",
            format!("{MAPS}?dryRun=x"),
            JSON,
            "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"x\"]: supported values: \"All\"".to_owned(),
        ),
        (
            "PUT",
            format!("{one}?fieldManager={long}"),
            JSON,
            "UpdateOptions.meta.k8s.io \"\" is invalid: fieldManager: Too long: may not be more than 128 bytes".to_owned(),
        ),
        (
            "PATCH",
            format!("{one}?force=true"),
            merge,
            "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch".to_owned(),
        ),
        (
            "PATCH",
            one.clone(),
            "application/apply-patch+yaml",
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch".to_owned(),
        ),
        (
            "POST",
            format!("{MAPS}?fieldValidation=x"),
            JSON,
            "CreateOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \"x\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"".to_owned(),
        ),
    ] {
        let (code, answer) = send(&client, method, &path, content, &body).await;
        assert_eq!((code, answer["message"].as_str()), (422, Some(expected.as_str())), "{method} {path}");
    }
    for (method, body, expected) in [
        ("PUT", json!({}), "the name of the object (c based on URL) was undeterminable: name must be provided"),
        (
            "PUT",
            json!({"metadata": {"name": "d"}}),
            "the name of the object (d) does not match the name on the URL (c)",
        ),
        (
            "PUT",
            json!({"metadata": {"name": "c", "namespace": "x"}}),
            "the namespace of the object (x) does not match the namespace on the request (default)",
        ),
        (
            "PATCH",
            json!({"metadata": {"name": "d"}}),
            "the name of the object (d) does not match the name on the URL (c)",
        ),
    ] {
        let content = if method == "PUT" { JSON } else { merge };
        let (code, answer) = send(&client, method, &one, content, &body.to_string()).await;
        assert_eq!((code, answer["message"].as_str()), (400, Some(expected)), "{method} {body}");
    }
}
