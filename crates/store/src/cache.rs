//! The cache that every read and watch is served from: the entries of each resource with the history of their changes.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::RwLock;
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::Notify,
};

use crate::{
    Entry, Error, Event, Options, Snapshot,
    history::History,
    list::{Entries, Range, resource_of},
};

/// How often, at most, all histories are looked through for what is too old.
const TRIM: Duration = Duration::from_secs(15);

/// The canonical state in memory: what is durable, nothing else.
pub(crate) struct Cache {
    state: RwLock<State>,
    /// [`State::revision`], to be read without the lock.
    revision: AtomicU64,
    advanced: Notify,
    closed: AtomicBool,
    options: Options,
}

#[derive(Default)]
struct State {
    revision: u64,
    /// The history of a resource that is not there yet begins here.
    floor: u64,
    /// When the histories of all resources were last trimmed.
    trimmed: Option<Instant>,
    resources: HashMap<Arc<str>, Resource>,
}

/// The keys that share the first two segments.
#[derive(Default)]
struct Resource {
    entries: Entries,
    history: History,
    changed: Arc<Notify>,
    /// Where watchers run.
    runtime: Option<Handle>,
}

/// So many watchers are woken by a task of their runtime, which costs much less than waking each from outside.
const CROWD: usize = 16;

/// Wakes the watchers of a resource when it is dropped, which happens also where its task is never run.
struct Wake(Arc<Notify>);

impl Drop for Wake {
    fn drop(&mut self) {
        self.0.notify_waiters();
    }
}

impl Resource {
    fn wake(&self) -> (Wake, Option<Handle>) {
        let crowd = Arc::strong_count(&self.changed) > CROWD;
        (Wake(self.changed.clone()), self.runtime.clone().filter(|_| crowd))
    }
}

impl State {
    fn resource(&mut self, key: &str) -> &mut Resource {
        let name = resource_of(key);
        if !self.resources.contains_key(name) {
            let history = History::since(self.floor);
            self.resources.insert(name.into(), Resource { history, ..Resource::default() });
        }
        self.resources.get_mut(name).expect("it was there or has just been inserted")
    }
}

/// What a watcher finds when it looks at the history from its position on.
pub(crate) enum Found {
    Events { events: Vec<Event>, position: u64, revision: u64 },
    Nothing { position: u64, revision: u64 },
    Lost { oldest: u64 },
}

impl Cache {
    pub(crate) fn new(options: Options) -> Self {
        Self {
            state: RwLock::default(),
            revision: AtomicU64::new(0),
            advanced: Notify::new(),
            closed: AtomicBool::new(false),
            options,
        }
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    pub(crate) fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.state.read().resources.get(resource_of(key))?.entries.get(key).cloned()
    }

    pub(crate) fn each(&self, mut f: impl FnMut(&Entry)) {
        self.state.read().resources.values().flat_map(|it| it.entries.values()).for_each(|entry| f(entry));
    }

    pub(crate) fn resources(&self) -> Vec<(Arc<str>, usize)> {
        let state = self.state.read();
        let mut all: Vec<_> = state.resources.iter().map(|(name, it)| (name.clone(), it.entries.len())).collect();
        all.sort_unstable();
        all
    }

    pub(crate) fn snapshot(&self, prefix: &str, at: Option<u64>) -> Result<Snapshot, Error> {
        let range = Range::new(prefix)?;
        let state = self.state.read();
        let current = state.revision;
        let revision = at.unwrap_or(current);
        if revision > current {
            return Err(Error::Future { requested: revision, current });
        }
        let Some(resource) = state.resources.get(range.resource()) else {
            return match state.floor {
                oldest if revision < oldest => Err(Error::Compacted { requested: revision, oldest }),
                _ => Ok(Snapshot { entries: Entries::new(), range, revision }),
            };
        };
        let mut entries = resource.entries.clone();
        if revision < current {
            let oldest = resource.history.floor();
            let Some(later) = resource.history.from(resource.history.after(revision)).filter(|_| revision >= oldest)
            else {
                return Err(Error::Compacted { requested: revision, oldest });
            };
            let later: Vec<Event> = later.filter(|event| range.contains(&event.entry.key)).cloned().collect();
            drop(state);
            for event in later.into_iter().rev() {
                match event.prev {
                    Some(prev) => entries.insert(prev.key.clone(), prev),
                    None => entries.remove(&event.entry.key),
                };
            }
        }
        Ok(Snapshot { entries, range, revision })
    }

    /// Where a watch of a range after a revision begins, and what wakes it.
    pub(crate) fn watch(&self, range: &Range, after: u64) -> Result<(u64, Arc<Notify>), Error> {
        let mut state = self.state.write();
        let Resource { history, changed, runtime, .. } = state.resource(range.resource());
        let here = Handle::try_current().ok().filter(|here| here.runtime_flavor() == RuntimeFlavor::MultiThread);
        if here.is_some() {
            *runtime = here;
        }
        let oldest = history.floor();
        if after < oldest {
            return Err(Error::Compacted { requested: after, oldest });
        }
        Ok((history.after(after), changed.clone()))
    }

    /// Looks for events of a range from a position on: about `most` of them, never part of a revision.
    pub(crate) fn events(&self, range: &Range, position: u64, most: usize) -> Found {
        let state = self.state.read();
        let revision = state.revision;
        let Some(resource) = state.resources.get(range.resource()) else {
            return Found::Lost { oldest: revision };
        };
        let Some(new) = resource.history.from(position) else {
            return Found::Lost { oldest: resource.history.floor() };
        };
        let (mut events, mut last, mut seen) = (Vec::new(), 0, 0);
        for event in new {
            if event.revision() != last && events.len() >= most {
                return Found::Events { events, position: position + seen, revision: last };
            }
            (last, seen) = (event.revision(), seen + 1);
            if range.contains(&event.entry.key) {
                events.push(event.clone());
            }
        }
        let position = position + seen;
        if events.is_empty() {
            Found::Nothing { position, revision }
        } else {
            Found::Events { events, position, revision }
        }
    }

    pub(crate) fn load(
        &self,
        revision: u64,
        floor: u64,
        entries: impl IntoIterator<Item = Entry>,
        deleted: impl IntoIterator<Item = (Arc<str>, u64)>,
    ) {
        let mut fresh = State { revision, floor, ..State::default() };
        for (name, deleted) in deleted {
            fresh.resource(&name).history.raise(deleted);
        }
        for entry in entries {
            let resource = fresh.resource(&entry.key);
            resource.history.raise(entry.modified);
            resource.entries.insert(entry.key.clone(), Arc::new(entry));
        }
        let mut state = self.state.write();
        for (name, old) in &state.resources {
            let resource = fresh.resource(name);
            resource.history.skip_past(old.history.end());
            resource.changed = old.changed.clone();
        }
        *state = fresh;
        self.publish(&state);
        state.resources.values().for_each(|it| it.changed.notify_waiters());
    }

    pub(crate) fn apply(&self, events: Vec<Event>) {
        let Some(revision) = events.last().map(Event::revision) else { return };
        let now = Instant::now();
        let mut wake: Vec<(Wake, Option<Handle>)> = Vec::new();
        let mut state = self.state.write();
        debug_assert!(events[0].revision() > state.revision, "revisions never go back");
        for events in events.chunk_by(|a, b| resource_of(&a.entry.key) == resource_of(&b.entry.key)) {
            let resource = state.resource(&events[0].entry.key);
            for event in events {
                match event.current() {
                    Some(entry) => resource.entries.insert(entry.key.clone(), entry.clone()),
                    None => resource.entries.remove(&event.entry.key),
                };
                resource.history.push(event.clone());
            }
            resource.history.trim(&self.options, now);
            wake.push(resource.wake());
        }
        if state.trimmed.is_none_or(|at| now.duration_since(at) > TRIM) {
            // Also quiet resources let go of what has become old.
            state.trimmed = Some(now);
            state.resources.values_mut().for_each(|it| it.history.trim(&self.options, now));
        }
        state.revision = revision;
        self.publish(&state);
        drop(state);
        for (wake, runtime) in wake {
            if let Some(runtime) = runtime {
                runtime.spawn(async move { drop(wake) });
            }
        }
    }

    pub(crate) fn progress(&self, revision: u64) {
        let mut state = self.state.write();
        state.revision = state.revision.max(revision);
        self.publish(&state);
    }

    fn publish(&self, state: &State) {
        self.revision.store(state.revision, Ordering::Release);
        self.advanced.notify_waiters();
    }

    /// Waits until reads see a revision.
    pub(crate) async fn reached(&self, revision: u64) -> Result<(), Error> {
        while self.revision() < revision {
            let advanced = self.advanced.notified();
            tokio::pin!(advanced);
            advanced.as_mut().enable();
            if self.is_closed() {
                return Err(Error::Closed);
            }
            if self.revision() < revision {
                advanced.await;
            }
        }
        Ok(())
    }

    pub(crate) fn compact(&self, revision: u64) -> Result<(), Error> {
        let mut state = self.state.write();
        let current = state.revision;
        if revision > current {
            return Err(Error::Future { requested: revision, current });
        }
        state.floor = state.floor.max(revision);
        let now = Instant::now();
        state.resources.values_mut().for_each(|it| it.history.compact(revision, &self.options, now));
        Ok(())
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.state.read().resources.values().for_each(|it| it.changed.notify_waiters());
        self.advanced.notify_waiters();
    }
}
