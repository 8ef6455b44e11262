//! Not acting on the past: what a controller has written and its cache has yet to show.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{Cache, Item};

/// After so long an expectation no longer holds anyone back, in case what it waits for was overtaken by others.
const LIMIT: Duration = Duration::from_secs(300);

/// For each object that a controller looks after, how new the cache of its dependents must be before it may count them.
///
/// Where upstream counts creations and deletions that it has yet to see, this keeps the resourceVersion of the newest
/// creation, which is exact, and the uids of deletions. A change of the dependents that meets an expectation also queues
/// their owner, so nobody needs to wait.
pub struct Expectations<T> {
    waiting: Mutex<HashMap<T, Waiting>>,
}

struct Waiting {
    since: Instant,
    revision: u64,
    deleted: HashSet<Box<str>>,
}

impl<T: Eq + Hash> Default for Expectations<T> {
    fn default() -> Expectations<T> {
        Expectations { waiting: Mutex::default() }
    }
}

impl<T: Eq + Hash + Clone> Expectations<T> {
    pub fn new() -> Expectations<T> {
        Expectations::default()
    }

    fn update(&self, owner: &T, change: impl FnOnce(&mut Waiting)) {
        let mut waiting = self.waiting.lock();
        let entry = waiting.entry(owner.clone()).or_insert_with(|| Waiting {
            since: Instant::now(),
            revision: 0,
            deleted: HashSet::new(),
        });
        entry.since = Instant::now();
        change(entry);
    }

    /// A dependent was created or changed at `revision`, which must be seen before the next decision.
    pub fn expect_revision(&self, owner: &T, revision: u64) {
        self.update(owner, |waiting| waiting.revision = waiting.revision.max(revision));
    }

    /// A dependent was deleted, and must be gone or on its way out before the next decision.
    pub fn expect_deletion(&self, owner: &T, uid: &str) {
        self.update(owner, |waiting| {
            waiting.deleted.insert(uid.into());
        });
    }

    /// Whether the cache shows all that was expected of the dependents of the object with this uid.
    ///
    /// Ask this before reading the dependents from the cache, since it may move on in between.
    pub fn met<K>(&self, owner: &T, cache: &Cache<K>, uid: &str) -> bool {
        let mut all = self.waiting.lock();
        let Some(waiting) = all.get(owner) else { return true };
        let reached = cache.revision() >= waiting.revision;
        let there = |item: &Arc<Item>| !item.deleting && waiting.deleted.contains(&item.uid);
        let met = reached && (waiting.deleted.is_empty() || !cache.owned_by(uid).iter().any(there));
        let met = met || waiting.since.elapsed() > LIMIT;
        if met {
            all.remove(owner);
        }
        met
    }

    /// Drops what was expected for an owner that is gone.
    pub fn forget(&self, owner: &T) {
        self.waiting.lock().remove(owner);
    }
}
