//! Which events are written, and as what: counting, aggregation and the spam filter, with upstream's numbers.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    hash::Hash,
    time::Duration,
};

use k8s_openapi::{api::core::v1::ObjectReference, jiff::Timestamp};

use super::{EventType, Occurrence};

/// How many events (and objects) are remembered.
const REMEMBERED: usize = 4096;
/// So many different messages of one reason within `AGGREGATION_WINDOW` become one event.
const AGGREGATION_LIMIT: usize = 10;
const AGGREGATION_WINDOW: Duration = Duration::from_secs(600);
/// The spam filter's token bucket of an object: so many at once, then one every five minutes.
const SPAM_BURST: f64 = 25.0;
const SPAM_REFILL_PER_SECOND: f64 = 1.0 / 300.0;

/// The object, as far as it identifies events.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Subject([Option<String>; 6]);

impl Subject {
    fn of(about: &ObjectReference) -> Subject {
        let ObjectReference { kind, namespace, name, uid, api_version, field_path, .. } = about.clone();
        Subject([kind, namespace, name, uid, api_version, field_path])
    }
}

/// Events that differ in their message alone.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Group {
    subject: Subject,
    kind: EventType,
    reason: String,
}

/// What makes two occurrences the same event. Without a message: the whole group.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct EventKey {
    group: Group,
    message: Option<String>,
}

/// What is to be written.
pub(super) struct Verdict {
    pub key: EventKey,
    pub message: String,
    pub count: i32,
    pub first: Timestamp,
    /// The event's name where it was written before.
    pub known: Option<String>,
}

struct Counted {
    count: i32,
    first: Timestamp,
    name: Option<String>,
}

struct Bucket {
    tokens: f64,
    at: Timestamp,
}

struct Messages {
    distinct: BTreeSet<String>,
    last: Timestamp,
}

#[derive(Default)]
pub(super) struct Correlator {
    groups: Recent<Group, Messages>,
    events: Recent<EventKey, Counted>,
    buckets: Recent<Subject, Bucket>,
}

impl Correlator {
    /// None if the event is one too many.
    pub fn judge(&mut self, occurrence: &Occurrence) -> Option<Verdict> {
        let now = occurrence.at;
        let subject = Subject::of(&occurrence.about);
        let group = Group { subject: subject.clone(), kind: occurrence.kind, reason: occurrence.reason.clone() };
        let messages = self.groups.entry(&group, || Messages { distinct: BTreeSet::new(), last: now });
        if elapsed(messages.last, now) > AGGREGATION_WINDOW {
            messages.distinct.clear();
        }
        messages.last = now;
        let aggregated = messages.distinct.len() >= AGGREGATION_LIMIT;
        if !aggregated {
            messages.distinct.insert(occurrence.message.clone());
        }
        let (key, message) = if aggregated {
            let message = format!("(combined from similar events): {}", occurrence.message);
            (EventKey { group, message: None }, message)
        } else {
            let message = Some(occurrence.message.clone());
            (EventKey { group, message }, occurrence.message.clone())
        };
        let counted = self.events.entry(&key, || Counted { count: 0, first: now, name: None });
        counted.count += 1;
        let verdict = Verdict { count: counted.count, first: counted.first, known: counted.name.clone(), key, message };

        let bucket = self.buckets.entry(&subject, || Bucket { tokens: SPAM_BURST, at: now });
        let refilled = elapsed(bucket.at, now).as_secs_f64() * SPAM_REFILL_PER_SECOND;
        bucket.tokens = (bucket.tokens + refilled).min(SPAM_BURST);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return None;
        }
        bucket.tokens -= 1.0;
        Some(verdict)
    }

    /// Remembers under which name an event was written.
    pub fn written(&mut self, key: &EventKey, name: String) {
        if let Some(counted) = self.events.map.get_mut(key) {
            counted.name = Some(name);
        }
    }
}

fn elapsed(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// A map that forgets its oldest entries.
struct Recent<K, V> {
    map: HashMap<K, V>,
    order: VecDeque<K>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Recent<K, V> {
        Recent { map: HashMap::new(), order: VecDeque::new() }
    }
}

impl<K: Clone + Eq + Hash, V> Recent<K, V> {
    fn entry(&mut self, key: &K, new: impl FnOnce() -> V) -> &mut V {
        if !self.map.contains_key(key) {
            if self.order.len() >= REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.map.remove(&oldest);
            }
            self.order.push_back(key.clone());
        }
        self.map.entry(key.clone()).or_insert_with(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occurrence(message: &str, second: i64) -> Occurrence {
        Occurrence {
            about: ObjectReference { name: Some("a".to_owned()), ..ObjectReference::default() },
            kind: EventType::Normal,
            reason: "Killing".to_owned(),
            message: message.to_owned(),
            annotations: None,
            at: Timestamp::from_second(second).unwrap(),
        }
    }

    #[test]
    fn the_same_event_again_is_counted_on_the_one_that_was_written() {
        let mut correlator = Correlator::default();
        let first = correlator.judge(&occurrence("m", 0)).unwrap();
        assert_eq!((first.count, &first.known), (1, &None));
        correlator.written(&first.key, "a.1".to_owned());
        let second = correlator.judge(&occurrence("m", 5)).unwrap();
        assert_eq!((second.count, second.known.as_deref(), second.first.as_second()), (2, Some("a.1"), 0));
    }

    #[test]
    fn many_messages_of_one_reason_become_one_event() {
        let mut correlator = Correlator::default();
        for number in 0..10 {
            assert_eq!(correlator.judge(&occurrence(&format!("m{number}"), 0)).unwrap().message, format!("m{number}"));
        }
        for number in 10..13 {
            let verdict = correlator.judge(&occurrence(&format!("m{number}"), 0)).unwrap();
            assert_eq!(verdict.message, format!("(combined from similar events): m{number}"));
            assert_eq!(verdict.count, number - 9);
        }
        assert_eq!(correlator.judge(&occurrence("later", 1000)).unwrap().message, "later");
    }

    #[test]
    fn an_object_with_too_many_events_is_silenced_until_its_bucket_fills_again() {
        let mut correlator = Correlator::default();
        let written = (0..100).filter(|_| correlator.judge(&occurrence("m", 0)).is_some()).count();
        assert_eq!(written, 25);
        assert!(correlator.judge(&occurrence("m", 299)).is_none());
        let verdict = correlator.judge(&occurrence("m", 301)).unwrap();
        assert_eq!(verdict.count, 102, "what was silenced is still counted");
    }
}
