//! Changes of a cache on their way to one subscriber.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::item::{Item, Key};

/// What became of one object since its subscriber last heard of it.
#[derive(Clone, Debug)]
pub struct Change {
    pub key: Key,
    /// The version that the subscriber was last given; none for an object that is new to it.
    ///
    /// If the object came and went unseen, this is its last version, so that a deletion always says of what.
    pub old: Option<Arc<Item>>,
    /// The present version; none if the object is gone.
    pub new: Option<Arc<Item>>,
}

impl Change {
    /// The newest version known, also of an object that is gone.
    pub fn item(&self) -> Option<&Arc<Item>> {
        self.new.as_ref().or(self.old.as_ref())
    }
}

/// The changes that a subscriber has not taken yet, at most one an object: memory is bounded by the number of objects,
/// however slow the subscriber is, and no object's last state is ever lost.
#[derive(Default)]
pub(crate) struct Feed {
    pending: Mutex<Pending>,
    notify: Notify,
}

#[derive(Default)]
struct Pending {
    order: VecDeque<Key>,
    changes: HashMap<Key, Coalesced>,
}

struct Coalesced {
    /// What the subscriber knows.
    known: Option<Arc<Item>>,
    last: Arc<Item>,
    gone: bool,
}

impl Feed {
    pub fn push(&self, key: &Key, old: Option<&Arc<Item>>, new: Option<&Arc<Item>>) {
        let Some(last) = new.or(old) else { return };
        let mut pending = self.pending.lock();
        if let Some(change) = pending.changes.get_mut(key) {
            change.last = last.clone();
            change.gone = new.is_none();
            return;
        }
        let change = Coalesced { known: old.cloned(), last: last.clone(), gone: new.is_none() };
        pending.changes.insert(key.clone(), change);
        pending.order.push_back(key.clone());
        drop(pending);
        self.notify.notify_one();
    }

    fn pop(&self) -> Option<(Key, Coalesced)> {
        let mut pending = self.pending.lock();
        let key = pending.order.pop_front()?;
        let change = pending.changes.remove(&key)?;
        if pending.order.is_empty() {
            // After a burst (the first list above all) the room is given back.
            *pending = Pending::default();
        }
        Some((key, change))
    }
}

/// One subscriber's view of a cache's changes, beginning with all objects that it held.
///
/// Changes of one object that were not taken in time are merged; an object that was replaced by another of the same
/// name is given as a deletion and a creation.
pub struct Subscription {
    feed: Arc<Feed>,
    /// The creation that follows a deletion just given.
    successor: Option<Change>,
}

impl Subscription {
    pub(crate) fn new(feed: Arc<Feed>) -> Subscription {
        Subscription { feed, successor: None }
    }

    /// The next change, if there is one now.
    pub fn try_next(&mut self) -> Option<Change> {
        if let Some(change) = self.successor.take() {
            return Some(change);
        }
        let (key, Coalesced { known, last, gone }) = self.feed.pop()?;
        if gone {
            return Some(Change { key, old: Some(last), new: None });
        }
        if let Some(old) = known.as_ref().filter(|old| old.uid != last.uid) {
            self.successor = Some(Change { key: key.clone(), old: None, new: Some(last) });
            return Some(Change { key, old: Some(old.clone()), new: None });
        }
        Some(Change { key, old: known, new: Some(last) })
    }

    /// The next change. Safe to cancel: none is lost.
    pub async fn next(&mut self) -> Change {
        loop {
            if let Some(change) = self.try_next() {
                return change;
            }
            self.feed.notify.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::item::{Content, read};

    fn item(uid: &str, revision: u64) -> Arc<Item> {
        let json = format!(r#"{{"metadata":{{"name":"a","uid":"{uid}","resourceVersion":"{revision}"}}}}"#);
        Arc::new(read(&json, Content::Object, |name| name.into()).unwrap())
    }

    type Push<'a> = (Option<&'a Arc<Item>>, Option<&'a Arc<Item>>);

    fn taken(pushes: &[Push<'_>]) -> Vec<(Option<u64>, Option<u64>)> {
        let feed = Arc::new(Feed::default());
        for (old, new) in pushes {
            feed.push(&Key::new("", "a"), *old, *new);
        }
        let mut subscription = Subscription::new(feed);
        let version = |item: Option<Arc<Item>>| item.map(|item| item.resource_version);
        std::iter::from_fn(|| subscription.try_next())
            .map(|change| (version(change.old), version(change.new)))
            .collect()
    }

    #[test]
    fn changes_of_one_object_are_merged_and_its_last_state_is_kept() {
        let (a, b, c) = (item("u", 1), item("u", 2), item("v", 3));
        assert_eq!(taken(&[(None, Some(&a)), (Some(&a), Some(&b))]), [(None, Some(2))]);
        assert_eq!(taken(&[(None, Some(&a)), (Some(&a), None)]), [(Some(1), None)], "came and went unseen");
        assert_eq!(taken(&[(Some(&a), Some(&b)), (Some(&b), None)]), [(Some(2), None)]);
        let replaced = [(Some(&a), Some(&b)), (Some(&b), None), (None, Some(&c))];
        assert_eq!(taken(&replaced), [(Some(1), None), (None, Some(3))], "another object of the same name");
    }

    #[tokio::test]
    async fn a_waiting_subscriber_is_woken() {
        let feed = Arc::new(Feed::default());
        let mut subscription = Subscription::new(feed.clone());
        let waiting = tokio::spawn(async move { subscription.next().await });
        tokio::task::yield_now().await;
        feed.push(&Key::new("", "a"), None, Some(&item("u", 1)));
        assert_eq!(waiting.await.unwrap().item().map(|item| item.resource_version), Some(1));
    }
}
