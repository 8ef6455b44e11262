//! One shared cache a kind.
//!
//! A cache lists and watches its kind from the first use until the last [`Caches`] is dropped. It holds each object's
//! JSON without managed fields, and a small index; typed structs are made for one decision and dropped. Reading it never
//! waits and never asks the server. What it holds may lag behind; [`Cache::reached`] and
//! [`Expectations`](crate::Expectations) are for those who must not act on the past.

mod item;
mod reflector;
mod store;
mod subscription;

use std::{collections::HashMap, marker::PhantomData, sync::Arc, time::Duration};

use kube::Resource;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use item::{Item, Key, Labels, Owner};
pub use subscription::{Change, Subscription};

use item::Content;
use reflector::Reflector;
use store::Store;

/// The caches of one process: each kind is watched once, whoever asks. Clones share.
#[derive(Clone)]
pub struct Caches {
    shared: Arc<Shared>,
}

struct Shared {
    client: kube::Client,
    caches: Mutex<HashMap<Source, (Arc<Store>, DropGuard)>>,
}

/// What a cache is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Source {
    /// The collection's path, such as `/apis/apps/v1/deployments`.
    path: String,
    /// A field selector; empty for all objects.
    fields: String,
    content: Content,
}

impl Caches {
    /// Caches filled by `client`, which must be allowed to list and watch whatever is asked for.
    pub fn new(client: kube::Client) -> Caches {
        Caches { shared: Arc::new(Shared { client, caches: Mutex::default() }) }
    }

    /// The cache of all objects of a kind, started at the first call.
    pub fn get<K: Resource<DynamicType = ()>>(&self) -> Cache<K> {
        self.select("")
    }

    /// The cache of a kind's objects that a field selector such as `spec.nodeName=a` lets through; it is a cache of its
    /// own. In a process that has the cache of all, prefer that one and an index of it.
    pub fn select<K: Resource<DynamicType = ()>>(&self, fields: &str) -> Cache<K> {
        let path = K::url_path(&(), None);
        let content = if path == "/api/v1/pods" { Content::Pod } else { Content::Object };
        Cache { store: self.start(Source { path, fields: fields.to_owned(), content }), kind: PhantomData }
    }

    /// The index alone of all objects in a collection (`/apis/apps/v1/deployments`), for those who work on kinds that
    /// they do not know. If the kind's whole cache runs already, that one is given.
    pub fn metadata(&self, path: &str) -> Cache<()> {
        let source = |content| Source { path: path.to_owned(), fields: String::new(), content };
        let whole = [Content::Object, Content::Pod]
            .into_iter()
            .find_map(|content| self.shared.caches.lock().get(&source(content)).map(|(store, _)| store.clone()));
        Cache { store: whole.unwrap_or_else(|| self.start(source(Content::Metadata))), kind: PhantomData }
    }

    /// Stops and forgets the cache that [`metadata`](Self::metadata) started, when the kind is no longer served.
    pub fn forget_metadata(&self, path: &str) {
        let source = Source { path: path.to_owned(), fields: String::new(), content: Content::Metadata };
        self.shared.caches.lock().remove(&source);
    }

    fn start(&self, source: Source) -> Arc<Store> {
        let mut caches = self.shared.caches.lock();
        if let Some((store, _)) = caches.get(&source) {
            return store.clone();
        }
        let store = Arc::new(Store::new());
        let stop = CancellationToken::new();
        let reflector = Reflector::new(self.shared.client.clone(), source.clone(), store.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(reflector.run()));
        caches.insert(source, (store.clone(), stop.drop_guard()));
        store
    }
}

/// All objects of one kind. Clones share.
pub struct Cache<K> {
    store: Arc<Store>,
    kind: PhantomData<fn() -> K>,
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Cache<K> {
        Cache { store: self.store.clone(), kind: PhantomData }
    }
}

impl<K> Cache<K> {
    /// Waits until everything that existed when the cache started is in.
    pub async fn synced(&self) {
        // The store that we hold keeps the sender alive, so this cannot fail.
        let _ = self.store.progress().wait_for(|progress| progress.synced).await;
    }

    pub fn is_synced(&self) -> bool {
        self.store.progress().borrow().synced
    }

    /// The newest resourceVersion that the cache is known to reflect.
    pub fn revision(&self) -> u64 {
        self.store.progress().borrow().revision
    }

    /// Waits until the cache reflects `revision`, such as that of one's own last write. False if it did not in `limit`.
    pub async fn reached(&self, revision: u64, limit: Duration) -> bool {
        let mut progress = self.store.progress();
        tokio::time::timeout(limit, progress.wait_for(|progress| progress.revision >= revision)).await.is_ok()
    }

    /// The object of this name; the namespace is empty for cluster-scoped kinds.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Item>> {
        self.store.get(namespace, name)
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.store.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All objects, by namespace and name.
    pub fn list(&self) -> Vec<Arc<Item>> {
        self.store.list()
    }

    /// All objects of a namespace, by name.
    pub fn list_ns(&self, namespace: &str) -> Vec<Arc<Item>> {
        self.store.list_namespace(namespace)
    }

    /// The objects that name this uid among their owners.
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<Item>> {
        self.store.owned_by(uid)
    }

    /// The objects of a namespace that have labels and that no controller manages, which one may adopt.
    pub fn adoptable(&self, namespace: &str) -> Vec<Arc<Item>> {
        self.store.adoptable(namespace)
    }

    /// The pods bound to a node.
    pub fn on_node(&self, node: &str) -> Vec<Arc<Item>> {
        self.store.on_node(node)
    }

    /// All that is here as creations, then every change.
    pub fn subscribe(&self) -> Subscription {
        Subscription::new(self.store.feed())
    }
}

impl<K: DeserializeOwned> Cache<K> {
    /// The typed object of this name. One that cannot be read is logged and counts as absent.
    pub fn read(&self, namespace: &str, name: &str) -> Option<K> {
        self.parse(&*self.get(namespace, name)?)
    }

    /// The typed object of an item. One that cannot be read is logged and counts as absent.
    pub fn parse(&self, item: &Item) -> Option<K> {
        let parsed = item.parse();
        if let Err(error) = &parsed {
            tracing::error!(key = %item.key, kind = std::any::type_name::<K>(), %error, "unreadable object in the cache");
        }
        parsed.ok()
    }
}

#[cfg(test)]
mod tests;
