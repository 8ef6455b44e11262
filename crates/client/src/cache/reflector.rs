//! Keeps a cache's store like the server's collection: a streamed list, else pages, then a watch that is resumed.

use std::{borrow::Cow, collections::HashSet, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use bytes::{Buf, BytesMut};
use futures::FutureExt;
use http::{Request, StatusCode, header::ACCEPT};
use http_body_util::BodyExt;
use kube::client::Body;
use rand::Rng;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Source,
    item::{self, Content, Item, Key},
    store::Store,
};
use crate::Backoff;

/// Objects asked for at once where lists cannot be streamed.
const PAGE: usize = 500;
/// How long a watch is asked to live, in seconds; spread, so that many clients do not renew at once.
const WATCH_SECONDS: std::ops::Range<u64> = 300..600;
/// How much later than agreed a silent connection is given up.
const GRACE: Duration = Duration::from_secs(30);
/// The longest watch event taken; the server's objects are far smaller.
const LONGEST_EVENT: usize = 64 << 20;

pub(super) struct Reflector {
    client: kube::Client,
    source: Source,
    store: Arc<Store>,
    /// Whether the server is believed to stream lists.
    streams_lists: bool,
}

/// Why a list or watch ended.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the resource version is too old")]
    Expired,
    #[error("lists cannot be streamed")]
    NotStreamed,
    #[error("the server answered {0}: {1}")]
    Status(u16, String),
    #[error("the connection failed: {0}")]
    Client(#[from] kube::Error),
    #[error("unreadable answer: {0}")]
    Unreadable(#[from] serde_json::Error),
    #[error("the connection is silent")]
    Silent,
    #[error("the stream ended within an event or the first list")]
    Cut,
    #[error("a defect of the reader")]
    Broken,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Bookmark {
    metadata: BookmarkMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BookmarkMeta {
    resource_version: String,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Page<'a> {
    metadata: PageMeta,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct PageMeta {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    more: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Refusal {
    message: String,
    code: u16,
}

impl Reflector {
    pub fn new(client: kube::Client, source: Source, store: Arc<Store>) -> Reflector {
        Reflector { client, source, store, streams_lists: true }
    }

    /// Never ends by itself.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(30));
        // Where to resume; none before the first whole list and after the history was lost.
        let mut revision = None;
        loop {
            let started = tokio::time::Instant::now();
            let attempt = async {
                match &revision {
                    None if !self.streams_lists => self.list().await.map(|listed| revision = Some(listed)),
                    _ => self.watch(&mut revision).await,
                }
            };
            // Whoever waits for the cache must not wait for ever.
            let ended = AssertUnwindSafe(attempt).catch_unwind().await.unwrap_or(Err(Failure::Broken));
            let lived = started.elapsed() > Duration::from_secs(1);
            match ended {
                // A list that is done, or a watch that lived as long as agreed.
                Ok(()) => {
                    if lived || revision.is_none() {
                        backoff.reset();
                    }
                    if revision.is_some() && !lived {
                        continue;
                    }
                }
                Err(Failure::Broken) => {
                    revision = None;
                    tracing::error!(path = self.source.path, "a cache broke, it is read anew");
                    backoff.wait().await;
                }
                Err(Failure::NotStreamed) => self.streams_lists = false,
                Err(Failure::Expired) => {
                    revision = None;
                    if !lived {
                        backoff.wait().await;
                    }
                }
                Err(failure) => {
                    if lived {
                        backoff.reset();
                    }
                    tracing::debug!(path = self.source.path, %failure, "watch interrupted");
                    backoff.wait().await;
                }
            }
        }
    }

    /// Lists by pages, and returns the resourceVersion from which to watch.
    async fn list(&self) -> Result<String, Failure> {
        let mut seen = HashSet::new();
        let mut more = String::new();
        loop {
            let mut query = format!("limit={PAGE}");
            if !more.is_empty() {
                query.push_str("&continue=");
                query.push_str(&encode(&more));
            }
            let body = self.get(&query, "PartialObjectMetadataList").await?.collect().await?.to_bytes();
            let page: Page<'_> = serde_json::from_slice(&body)?;
            for object in page.items.unwrap_or_default() {
                let item = self.read(object)?;
                seen.insert(item.key.clone());
                self.store.put(item, false);
            }
            if page.metadata.more.is_empty() {
                self.complete(&seen, &page.metadata.resource_version);
                return Ok(page.metadata.resource_version);
            }
            more = page.metadata.more;
        }
    }

    /// Watches from `revision`, which it moves on, until the server ends the watch; without one, from a streamed list.
    async fn watch(&self, revision: &mut Option<String>) -> Result<(), Failure> {
        let seconds = rand::rng().random_range(WATCH_SECONDS);
        let mut query = format!("watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}");
        let mut seen = match revision {
            Some(revision) => {
                query.push_str("&resourceVersion=");
                query.push_str(&encode(revision));
                None
            }
            None => {
                query.push_str("&sendInitialEvents=true&resourceVersionMatch=NotOlderThan");
                Some(HashSet::new())
            }
        };
        let deadline = tokio::time::Instant::now() + Duration::from_secs(seconds) + GRACE;
        let mut body = match self.get(&query, "PartialObjectMetadata").await {
            Err(Failure::Status(400 | 422, _)) if seen.is_some() => return Err(Failure::NotStreamed),
            answer => answer?,
        };
        let mut buffer = BytesMut::new();
        loop {
            let frame = tokio::time::timeout_at(deadline, body.frame()).await.map_err(|_| Failure::Silent)?;
            let Some(frame) = frame else {
                return if seen.is_some() || !buffer.is_empty() { Err(Failure::Cut) } else { Ok(()) };
            };
            let Ok(data) = frame?.into_data() else { continue };
            buffer.extend_from_slice(&data);
            let mut from = buffer.len() - data.len();
            while let Some(end) = buffer[from..].iter().position(|byte| *byte == b'\n') {
                let line = &buffer[..from + end];
                if !line.trim_ascii().is_empty() {
                    self.take(line, &mut seen, revision)?;
                }
                buffer.advance(from + end + 1);
                from = 0;
            }
            if buffer.is_empty() {
                // A quiet watch holds no memory.
                buffer = BytesMut::new();
            } else if buffer.len() > LONGEST_EVENT {
                return Err(Failure::Cut);
            }
        }
    }

    /// Takes in one event.
    fn take(&self, line: &[u8], seen: &mut Option<HashSet<Key>>, revision: &mut Option<String>) -> Result<(), Failure> {
        let event: Event<'_> = serde_json::from_slice(line)?;
        let item = match &*event.kind {
            "ADDED" | "MODIFIED" | "DELETED" => self.read(event.object)?,
            "BOOKMARK" => {
                let Bookmark { metadata } = serde_json::from_str(event.object.get())?;
                let initial_end =
                    metadata.annotations.get("k8s.io/initial-events-end").is_some_and(|end| end == "true");
                match seen.take() {
                    Some(seen_now) if initial_end => self.complete(&seen_now, &metadata.resource_version),
                    // A bookmark within the first list says nothing yet.
                    Some(seen_now) => {
                        *seen = Some(seen_now);
                        return Ok(());
                    }
                    None => self.store.reach(number(&metadata.resource_version), false),
                }
                *revision = Some(metadata.resource_version);
                return Ok(());
            }
            _ => {
                let refusal: Refusal = serde_json::from_str(event.object.get()).unwrap_or_default();
                return Err(refused(refusal.code, refusal.message));
            }
        };
        let version = item.resource_version;
        let is_deletion = event.kind == "DELETED";
        if let Some(seen) = seen {
            // Within the first list, only its end says how far the cache has come.
            if is_deletion {
                seen.remove(&item.key);
                self.store.remove(&item.key, None);
            } else {
                seen.insert(item.key.clone());
                self.store.put(item, false);
            }
            return Ok(());
        }
        if is_deletion {
            self.store.remove(&item.key, Some(version));
        } else {
            self.store.put(item, true);
        }
        *revision = Some(version.to_string());
        Ok(())
    }

    /// The whole collection is in: what was not seen is gone.
    fn complete(&self, seen: &HashSet<Key>, revision: &str) {
        self.store.retain(|key| seen.contains(key));
        self.store.reach(number(revision), true);
    }

    fn read(&self, object: &RawValue) -> serde_json::Result<Item> {
        item::read(object.get(), self.source.content, |namespace| self.store.intern(namespace))
    }

    async fn get(&self, query: &str, partial: &str) -> Result<Body, Failure> {
        let Source { path, fields, content } = &self.source;
        let selector = if fields.is_empty() { String::new() } else { format!("&fieldSelector={}", encode(fields)) };
        let accept = match content {
            Content::Metadata => format!("application/json;as={partial};g=meta.k8s.io;v=v1,application/json"),
            Content::Object | Content::Pod => "application/json".to_owned(),
        };
        let request = Request::get(format!("{path}?{query}{selector}")).header(ACCEPT, accept);
        let request = request.body(Body::empty()).map_err(kube::Error::HttpError)?;
        let answer = self.client.send(request).await?;
        if answer.status() == StatusCode::OK {
            return Ok(answer.into_body());
        }
        let code = answer.status().as_u16();
        let body = answer.into_body().collect().await?.to_bytes();
        let refusal: Refusal = serde_json::from_slice(&body).unwrap_or_default();
        Err(refused(code, refusal.message))
    }
}

fn refused(code: u16, message: String) -> Failure {
    if code == StatusCode::GONE { Failure::Expired } else { Failure::Status(code, message) }
}

/// Resource versions are numbers on every server that stores in revisions; another is only ever handed back.
fn number(revision: &str) -> u64 {
    revision.parse().unwrap_or(0)
}

/// Escapes what may not stand in a query's value.
fn encode(text: &str) -> Cow<'_, str> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    if text.as_bytes().iter().all(plain) {
        return Cow::Borrowed(text);
    }
    let escape = |byte: u8| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    Cow::Owned(text.bytes().map(escape).collect())
}
