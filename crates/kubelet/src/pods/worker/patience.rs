//! When a change of the status is told: at once, but for what is soon followed by more of it.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::Worker;
use crate::containers::hash;
use crate::pods::observed::State;
use crate::pods::sync;

/// How long the mere number of a generation waits for what follows from it.
const GENERATION: SignedDuration = SignedDuration::from_millis(100);
/// How long a container may be away that is replaced by one of another image, before the pod is said not to be ready.
const REPLACEMENT: SignedDuration = SignedDuration::from_secs(1);

impl Worker {
    /// Whether the change waits.
    pub(super) fn holds(&mut self, wanted: &Value, now: Timestamp) -> bool {
        let patience = if self.memory.stop_began.is_some() {
            None
        } else if sync::only_generation(&self.told, wanted) {
            Some(GENERATION)
        } else {
            self.replaces().then_some(REPLACEMENT)
        };
        let since = self.held.map_or(now, |(since, _)| since);
        self.held = patience.map(|patience| (since, since + patience)).filter(|(_, until)| *until > now);
        self.held.is_some()
    }

    /// Whether a container is away only because one of another image takes its place at once.
    fn replaces(&self) -> bool {
        self.pod.members.iter().any(|member| {
            let starts = self.memory.of(&member.spec.name);
            let mut runs = self.seen.containers.iter().filter(|c| c.name == member.spec.name);
            let shown = runs.find(|c| c.state != State::Created && !(c.running() && starts.starting));
            starts.waiting.is_none()
                && shown.is_some_and(|c| {
                    c.state == State::Exited && self.memory.replaced.contains(&c.id) && c.hash != hash(&member.spec)
                })
        })
    }
}
