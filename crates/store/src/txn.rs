//! Transactions: guards that must hold and changes that are made together, at one revision.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use crate::Entry;

/// Changes that are made together, if every guard holds.
#[derive(Debug, Clone, Default)]
pub struct Txn {
    /// What must be so when the transaction's turn comes.
    pub guards: Vec<Guard>,
    /// What is changed then. Each key at most once.
    pub ops: Vec<Op>,
}

/// What must be so about a key.
#[derive(Debug, Clone)]
pub struct Guard {
    /// The key.
    pub key: Arc<str>,
    /// Its expected state.
    pub expect: Expect,
}

/// The expected state of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Nothing is stored under the key.
    Absent,
    /// Something is stored under the key.
    Exists,
    /// The entry is the one that this revision made.
    Modified(u64),
}

/// One change.
#[derive(Debug, Clone)]
pub enum Op {
    /// Stores a value.
    Put {
        /// Under this key.
        key: Arc<str>,
        /// These bytes; they are shared, not copied, so a buffer with spare capacity keeps it.
        value: Bytes,
        /// After this time the key is deleted by a revision of its own.
        ttl: Option<Duration>,
    },
    /// Deletes a key, which must be there.
    Delete {
        /// The key.
        key: Arc<str>,
    },
}

/// What a transaction did.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Its revision; that of the last change before it when it had no changes.
    pub revision: u64,
    /// For each change the entry it made, or for a delete the last one with the delete's revision.
    pub entries: Vec<Arc<Entry>>,
}

impl Op {
    /// Stores a value for good.
    pub fn put(key: impl Into<Arc<str>>, value: impl Into<Bytes>) -> Self {
        Self::Put { key: key.into(), value: value.into(), ttl: None }
    }

    /// Deletes a key.
    pub fn delete(key: impl Into<Arc<str>>) -> Self {
        Self::Delete { key: key.into() }
    }

    /// The key that is changed.
    pub fn key(&self) -> &Arc<str> {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

impl Expect {
    /// Whether an entry is in this state.
    pub fn holds(self, entry: Option<&Arc<Entry>>) -> bool {
        match self {
            Self::Absent => entry.is_none(),
            Self::Exists => entry.is_some(),
            Self::Modified(revision) => entry.is_some_and(|entry| entry.modified == revision),
        }
    }
}

impl Txn {
    /// Stores a value under a key that must be free.
    pub fn create(key: impl Into<Arc<str>>, value: impl Into<Bytes>) -> Self {
        Self::guarded(Expect::Absent, Op::put(key, value))
    }

    /// Replaces the value that `revision` stored.
    pub fn update(key: impl Into<Arc<str>>, revision: u64, value: impl Into<Bytes>) -> Self {
        Self::guarded(Expect::Modified(revision), Op::put(key, value))
    }

    /// Deletes the entry that `revision` stored.
    pub fn delete(key: impl Into<Arc<str>>, revision: u64) -> Self {
        Self::guarded(Expect::Modified(revision), Op::delete(key))
    }

    /// One change of a key whose state is expected.
    pub fn guarded(expect: Expect, op: Op) -> Self {
        Self { guards: vec![Guard { key: op.key().clone(), expect }], ops: vec![op] }
    }
}
