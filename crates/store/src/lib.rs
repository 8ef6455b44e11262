//! The store: every object of the cluster under a key, each change a revision, and one cache with history above a
//! [`Backend`] that serves every read and watch.
//!
//! ```text
//!   Store ── reads, lists, watches ──▶ Cache (ordered maps, one history a resource) ◀── feeds ── Backend
//!     └───── commit, fresh ─────────────────────────────────────────────────────────────────────▶ (embedded, etcd)
//! ```
//!
//! What it promises:
//! - A commit is acknowledged, read and watched only when it is durable, wholly or not at all; revisions grow by one a
//!   transaction and never go back, also across crashes. Of two commits guarded by the same revision exactly one wins.
//! - A watch from a revision delivers each later change of its range once, in order, and never skips one: where the
//!   history no longer reaches, it says [`Error::Compacted`].
//! - History is kept for each resource (`/registry/pods/` and so on) by itself: the changes of the last five minutes, as
//!   far as 16 MiB of superseded values and 65,536 changes allow ([`Options`]). It lives in memory. After a restart
//!   a list at, or watch after, a revision is served where the resource has not changed since; else it is `Compacted`.
//! - Nothing is written while nothing changes.
//!
//! Keys look like `/registry/<resource>/<namespace>/<name>`: the first two segments name the *resource*, the unit of
//! ordering, history and waking. A range is a prefix that ends in `/` and lies within one resource, or one exact key.

mod backend;
mod cache;
mod embedded;
mod entry;
mod history;
mod list;
mod txn;
mod watch;

use std::{path::Path, sync::Arc, time::Duration};

pub use backend::{Backend, Feed, Stats};
pub use embedded::OpenError;
pub use entry::{Entry, Event, EventKind};
pub use list::{List, Page, Snapshot};
pub use txn::{Committed, Expect, Guard, Op, Txn};
pub use watch::Watch;

use cache::Cache;

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A guard did not hold, or a delete named a key that is not there. `current` is the entry that stood in the way.
    #[error("{key} is not in the expected state")]
    Conflict {
        /// The key whose guard failed.
        key: Arc<str>,
        /// What is stored under it, if anything.
        current: Option<Arc<Entry>>,
    },
    /// The history does not reach back to the requested revision.
    #[error("revision {requested} is older than the history, which begins at {oldest}")]
    Compacted {
        /// The revision that was asked for.
        requested: u64,
        /// The oldest that can be served.
        oldest: u64,
    },
    /// The requested revision has not happened yet.
    #[error("revision {requested} lies in the future, the current one is {current}")]
    Future {
        /// The revision that was asked for.
        requested: u64,
        /// The newest one.
        current: u64,
    },
    /// The request itself is wrong: a range that names no resource, a transaction that changes one key twice.
    #[error("{0}")]
    Invalid(String),
    /// The backend could not make the change durable: it was not made, and the store still serves reads.
    #[error("the store refused the write: {0}")]
    Storage(String),
    /// The writer ended by a defect. Reads are still served; writes are possible only after the store was opened again.
    #[error("the store's writer has failed, a restart is needed: {0}")]
    Failed(String),
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
}

/// How much the store keeps.
#[derive(Debug, Clone)]
pub struct Options {
    /// The age at which a change leaves the history.
    pub history_age: Duration,
    /// The bytes of superseded values that one resource's history may hold.
    pub history_bytes: usize,
    /// The number of changes that one resource's history may hold.
    pub history_events: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { history_age: Duration::from_secs(300), history_bytes: 16 << 20, history_events: 1 << 16 }
    }
}

/// A handle to the store; clones share it. The last one to be dropped closes the backend and ends every watch.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    cache: Arc<Cache>,
    backend: Box<dyn Backend>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.cache.close();
    }
}

impl Store {
    /// Opens the embedded store in `dir`, making it when the directory is absent or empty.
    pub fn open(dir: &Path, options: Options) -> Result<Self, OpenError> {
        let cache = Arc::new(Cache::new(options));
        let backend = embedded::Embedded::open(dir, Feed::new(cache.clone()))?;
        Ok(Self(Arc::new(Inner { cache, backend: Box::new(backend) })))
    }

    /// A store that forgets everything when it is dropped, for tests.
    pub fn memory() -> Self {
        let cache = Arc::new(Cache::new(Options::default()));
        let backend = embedded::Embedded::memory(Feed::new(cache.clone()));
        Self(Arc::new(Inner { cache, backend: Box::new(backend) }))
    }

    /// A store above a backend of one's own, which `start` makes and which has loaded its state into the feed.
    pub fn with_backend<B: Backend>(options: Options, start: impl FnOnce(Feed) -> B) -> Self {
        let cache = Arc::new(Cache::new(options));
        let backend = Box::new(start(Feed::new(cache.clone())));
        Self(Arc::new(Inner { cache, backend }))
    }

    /// The revision that reads see now.
    pub fn revision(&self) -> u64 {
        self.0.cache.revision()
    }

    /// Waits until reads see everything that any server had committed when this was called; returns that revision.
    pub async fn fresh(&self) -> Result<u64, Error> {
        let revision = self.0.backend.current().await?;
        self.0.cache.reached(revision).await?;
        Ok(revision)
    }

    /// The entry under a key.
    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.0.cache.get(key)
    }

    /// One page of a range, in the order of keys.
    pub fn list(&self, prefix: &str, list: List<'_>) -> Result<Page, Error> {
        self.snapshot(prefix, list.at)?.page(list.after, list.limit)
    }

    /// The whole range as it was at a revision (now, when none is given). It costs no copy and holds no lock.
    pub fn snapshot(&self, prefix: &str, at: Option<u64>) -> Result<Snapshot, Error> {
        self.0.cache.snapshot(prefix, at)
    }

    /// The resources that have ever had an entry, as prefixes (`/registry/pods/`), with the number of entries of each.
    pub fn resources(&self) -> Vec<(Arc<str>, usize)> {
        self.0.cache.resources()
    }

    /// Makes all changes of a transaction when all its guards hold; returns when they are durable and reads see them.
    ///
    /// Dropping the future does not withdraw the transaction.
    pub async fn commit(&self, txn: Txn) -> Result<Committed, Error> {
        self.0.backend.commit(txn).await
    }

    /// Every change of a range after a revision.
    pub fn watch(&self, prefix: &str, after_revision: u64) -> Result<Watch, Error> {
        Watch::new(self.0.cache.clone(), prefix, after_revision)
    }

    /// What the backend has done since it was opened.
    pub fn stats(&self) -> Stats {
        self.0.backend.stats()
    }

    /// Whether writes are possible at all; where not, only a restart helps.
    pub fn is_writable(&self) -> bool {
        self.0.backend.is_writable()
    }

    /// Forgets the history up to and including a revision.
    pub fn compact(&self, revision: u64) -> Result<(), Error> {
        self.0.cache.compact(revision)
    }
}
