//! Batches on disk: one `fjall` keyspace, written only, and read once when the store is opened.
//!
//! | key               | value                                                                            |
//! | ----------------- | -------------------------------------------------------------------------------- |
//! | `e` key           | created, modified, expires (seconds since 1970, 0 never): 8 bytes each; the value |
//! | `d` resource      | the revision of the resource's last delete                                       |
//! | `r`               | the revision of the last batch, behind [`BATCH_MARK`]; the first item of each batch |
//!
//! Numbers are little endian.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, config::FilterPolicy};

use super::{
    Durable,
    directory::{Directory, OpenError},
    journal,
};
use crate::{Entry, Event, EventKind, Feed, list::resource_of};

/// What marks a batch in the journal, so that lost ones can be told from torn ones.
pub(super) const BATCH_MARK: &[u8; 16] = b"regatta\0batch\0\0\x01";
const REVISION: &[u8] = b"r";

/// The memory that holds what has not yet been sorted into tables.
const MEMTABLE: u64 = 4 << 20;
/// Nothing is read while the store is open.
const CACHE: u64 = 1 << 20;

pub(super) struct Disk {
    directory: Directory,
    /// Absent after a failure, until it can be opened again.
    open: Option<Open>,
    /// A refused batch that may have reached the disk all the same.
    doubt: Vec<Event>,
}

struct Open {
    // Dropped in this order.
    keyspace: Keyspace,
    database: Database,
}

impl Disk {
    /// Opens the directory and loads what is there into the feed.
    pub(super) fn open(path: &Path, feed: &Feed) -> Result<Self, OpenError> {
        let directory = Directory::open(path)?;
        let damaged = |reason| OpenError::Damaged { path: path.into(), reason };
        let seen = journal::marks(&directory.path.join("data"))
            .map_err(|source| OpenError::Io { path: path.into(), source })?;
        // A damaged database may also trip an assertion of its code.
        let open = catch_unwind(AssertUnwindSafe(|| Open::new(&directory).map_err(reason)))
            .unwrap_or_else(|_| Err("its database cannot be opened".into()))
            .map_err(damaged)?;
        let revision = catch_unwind(AssertUnwindSafe(|| open.load(feed)))
            .unwrap_or_else(|_| Err("its tables cannot be read".into()))
            .map_err(damaged)?;
        // The one batch that was being written when the power went may be torn; all before it had been synced.
        if let [.., lost, _] = *seen.after(revision) {
            return Err(damaged(format!("revision {lost} was stored and is gone")));
        }
        Ok(Self { directory, open: Some(open), doubt: Vec::new() })
    }

    /// The open database, opened again after a failure and rid of what was refused.
    fn ready(&mut self) -> Result<&Open, String> {
        if self.open.is_none() {
            let open = catch_unwind(AssertUnwindSafe(|| Open::new(&self.directory).map_err(reason)))
                .unwrap_or_else(|_| Err("its database cannot be opened again".into()))?;
            if let Some(first) = self.doubt.first()
                && open.revision()? >= first.revision()
            {
                open.undo(&self.doubt)?;
            }
            self.doubt.clear();
            self.open = Some(open);
        }
        self.open.as_ref().ok_or_else(|| "its database is closed".into())
    }
}

impl Durable for Disk {
    fn write(&mut self, events: &[Event]) -> Result<(), String> {
        let outcome = self.ready()?.write(events);
        if outcome.is_err() {
            self.doubt = events.to_vec();
            self.open = None;
        }
        outcome
    }
}

impl Open {
    fn new(directory: &Directory) -> fjall::Result<Self> {
        let database = Database::builder(directory.path.join("data"))
            .cache_size(CACHE)
            .worker_threads(2)
            .max_cached_files(Some(64))
            .max_journaling_size(64 << 20)
            .manual_journal_persist(true)
            .open()?;
        let keyspace = database.keyspace("store", || {
            KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE).filter_policy(FilterPolicy::disabled())
        })?;
        Ok(Self { keyspace, database })
    }

    /// Feeds everything; returns the revision.
    fn load(&self, feed: &Feed) -> Result<u64, String> {
        let revision = self.revision()?;
        let mut entries = Vec::new();
        for item in self.keyspace.prefix(b"e") {
            let (key, value) = item.into_inner().map_err(reason)?;
            let entry = decode(&key[1..], &value).filter(|entry| entry.created <= entry.modified);
            let entry =
                entry.ok_or_else(|| format!("the entry of {:?} is garbled", String::from_utf8_lossy(&key[1..])))?;
            if entry.modified > revision {
                return Err(format!("{} has revision {} and the store {revision}", entry.key, entry.modified));
            }
            entries.push(entry);
        }
        let mut deleted = Vec::new();
        for item in self.keyspace.prefix(b"d") {
            let (name, value) = item.into_inner().map_err(reason)?;
            let name = std::str::from_utf8(&name[1..]).map_err(|_| "a resource's name is garbled")?;
            deleted.push((Arc::from(name), number(&value).ok_or("the revision of a delete is garbled")?));
        }
        feed.load(revision, 0, entries, deleted);
        Ok(revision)
    }

    /// The revision of the last batch.
    fn revision(&self) -> Result<u64, String> {
        match self.keyspace.get(REVISION).map_err(reason)? {
            None => Ok(0),
            Some(value) => {
                value.strip_prefix(BATCH_MARK).and_then(number).ok_or_else(|| "its revision is garbled".into())
            }
        }
    }

    fn write(&self, events: &[Event]) -> Result<(), String> {
        let Some(last) = events.last() else { return Ok(()) };
        let mut deleted: HashMap<&str, u64> = HashMap::new();
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        batch.insert(&self.keyspace, REVISION, [BATCH_MARK, last.revision().to_le_bytes().as_slice()].concat());
        // Of several changes of one key in a batch only the last one counts: they would share a sequence number.
        let latest: HashMap<&str, usize> =
            events.iter().enumerate().map(|(index, event)| (&*event.entry.key, index)).collect();
        for (index, event) in events.iter().enumerate() {
            let key = &event.entry.key;
            if event.kind == EventKind::Deleted {
                deleted.insert(resource_of(key), event.revision());
            }
            if latest[&**key] == index {
                match event.current() {
                    Some(entry) => batch.insert(&self.keyspace, prefixed(b'e', key), encode(entry)),
                    None => batch.remove(&self.keyspace, prefixed(b'e', key)),
                }
            }
        }
        for (name, revision) in deleted {
            batch.insert(&self.keyspace, prefixed(b'd', name), revision.to_le_bytes().as_slice());
        }
        batch.commit().map_err(reason)
    }

    /// Puts back what a refused batch had replaced. (The marks of deletes stay; they only make history begin later.)
    fn undo(&self, events: &[Event]) -> Result<(), String> {
        let Some(first) = events.first() else { return Ok(()) };
        let mut before: HashMap<&str, Option<&Arc<Entry>>> = HashMap::new();
        for event in events {
            before.entry(&event.entry.key).or_insert(event.prev.as_ref());
        }
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        let revision = first.revision() - 1;
        batch.insert(&self.keyspace, REVISION, [BATCH_MARK, revision.to_le_bytes().as_slice()].concat());
        for (key, prev) in before {
            match prev {
                Some(prev) => batch.insert(&self.keyspace, prefixed(b'e', key), encode(prev)),
                None => batch.remove(&self.keyspace, prefixed(b'e', key)),
            }
        }
        batch.commit().map_err(reason)
    }
}

fn prefixed(kind: u8, key: &str) -> Vec<u8> {
    let mut prefixed = Vec::with_capacity(1 + key.len());
    prefixed.push(kind);
    prefixed.extend_from_slice(key.as_bytes());
    prefixed
}

fn encode(entry: &Entry) -> Vec<u8> {
    let mut value = Vec::with_capacity(24 + entry.value.len());
    for number in [entry.created, entry.modified, entry.expires.map_or(0, |at| at.get())] {
        value.extend_from_slice(&number.to_le_bytes());
    }
    value.extend_from_slice(&entry.value);
    value
}

fn decode(key: &[u8], value: &[u8]) -> Option<Entry> {
    let (head, value) = value.split_at_checked(24)?;
    let key = std::str::from_utf8(key).ok()?;
    let entry = Entry::new(key.into(), Bytes::copy_from_slice(value), number(&head[..8])?, number(&head[8..16])?);
    Some(entry.expiring(number(&head[16..])?))
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// What went wrong, as the system says it where it was the system.
fn reason(error: fjall::Error) -> String {
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => error.to_string(),
        fjall::Error::Poisoned => "an earlier write in the background failed".into(),
        error => error.to_string(),
    }
}
