//! What is stored under a key, and how it changed.

use std::{
    any::Any,
    fmt,
    num::NonZeroU64,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use bytes::Bytes;

/// One revision of one key. It never changes, and everybody who reads, lists or watches the key shares it.
pub struct Entry {
    /// The key.
    pub key: Arc<str>,
    /// The stored bytes.
    pub value: Bytes,
    /// The revision that made the key.
    pub created: u64,
    /// The revision that made this entry. In the entry of a deleted key, the revision of the delete.
    pub modified: u64,
    /// When the key is deleted by itself, in seconds since 1970.
    pub(crate) expires: Option<NonZeroU64>,
    memo: OnceLock<Box<dyn Any + Send + Sync>>,
}

impl Entry {
    /// A new entry; backends make them.
    pub fn new(key: Arc<str>, value: Bytes, created: u64, modified: u64) -> Self {
        Self { key, value, created, modified, expires: None, memo: OnceLock::new() }
    }

    /// The same entry with a time, in seconds since 1970, at which its key deletes itself; 0 means never.
    pub fn expiring(self, expires: u64) -> Self {
        Self { expires: NonZeroU64::new(expires), ..self }
    }

    /// When the key is deleted by itself.
    pub fn expires(&self) -> Option<SystemTime> {
        self.expires.map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.get()))
    }

    /// The last entry of a key that the given revision deletes.
    pub(crate) fn tombstone(&self, revision: u64) -> Self {
        Self::new(self.key.clone(), self.value.clone(), self.created, revision)
    }

    /// Data derived from the entry, made on first demand and kept as long as the entry.
    ///
    /// # Panics
    /// An entry has one slot: all callers must ask for the same type.
    pub fn memo<T: Any + Send + Sync>(&self, make: impl FnOnce(&Self) -> T) -> &T {
        self.memo.get_or_init(|| Box::new(make(self))).downcast_ref().expect("the memo of an entry has one type")
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, created, modified, .. } = self;
        write!(f, "{key}@{modified} (created {created}, {} bytes)", value.len())
    }
}

/// How an [`Event`] changed its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// The key was not there before.
    Created,
    /// The key has a new value.
    Modified,
    /// The key is gone.
    Deleted,
}

/// One change of one key.
#[derive(Debug, Clone)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The entry after the change; after a delete, the last value with the delete's revision in `modified`.
    pub entry: Arc<Entry>,
    /// The entry before the change.
    pub prev: Option<Arc<Entry>>,
}

impl Event {
    /// The key now has this entry.
    pub fn put(entry: Arc<Entry>, prev: Option<Arc<Entry>>) -> Self {
        let kind = if prev.is_some() { EventKind::Modified } else { EventKind::Created };
        Self { kind, entry, prev }
    }

    /// The key of `prev` is deleted at a revision.
    pub fn delete(prev: Arc<Entry>, revision: u64) -> Self {
        Self { kind: EventKind::Deleted, entry: Arc::new(prev.tombstone(revision)), prev: Some(prev) }
    }

    /// The revision of the transaction that made the change.
    pub fn revision(&self) -> u64 {
        self.entry.modified
    }

    /// The entry that reads see after the change.
    pub(crate) fn current(&self) -> Option<&Arc<Entry>> {
        (self.kind != EventKind::Deleted).then_some(&self.entry)
    }
}
