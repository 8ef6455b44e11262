//! The kinds that are watched, and how owners and dependents are found among them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use client::{Cache, Caches, Item, Owner};
use tokio_util::sync::CancellationToken;

use crate::discovery::ResourceKind;

/// One kind and the cache of its metadata.
pub(super) struct Watched {
    pub kind: ResourceKind,
    pub path: Arc<str>,
    pub cache: Cache<()>,
    /// Cancelled when the kind is no longer served.
    pub stop: CancellationToken,
}

/// All kinds whose objects may own or be owned.
#[derive(Clone, Default)]
pub(super) struct Table {
    by_path: BTreeMap<Arc<str>, Arc<Watched>>,
    /// By group and kind.
    by_kind: HashMap<(String, String), Arc<Watched>>,
}

impl Table {
    /// The table for these kinds, and those of them that are new.
    pub fn updated(&self, kinds: Vec<ResourceKind>, caches: &Caches) -> (Table, Vec<Arc<Watched>>) {
        let mut table = Table::default();
        let mut fresh = Vec::new();
        for kind in kinds.into_iter().filter(is_collectable) {
            let path: Arc<str> = kind.path().into();
            let watched = self.by_path.get(&path).cloned().unwrap_or_else(|| {
                let cache = caches.metadata(&path);
                let stop = CancellationToken::new();
                let watched = Arc::new(Watched { kind: kind.clone(), path: path.clone(), cache, stop });
                fresh.push(watched.clone());
                watched
            });
            table.by_kind.insert((kind.group, kind.kind), watched.clone());
            table.by_path.insert(path, watched);
        }
        for (path, gone) in self.by_path.iter().filter(|(path, _)| !table.by_path.contains_key(*path)) {
            gone.stop.cancel();
            caches.forget_metadata(path);
        }
        (table, fresh)
    }

    pub fn by_path(&self, path: &str) -> Option<Arc<Watched>> {
        self.by_path.get(path).cloned()
    }

    /// The kind that a reference names, in whatever version.
    pub fn kind_of(&self, owner: &Owner) -> Option<&Arc<Watched>> {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        self.by_kind.get(&(group.to_owned(), owner.kind.to_string()))
    }

    /// The owner that an object in this namespace names, if the cache has it.
    pub fn owner(&self, owner: &Owner, namespace: &str) -> Option<(Arc<Watched>, Arc<Item>)> {
        let watched = self.kind_of(owner)?;
        let namespace = if watched.kind.namespaced { namespace } else { "" };
        let item = watched.cache.get(namespace, &owner.name).filter(|item| item.uid == owner.uid)?;
        Some((watched.clone(), item))
    }

    /// All objects that name this uid among their owners.
    pub fn dependents(&self, uid: &str) -> Vec<(Arc<Watched>, Arc<Item>)> {
        let owned = |watched: &Arc<Watched>| {
            let watched = watched.clone();
            watched.cache.owned_by(uid).into_iter().map(move |item| (watched.clone(), item)).collect::<Vec<_>>()
        };
        self.by_path.values().flat_map(owned).collect()
    }

    /// A kind whose objects are not all known yet.
    pub fn unsynced(&self) -> Option<&str> {
        self.by_path.values().find(|watched| !watched.cache.is_synced()).map(|watched| &*watched.path)
    }
}

/// Events are never owned, and there are many of them.
fn is_collectable(kind: &ResourceKind) -> bool {
    kind.plural != "events" && ["list", "watch", "delete"].iter().all(|verb| kind.can(verb))
}
