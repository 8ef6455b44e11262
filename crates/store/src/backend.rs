//! What the store asks of whatever keeps its entries: commit, current revision, and feeding the cache.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;

use crate::{Committed, Entry, Error, Event, Txn, cache::Cache};

/// A durable, totally ordered sequence of transactions.
///
/// Before it is handed to the store it has loaded its state into the [`Feed`]; from then on it feeds every change, its own
/// and other servers', in the order of revisions. It also expires entries: when the time of an entry has come it
/// deletes the key by a transaction like any other. Dropping it stops the feeding and closes what it had open.
pub trait Backend: Send + Sync + 'static {
    /// Commits the transaction when its guards hold. Resolves when that is durable and has been fed to the cache.
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Committed, Error>>;

    /// The linearizable revision: no commit that was acknowledged before the call, by any server, is above it. The feed
    /// gets there without further writes (a backend that shares its sequence asks for a progress notification).
    fn current(&self) -> BoxFuture<'_, Result<u64, Error>>;

    /// What it has done since it was opened.
    fn stats(&self) -> Stats {
        Stats::default()
    }

    /// Whether it can still take writes. One that cannot must be opened again.
    fn is_writable(&self) -> bool {
        true
    }
}

/// What a backend has done since it was opened.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stats {
    /// Transactions that were decided.
    pub commits: u64,
    /// Those among them that could not be made durable.
    pub refused: u64,
    /// Batches that were made durable.
    pub batches: u64,
    /// The time that this took.
    pub writing: Duration,
}

/// Where a backend puts what it knows. The entries it has fed are also what it checks guards against.
#[derive(Clone)]
pub struct Feed(Arc<Cache>);

impl Feed {
    pub(crate) fn new(cache: Arc<Cache>) -> Self {
        Self(cache)
    }

    /// Replaces the whole state by what was loaded at `revision`: all entries, and for resources (`/registry/pods/`) the
    /// revision of the last delete. Deletes that are not named happened at `floor` or before. Watches that were open
    /// before cannot go on.
    pub fn load(
        &self,
        revision: u64,
        floor: u64,
        entries: impl IntoIterator<Item = Entry>,
        deleted: impl IntoIterator<Item = (Arc<str>, u64)>,
    ) {
        self.0.load(revision, floor, entries, deleted);
    }

    /// Applies changes that are durable, in the order of revisions, never part of a revision.
    pub fn apply(&self, events: Vec<Event>) {
        self.0.apply(events);
    }

    /// Everything up to this revision has been fed.
    pub fn progress(&self, revision: u64) {
        self.0.progress(revision);
    }

    /// The entry that was fed last for a key.
    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.0.get(key)
    }

    /// Calls a function with every entry, in no order.
    pub fn each(&self, f: impl FnMut(&Entry)) {
        self.0.each(f);
    }

    /// The revision that the feed has reached.
    pub fn revision(&self) -> u64 {
        self.0.revision()
    }
}
