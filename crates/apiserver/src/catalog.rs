//! The kinds that are served now, found by path. A change makes a new catalog; readers hold the one they began with.

use std::collections::HashMap;
use std::sync::Arc;

use api::kind::{Kind, Registry};

/// Every served kind.
pub struct Catalog {
    registry: Registry,
    /// Each kind with its stored version.
    by_path: HashMap<String, (Arc<Kind>, Arc<Kind>)>,
}

impl Catalog {
    pub fn new(registry: Registry) -> Self {
        let stored = |kind: &Arc<Kind>| {
            let storage = &kind.storage;
            registry.by_kind(&storage.api_version, &storage.kind).unwrap_or(kind).clone()
        };
        let entries = registry.iter().map(|k| (path(&k.group, &k.version, &k.plural), (k.clone(), stored(k))));
        let by_path = entries.collect();
        Catalog { registry, by_path }
    }

    /// The kind behind a path.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.served(group, version, plural).map(|(kind, _)| kind)
    }

    /// The kind behind a path, and the version in which it is stored.
    pub fn served(&self, group: &str, version: &str, plural: &str) -> Option<&(Arc<Kind>, Arc<Kind>)> {
        self.by_path.get(&path(group, version, plural))
    }

    /// The version in which a kind is stored.
    pub fn stored(&self, kind: &Arc<Kind>) -> Arc<Kind> {
        self.served(&kind.group, &kind.version, &kind.plural).map_or_else(|| kind.clone(), |(_, stored)| stored.clone())
    }

    /// The kind of any version that an object's `apiVersion` and `kind` name.
    pub fn by_kind(&self, api_version: &str, kind: &str) -> Option<&Arc<Kind>> {
        self.registry.by_kind(api_version, kind)
    }

    /// All kinds in discovery's order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.registry.iter()
    }
}

fn path(group: &str, version: &str, plural: &str) -> String {
    let mut path = String::with_capacity(group.len() + version.len() + plural.len() + 2);
    for part in [group, "/", version, "/", plural] {
        path.push_str(part);
    }
    path
}
