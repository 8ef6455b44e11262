//! Lists and watches: which revision is meant, how pages go on, what a watch says and when it ends.

mod harness;

use std::time::Duration;

use futures::StreamExt;
use harness::{Cluster, get, send};
use http_body_util::BodyExt;
use serde_json::{Value, json};

const JSON: &str = "application/json";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn make(client: &kube::Client, name: &str) -> u64 {
    let body = json!({"metadata": {"name": name, "labels": {"n": name}}, "data": {"k": "v"}});
    let (code, made) = send(client, "POST", MAPS, JSON, &body.to_string()).await;
    assert_eq!(code, 201, "{made}");
    revision(&made)
}

fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().expect("a revision").parse().expect("a number")
}

async fn ask(client: &kube::Client, path: &str) -> (u16, Value) {
    let (code, body) = get(client, path).await;
    (code, serde_json::from_str(&body).unwrap_or(Value::String(body)))
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().expect("items").iter().filter_map(|o| o["metadata"]["name"].as_str()).collect()
}

/// The events of a watch, as they come, until it ends or `count` have come.
async fn events(client: &kube::Client, path: &str, count: usize) -> Vec<Value> {
    let request = http::Request::get(path).body(kube::client::Body::empty()).expect("a request");
    let response = client.send(request).await.expect("an answer");
    assert_eq!(response.status(), 200, "{path}");
    let mut body = response.into_body().into_data_stream();
    let (mut text, mut found) = (Vec::new(), Vec::new());
    let reading = async {
        while found.len() < count
            && let Some(chunk) = body.next().await
        {
            text.extend_from_slice(&chunk.expect("a chunk"));
            while let Some(end) = text.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                found.push(serde_json::from_slice(&line).expect("an event"));
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reading).await.expect("events in time");
    found
}

fn brief(event: &Value) -> String {
    let name = event["object"]["metadata"]["name"].as_str().unwrap_or("-");
    format!("{} {name}", event["type"].as_str().unwrap_or(""))
}

#[tokio::test]
async fn options_that_do_not_go_together_are_refused_in_upstreams_words() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    let about = |why: &str| format!("ListOptions.meta.k8s.io \"\" is invalid: {why}");
    let forbidden = "resourceVersionMatch: Forbidden: ";
    let table = [
        ("resourceVersionMatch=Exact", 422, about(&format!("{forbidden}resourceVersionMatch is forbidden unless resourceVersion is provided"))),
        (
            "resourceVersionMatch=Exact&resourceVersion=0",
            422,
            about(&format!("{forbidden}resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"")),
        ),
        (
            "resourceVersionMatch=Other&resourceVersion=1",
            422,
            about("resourceVersionMatch: Unsupported value: \"Other\": supported values: \"Exact\", \"NotOlderThan\", \"\""),
        ),
        (
            "resourceVersionMatch=Exact&resourceVersion=1&continue=x",
            422,
            about(&format!("{forbidden}resourceVersionMatch is forbidden when continue is provided")),
        ),
        ("sendInitialEvents=true", 422, about("sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list")),
        (
            "watch=1&sendInitialEvents=true",
            422,
            about(&format!("{forbidden}sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")),
        ),
        (
            "watch=1&resourceVersionMatch=NotOlderThan",
            422,
            about(&format!("{forbidden}resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")),
        ),
        (
            "resourceVersion=x",
            400,
            "invalid resource version: resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid syntax".to_owned(),
        ),
        ("limit=x", 400, "strconv.ParseInt: parsing \"x\": invalid syntax".to_owned()),
        ("continue=x", 400, "continue key is not valid: not base64".to_owned()),
    ];
    for (query, expected, message) in table {
        let (code, status) = ask(&client, &format!("{MAPS}?{query}")).await;
        assert_eq!((code, status["message"].as_str()), (expected, Some(message.as_str())), "{query}");
    }
    let (code, status) = ask(&client, &format!("{MAPS}?resourceVersion=999999999")).await;
    assert_eq!((code, &status["reason"]), (504, &json!("Timeout")), "{status}");
    assert!(
        status["message"].as_str().expect("a message").contains("Too large resource version: 999999999, current: ")
    );
    assert_eq!(status["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    assert_eq!(ask(&client, "/api/v1/namespaces/default?resourceVersion=999999999").await.0, 504);
    assert_eq!(ask(&client, "/api/v1/namespaces/default?resourceVersion=0").await.0, 200);
}

#[tokio::test]
async fn every_way_to_name_a_revision_reads_the_one_that_is_meant() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    let first = make(&client, "a").await;
    make(&client, "b").await;
    let all = ["a", "b"];
    let table = [
        (String::new(), &all[..]),
        ("resourceVersion=0".to_owned(), &all),
        (format!("resourceVersion={first}"), &all),
        (format!("resourceVersion={first}&resourceVersionMatch=NotOlderThan"), &all),
        (format!("resourceVersion={first}&resourceVersionMatch=Exact"), &all[..1]),
        (format!("resourceVersion={first}&limit=5"), &all[..1]),
        (format!("resourceVersion={first}&limit=5&resourceVersionMatch=NotOlderThan"), &all),
    ];
    for (query, expected) in table {
        let (code, list) = ask(&client, &format!("{MAPS}?{query}")).await;
        assert_eq!((code, names(&list).as_slice()), (200, expected), "{query}");
        assert_eq!(list["metadata"].get("remainingItemCount"), None);
    }
    cluster.store.compact(cluster.store.revision()).expect("compacted");
    let (code, status) = ask(&client, &format!("{MAPS}?resourceVersion={first}&resourceVersionMatch=Exact")).await;
    assert_eq!((code, &status["reason"]), (410, &json!("Expired")), "{status}");
    let gone = events(&client, &format!("{MAPS}?watch=1&resourceVersion={first}"), 2).await;
    assert_eq!((gone.len(), &gone[0]["type"], &gone[0]["object"]["code"]), (1, &json!("ERROR"), &json!(410)));
    assert!(gone[0]["object"]["message"].as_str().expect("a message").starts_with("too old resource version: "));
}

#[tokio::test]
async fn pages_are_of_one_revision_until_it_is_compacted_and_then_go_on_without() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    for name in ["a", "b", "c", "d", "e"] {
        make(&client, name).await;
    }
    let (_, first) = ask(&client, &format!("{MAPS}?limit=2")).await;
    assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), (vec!["a", "b"], &json!(3)));
    let token = first["metadata"]["continue"].as_str().expect("a token").to_owned();
    assert_eq!(send(&client, "DELETE", &format!("{MAPS}/c"), JSON, "").await.0, 200);
    let (_, second) = ask(&client, &format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!(names(&second), ["c", "d"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    cluster.store.compact(cluster.store.revision()).expect("compacted");
    let (code, expired) = ask(&client, &format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!((code, &expired["reason"]), (410, &json!("Expired")));
    let token = expired["metadata"]["continue"].as_str().expect("a token").to_owned();
    let (code, rest) = ask(&client, &format!("{MAPS}?limit=1&continue={token}")).await;
    assert_eq!((code, names(&rest)), (200, vec!["d"]));
    assert_ne!(rest["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let token = rest["metadata"]["continue"].as_str().expect("a token").to_owned();
    let (_, last) = ask(&client, &format!("{MAPS}?limit=5&continue={token}")).await;
    assert_eq!((names(&last), last["metadata"].get("continue")), (vec!["e"], None));
    let (code, status) = ask(&client, &format!("{MAPS}?resourceVersion=5&continue={token}")).await;
    assert_eq!(
        (code, status["message"].as_str()),
        (400, Some("specifying resource version is not allowed when using continue"))
    );
    let (_, selected) = ask(&client, &format!("{MAPS}?limit=1&labelSelector=n")).await;
    assert_eq!(selected["metadata"].get("remainingItemCount"), None, "what remains is not counted with selectors");
}

#[tokio::test]
async fn a_watch_begins_where_it_is_told_to() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    let first = make(&client, "a").await;
    make(&client, "b").await;
    let ends = "timeoutSeconds=1";
    let bookmarks = "allowWatchBookmarks=true";
    let initial = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    let none = "sendInitialEvents=false&resourceVersionMatch=NotOlderThan";
    let table: [(String, &[&str]); 7] = [
        (format!("watch=1&{ends}"), &["ADDED a", "ADDED b"]),
        (format!("watch=1&{ends}&resourceVersion=0"), &["ADDED a", "ADDED b"]),
        (format!("watch=1&{ends}&resourceVersion={first}"), &["ADDED b"]),
        (format!("watch=1&{ends}&{none}"), &[]),
        (format!("watch=1&{ends}&{initial}"), &["ADDED a", "ADDED b"]),
        (format!("watch=1&{ends}&{initial}&{bookmarks}"), &["ADDED a", "ADDED b", "BOOKMARK -", "BOOKMARK -"]),
        (format!("watch=1&{ends}&fieldSelector=metadata.name%3Db"), &["ADDED b"]),
    ];
    for (query, expected) in table {
        let found = events(&client, &format!("{MAPS}?{query}"), 99).await;
        assert_eq!(found.iter().map(brief).collect::<Vec<_>>(), expected, "{query}");
        let marks = found.iter().filter(|e| e["type"] == "BOOKMARK");
        let first = marks.map(|e| &e["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"]).next();
        assert!(first.is_none_or(|end| end == "true"), "{query}");
    }
    for path in ["/api/v1/watch/namespaces/default/configmaps/b", "/api/v1/watch/configmaps"] {
        let found = events(&client, &format!("{path}?{ends}"), 99).await;
        assert!(found.iter().any(|e| brief(e) == "ADDED b"), "{path}");
    }
}

#[tokio::test]
async fn what_leaves_a_selection_is_deleted_from_it_with_its_last_state_and_the_new_revision() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    let from = make(&client, "a").await;
    let merge = "application/merge-patch+json";
    let change = |label: &'static str| json!({"metadata": {"labels": {"n": label}}}).to_string();
    let (_, out) = send(&client, "PATCH", &format!("{MAPS}/a"), merge, &change("other")).await;
    let (_, back) = send(&client, "PATCH", &format!("{MAPS}/a"), merge, &change("a")).await;
    let (_, _) = send(&client, "DELETE", &format!("{MAPS}/a"), JSON, "").await;
    let path = format!("{MAPS}?watch=1&labelSelector=n%3Da&resourceVersion={from}");
    let found = events(&client, &path, 3).await;
    let told: Vec<_> = found.iter().map(|e| (e["type"].as_str().unwrap_or(""), revision(&e["object"]))).collect();
    assert_eq!(told[..2], [("DELETED", revision(&out)), ("ADDED", revision(&back))]);
    assert_eq!((told[2].0, told[2].1 > revision(&back)), ("DELETED", true));
    assert!(found.iter().all(|e| e["object"]["metadata"]["labels"]["n"] == "a"), "{found:?}");
}

#[tokio::test]
async fn an_object_of_another_version_is_converted_in_lists_and_watches() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    let event = json!({"metadata": {"name": "e", "namespace": "default"}, "reason": "R", "message": "m", "type": "Normal",
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}});
    let (code, made) = send(&client, "POST", "/api/v1/namespaces/default/events", JSON, &event.to_string()).await;
    assert_eq!(code, 201, "{made}");
    let path = "/apis/events.k8s.io/v1/namespaces/default/events";
    let (_, list) = ask(&client, path).await;
    assert_eq!((&list["items"][0]["note"], &list["apiVersion"]), (&json!("m"), &json!("events.k8s.io/v1")), "{list}");
    let (_, again) = ask(&client, path).await;
    assert_eq!(list["items"], again["items"], "the remembered form is the same");
    let found = events(&client, &format!("{path}?watch=1"), 1).await;
    assert_eq!(
        (&found[0]["object"]["note"], &found[0]["object"]["apiVersion"]),
        (&json!("m"), &json!("events.k8s.io/v1"))
    );
}
