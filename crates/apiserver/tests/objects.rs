//! The life of objects through the API: who may, what is stored, what is answered.

mod harness;

use client::{Credential, Identity};
use harness::{Cluster, get, send};
use serde_json::json;

const JSON: &str = "application/json";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn an_object_is_created_read_changed_and_deleted() {
    let cluster = Cluster::start().await;
    for client in [cluster.admin(), cluster.https("admin", &["system:masters"])] {
        let body = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":"v"}}"#;
        let (code, created) = send(&client, "POST", MAPS, JSON, body).await;
        assert_eq!(code, 201, "{created}");
        assert!(
            created["metadata"]["uid"].is_string() && created["metadata"]["resourceVersion"].is_string(),
            "{created}"
        );
        let (code, again) = send(&client, "POST", MAPS, JSON, body).await;
        assert_eq!((code, &again["message"]), (409, &json!("configmaps \"a\" already exists")));
        let one = format!("{MAPS}/a");
        let (code, read) = send(&client, "GET", &one, JSON, "").await;
        assert_eq!((code, &read), (200, &created));
        let (code, patched) =
            send(&client, "PATCH", &one, "application/merge-patch+json", r#"{"data":{"l":"w"}}"#).await;
        assert_eq!((code, &patched["data"]), (200, &json!({"k": "v", "l": "w"})));
        let (code, stale) = send(&client, "PUT", &one, JSON, &created.to_string()).await;
        assert_eq!(code, 409, "{stale}");
        assert!(
            stale["message"].as_str().expect("a message").ends_with(
                "the object has been modified; please apply your changes to the latest version and try again"
            )
        );
        let (code, deleted) = send(&client, "DELETE", &one, JSON, "").await;
        assert_eq!((code, &deleted["status"]), (200, &json!("Success")), "{deleted}");
        let (code, _) = send(&client, "GET", &one, JSON, "").await;
        assert_eq!(code, 404);
    }
}

#[tokio::test]
async fn strangers_see_health_and_version_and_bad_credentials_are_refused() {
    let cluster = Cluster::start().await;
    let stranger = cluster.connect(Credential::Anonymous);
    assert_eq!(get(&stranger, "/version").await.0, 200);
    assert_eq!(get(&stranger, "/healthz").await, (200, "ok".to_owned()));
    let (code, body) = get(&stranger, "/api/v1/namespaces/default/pods").await;
    assert_eq!(code, 403);
    assert!(body.contains(r#"pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""#), "{body}");
    let liar = cluster.connect(Credential::Token("nonsense".to_owned()));
    assert_eq!(get(&liar, "/version").await.0, 401);
    let someone = cluster.https("someone", &[]);
    assert_eq!(get(&someone, "/apis").await.0, 200);
    assert_eq!(get(&someone, "/api/v1/nodes").await.0, 403);
    let scheduler = cluster.memory(Identity::component("system:kube-scheduler"));
    assert_eq!(get(&scheduler, "/api/v1/pods").await.0, 200);
    assert_eq!(get(&scheduler, "/api/v1/secrets").await.0, 403);
}

#[tokio::test]
async fn a_list_is_paged_on_one_revision() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    for name in ["a", "b", "c"] {
        let body = json!({"metadata": {"name": name, "labels": {"n": name}}}).to_string();
        assert_eq!(send(&client, "POST", MAPS, JSON, &body).await.0, 201);
    }
    let (_, first) = send(&client, "GET", &format!("{MAPS}?limit=2"), JSON, "").await;
    let names = |list: &api::Value| -> Vec<String> {
        list["items"]
            .as_array()
            .expect("items")
            .iter()
            .map(|i| i["metadata"]["name"].as_str().expect("a name").to_owned())
            .collect()
    };
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 1);
    assert_eq!(send(&client, "DELETE", &format!("{MAPS}/c"), JSON, "").await.0, 200);
    let token = first["metadata"]["continue"].as_str().expect("a token");
    let (_, second) = send(&client, "GET", &format!("{MAPS}?limit=2&continue={token}"), JSON, "").await;
    assert_eq!(names(&second), ["c"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let (_, selected) = send(&client, "GET", &format!("{MAPS}?labelSelector=n%3Db"), JSON, "").await;
    assert_eq!(names(&selected), ["b"]);
    let (_, selected) = send(&client, "GET", "/api/v1/configmaps?fieldSelector=metadata.name%3Da", JSON, "").await;
    assert_eq!(names(&selected), ["a"]);
}

#[tokio::test]
async fn a_watch_tells_each_change_once_and_selectors_turn_changes_into_arrivals_and_departures() {
    use futures::{AsyncBufReadExt, StreamExt};
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    let (_, list) = send(&client, "GET", MAPS, JSON, "").await;
    let revision = list["metadata"]["resourceVersion"].as_str().expect("a revision");
    let path = format!("{MAPS}?watch=true&resourceVersion={revision}&labelSelector=on%3Dyes");
    let request = http::Request::get(path).body(Vec::new()).expect("a request");
    let mut lines = client.request_stream(request).await.expect("a stream").lines();
    let one = format!("{MAPS}/w");
    assert_eq!(send(&client, "POST", MAPS, JSON, r#"{"metadata":{"name":"w"}}"#).await.0, 201);
    for on in ["yes", "yes", "no"] {
        let patch =
            json!({"metadata": {"labels": {"on": on}}, "data": {"x": format!("{on}{}", rand_text())}}).to_string();
        assert_eq!(send(&client, "PATCH", &one, "application/merge-patch+json", &patch).await.0, 200);
    }
    let mut seen = Vec::new();
    for _ in 0..3 {
        let line = tokio::time::timeout(std::time::Duration::from_secs(30), lines.next()).await.expect("in time");
        let event: api::Value = serde_json::from_str(&line.expect("a line").expect("text")).expect("JSON");
        seen.push(event["type"].as_str().expect("a type").to_owned());
    }
    assert_eq!(seen, ["ADDED", "MODIFIED", "DELETED"]);
}

fn rand_text() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed).to_string()
}
