//! The writer: decides transactions in the order of their arrival, makes a batch of them durable at once, then publishes it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::oneshot;

use super::{
    Durable,
    queue::{Queue, Reply},
};
use crate::{Committed, Entry, Error, Event, Feed, Op, Txn};

/// Expired entries are looked for at most this often, so that those of about the same age go in one batch.
const SWEEP: Duration = Duration::from_secs(1);
/// The most expired entries that one batch deletes, so that they hold up nobody for long.
const SWEEP_BATCH: usize = 1024;

/// Works until the queue is closed.
pub(super) fn run(mut durable: impl Durable, queue: &Queue, feed: &Feed) {
    let mut expiries = Expiries::load(feed);
    while let Some(requests) = queue.take(expiries.wake()) {
        let mut batch = Batch::new(feed);
        let mut replies: Vec<(oneshot::Sender<Reply>, Reply)> = Vec::with_capacity(requests.len());
        for request in requests {
            let outcome = batch.decide(request.txn);
            replies.push((request.reply, outcome));
        }
        for (key, modified) in expiries.due() {
            // One that was changed or deleted meanwhile is no longer ours to delete.
            _ = batch.decide(Txn::delete(key, modified));
        }
        let events = batch.events;
        let began = Instant::now();
        let refused = match events.is_empty() {
            true => None,
            false => durable.write(&events).err(),
        };
        note(queue, &refused, replies.len(), began.elapsed(), events.is_empty());
        match refused {
            None => {
                expiries.note(&events);
                feed.apply(events);
            }
            Some(reason) => {
                tracing::error!(error = %reason, transactions = replies.len(), "the store refused a batch");
                // Also a conflict may have been one with a change that has not happened.
                replies.iter_mut().for_each(|(_, reply)| *reply = Err(Error::Storage(reason.clone())));
                expiries.postpone();
            }
        }
        for (to, reply) in replies {
            // Whoever asked may have gone; the transaction stands.
            _ = to.send(reply);
        }
    }
}

fn note(queue: &Queue, refused: &Option<String>, transactions: usize, took: Duration, empty: bool) {
    let mut stats = queue.stats.lock();
    stats.commits += transactions as u64;
    match refused {
        Some(_) => stats.refused += transactions as u64,
        None if empty => {}
        None => {
            stats.batches += 1;
            stats.writing += took;
        }
    }
}

/// Transactions that have been decided but are not durable yet, and so visible only to each other.
struct Batch<'a> {
    feed: &'a Feed,
    revision: u64,
    events: Vec<Event>,
    /// The event in `events` that changed a key last.
    latest: HashMap<Arc<str>, usize>,
}

impl<'a> Batch<'a> {
    fn new(feed: &'a Feed) -> Self {
        Self { feed, revision: feed.revision(), events: Vec::new(), latest: HashMap::new() }
    }

    fn get(&self, key: &str) -> Option<Arc<Entry>> {
        match self.latest.get(key) {
            Some(&index) => self.events[index].current().cloned(),
            None => self.feed.get(key),
        }
    }

    /// Adds the transaction's changes when its guards hold, given the transactions before it.
    fn decide(&mut self, txn: Txn) -> Reply {
        for guard in &txn.guards {
            let current = self.get(&guard.key);
            if !guard.expect.holds(current.as_ref()) {
                return Err(Error::Conflict { key: guard.key.clone(), current });
            }
        }
        let (revision, before) = (self.revision + 1, self.events.len());
        for op in txn.ops {
            if let Err(error) = self.change(op, revision, before) {
                self.undo(before);
                return Err(error);
            }
        }
        let entries: Vec<_> = self.events[before..].iter().map(|event| event.entry.clone()).collect();
        if !entries.is_empty() {
            self.revision = revision;
        }
        Ok(Committed { revision: self.revision, entries })
    }

    fn change(&mut self, op: Op, revision: u64, before: usize) -> Result<(), Error> {
        let key = op.key().clone();
        if self.latest.get(&key).is_some_and(|&index| index >= before) {
            return Err(Error::Invalid(format!("the transaction changes {key} twice")));
        }
        let prev = self.get(&key);
        let event = match (op, prev) {
            (Op::Put { key, value, ttl }, prev) => {
                let (key, created) = prev.as_ref().map_or((key, revision), |prev| (prev.key.clone(), prev.created));
                let expires = ttl.map_or(0, |ttl| unix_seconds(SystemTime::now() + ttl));
                Event::put(Arc::new(Entry::new(key, value, created, revision).expiring(expires)), prev)
            }
            (Op::Delete { .. }, Some(prev)) => Event::delete(prev, revision),
            (Op::Delete { key }, None) => return Err(Error::Conflict { key, current: None }),
        };
        self.latest.insert(key, self.events.len());
        self.events.push(event);
        Ok(())
    }

    /// Takes back the changes of a transaction that went wrong half way.
    fn undo(&mut self, before: usize) {
        self.events.truncate(before);
        self.latest = self.events.iter().enumerate().map(|(index, event)| (event.entry.key.clone(), index)).collect();
    }
}

/// The entries that expire, soonest first. Those that have been changed since are passed over when their time comes.
struct Expiries {
    /// Seconds since 1970, key, and the revision that set the time.
    times: BTreeSet<(u64, Arc<str>, u64)>,
    next_sweep: Instant,
}

impl Expiries {
    fn load(feed: &Feed) -> Self {
        let mut expiries = Self { times: BTreeSet::new(), next_sweep: Instant::now() };
        feed.each(|entry| expiries.add(entry));
        expiries
    }

    fn add(&mut self, entry: &Entry) {
        if let Some(expires) = entry.expires {
            self.times.insert((expires.get(), entry.key.clone(), entry.modified));
        }
    }

    fn note(&mut self, events: &[Event]) {
        for event in events {
            if let Some(Entry { expires: Some(expires), key, modified, .. }) = event.prev.as_deref() {
                self.times.remove(&(expires.get(), key.clone(), *modified));
            }
            event.current().into_iter().for_each(|entry| self.add(entry));
        }
    }

    /// When to look next.
    fn wake(&self) -> Option<Instant> {
        let (expires, ..) = self.times.first()?;
        let seconds = (expires + 1).saturating_sub(unix_seconds(SystemTime::now()));
        Some(self.next_sweep.max(Instant::now() + Duration::from_secs(seconds)))
    }

    /// The entries whose time has come. They stay here until their deletes are noted.
    fn due(&mut self) -> Vec<(Arc<str>, u64)> {
        let now = Instant::now();
        if now < self.next_sweep {
            return Vec::new();
        }
        self.next_sweep = now + SWEEP;
        let today = unix_seconds(SystemTime::now());
        let due = self.times.iter().take_while(|(expires, ..)| *expires < today).take(SWEEP_BATCH);
        due.map(|(_, key, modified)| (key.clone(), *modified)).collect()
    }

    /// The backend refuses writes: tries again later.
    fn postpone(&mut self) {
        self.next_sweep = Instant::now() + SWEEP * 10;
    }
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
