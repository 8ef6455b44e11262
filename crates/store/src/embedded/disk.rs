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
    io,
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
        let data = directory.path.join("data");
        let seen = journal::marks(&data).map_err(|source| OpenError::Io { path: data, source })?;
        let loaded = guarded(|| {
            let open = Open::new(&directory)?;
            let revision = open.load(feed)?;
            match *seen.after(revision) {
                // The one batch that was being written when the power went may be torn; all before it had been synced.
                [.., lost, _] => Err(Failure::Damage(format!("revision {lost} was stored and is gone"))),
                _ => Ok(open),
            }
        });
        match loaded {
            Ok(open) => Ok(Self { directory, open: Some(open), doubt: Vec::new() }),
            Err(Failure::System(source)) => Err(OpenError::Io { path: directory.path.clone(), source }),
            Err(failure @ Failure::Background) => {
                Err(OpenError::Io { path: directory.path.clone(), source: io::Error::other(failure) })
            }
            Err(Failure::Damage(reason)) => Err(directory.damaged(reason)),
        }
    }

    /// The open database, opened again after a failure and rid of what was refused.
    fn ready(&mut self) -> Result<&Open, Failure> {
        if self.open.is_none() {
            let open = guarded(|| Open::new(&self.directory))?;
            if let Some(first) = self.doubt.first()
                && open.revision()? >= first.revision()
            {
                open.undo(&self.doubt)?;
            }
            self.doubt.clear();
            self.open = Some(open);
        }
        self.open.as_ref().ok_or_else(|| Failure::Damage("its database is closed".into()))
    }

    fn attempt(&mut self, events: &[Event]) -> Result<(), Failure> {
        self.ready()?.write(events).inspect_err(|_| {
            self.doubt = events.to_vec();
            self.open = None;
        })
    }
}

impl Durable for Disk {
    fn write(&mut self, events: &[Event]) -> Result<(), String> {
        let written = match self.attempt(events) {
            // The database tells of it only now, when its cause may be gone.
            Err(Failure::Background) => self.attempt(events),
            written => written,
        };
        written.map_err(|failure| failure.to_string())
    }
}

/// Why the database did not do something.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The system refused: no space, no permission.
    #[error("{0}")]
    System(io::Error),
    #[error("an earlier write in the background failed")]
    Background,
    /// The data is not what was written.
    #[error("{0}")]
    Damage(String),
}

impl From<fjall::Error> for Failure {
    fn from(error: fjall::Error) -> Self {
        match error {
            fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::NotFound => {
                    Self::Damage(format!("its database: {error}"))
                }
                _ => Self::System(error),
            },
            fjall::Error::Poisoned => Self::Background,
            error => Self::Damage(format!("its database: {error}")),
        }
    }
}

impl From<String> for Failure {
    fn from(damage: String) -> Self {
        Self::Damage(damage)
    }
}

/// Runs what may also trip an assertion of the database's code when the data is damaged.
fn guarded<T>(run: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err(Failure::Damage("its database cannot be opened".into())))
}

impl Open {
    fn new(directory: &Directory) -> Result<Self, Failure> {
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
    fn load(&self, feed: &Feed) -> Result<u64, Failure> {
        let revision = self.revision()?;
        let mut entries = Vec::new();
        for item in self.keyspace.prefix(b"e") {
            let (key, value) = item.into_inner()?;
            let entry = decode(&key[1..], &value).filter(|entry| entry.created <= entry.modified);
            let entry =
                entry.ok_or_else(|| format!("the entry of {:?} is garbled", String::from_utf8_lossy(&key[1..])))?;
            if entry.modified > revision {
                return Err(format!("{} has revision {} and the store {revision}", entry.key, entry.modified).into());
            }
            entries.push(entry);
        }
        let mut deleted = Vec::new();
        for item in self.keyspace.prefix(b"d") {
            let (name, value) = item.into_inner()?;
            let name = std::str::from_utf8(&name[1..]).map_err(|_| "a resource's name is garbled".to_owned())?;
            deleted.push((Arc::from(name), number(&value).ok_or("the revision of a delete is garbled".to_owned())?));
        }
        feed.load(revision, 0, entries, deleted);
        Ok(revision)
    }

    /// The revision of the last batch.
    fn revision(&self) -> Result<u64, Failure> {
        match self.keyspace.get(REVISION)? {
            None => Ok(0),
            Some(value) => value
                .strip_prefix(BATCH_MARK)
                .and_then(number)
                .ok_or_else(|| "its revision is garbled".to_owned().into()),
        }
    }

    fn write(&self, events: &[Event]) -> Result<(), Failure> {
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
        Ok(batch.commit()?)
    }

    /// Puts back what a refused batch had replaced. (The marks of deletes stay; they only make history begin later.)
    fn undo(&self, events: &[Event]) -> Result<(), Failure> {
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
        Ok(batch.commit()?)
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
