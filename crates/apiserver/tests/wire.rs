//! Formats, views, bad input and the edges of lists and watches.

mod harness;

use harness::{Cluster, get, raw, send};
use serde_json::{Value, json};

const JSON: &str = "application/json";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn accepting(client: &kube::Client, path: &str, accept: &str) -> (u16, String, String) {
    let request = http::Request::get(path).header("accept", accept).body(Vec::new()).expect("a request");
    let (code, headers, body) = raw(client, request).await;
    let media = headers.get("content-type").and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
    (code, media, body)
}

#[tokio::test]
async fn an_object_is_shown_in_every_form_that_is_asked_for() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    send(&client, "POST", MAPS, JSON, r#"{"metadata":{"name":"a"},"data":{"k":"v"}}"#).await;
    let one = format!("{MAPS}/a");
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    for path in [one.as_str(), MAPS] {
        let (code, _, body) = accepting(&client, path, table).await;
        let value: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!((code, &value["kind"]), (200, &json!("Table")), "{body}");
        let rows = value["rows"].as_array().expect("rows");
        let row = rows.iter().find(|r| r["cells"][0] == "a").expect("a row");
        assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(value["columnDefinitions"].as_array().map(Vec::len), row["cells"].as_array().map(Vec::len));
    }
    let partial = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let (_, _, body) = accepting(&client, MAPS, partial).await;
    let value: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((&value["kind"], value["items"][0].get("data")), (&json!("PartialObjectMetadataList"), None));
    let (code, media, body) = accepting(&client, &one, "application/yaml").await;
    assert_eq!((code, media.as_str()), (200, "application/yaml"));
    assert!(body.contains("kind: ConfigMap\n") && body.contains("  k: v\n"), "{body}");
    let protobuf = "application/vnd.kubernetes.protobuf";
    let request = http::Request::get(&one).header("accept", protobuf).body(Vec::new()).expect("a request");
    let (_, headers, body) = raw(&client, request).await;
    assert_eq!(headers["content-type"], protobuf);
    assert!(body.starts_with("k8s\0"), "{body:?}");
    assert_eq!(accepting(&client, &one, "image/png").await.0, 406);
    let yaml = "metadata: {name: from-yaml}\ndata:\n  a: b\n";
    let (code, made) = send(&client, "POST", MAPS, "application/yaml", yaml).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(send(&client, "POST", MAPS, "text/html", yaml).await.0, 415);
}

#[tokio::test]
async fn bad_input_gets_a_status_and_never_a_500() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    send(&client, "POST", MAPS, JSON, r#"{"metadata":{"name":"a"}}"#).await;
    let one = format!("{MAPS}/a");
    let strict = format!("{MAPS}?fieldValidation=Strict");
    let deep = "[".repeat(100_000);
    let huge = format!(r#"{{"metadata":{{"name":"b"}},"data":{{"x":"{}"}}}}"#, "x".repeat(4 << 20));
    let merge = "application/merge-patch+json";
    let json_patch = "application/json-patch+json";
    let named = |name: &str| json!({"metadata": {"name": name}}).to_string();
    let (upper, slash, dots) = (named("UPPER"), named("a/b"), named(".."));
    let table: Vec<(&str, String, &str, &str, u16)> = vec![
        ("POST", MAPS.into(), JSON, "", 400),
        ("POST", MAPS.into(), JSON, "{", 400),
        ("POST", MAPS.into(), JSON, "[]", 400),
        ("POST", MAPS.into(), JSON, "null", 400),
        ("POST", MAPS.into(), JSON, r#"{"metadata":[]}"#, 400),
        ("POST", MAPS.into(), JSON, r#"{"metadata":{"name":1}}"#, 400),
        ("POST", MAPS.into(), JSON, r#"{"kind":"Secret","metadata":{"name":"a"}}"#, 400),
        ("POST", MAPS.into(), JSON, r#"{"apiVersion":"v2","metadata":{"name":"a"}}"#, 400),
        ("POST", MAPS.into(), JSON, r#"{"metadata":{"name":"q","namespace":"other"}}"#, 400),
        ("POST", MAPS.into(), JSON, &deep, 400),
        ("POST", MAPS.into(), "application/vnd.kubernetes.protobuf", "k8s\0nonsense", 400),
        ("POST", MAPS.into(), JSON, &huge, 413),
        ("POST", MAPS.into(), JSON, "{}", 422),
        ("POST", MAPS.into(), JSON, &upper, 422),
        ("POST", MAPS.into(), JSON, &slash, 422),
        ("POST", MAPS.into(), JSON, &dots, 422),
        ("POST", strict, JSON, r#"{"metadata":{"name":"s"},"dta":{}}"#, 400),
        ("POST", format!("{MAPS}?dryRun=some"), JSON, r#"{"metadata":{"name":"s"}}"#, 422),
        ("PUT", one.clone(), JSON, r#"{"metadata":{"name":"b"}}"#, 400),
        ("PUT", format!("{MAPS}/none"), JSON, r#"{"metadata":{"name":"none"}}"#, 404),
        ("PATCH", one.clone(), "text/plain", "x", 415),
        ("PATCH", one.clone(), merge, "[", 400),
        ("PATCH", one.clone(), merge, r#"{"data":{"a":1}}"#, 400),
        ("PATCH", one.clone(), json_patch, r#"[{"op":"test","path":"/data/a","value":"x"}]"#, 422),
        ("PATCH", one.clone(), json_patch, "{}", 400),
        ("PATCH", one.clone(), "application/apply-patch+yaml", "apiVersion: v1\nkind: ConfigMap\n", 422),
        ("PATCH", format!("{one}?fieldManager=m"), "application/apply-patch+yaml", "a: b", 400),
        ("DELETE", one.clone(), JSON, r#"{"propagationPolicy":"Sideways"}"#, 422),
        ("DELETE", "/api/v1/configmaps".into(), JSON, "", 405),
        ("GET", format!("{MAPS}?labelSelector=%3D%3D"), JSON, "", 400),
        ("GET", format!("{MAPS}?fieldSelector=spec.x%3Dy"), JSON, "", 400),
        ("GET", format!("{MAPS}?limit=x"), JSON, "", 400),
        ("GET", format!("{MAPS}?timeout=invalid"), JSON, "", 400),
        ("GET", format!("{MAPS}?continue=x"), JSON, "", 400),
        ("GET", format!("{MAPS}?resourceVersion=x"), JSON, "", 400),
        ("GET", format!("{MAPS}?resourceVersionMatch=Exact"), JSON, "", 422),
        ("GET", format!("{MAPS}?watch=1&sendInitialEvents=true"), JSON, "", 422),
        ("GET", "/api/v1/namespaces/default/nothing".into(), JSON, "", 404),
        ("GET", "/apis/none/v1".into(), JSON, "", 404),
        ("POST", "/api/v1/pods".into(), JSON, "{}", 405),
        ("POST", "/version".into(), JSON, "{}", 405),
        ("GET", format!("{one}/scale"), JSON, "", 404),
    ];
    let mut wrong = Vec::new();
    for (method, path, content, body, expected) in table {
        let (code, answer) = send(&client, method, &path, content, body).await;
        if code != expected || answer["kind"] != "Status" || answer["code"] != expected {
            let body: String = body.chars().take(60).collect();
            wrong.push(format!("{method} {path} {body}: {code}, not {expected}: {answer}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn unknown_fields_warn_and_a_write_that_changes_nothing_is_none() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    let body = br#"{"metadata":{"name":"a"},"data":{"k":"v"},"dta":{"x":"y"}}"#.to_vec();
    let request = http::Request::post(MAPS).header("content-type", JSON).body(body).expect("a request");
    let (code, headers, body) = raw(&client, request).await;
    assert_eq!(code, 201);
    assert_eq!(headers["warning"], r#"299 - "unknown field \"dta\"""#);
    let made: Value = serde_json::from_str(&body).expect("JSON");
    let (_, same) = send(&client, "PATCH", &format!("{MAPS}/a"), "application/merge-patch+json", "{}").await;
    assert_eq!(same["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let (_, same) = send(&client, "PUT", &format!("{MAPS}/a"), JSON, &made.to_string()).await;
    assert_eq!(same["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    assert_eq!(made["metadata"]["managedFields"][0]["operation"], "Update", "{made}");
}

#[tokio::test]
async fn generated_names_are_unique_and_concurrent_patches_all_arrive() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    send(&client, "POST", MAPS, JSON, r#"{"metadata":{"name":"a"}}"#).await;
    let tasks = (0..32).map(|i| {
        let client = client.clone();
        tokio::spawn(async move {
            let (code, made) = send(&client, "POST", MAPS, JSON, r#"{"metadata":{"generateName":"g-"}}"#).await;
            assert_eq!(code, 201, "{made}");
            let patch = json!({"data": {format!("k{i}"): "v"}}).to_string();
            let (code, patched) =
                send(&client, "PATCH", &format!("{MAPS}/a"), "application/merge-patch+json", &patch).await;
            assert_eq!(code, 200, "{patched}");
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("a task");
    }
    let (_, one) = get(&client, &format!("{MAPS}/a")).await;
    let one: Value = serde_json::from_str(&one).expect("JSON");
    assert_eq!(one["data"].as_object().map(|m| m.len()), Some(32));
    let (_, list) = get(&client, MAPS).await;
    let list: Value = serde_json::from_str(&list).expect("JSON");
    assert_eq!(list["items"].as_array().map(Vec::len), Some(33));
}

#[tokio::test]
async fn a_watch_list_sends_what_is_there_then_a_bookmark_and_an_old_revision_is_expired() {
    use futures::{AsyncBufReadExt, StreamExt};
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    send(&client, "POST", MAPS, JSON, r#"{"metadata":{"name":"a"}}"#).await;
    let events = async |query: &str, count: usize| -> Vec<Value> {
        let request = http::Request::get(format!("{MAPS}?watch=true&{query}")).body(Vec::new()).expect("a request");
        let lines = client.request_stream(request).await.expect("a stream").lines();
        let lines = lines.take(count).map(|line| serde_json::from_str(&line.expect("a line")).expect("JSON"));
        tokio::time::timeout(std::time::Duration::from_secs(30), lines.collect()).await.expect("in time")
    };
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let seen = events(query, 2).await;
    assert_eq!((&seen[0]["type"], &seen[1]["type"]), (&json!("ADDED"), &json!("BOOKMARK")));
    assert_eq!(seen[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    cluster.store.compact(cluster.store.revision()).expect("compacted");
    send(&client, "POST", MAPS, JSON, r#"{"metadata":{"name":"b"}}"#).await;
    let seen = events("resourceVersion=1", 1).await;
    assert_eq!((&seen[0]["type"], &seen[0]["object"]["code"]), (&json!("ERROR"), &json!(410)), "{seen:?}");
    let seen = events("resourceVersion=0&timeoutSeconds=1&allowWatchBookmarks=true", 9).await;
    assert_eq!(seen.len(), 3, "two objects and the last bookmark, then the end: {seen:?}");
}

#[tokio::test]
async fn an_expired_continue_token_comes_with_one_that_goes_on() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    for name in ["a", "b"] {
        send(&client, "POST", MAPS, JSON, &json!({"metadata": {"name": name}}).to_string()).await;
    }
    let (_, first) = get(&client, &format!("{MAPS}?limit=1")).await;
    let first: Value = serde_json::from_str(&first).expect("JSON");
    send(&client, "POST", MAPS, JSON, r#"{"metadata":{"name":"c"}}"#).await;
    cluster.store.compact(cluster.store.revision()).expect("compacted");
    let token = first["metadata"]["continue"].as_str().expect("a token");
    let (code, expired) = send(&client, "GET", &format!("{MAPS}?limit=1&continue={token}"), JSON, "").await;
    assert_eq!((code, &expired["reason"]), (410, &json!("Expired")), "{expired}");
    let token = expired["metadata"]["continue"].as_str().expect("a token");
    let (code, rest) = send(&client, "GET", &format!("{MAPS}?continue={token}"), JSON, "").await;
    assert_eq!((code, rest["items"].as_array().map(Vec::len)), (200, Some(2)), "{rest}");
}
