//! Watching a range: a position in the history that its resource's watchers share.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::{
    Error, Event,
    cache::{Cache, Found},
    list::Range,
};

/// About how many events one call of [`Watch::next`] returns at most.
const BATCH: usize = 256;

/// Every change of a range after a revision, each once, in order.
///
/// A watcher has no queue of its own: it is a position in the shared history. One that is so slow that the history
/// moves past its position gets [`Error::Compacted`] and has to list again.
pub struct Watch {
    cache: Arc<Cache>,
    range: Range,
    changed: Arc<Notify>,
    position: u64,
    progressed: u64,
    ended: bool,
}

impl Watch {
    pub(crate) fn new(cache: Arc<Cache>, prefix: &str, after: u64) -> Result<Self, Error> {
        let range = Range::new(prefix)?;
        let (position, changed) = cache.watch(&range, after)?;
        Ok(Self { cache, range, changed, position, progressed: after, ended: false })
    }

    /// The next changes, as soon as there are any; all those of one revision come together. An error is the last thing it
    /// returns before `None`; without an error, `None` means that the store was closed.
    ///
    /// Cancel safe: a dropped future has taken nothing.
    pub async fn next(&mut self) -> Option<Result<Vec<Event>, Error>> {
        loop {
            if let Some(found) = self.poll() {
                return found.transpose();
            }
            let changed = self.changed.clone();
            let changed = changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.poll() {
                Some(found) => return found.transpose(),
                None => changed.await,
            }
        }
    }

    /// All changes of the range up to this revision have been returned. It grows also while nothing in the range changes,
    /// which is what bookmarks tell.
    pub fn progressed_to(&mut self) -> u64 {
        // Only when nothing is waiting may the range's progress be the store's.
        if !self.ended
            && let Found::Nothing { position, revision } = self.cache.events(&self.range, self.position, 1)
        {
            (self.position, self.progressed) = (position, self.progressed.max(revision));
        }
        self.progressed
    }

    /// What is there now; `None` when it is time to wait.
    fn poll(&mut self) -> Option<Result<Option<Vec<Event>>, Error>> {
        if self.ended {
            return Some(Ok(None));
        }
        match self.cache.events(&self.range, self.position, BATCH) {
            Found::Events { mut events, position, revision } => {
                let after = self.progressed;
                (self.position, self.progressed) = (position, after.max(revision));
                // A watch after a revision that was still to come.
                events.retain(|event| event.revision() > after);
                if events.is_empty() { self.poll() } else { Some(Ok(Some(events))) }
            }
            Found::Nothing { position, revision } => {
                (self.position, self.progressed) = (position, self.progressed.max(revision));
                self.ended = self.cache.is_closed();
                self.ended.then_some(Ok(None))
            }
            Found::Lost { oldest } => {
                self.ended = true;
                Some(Err(Error::Compacted { requested: self.progressed, oldest }))
            }
        }
    }
}
