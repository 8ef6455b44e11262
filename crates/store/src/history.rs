//! The last changes of one resource, shared by everybody who watches it.

use std::{collections::VecDeque, time::Instant};

use crate::{Event, Options};

/// What an event costs beside the values it keeps alive.
const EVENT_OVERHEAD: usize = 64;
/// How finely the age of events is known: those within this part of the history's age share a mark.
const MARKS: u32 = 60;

/// The changes of a resource in the order of revisions. Each has a *position*, a number that counts from the start and
/// stays its own while older ones leave, so that a reader is one number.
#[derive(Default)]
pub(crate) struct History {
    events: VecDeque<Event>,
    /// The position of the first event.
    start: u64,
    /// All changes after this revision are here.
    floor: u64,
    /// What the events cost, see [`cost`].
    bytes: usize,
    /// When the events before a position had all happened.
    marks: VecDeque<(Instant, u64)>,
}

/// The memory that an event keeps from being freed: a superseded value has no other owner.
fn cost(event: &Event) -> usize {
    EVENT_OVERHEAD + event.prev.as_ref().map_or(0, |prev| size_of_val(&**prev) + prev.key.len() + prev.value.len())
}

impl History {
    /// An empty history of a resource that last changed at `floor`.
    pub(crate) fn since(floor: u64) -> Self {
        Self { floor, ..Self::default() }
    }

    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }

    /// The resource has changed at a revision in a way that is not known here.
    pub(crate) fn raise(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
    }

    /// Leaves positions up to and including this one behind, so that readers who hold them find out.
    pub(crate) fn skip_past(&mut self, position: u64) {
        self.start = position + 1;
    }

    /// The position of the event that comes next.
    pub(crate) fn end(&self) -> u64 {
        self.start + self.events.len() as u64
    }

    /// The position of the first event after a revision that is not below the floor.
    pub(crate) fn after(&self, revision: u64) -> u64 {
        self.start + self.events.partition_point(|event| event.revision() <= revision) as u64
    }

    /// The events from a position on; `None` when some of them have left.
    pub(crate) fn from(&self, position: u64) -> Option<impl DoubleEndedIterator<Item = &Event>> {
        let skip = usize::try_from(position.checked_sub(self.start)?).ok()?;
        Some(self.events.range(skip.min(self.events.len())..))
    }

    pub(crate) fn push(&mut self, event: Event) {
        self.bytes += cost(&event);
        self.events.push_back(event);
    }

    /// Lets the oldest events go, as far as the limits demand. The changes of one revision stay or go together.
    pub(crate) fn trim(&mut self, limits: &Options, now: Instant) {
        let (end, mark) = (self.end(), limits.history_age / MARKS);
        match self.marks.back_mut() {
            Some((at, position)) if now.duration_since(*at) < mark => *position = end,
            Some((_, position)) if *position == end => {}
            _ => self.marks.push_back((now, end)),
        }
        let mut keep_from = self.start;
        while let Some((_, position)) =
            self.marks.pop_front_if(|(at, _)| now.duration_since(*at) > limits.history_age + mark)
        {
            keep_from = position;
        }
        while let Some(event) = self.events.front()
            && (self.start < keep_from
                || event.revision() <= self.floor
                || self.bytes > limits.history_bytes
                || self.events.len() > limits.history_events)
        {
            self.floor = self.floor.max(event.revision());
            self.bytes -= cost(event);
            self.events.pop_front();
            self.start += 1;
        }
        if self.events.capacity() > 1024 && self.events.len() < self.events.capacity() / 4 {
            self.events.shrink_to(self.events.len() * 2);
        }
    }

    /// Forgets everything up to and including a revision.
    pub(crate) fn compact(&mut self, revision: u64, limits: &Options, now: Instant) {
        self.raise(revision);
        self.trim(limits, now);
    }
}
