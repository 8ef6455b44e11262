//! Which thresholds are met, which of them must be acted upon, and which conditions the node shows: a function of what was seen
//! before and what is seen now.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::signal::Observations;
use super::thresholds::{Threshold, Thresholds};

/// What is remembered between two looks. Thresholds are known by their place in the configuration.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Acted upon and not yet well again by the minimum that must be reclaimed.
    met: Vec<usize>,
    since: BTreeMap<usize, Timestamp>,
    conditions: BTreeMap<&'static str, Timestamp>,
}

impl State {
    /// Takes what is seen in; gives the threshold against which something must be done now, the most urgent one.
    pub fn update(&mut self, thresholds: &Thresholds, seen: &Observations, now: Timestamp) -> Option<Threshold> {
        let crossed = |index: usize, reclaim: bool| is_met(&thresholds.all[index], seen, reclaim);
        let current: Vec<usize> = (0..thresholds.all.len())
            .filter(|i| crossed(*i, false) || self.met.contains(i) && crossed(*i, true))
            .collect();
        self.since.retain(|index, _| current.contains(index));
        for index in &current {
            self.since.entry(*index).or_insert(now);
            self.conditions.insert(thresholds.all[*index].signal.condition(), now);
        }
        let transition = SignedDuration::try_from(thresholds.transition).unwrap_or(SignedDuration::MAX);
        self.conditions.retain(|name, seen_at| {
            let held = thresholds.all.iter().enumerate();
            let now_met = held.clone().any(|(i, t)| t.signal.condition() == *name && current.contains(&i));
            now_met || now.duration_since(*seen_at) < transition
        });
        let due = |index: &usize| {
            let grace = SignedDuration::try_from(thresholds.all[*index].grace).unwrap_or(SignedDuration::MAX);
            self.since.get(index).is_some_and(|since| now.duration_since(*since) >= grace)
        };
        self.met = current.into_iter().filter(due).collect();
        self.met.first().map(|index| thresholds.all[*index])
    }

    /// The conditions that are true.
    pub fn conditions(&self) -> Vec<&'static str> {
        self.conditions.keys().copied().collect()
    }
}

/// Whether less is left than the threshold says; with `reclaim`, less than that and the minimum to be reclaimed.
pub fn is_met(threshold: &Threshold, seen: &Observations, reclaim: bool) -> bool {
    let Some(observed) = seen.get(&threshold.signal) else { return false };
    let more = threshold.reclaim.filter(|_| reclaim).map_or(0, |amount| amount.of(observed.capacity));
    observed.available < threshold.value.of(observed.capacity) + more
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::signal::{Observation, Signal};
    use super::super::thresholds::Amount;
    use super::*;

    fn thresholds(grace: u64, reclaim: Option<i64>) -> Thresholds {
        let one = |signal, value, grace| Threshold {
            signal,
            value: Amount::Absolute(value),
            grace: Duration::from_secs(grace),
            reclaim: reclaim.map(Amount::Absolute),
        };
        Thresholds {
            all: vec![one(Signal::MemoryAvailable, 100, grace), one(Signal::NodeFsAvailable, 10, 0)],
            transition: Duration::from_secs(60),
            max_grace: 0,
        }
    }

    /// At each second how much memory and disk are left, which signal must be acted upon and which conditions hold.
    fn check(thresholds: &Thresholds, steps: &[(i64, i64, i64, &str, &str)]) {
        let mut state = State::default();
        for (second, memory, disk, acted, conditions) in steps {
            let observed = |available| Observation { available, capacity: 1000 };
            let seen =
                [(Signal::MemoryAvailable, observed(*memory)), (Signal::NodeFsAvailable, observed(*disk))].into();
            let now = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(*second);
            let outcome = state.update(thresholds, &seen, now).map_or("", |t| t.signal.name());
            assert_eq!((outcome, state.conditions().join(" ").as_str()), (*acted, *conditions), "at {second}");
        }
    }

    #[test]
    fn a_hard_threshold_acts_at_once_and_its_condition_stays_for_the_transition_period() {
        let disk = "nodefs.available";
        check(
            &thresholds(0, None),
            &[
                (0, 500, 500, "", ""),
                (10, 500, 9, disk, "DiskPressure"),
                (20, 99, 9, "memory.available", "DiskPressure MemoryPressure"),
                (30, 100, 10, "", "DiskPressure MemoryPressure"),
                (79, 100, 10, "", "DiskPressure MemoryPressure"),
                (80, 100, 10, "", ""),
            ],
        );
    }

    #[test]
    fn a_soft_threshold_waits_for_its_grace_period_without_a_break() {
        check(
            &thresholds(30, None),
            &[
                (0, 50, 500, "", "MemoryPressure"),
                (29, 50, 500, "", "MemoryPressure"),
                (30, 50, 500, "memory.available", "MemoryPressure"),
                (40, 200, 500, "", "MemoryPressure"),
                (50, 50, 500, "", "MemoryPressure"),
                (80, 50, 500, "memory.available", "MemoryPressure"),
            ],
        );
    }

    #[test]
    fn what_was_acted_upon_is_well_only_when_the_minimum_is_reclaimed() {
        let memory = "memory.available";
        check(
            &thresholds(0, Some(50)),
            &[
                (0, 149, 500, "", ""),
                (1, 99, 500, memory, "MemoryPressure"),
                (2, 149, 500, memory, "MemoryPressure"),
                (3, 150, 500, "", "MemoryPressure"),
                (4, 149, 500, "", "MemoryPressure"),
            ],
        );
    }
}
