//! What a cache holds: the objects of one kind, their indexes, and who is told of changes.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Weak},
};

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::{
    item::{Item, Key},
    subscription::Feed,
};

/// How far a cache has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Whether all objects of the first list are in.
    pub synced: bool,
    /// The newest resourceVersion that the cache is known to reflect.
    pub revision: u64,
}

/// The canonical state of a cache. Written by its reflector alone.
pub(crate) struct Store {
    state: RwLock<State>,
    feeds: Mutex<Vec<Weak<Feed>>>,
    progress: watch::Sender<Progress>,
}

type Items = BTreeMap<Arc<str>, Arc<Item>>;
/// From an indexed value (an owner's uid, a node's name) to the items that have it.
type Index = HashMap<Box<str>, BTreeMap<Key, Arc<Item>>>;

#[derive(Default)]
struct State {
    /// By namespace, then name.
    namespaces: BTreeMap<Arc<str>, Items>,
    owners: Index,
    nodes: Index,
    /// What nobody manages, by namespace.
    adoptable: Index,
    len: usize,
}

impl State {
    fn put(&mut self, item: Arc<Item>) -> Option<Arc<Item>> {
        let items = self.namespaces.entry(item.key.namespace.clone()).or_default();
        let old = items.insert(item.key.name.clone(), item.clone());
        match &old {
            Some(old) => self.unindex(old),
            None => self.len += 1,
        }
        for owner in &item.owners {
            self.owners.entry(owner.uid.clone()).or_default().insert(item.key.clone(), item.clone());
        }
        if item.is_adoptable() {
            let namespace = self.adoptable.entry((&*item.key.namespace).into()).or_default();
            namespace.insert(item.key.clone(), item.clone());
        }
        if !item.node_name.is_empty() {
            self.nodes.entry(item.node_name.clone()).or_default().insert(item.key.clone(), item);
        }
        old
    }

    fn take(&mut self, key: &Key) -> Option<Arc<Item>> {
        let items = self.namespaces.get_mut(&key.namespace)?;
        let old = items.remove(&key.name)?;
        if items.is_empty() {
            self.namespaces.remove(&key.namespace);
        }
        self.len -= 1;
        self.unindex(&old);
        Some(old)
    }

    fn unindex(&mut self, old: &Item) {
        for owner in &old.owners {
            remove(&mut self.owners, &owner.uid, &old.key);
        }
        remove(&mut self.nodes, &old.node_name, &old.key);
        if old.is_adoptable() {
            remove(&mut self.adoptable, &old.key.namespace, &old.key);
        }
    }
}

fn remove(index: &mut Index, value: &str, key: &Key) {
    if let Some(items) = index.get_mut(value) {
        items.remove(key);
        if items.is_empty() {
            index.remove(value);
        }
    }
}

fn values(index: &Index, value: &str) -> Vec<Arc<Item>> {
    index.get(value).map(|items| items.values().cloned().collect()).unwrap_or_default()
}

impl Store {
    pub fn new() -> Store {
        Store { state: RwLock::default(), feeds: Mutex::default(), progress: watch::Sender::new(Progress::default()) }
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Item>> {
        self.state.read().namespaces.get(namespace)?.get(name).cloned()
    }

    pub fn len(&self) -> usize {
        self.state.read().len
    }

    pub fn list(&self) -> Vec<Arc<Item>> {
        self.state.read().namespaces.values().flat_map(|items| items.values().cloned()).collect()
    }

    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<Item>> {
        self.state.read().namespaces.get(namespace).map(|items| items.values().cloned().collect()).unwrap_or_default()
    }

    pub fn owned_by(&self, uid: &str) -> Vec<Arc<Item>> {
        values(&self.state.read().owners, uid)
    }

    pub fn adoptable(&self, namespace: &str) -> Vec<Arc<Item>> {
        values(&self.state.read().adoptable, namespace)
    }

    pub fn on_node(&self, node: &str) -> Vec<Arc<Item>> {
        values(&self.state.read().nodes, node)
    }

    /// The shared name of a namespace.
    pub fn intern(&self, namespace: &str) -> Arc<str> {
        match self.state.read().namespaces.get_key_value(namespace) {
            Some((known, _)) => known.clone(),
            None => namespace.into(),
        }
    }

    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Takes in a newer version of an object. Versions that are known already change nothing.
    ///
    /// With `reached`, everything up to the object's version is in; who is told of the change sees that at once.
    pub fn put(&self, item: Item, reached: bool) {
        let item = Arc::new(item);
        let mut state = self.state.write();
        if let Some(known) = state.namespaces.get(&item.key.namespace).and_then(|items| items.get(&item.key.name))
            && (known.uid == item.uid && known.resource_version == item.resource_version && item.resource_version != 0)
        {
            return if reached {
                self.reach(item.resource_version, false)
            };
        }
        let old = state.put(item.clone());
        if reached {
            self.reach(item.resource_version, false);
        }
        self.tell(&item.key, old.as_ref(), Some(&item));
    }

    /// Takes an object out. With `reached`, everything up to that revision is in.
    pub fn remove(&self, key: &Key, reached: Option<u64>) {
        let mut state = self.state.write();
        if let Some(revision) = reached {
            self.reach(revision, false);
        }
        if let Some(old) = state.take(key) {
            self.tell(key, Some(&old), None);
        }
    }

    /// Takes out every object for which `keep` is false.
    pub fn retain(&self, keep: impl Fn(&Key) -> bool) {
        let mut state = self.state.write();
        let all = state.namespaces.values().flat_map(|items| items.values());
        let gone: Vec<Key> = all.filter(|item| !keep(&item.key)).map(|item| item.key.clone()).collect();
        for key in gone {
            if let Some(old) = state.take(&key) {
                self.tell(&key, Some(&old), None);
            }
        }
    }

    /// Records that everything up to `revision` is in.
    pub fn reach(&self, revision: u64, synced: bool) {
        self.progress.send_if_modified(|progress| {
            let before = *progress;
            progress.synced |= synced;
            progress.revision = progress.revision.max(revision);
            *progress != before
        });
    }

    /// A feed of all changes from now on, beginning with everything that is here.
    pub fn feed(&self) -> Arc<Feed> {
        let feed = Arc::new(Feed::default());
        let state = self.state.read();
        for item in state.namespaces.values().flat_map(|items| items.values()) {
            feed.push(&item.key, None, Some(item));
        }
        // Under the state's lock, so that no change falls between the contents and the feed.
        self.feeds.lock().push(Arc::downgrade(&feed));
        feed
    }

    /// Called under the state's write lock, so that feeds see changes in the order in which they were made.
    fn tell(&self, key: &Key, old: Option<&Arc<Item>>, new: Option<&Arc<Item>>) {
        self.feeds.lock().retain(|feed| match feed.upgrade() {
            Some(feed) => {
                feed.push(key, old, new);
                true
            }
            None => false,
        });
    }
}
