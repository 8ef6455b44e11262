//! How fast pods may be driven off the nodes of a zone: the more nodes are silent at once, the likelier it is that the fault
//! is not theirs. With upstream's numbers.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Between two nodes of a zone that begin to be emptied.
const NORMAL: Duration = Duration::from_secs(10);
/// The same in a large zone most of which is not ready.
const CAREFUL: Duration = Duration::from_secs(100);
/// A zone with more nodes is large.
const LARGE: usize = 50;
/// From this share of nodes on that are not ready, in hundredths, something is wrong with the zone.
const UNHEALTHY: usize = 55;

/// The nodes of a zone, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Zone {
    pub ready: usize,
    pub not_ready: usize,
}

/// What may be done about a node that is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evict {
    /// Its pods have to go.
    Yes,
    /// Not yet; what was begun goes on.
    Wait(Duration),
    /// Neither now nor for as long as things are as they are; what was begun goes on.
    Hold,
    /// No node at all is ready, so nothing is known: all pods stay.
    Never,
}

impl Zone {
    /// Between two nodes that begin to be emptied; none if no node may.
    fn interval(self) -> Option<Duration> {
        let all = self.ready + self.not_ready;
        let is_partial = self.ready > 0 && self.not_ready > 2 && self.not_ready * 100 >= all * UNHEALTHY;
        match is_partial {
            false => Some(NORMAL),
            true if all > LARGE => Some(CAREFUL),
            true => None,
        }
    }
}

/// When the last node of each zone began to be emptied.
#[derive(Debug, Default)]
pub(super) struct Limits(HashMap<String, Instant>);

impl Limits {
    /// Whether a node of the zone may begin to be emptied now, which is noted. `any_ready` says whether any node anywhere is.
    pub fn ask(&mut self, name: &str, zone: Zone, any_ready: bool, now: Instant) -> Evict {
        if !any_ready {
            return Evict::Never;
        }
        let Some(interval) = zone.interval() else { return Evict::Hold };
        let since = self.0.get(name).map(|last| now.saturating_duration_since(*last));
        match since.and_then(|since| interval.checked_sub(since)).filter(|wait| !wait.is_zero()) {
            Some(wait) => Evict::Wait(wait),
            None => {
                self.0.insert(name.to_owned(), now);
                Evict::Yes
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_of_a_zone_are_emptied_one_after_another() {
        let (mut limits, now) = (Limits::default(), Instant::now());
        let zone = Zone { ready: 3, not_ready: 2 };
        let mut ask = |name: &str, after: u64| limits.ask(name, zone, true, now + Duration::from_secs(after));
        assert_eq!(ask("a", 0), Evict::Yes);
        assert_eq!(ask("a", 4), Evict::Wait(Duration::from_secs(6)));
        assert_eq!(ask("b", 4), Evict::Yes, "each zone for itself");
        assert_eq!(ask("a", 10), Evict::Yes);
    }

    #[test]
    fn the_more_nodes_are_silent_the_more_care_is_taken() {
        let cases = [
            (3, 2, true, Evict::Yes),
            (1, 2, true, Evict::Yes),
            (2, 3, true, Evict::Hold),
            (0, 3, true, Evict::Yes),
            (0, 3, false, Evict::Never),
            (10, 50, true, Evict::Yes),
        ];
        for (ready, not_ready, any_ready, expected) in cases {
            let zone = Zone { ready, not_ready };
            assert_eq!(Limits::default().ask("a", zone, any_ready, Instant::now()), expected, "{zone:?}");
        }
        let large = Zone { ready: 10, not_ready: 50 };
        let (mut limits, now) = (Limits::default(), Instant::now());
        limits.ask("a", large, true, now);
        assert_eq!(limits.ask("a", large, true, now), Evict::Wait(CAREFUL));
    }
}
