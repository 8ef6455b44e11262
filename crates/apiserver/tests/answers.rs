//! In which form answers and errors come, and what they warn of.

mod harness;

use std::time::Duration;

use client::Identity;
use harness::{Cluster, get, raw, send};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const MERGE: &str = "application/merge-patch+json";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn with(client: &kube::Client, path: &str, headers: &[(&str, &str)]) -> (u16, http::HeaderMap, String) {
    let request = headers.iter().fold(http::Request::get(path), |request, (name, value)| request.header(*name, *value));
    raw(client, request.body(Vec::new()).expect("a request")).await
}

async fn post(client: &kube::Client, path: &str, body: Value) -> (u16, Value) {
    send(client, "POST", path, JSON, &body.to_string()).await
}

#[tokio::test]
async fn errors_and_discovery_come_in_the_form_that_is_accepted() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    let nobody = cluster.memory(Identity::anonymous());
    for (client, path, code) in
        [(&client, "/api/v1/namespaces/none", 404), (&nobody, MAPS, 403), (&client, "/nowhere", 404)]
    {
        let (got, headers, body) = with(client, path, &[("accept", YAML)]).await;
        assert_eq!((got, headers["content-type"].to_str().expect("text")), (code, YAML), "{body}");
        assert!(body.contains("kind: Status\n") && body.contains("status: Failure\n"), "{body}");
        let (got, headers, body) = with(client, path, &[("accept", PROTOBUF)]).await;
        assert_eq!((got, headers["content-type"].to_str().expect("text")), (code, PROTOBUF));
        assert!(body.starts_with("k8s\0") && body.contains("Failure"), "{body:?}");
        let (_, headers, _) = with(client, path, &[("accept", "image/png")]).await;
        assert_eq!(headers["content-type"], JSON);
    }
    for path in ["/api", "/apis", "/apis/apps", "/apis/apps/v1", "/api/v1"] {
        let (code, headers, body) = with(&client, path, &[("accept", YAML)]).await;
        assert_eq!((code, headers["content-type"].to_str().expect("text")), (200, YAML), "{path}: {body}");
        let (code, headers, body) = with(&client, path, &[("accept", PROTOBUF)]).await;
        assert_eq!((code, headers["content-type"].to_str().expect("text")), (200, PROTOBUF), "{path}");
        assert!(body.starts_with("k8s\0"), "{path}: {body:?}");
    }
    let (_, headers, body) = with(&client, "/version", &[("accept", YAML)]).await;
    assert_eq!(headers["content-type"], JSON);
    assert!(body.starts_with("{\n  \""), "{body}");
    let (_, _, body) = with(&client, MAPS, &[("user-agent", "curl/8.1")]).await;
    assert!(body.starts_with("{\n  \""), "{body}");
    let (_, _, body) = with(&client, &format!("{MAPS}?pretty=false"), &[("user-agent", "curl/8.1")]).await;
    assert!(!body.contains("\n  "), "{body}");
}

#[tokio::test]
async fn large_objects_and_tables_are_compressed() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    post(&client, MAPS, json!({"metadata": {"name": "large"}, "data": {"k": "x".repeat(200_000)}})).await;
    let one = format!("{MAPS}/large");
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let included = format!("{one}?includeObject=Object");
    for (path, accept) in [(one.as_str(), JSON), (one.as_str(), YAML), (included.as_str(), table)] {
        let (code, headers, _) = with(&client, path, &[("accept", accept), ("accept-encoding", "gzip")]).await;
        assert_eq!((code, headers["content-encoding"].to_str().expect("text")), (200, "gzip"), "{accept}");
        let (_, headers, _) = with(&client, path, &[("accept", accept)]).await;
        assert_eq!(headers.get("content-encoding"), None);
    }
}

#[tokio::test]
async fn a_watch_has_no_yaml_and_goes_over_a_websocket() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    let watch = format!("{MAPS}?watch=true&timeoutSeconds=5");
    let (code, _, body) = with(&client, &watch, &[("accept", YAML)]).await;
    assert_eq!(code, 406, "{body}");
    assert!(body.contains("application/json;stream=watch"), "{body}");
    post(&client, MAPS, json!({"metadata": {"name": "a"}})).await;
    let (mut stream, theirs) = tokio::io::duplex(256 * 1024);
    (cluster.server.acceptor())(theirs, Identity::admin("a"));
    let request = format!(
        "GET {watch} HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut seen = Vec::new();
    let reads = async {
        let mut part = vec![0; 4096];
        while !String::from_utf8_lossy(&seen).contains("\"name\":\"a\"") {
            let read = stream.read(&mut part).await.expect("an answer");
            assert!(read > 0, "{}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&part[..read]);
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reads).await.expect("an event");
    let head = String::from_utf8_lossy(&seen).to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101"), "{head}");
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
    let body = seen.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
    // A text frame, whole.
    assert_eq!(seen[body], 0x81, "{head}");
}

#[tokio::test]
async fn deprecated_kinds_warn_whatever_is_asked_and_parts_are_listed() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    for (path, expected) in [
        ("/api/v1/endpoints", "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
        (
            "/api/v1/namespaces/default/endpoints/none",
            "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
        ),
        ("/api/v1/componentstatuses", "v1 ComponentStatus is deprecated in v1.19+"),
    ] {
        let (_, headers, _) = with(&client, path, &[]).await;
        assert_eq!(headers["warning"].to_str().expect("text"), format!("299 - \"{expected}\""), "{path}");
    }
    let (code, list) = get(&client, "/api/v1/componentstatuses").await;
    let list: Value = serde_json::from_str(&list).expect("JSON");
    assert_eq!(
        (code, &list["kind"], list["items"].as_array().map(Vec::len)),
        (200, &json!("ComponentStatusList"), Some(3))
    );
    let (code, one) = get(&client, "/api/v1/componentstatuses/scheduler").await;
    assert!(code == 200 && one.contains("Healthy"), "{one}");
    assert_eq!(get(&client, "/api/v1/componentstatuses/none").await.0, 404);
    for (path, expected) in [
        (
            "/apis/apps/v1/deployments?fieldSelector=spec.x%3Da",
            "\"spec.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
        ),
        ("/api/v1/pods?fieldSelector=spec.x%3Da", "field label not supported: spec.x"),
        ("/apis/batch/v1/jobs?fieldSelector=spec.x%3Da", "field label \"spec.x\" not supported for batchv1.Job"),
    ] {
        let (code, body) = get(&client, path).await;
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!((code, body["message"].as_str()), (400, Some(expected)), "{path}");
    }
}

#[tokio::test]
async fn deployments_count_annotations_and_their_status_leaves_labels_alone() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    let all = "/apis/apps/v1/namespaces/default/deployments";
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": template});
    let (code, made) = post(&client, all, json!({"metadata": {"name": "d", "labels": {"l": "1"}}, "spec": spec})).await;
    assert_eq!((code, &made["metadata"]["generation"]), (201, &json!(1)), "{made}");
    let one = format!("{all}/d");
    let (_, changed) = send(&client, "PATCH", &one, MERGE, r#"{"metadata":{"annotations":{"x":"y"}}}"#).await;
    assert_eq!(changed["metadata"]["generation"], 2);
    let (_, changed) = send(&client, "PATCH", &one, MERGE, r#"{"metadata":{"labels":{"m":"2"}}}"#).await;
    assert_eq!(changed["metadata"]["generation"], 2);
    let patch = r#"{"metadata":{"labels":{"l":"9"}},"status":{"observedGeneration":1}}"#;
    let (code, changed) = send(&client, "PATCH", &format!("{one}/status"), MERGE, patch).await;
    assert_eq!((code, &changed["metadata"]["labels"]["l"]), (200, &json!("1")), "{changed}");
    let patch = r#"{"metadata":{"annotations":{"bad key":"y"}}}"#;
    let (code, refused) = send(&client, "PATCH", &format!("{one}/status"), MERGE, patch).await;
    assert_eq!(code, 422, "{refused}");
}

#[tokio::test]
async fn updates_name_their_revision_where_the_kind_wants_it_and_owners_make_sense() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    post(&client, accounts, json!({"metadata": {"name": "s"}})).await;
    let (code, refused) =
        send(&client, "PUT", &format!("{accounts}/s"), JSON, &json!({"metadata": {"name": "s"}}).to_string()).await;
    assert_eq!(
        (code, refused["message"].as_str()),
        (
            422,
            Some(
                "serviceaccounts \"s\" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update"
            )
        )
    );
    let owner =
        json!({"manager": "m", "operation": "Take", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {}});
    let (code, refused) = post(&client, MAPS, json!({"metadata": {"name": "c", "managedFields": [owner]}})).await;
    assert_eq!(code, 422, "{refused}");
    assert!(refused["message"].as_str().expect("a message").contains("must be `Apply` or `Update`"), "{refused}");
}
