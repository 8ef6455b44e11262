//! The caches against a scripted API server behind an [`Acceptor`].

use std::{collections::VecDeque, convert::Infallible, sync::Arc};

use bytes::Bytes;
use futures::channel::mpsc;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{body::Frame, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use parking_lot::Mutex;

use super::*;
use crate::{Acceptor, Endpoint, Identity, connect};

type Answer = Response<BoxBody<Bytes, Infallible>>;

/// Answers requests in their order from a script, and notes what was asked and by whom.
#[derive(Clone, Default)]
struct Script {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Script {
    fn answer(&self, status: StatusCode, body: String) {
        let body = Full::new(Bytes::from(body)).boxed();
        self.answers.lock().push_back(Response::builder().status(status).body(body).unwrap());
    }

    /// A watch: what is sent into the sender is what the client receives; dropping it ends the watch.
    fn watch(&self) -> mpsc::UnboundedSender<String> {
        let (sender, receiver) = mpsc::unbounded();
        let frames = futures::StreamExt::map(receiver, |text: String| Ok(Frame::data(Bytes::from(text))));
        self.answers.lock().push_back(Response::new(BodyExt::boxed(StreamBody::new(frames))));
        sender
    }

    fn client(&self) -> kube::Client {
        let script = self.clone();
        let acceptor: Acceptor = Arc::new(move |stream, identity: Identity| {
            let script = script.clone();
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                script.asked.lock().push(format!("{} {}", identity.name, request.uri()));
                let answer = script.answers.lock().pop_front();
                async move {
                    match answer {
                        Some(answer) => Ok::<_, Infallible>(answer),
                        None => std::future::pending().await,
                    }
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        });
        connect(&Endpoint::Memory(acceptor), Identity::component("system:test"))
    }

    /// The query of the n-th request, without the random timeout.
    fn asked(&self, number: usize) -> String {
        let uri = self.asked.lock()[number].clone();
        uri.split('&').filter(|part| !part.starts_with("timeoutSeconds")).collect::<Vec<_>>().join("&")
    }
}

fn object(name: &str, revision: u64) -> String {
    format!(
        r#"{{"metadata":{{"name":"{name}","namespace":"n","uid":"u-{name}","resourceVersion":"{revision}","managedFields":[]}}}}"#
    )
}

fn event(kind: &str, name: &str, revision: u64) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{}}}\n", object(name, revision))
}

fn bookmark(revision: u64, end: bool) -> String {
    let annotations = if end { r#","annotations":{"k8s.io/initial-events-end":"true"}"# } else { "" };
    format!(
        "{{\"type\":\"BOOKMARK\",\"object\":{{\"metadata\":{{\"resourceVersion\":\"{revision}\"{annotations}}}}}}}\n"
    )
}

fn names<K>(cache: &Cache<K>) -> Vec<String> {
    cache.list().iter().map(|item| format!("{}@{}", item.name(), item.resource_version)).collect()
}

async fn reach<K>(cache: &Cache<K>, revision: u64) {
    assert!(cache.reached(revision, Duration::from_secs(5)).await, "at {} instead of {revision}", cache.revision());
}

#[tokio::test]
async fn a_cache_is_filled_by_a_streamed_list_and_follows_the_watch() {
    let script = Script::default();
    let watch = script.watch();
    let caches = Caches::new(script.client());
    let cache = caches.get::<ConfigMap>();
    watch.unbounded_send(event("ADDED", "a", 1) + &event("ADDED", "b", 2)).unwrap();
    watch.unbounded_send(bookmark(3, false)).unwrap();
    tokio::task::yield_now().await;
    assert!(!cache.is_synced(), "a bookmark alone does not end the list");
    watch.unbounded_send(bookmark(3, true)).unwrap();
    cache.synced().await;
    assert_eq!((names(&cache), cache.revision()), (vec!["a@1".to_owned(), "b@2".to_owned()], 3));

    let mut subscription = cache.subscribe();
    for _ in 0..2 {
        assert!(subscription.next().await.old.is_none());
    }
    let modified = event("MODIFIED", "a", 4);
    let (first, second) = modified.split_at(20);
    watch.unbounded_send(first.to_owned()).unwrap();
    watch.unbounded_send(second.to_owned() + &event("DELETED", "b", 5)).unwrap();
    reach(&cache, 5).await;
    assert_eq!(names(&cache), ["a@4"]);
    let change = subscription.next().await;
    assert_eq!((change.old.unwrap().resource_version, change.new.unwrap().resource_version), (1, 4));
    assert!(subscription.next().await.new.is_none());

    assert_eq!(cache.read("n", "a").unwrap().metadata.managed_fields, None);
    assert_eq!(
        script.asked(0),
        "system:test /api/v1/configmaps?watch=true&allowWatchBookmarks=true\
         &sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
    );
    assert_eq!(names(&caches.get::<ConfigMap>()), ["a@4"]);
    assert_eq!(script.asked.lock().len(), 1, "the second asker shares the watch");
}

#[tokio::test]
async fn a_server_that_does_not_stream_lists_is_asked_for_pages() {
    let script = Script::default();
    script.answer(StatusCode::UNPROCESSABLE_ENTITY, r#"{"code":422}"#.into());
    let page = |more: &str, name: &str| {
        format!(r#"{{"metadata":{{"resourceVersion":"9","continue":"{more}"}},"items":[{}]}}"#, object(name, 1))
    };
    script.answer(StatusCode::OK, page("to=ken", "a"));
    script.answer(StatusCode::OK, page("", "b"));
    let watch = script.watch();
    let cache = Caches::new(script.client()).get_kept::<ConfigMap>();
    cache.1.synced().await;
    assert_eq!(names(&cache.1), ["a@1", "b@1"]);
    watch.unbounded_send(event("ADDED", "c", 10)).unwrap();
    reach(&cache.1, 10).await;
    assert!(script.asked(1).ends_with("/api/v1/configmaps?limit=500"), "{}", script.asked(1));
    assert!(script.asked(2).ends_with("?limit=500&continue=to%3Dken"), "{}", script.asked(2));
    assert!(script.asked(3).ends_with("&resourceVersion=9"), "{}", script.asked(3));
}

#[tokio::test]
async fn a_watch_is_resumed_where_it_ended_and_begun_anew_when_history_is_lost() {
    let script = Script::default();
    let first = script.watch();
    let second = script.watch();
    let third = script.watch();
    let (_caches, cache) = Caches::new(script.client()).get_kept::<ConfigMap>();
    let mut subscription = cache.subscribe();
    first.unbounded_send(event("ADDED", "a", 1) + &event("ADDED", "b", 2) + &bookmark(3, true)).unwrap();
    first.unbounded_send(bookmark(7, false)).unwrap();
    reach(&cache, 7).await;
    drop(first);
    second.unbounded_send(event("MODIFIED", "b", 8)).unwrap();
    reach(&cache, 8).await;
    assert!(script.asked(1).ends_with("&resourceVersion=7"), "{}", script.asked(1));

    let expired = r#"{"type":"ERROR","object":{"code":410,"message":"too old"}}"#;
    second.unbounded_send(format!("{expired}\n")).unwrap();
    third.unbounded_send(event("ADDED", "b", 8) + &event("ADDED", "c", 20) + &bookmark(21, true)).unwrap();
    reach(&cache, 21).await;
    assert_eq!(names(&cache), ["b@8", "c@20"], "what is gone without an event is gone");
    let mut last = std::collections::BTreeMap::new();
    while let Some(change) = subscription.try_next() {
        last.insert(change.key.name.to_string(), change.new.is_some());
    }
    let expected = [("a", false), ("b", true), ("c", true)].map(|(name, there)| (name.to_owned(), there));
    assert_eq!(last.into_iter().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn errors_are_survived_and_indexes_follow_the_pods() {
    let script = Script::default();
    script.answer(StatusCode::INTERNAL_SERVER_ERROR, "no json".into());
    let cut = script.watch();
    let watch = script.watch();
    cut.unbounded_send(event("ADDED", "half", 1)).unwrap();
    drop(cut);
    let (_caches, cache) = Caches::new(script.client()).get_kept::<Pod>();
    let pod = |kind: &str, node: &str, owner: &str, revision: u64| {
        format!(
            r#"{{"type":"{kind}","object":{{"metadata":{{"name":"p","namespace":"n","uid":"u","resourceVersion":"{revision}",
               "ownerReferences":[{{"apiVersion":"v1","kind":"K","name":"o","uid":"{owner}"}}]}},"spec":{{"nodeName":"{node}"}}}}}}"#
        )
        .replace('\n', "")
            + "\n"
    };
    watch.unbounded_send(pod("ADDED", "", "o1", 2) + &bookmark(3, true)).unwrap();
    cache.synced().await;
    assert_eq!(names(&cache), ["p@2"], "nothing of the list that was cut remains");
    assert_eq!((cache.owned_by("o1").len(), cache.on_node("").len()), (1, 0));
    watch.unbounded_send(pod("MODIFIED", "node", "o2", 4)).unwrap();
    reach(&cache, 4).await;
    assert_eq!((cache.owned_by("o1").len(), cache.owned_by("o2").len(), cache.on_node("node").len()), (0, 1, 1));
    watch.unbounded_send(pod("DELETED", "node", "o2", 5)).unwrap();
    reach(&cache, 5).await;
    assert_eq!((cache.owned_by("o2").len(), cache.on_node("node").len(), cache.len()), (0, 0, 0));
}

#[tokio::test]
async fn metadata_is_asked_for_as_such_unless_the_whole_objects_are_here() {
    let script = Script::default();
    let watch = script.watch();
    let caches = Caches::new(script.client());
    let metadata = caches.metadata("/api/v1/configmaps");
    watch.unbounded_send(event("ADDED", "a", 1) + &bookmark(2, true)).unwrap();
    metadata.synced().await;
    assert!(metadata.get("n", "a").unwrap().bytes.is_empty());
    caches.forget_metadata("/api/v1/configmaps");
    let _whole = caches.get::<ConfigMap>();
    assert!(!caches.metadata("/api/v1/configmaps").is_synced(), "it is the one just started");
}

impl Caches {
    /// The cache together with what keeps it running.
    fn get_kept<K: Resource<DynamicType = ()>>(self) -> (Caches, Cache<K>) {
        let cache = self.get();
        (self, cache)
    }
}

#[test]
fn what_may_be_adopted_is_found_without_looking_at_everything_else() {
    let store = store::Store::new();
    let put = |name: &str, revision: u64, more: &str| {
        let json = format!(
            r#"{{"metadata":{{"name":"{name}","namespace":"n","uid":"{name}","resourceVersion":"{revision}"{more}}}}}"#
        );
        store.put(Item::from_json(&json).unwrap(), true);
    };
    let owners = r#","ownerReferences":[{"apiVersion":"v1","kind":"K","name":"o","uid":"o","controller":true}]"#;
    let labels = r#","labels":{"a":"b"}"#;
    put("bare", 1, "");
    put("free", 2, labels);
    put("owned", 3, &format!("{labels}{owners}"));
    let names = || store.adoptable("n").iter().map(|item| item.name().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(), ["free"]);
    put("free", 4, &format!("{labels}{owners}"));
    put("owned", 5, labels);
    assert_eq!((names(), store.adoptable("other").len()), (vec!["owned".to_owned()], 0));
    store.remove(&Key::new("n", "owned"), None);
    assert!(names().is_empty());
}
