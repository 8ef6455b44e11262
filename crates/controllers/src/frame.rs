//! What all controllers share: their environment, and the loop from changes over keys to syncs.

use std::{future::Future, time::Duration};

use client::{Cache, Caches, Change, Key, Recorder, WorkQueue};
use futures::future::{BoxFuture, FutureExt, join_all};
use http::Request;
use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{
    Api, Resource,
    api::{DeleteParams, PostParams, Preconditions},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio_util::sync::CancellationToken;

use crate::Context;

/// Why a sync failed. It is tried again with a growing delay.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("not JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("{0}")]
    Message(String),
}

impl Error {
    /// The status that the server answered with.
    pub fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Error::Api(kube::Error::Api(status)) => Some(status),
            _ => None,
        }
    }

    pub fn is_not_found(&self) -> bool {
        self.status().is_some_and(|status| status.is_not_found())
    }

    pub fn is_conflict(&self) -> bool {
        self.status().is_some_and(|status| status.is_conflict())
    }

    pub fn is_already_exists(&self) -> bool {
        self.status().is_some_and(|status| status.is_already_exists())
    }

    /// Whether nothing can be created since the namespace is being emptied; trying again is of no use.
    pub fn is_namespace_terminating(&self) -> bool {
        let details = self.status().and_then(|status| status.details.as_ref());
        details.is_some_and(|details| details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating"))
    }

    /// The message as upstream's events quote it.
    pub fn message(&self) -> String {
        match self.status() {
            Some(status) => status.message.clone(),
            None => self.to_string(),
        }
    }
}

/// The outcome of a sync: when the key is to be looked at again without a change, if at all.
pub(crate) type Synced = Result<Option<Duration>, Error>;

/// When to look again where the cache has yet to show what was written last. Its change comes with an event too; this is
/// for the case that the event came first.
pub(crate) const UNSEEN: Duration = Duration::from_millis(500);

/// A controller's view of the world.
#[derive(Clone)]
pub(crate) struct Env {
    pub client: kube::Client,
    pub caches: Caches,
    pub recorder: Recorder,
    pub root_ca: String,
    pub authority: Option<crate::Authority>,
    pub shutdown: CancellationToken,
}

/// What is of interest of an object just written.
#[derive(Deserialize)]
pub(crate) struct Written {
    pub metadata: WrittenMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WrittenMeta {
    pub name: String,
    #[serde(default)]
    pub resource_version: String,
}

impl Written {
    /// The revision of the write, for [`client::Expectations`].
    pub fn revision(&self) -> u64 {
        self.metadata.resource_version.parse().unwrap_or(0)
    }
}

impl Env {
    pub fn new(context: &Context, name: &str, shutdown: CancellationToken) -> Env {
        let client = (context.client_for)(name);
        let recorder = Recorder::new(client.clone(), name, "");
        let Context { caches, root_ca, authority, .. } = context.clone();
        Env { client, caches, recorder, root_ca, authority, shutdown }
    }

    pub fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub fn cluster<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    /// Waits until a cache shows what was written with this revision, however long that takes, or for shutdown.
    pub async fn shown<K>(&self, cache: &Cache<K>, revision: u64) {
        while !cache.reached(revision, UNSEEN).await && !self.shutdown.is_cancelled() {}
    }

    /// Creates an object from its JSON without reading the answer further than needed.
    pub async fn create<K: Resource<DynamicType = ()>>(
        &self,
        namespace: &str,
        json: Vec<u8>,
    ) -> Result<Written, Error> {
        let namespace = (!namespace.is_empty()).then_some(namespace);
        let request = kube::core::Request::new(K::url_path(&(), namespace));
        let request = request.create(&PostParams::default(), json).map_err(kube::Error::BuildRequest)?;
        Ok(self.client.request(request).await?)
    }

    /// Deletes an object if it is still the one of this uid. One that is gone already counts as deleted.
    pub async fn delete<K: Resource<DynamicType = ()>>(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        params: DeleteParams,
    ) -> Result<(), Error> {
        let namespace = (!namespace.is_empty()).then_some(namespace);
        let preconditions = Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None });
        let request = kube::core::Request::new(K::url_path(&(), namespace));
        let request =
            request.delete(name, &DeleteParams { preconditions, ..params }).map_err(kube::Error::BuildRequest)?;
        match self.client.request_text(request).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(()),
        }
    }

    /// Writes the status of an object that was read from a cache. It fails with a conflict if the cache was behind.
    pub async fn replace_status<K>(&self, object: &K) -> Result<K, Error>
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
    {
        let meta = object.meta();
        let request = kube::core::Request::new(K::url_path(&(), meta.namespace.as_deref()));
        let name = meta.name.as_deref().unwrap_or_default();
        let request = request.replace_subresource("status", name, &PostParams::default(), serde_json::to_vec(object)?);
        Ok(self.client.request(request.map_err(kube::Error::BuildRequest)?).await?)
    }

    /// Sends a merge patch to an object or one of its subresources (`status`), empty for the object itself.
    pub async fn patch<K: Resource<DynamicType = ()>>(
        &self,
        namespace: &str,
        name: &str,
        subresource: &str,
        patch: &serde_json::Value,
    ) -> Result<Written, Error> {
        let namespace = (!namespace.is_empty()).then_some(namespace);
        let mut path = format!("{}/{name}", K::url_path(&(), namespace));
        if !subresource.is_empty() {
            path.push('/');
            path.push_str(subresource);
        }
        let request = Request::patch(path).header(http::header::CONTENT_TYPE, "application/merge-patch+json");
        let request = request.body(serde_json::to_vec(patch)?).map_err(kube::Error::HttpError)?;
        Ok(self.client.request(request).await?)
    }
}

/// The revision of an object as the server gave it, for [`client::Expectations`].
pub(crate) fn revision<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_ref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// The present time as the API writes it.
pub(crate) fn now() -> Time {
    Time(whole_seconds(Timestamp::now()))
}

/// Times in the API have whole seconds; comparing with what was read back needs the same.
pub(crate) fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// How long from `from` to `to`, zero if that is in the past.
pub(crate) fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// The sooner of two times to look again.
pub(crate) fn sooner(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// A controller's loop: changes of caches queue keys, workers sync them.
pub(crate) struct Loop {
    pub queue: WorkQueue<Key>,
    feeds: Vec<BoxFuture<'static, ()>>,
    synced: Vec<BoxFuture<'static, ()>>,
}

impl Loop {
    pub fn new() -> Loop {
        Loop { queue: WorkQueue::new(), feeds: Vec::new(), synced: Vec::new() }
    }

    /// Calls `handle` with every change, beginning with all objects that are there.
    pub fn on<K: 'static>(
        mut self,
        cache: &Cache<K>,
        handle: impl Fn(&Change, &WorkQueue<Key>) + Send + 'static,
    ) -> Loop {
        let (mut changes, queue) = (cache.subscribe(), self.queue.clone());
        self.feeds.push(
            async move {
                loop {
                    let change = changes.next().await;
                    handle(&change, &queue);
                }
            }
            .boxed(),
        );
        self.needs(cache)
    }

    /// Waits for a cache that syncs read before the first of them.
    pub fn needs<K: 'static>(mut self, cache: &Cache<K>) -> Loop {
        let cache = cache.clone();
        self.synced.push(async move { cache.synced().await }.boxed());
        self
    }

    /// Queues each object that changes.
    pub fn on_self<K: 'static>(self, cache: &Cache<K>) -> Loop {
        self.on(cache, |change, queue| queue.add(change.key.clone()))
    }

    /// Queues the managing owner, of this kind, of each object that changes.
    pub fn on_owned<K: 'static>(self, cache: &Cache<K>, kind: &'static str) -> Loop {
        self.on(cache, move |change, queue| {
            for item in [&change.old, &change.new].into_iter().flatten() {
                if let Some(owner) = item.controller().filter(|owner| &*owner.kind == kind) {
                    queue.add(Key { namespace: item.key.namespace.clone(), name: (&*owner.name).into() });
                }
            }
        })
    }

    /// Works until shutdown, on so many keys at once.
    pub async fn run<F>(self, env: &Env, workers: usize, sync: impl Fn(Key) -> F)
    where
        F: Future<Output = Synced>,
    {
        let synced = join_all(self.synced);
        if env.shutdown.run_until_cancelled(synced).await.is_none() {
            return;
        }
        let drive = self.queue.drive(workers, &env.shutdown, sync);
        let feeds = env.shutdown.run_until_cancelled(join_all(self.feeds));
        tokio::join!(drive, feeds);
    }
}
