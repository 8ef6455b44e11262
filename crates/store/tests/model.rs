//! The store against a model that is too simple to be wrong: a list of states, one for each revision.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;
use store::{Error, Event, EventKind, Expect, Guard, List, Op, Store, Txn};

/// Value, and the revisions that made the key and the value.
type Stored = (Vec<u8>, u64, u64);
type State = BTreeMap<String, Stored>;

/// `states[n]` is the state at revision n.
struct Model {
    states: Vec<State>,
}

impl Model {
    fn now(&self) -> &State {
        self.states.last().unwrap()
    }

    fn holds(&self, key: &str, expect: Expect) -> bool {
        let entry = self.now().get(key);
        match expect {
            Expect::Absent => entry.is_none(),
            Expect::Exists => entry.is_some(),
            Expect::Modified(revision) => entry.is_some_and(|(_, _, modified)| *modified == revision),
        }
    }

    /// Returns whether the transaction is accepted.
    fn commit(&mut self, txn: &Txn) -> bool {
        let keys: Vec<_> = txn.ops.iter().map(Op::key).collect();
        let twice = (1..keys.len()).any(|index| keys[..index].contains(&keys[index]));
        let deletes_nothing =
            txn.ops.iter().any(|op| matches!(op, Op::Delete { key } if !self.now().contains_key(&**key)));
        if twice || deletes_nothing || !txn.guards.iter().all(|guard| self.holds(&guard.key, guard.expect)) {
            return false;
        }
        if !txn.ops.is_empty() {
            let (revision, mut state) = (self.states.len() as u64, self.now().clone());
            for op in &txn.ops {
                match op {
                    Op::Delete { key } => drop(state.remove(&**key)),
                    Op::Put { key, value, .. } => {
                        let created = state.get(&**key).map_or(revision, |(_, created, _)| *created);
                        state.insert(key.to_string(), (value.to_vec(), created, revision));
                    }
                }
            }
            self.states.push(state);
        }
        true
    }

    fn range(&self, prefix: &str, at: u64) -> Vec<(String, Stored)> {
        let all = self.states[at as usize].iter();
        all.filter(|(key, _)| key.starts_with(prefix)).map(|(key, entry)| (key.clone(), entry.clone())).collect()
    }

    /// The changes of a range after a revision, found by comparing neighbours.
    fn changes(&self, prefix: &str, after: u64) -> Vec<(u64, EventKind, String)> {
        let mut changes = Vec::new();
        for revision in after + 1..self.states.len() as u64 {
            let (before, now) = (&self.states[revision as usize - 1], &self.states[revision as usize]);
            for (key, entry) in now.iter().filter(|(key, _)| key.starts_with(prefix)) {
                match before.get(key) {
                    None => changes.push((revision, EventKind::Created, key.clone())),
                    Some(old) if old.2 != entry.2 => changes.push((revision, EventKind::Modified, key.clone())),
                    Some(_) => {}
                }
            }
            for key in before.keys().filter(|key| key.starts_with(prefix) && !now.contains_key(*key)) {
                changes.push((revision, EventKind::Deleted, key.clone()));
            }
        }
        changes.sort_by(|a, b| (a.0, &a.2).cmp(&(b.0, &b.2)));
        changes
    }
}

fn key() -> impl Strategy<Value = Arc<str>> {
    let keys = ["pods/a/x", "pods/a/y", "pods/a-b/x", "pods/b/x", "nodes/n", "pods/a/x2"];
    prop::sample::select(keys.to_vec()).prop_map(|key| format!("/registry/{key}").into())
}

fn expect() -> impl Strategy<Value = Expect> {
    prop_oneof![Just(Expect::Absent), Just(Expect::Exists), (0..40u64).prop_map(Expect::Modified)]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (key(), prop::collection::vec(any::<u8>(), 0..4)).prop_map(|(key, value)| Op::put(key, value)),
        1 => key().prop_map(Op::delete),
    ]
}

fn txn() -> impl Strategy<Value = Txn> {
    let guards = prop::collection::vec((key(), expect()).prop_map(|(key, expect)| Guard { key, expect }), 0..2);
    (guards, prop::collection::vec(op(), 0..3)).prop_map(|(guards, ops)| Txn { guards, ops })
}

const PREFIXES: [&str; 5] =
    ["/registry/pods/", "/registry/pods/a/", "/registry/pods/a-b/", "/registry/nodes/", "/registry/none/"];

fn listed(entries: &[Arc<store::Entry>]) -> Vec<(String, Stored)> {
    entries.iter().map(|it| (it.key.to_string(), (it.value.to_vec(), it.created, it.modified))).collect()
}

fn seen(events: &[Event]) -> Vec<(u64, EventKind, String)> {
    let mut seen: Vec<_> =
        events.iter().map(|event| (event.revision(), event.kind, event.entry.key.to_string())).collect();
    // The order of keys within a revision is that of the transaction.
    seen.sort_by(|a, b| (a.0, &a.2).cmp(&(b.0, &b.2)));
    seen
}

async fn drain(watch: &mut store::Watch, to: u64) -> Vec<Event> {
    let mut events = Vec::new();
    while watch.progressed_to() < to {
        events.extend(watch.next().await.unwrap().unwrap());
    }
    events
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn guards_lists_and_watches_agree_with_the_model(txns in prop::collection::vec(txn(), 0..40), limit in 0..4usize) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
            let store = Store::memory();
            let mut model = Model { states: vec![State::new()] };
            let mut live = store.watch("/registry/pods/", 0).unwrap();
            let mut live_events = Vec::new();
            for txn in txns {
                let accepted = model.commit(&txn);
                let changes = txn.ops.len();
                match store.commit(txn).await {
                    Ok(committed) => {
                        prop_assert!(accepted);
                        prop_assert_eq!(committed.revision, model.states.len() as u64 - 1);
                        prop_assert_eq!(committed.entries.len(), changes);
                    }
                    Err(Error::Conflict { key, current }) => {
                        prop_assert!(!accepted);
                        prop_assert_eq!(current.map(|it| it.modified), model.now().get(&*key).map(|it| it.2));
                    }
                    Err(error) => prop_assert!(!accepted && matches!(error, Error::Invalid(_)), "{}", error),
                }
                live_events.extend(drain(&mut live, store.revision()).await);
            }
            let now = store.revision();
            prop_assert_eq!(seen(&live_events), model.changes("/registry/pods/", 0));
            for prefix in PREFIXES {
                for at in 0..=now {
                    let snapshot = store.snapshot(prefix, Some(at)).unwrap();
                    prop_assert_eq!(snapshot.count(), model.range(prefix, at).len());
                    // Page by page.
                    let (mut entries, mut after) = (Vec::new(), None::<String>);
                    loop {
                        let page = store.list(prefix, List { at: Some(at), after: after.as_deref(), limit }).unwrap();
                        entries.extend(page.entries);
                        prop_assert_eq!(page.more, page.remaining > 0);
                        prop_assert_eq!(entries.len() + page.remaining, snapshot.count());
                        if !page.more { break }
                        after = entries.last().map(|entry| entry.key.to_string());
                    }
                    prop_assert_eq!(listed(&entries), model.range(prefix, at));
                    // And from each revision on.
                    let mut watch = store.watch(prefix, at).unwrap();
                    prop_assert_eq!(seen(&drain(&mut watch, now).await), model.changes(prefix, at));
                }
            }
            Ok(())
        })?;
    }
}
