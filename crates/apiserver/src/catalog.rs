//! The kinds that are served now, found by path. A change makes a new catalog; readers hold the one they began with.

use std::collections::HashMap;
use std::sync::Arc;

use api::kind::{Kind, Registry};

/// Every served kind.
pub struct Catalog {
    registry: Registry,
    by_path: HashMap<String, Arc<Kind>>,
}

impl Catalog {
    pub fn new(registry: Registry) -> Self {
        let by_path = registry.iter().map(|k| (path(&k.group, &k.version, &k.plural), k.clone())).collect();
        Catalog { registry, by_path }
    }

    /// The kind behind a path.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.by_path.get(&path(group, version, plural))
    }

    /// The kind in the version in which it is stored.
    pub fn stored(&self, kind: &Arc<Kind>) -> Arc<Kind> {
        let storage = &kind.storage;
        if kind.kind == storage.kind && kind.api_version() == storage.api_version {
            return kind.clone();
        }
        self.registry.by_kind(&storage.api_version, &storage.kind).unwrap_or(kind).clone()
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
