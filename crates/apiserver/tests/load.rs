//! Many writers and watchers at once: nothing is missed, repeated or out of order; large answers stay whole.

mod harness;

use std::collections::BTreeMap;
use std::io::Read;

use futures::{AsyncBufReadExt, StreamExt};
use harness::{Cluster, raw, send};
use serde_json::{Value, json};

const JSON: &str = "application/json";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const WRITERS: usize = 8;
const ROUNDS: usize = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_under_load_see_every_change_once_and_in_order() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    let start = cluster.store.revision();
    let watchers: Vec<_> = (0..4)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                let path = format!("{MAPS}?watch=true&resourceVersion={start}");
                let request = http::Request::get(path).body(Vec::new()).expect("a request");
                let mut lines = client.request_stream(request).await.expect("a stream").lines();
                let (mut last, mut values) = (start, BTreeMap::<String, Vec<i64>>::new());
                while values.values().map(Vec::len).sum::<usize>() < WRITERS * ROUNDS {
                    let line = lines.next().await.expect("a line").expect("text");
                    let event: Value = serde_json::from_str(&line).expect("JSON");
                    let text = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or("").to_owned();
                    let revision: u64 = text("/object/metadata/resourceVersion").parse().expect("a revision");
                    assert!(revision > last, "{revision} after {last}");
                    last = revision;
                    let value = text("/object/data/n").parse().expect("a number");
                    values.entry(text("/object/metadata/name")).or_default().push(value);
                }
                values
            })
        })
        .collect();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let client = client.clone();
            tokio::spawn(async move {
                let one = format!("{MAPS}/w{writer}");
                for round in 0..ROUNDS {
                    let body = json!({"metadata": {"name": format!("w{writer}")}, "data": {"n": round.to_string()}})
                        .to_string();
                    let (code, answer) = if round == 0 {
                        send(&client, "POST", MAPS, JSON, &body).await
                    } else {
                        send(&client, "PUT", &one, JSON, &body).await
                    };
                    assert!(code < 300, "{answer}");
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("a writer");
    }
    let expected: Vec<i64> = (0..i64::try_from(ROUNDS).expect("small")).collect();
    for watcher in watchers {
        let values = tokio::time::timeout(std::time::Duration::from_secs(30), watcher)
            .await
            .expect("in time")
            .expect("a watcher");
        assert_eq!(values.len(), WRITERS);
        assert!(values.values().all(|seen| *seen == expected), "{values:?}");
    }
}

#[tokio::test]
async fn a_large_list_is_streamed_whole_and_compressed_when_asked() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    for i in 0..40 {
        let body = json!({"metadata": {"name": format!("m{i:02}")}, "data": {"k": "x".repeat(10_000)}}).to_string();
        assert_eq!(send(&client, "POST", MAPS, JSON, &body).await.0, 201);
    }
    let (_, plain) = send(&client, "GET", MAPS, JSON, "").await;
    assert_eq!(plain["items"].as_array().map(Vec::len), Some(40));
    use http_body_util::BodyExt;
    let request = http::Request::get(MAPS)
        .header("accept-encoding", "gzip")
        .body(kube::client::Body::empty())
        .expect("a request");
    let response = client.send(request).await.expect("an answer");
    assert_eq!(response.headers()["content-encoding"], "gzip");
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    let mut text = String::new();
    flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut text).expect("gzip");
    assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), plain);
}

#[tokio::test]
async fn a_protobuf_watch_sends_frames_with_their_length() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    send(&client, "POST", MAPS, JSON, r#"{"metadata":{"name":"a"}}"#).await;
    let request = http::Request::get(format!("{MAPS}?watch=true&timeoutSeconds=1"))
        .header("accept", "application/vnd.kubernetes.protobuf;stream=watch")
        .body(Vec::new())
        .expect("a request");
    let (code, headers, _) = raw(&client, request).await;
    assert_eq!(
        (code, headers["content-type"].as_bytes()),
        (200, &b"application/vnd.kubernetes.protobuf;stream=watch"[..])
    );
    use http_body_util::BodyExt;
    let request = http::Request::get(format!("{MAPS}?watch=true&timeoutSeconds=1"))
        .header("accept", "application/vnd.kubernetes.protobuf;stream=watch")
        .body(kube::client::Body::empty())
        .expect("a request");
    let body = client.send(request).await.expect("an answer").into_body().collect().await.expect("a body").to_bytes();
    let length = u32::from_be_bytes(body[..4].try_into().expect("four bytes")) as usize;
    assert_eq!(body.len(), 4 + length);
    assert_eq!(&body[4..11], b"\x0a\x05ADDED");
    assert!(body[11..].windows(4).any(|w| w == b"k8s\0"));
}
