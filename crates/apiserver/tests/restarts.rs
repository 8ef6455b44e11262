//! A watcher that outlives its servers: whatever was acknowledged is seen, once and in order, however often the server goes.

mod harness;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use client::Identity;
use futures::AsyncBufReadExt;
use futures::StreamExt;
use harness::{Cluster, get, send};
use serde_json::{Value, json};
use store::{Options, Store};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const LIVES: usize = 4;
const WRITERS: usize = 4;
const WRITES: usize = 25;

/// What the watcher knows: of each object its revision and its number.
#[derive(Default)]
struct Known {
    objects: BTreeMap<String, (u64, i64)>,
    /// Up to where; none where it must begin anew.
    revision: Option<u64>,
    relisted: usize,
}

fn facts(object: &Value) -> (String, (u64, i64)) {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or("").to_owned();
    let number = |path: &str| text(path).parse::<i64>().unwrap_or(-1);
    (text("/metadata/name"), (number("/metadata/resourceVersion").unsigned_abs(), number("/data/n")))
}

impl Known {
    async fn list(&mut self, client: &kube::Client) {
        let (code, body) = get(client, MAPS).await;
        assert_eq!(code, 200, "{body}");
        let list: Value = serde_json::from_str(&body).expect("JSON");
        let objects: BTreeMap<_, _> = list["items"].as_array().expect("items").iter().map(facts).collect();
        for (name, (_, number)) in &self.objects {
            let now = objects.get(name).map(|(_, number)| *number);
            assert!(now.is_some_and(|now| now >= *number), "{name} went from {number} to {now:?}");
        }
        self.objects = objects;
        self.revision = list["metadata"]["resourceVersion"].as_str().and_then(|rv| rv.parse().ok());
        self.relisted += 1;
    }

    /// Follows until the server ends the watch.
    async fn follow(&mut self, client: &kube::Client) {
        if self.revision.is_none() {
            self.list(client).await;
        }
        let from = self.revision.expect("listed");
        let path = format!("{MAPS}?watch=1&allowWatchBookmarks=true&resourceVersion={from}");
        let request = http::Request::get(path).body(Vec::new()).expect("a request");
        let Ok(stream) = client.request_stream(request).await else { return };
        let mut lines = stream.lines();
        while let Some(Ok(line)) = lines.next().await {
            let event: Value = serde_json::from_str(&line).expect("JSON");
            let (name, (revision, number)) = facts(&event["object"]);
            match event["type"].as_str() {
                Some("ERROR") => {
                    assert_eq!(event["object"]["code"], 410, "{event}");
                    self.revision = None;
                    return;
                }
                Some("BOOKMARK") => {}
                _ => {
                    let before = self.objects.insert(name.clone(), (revision, number)).map_or(-1, |(_, n)| n);
                    assert_eq!(number, before + 1, "{name} skipped or repeated: {event}");
                }
            }
            assert!(self.revision.is_none_or(|last| revision >= last), "{revision} after {:?}", self.revision);
            self.revision = Some(revision);
        }
    }
}

async fn open(directory: &std::path::Path) -> Store {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match Store::open(directory, Options::default()) {
            Ok(store) => return store,
            // The server before lets go of it as its last connections end.
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_over_restarts_and_misses_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut known = Known::default();
    for life in 0..LIVES {
        let cluster = Cluster::with(open(directory.path()).await, None).await;
        let client = cluster.memory(Identity::admin("admin"));
        let follower = client.clone();
        let following = tokio::spawn(async move {
            known.follow(&follower).await;
            if known.revision.is_none() {
                known.follow(&follower).await;
            }
            known
        });
        let writers = (0..WRITERS).map(|writer| {
            let client = client.clone();
            async move {
                for n in life * WRITES..(life + 1) * WRITES {
                    let body =
                        json!({"metadata": {"name": format!("w{writer}")}, "data": {"n": n.to_string()}}).to_string();
                    let (method, path) =
                        if n == 0 { ("POST", MAPS.to_owned()) } else { ("PUT", format!("{MAPS}/w{writer}")) };
                    let (code, answer) = send(&client, method, &path, "application/json", &body).await;
                    assert!(code < 300, "{answer}");
                }
            }
        });
        futures::future::join_all(writers).await;
        cluster.server.shutdown().await;
        known = following.await.expect("the watcher");
    }
    // What the last watch may not have been told any more is told by the next, or by a list.
    let cluster = Cluster::with(open(directory.path()).await, None).await;
    known.list(&cluster.admin()).await;
    let last = i64::try_from(LIVES * WRITES - 1).expect("small");
    assert_eq!(known.objects.len(), WRITERS);
    assert!(known.objects.values().all(|(_, number)| *number == last), "{:?}", known.objects);
}
