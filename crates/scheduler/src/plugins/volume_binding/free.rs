//! The volumes that open claims may take, and the space that drivers have, found by class.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use api::volume::{Claim, Volume};
use client::{Change, Key};

use super::Capacity;

/// Where a volume is found: those that are for anyone by their class, those that are for one claim by its namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Place {
    Class(String),
    Claim(String, String),
}

/// The volumes that are not being deleted.
#[derive(Default)]
pub(super) struct Free {
    volumes: HashMap<Place, BTreeMap<String, Arc<Volume>>>,
    places: HashMap<Key, Place>,
}

impl Free {
    pub fn observe(&mut self, change: &Change) {
        let name = change.key.name.to_string();
        if let Some(place) = self.places.remove(&change.key)
            && let Some(volumes) = self.volumes.get_mut(&place)
        {
            volumes.remove(&name);
            if volumes.is_empty() {
                self.volumes.remove(&place);
            }
        }
        let Some(item) = &change.new else { return };
        let volume: Volume = match item.parse() {
            Ok(volume) => volume,
            Err(error) => return tracing::error!(object = %item.key, %error, "unreadable volume"),
        };
        if volume.metadata.is_deleting() {
            return;
        }
        let place = match &volume.spec.claim_ref {
            None => Place::Class(volume.class().to_owned()),
            Some(it) => Place::Claim(it.namespace.clone(), it.name.clone()),
        };
        self.volumes.entry(place.clone()).or_default().insert(name, Arc::new(volume));
        self.places.insert(change.key.clone(), place);
    }

    /// Those that one of these claims may take.
    pub fn of<'a>(&self, claims: impl Iterator<Item = &'a Claim> + Clone) -> Vec<Arc<Volume>> {
        let classes: BTreeSet<&str> = claims.clone().map(Claim::class).collect();
        let classes = classes.into_iter().map(|class| Place::Class(class.to_owned()));
        let meant = claims.map(|it| Place::Claim(it.metadata.namespace.clone(), it.metadata.name.clone()));
        let places = classes.chain(meant);
        places.filter_map(|place| self.volumes.get(&place)).flat_map(BTreeMap::values).cloned().collect()
    }
}

/// What drivers say of their space, by class.
#[derive(Default)]
pub(super) struct Capacities {
    by_class: HashMap<String, HashMap<Key, Arc<Capacity>>>,
    classes: HashMap<Key, String>,
}

impl Capacities {
    pub fn observe(&mut self, change: &Change) {
        if let Some(class) = self.classes.remove(&change.key)
            && let Some(all) = self.by_class.get_mut(&class)
        {
            all.remove(&change.key);
            if all.is_empty() {
                self.by_class.remove(&class);
            }
        }
        let Some(item) = &change.new else { return };
        match item.parse::<Capacity>() {
            Ok(capacity) => {
                let class = capacity.storage_class_name.clone();
                self.by_class.entry(class.clone()).or_default().insert(change.key.clone(), Arc::new(capacity));
                self.classes.insert(change.key.clone(), class);
            }
            Err(error) => tracing::error!(object = %item.key, %error, "unreadable capacity"),
        }
    }

    pub fn of(&self, class: &str) -> Vec<Arc<Capacity>> {
        self.by_class.get(class).into_iter().flat_map(HashMap::values).cloned().collect()
    }
}
