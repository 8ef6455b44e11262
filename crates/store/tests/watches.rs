//! What readers and watchers can rely on, one sentence a test.

use std::time::Duration;

use futures::future::join_all;
use store::{Error, EventKind, Expect, List, Op, Options, Store, Txn};

const PODS: &str = "/registry/pods/";

fn pod(name: impl std::fmt::Display) -> String {
    format!("{PODS}default/{name}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_concurrent_commits_on_one_revision_exactly_one_wins() {
    let store = Store::memory();
    for round in 0..100 {
        let revision = store.commit(Txn::create(pod(round), "0")).await.unwrap().revision;
        let race = (0..8).map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.commit(Txn::update(pod(round), revision, "1")).await })
        });
        let outcomes: Vec<_> = join_all(race).await.into_iter().map(Result::unwrap).collect();
        let winner = outcomes.iter().flatten().next().unwrap().revision;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
        for loser in outcomes.into_iter().filter_map(Result::err) {
            let Error::Conflict { current: Some(current), .. } = loser else { panic!("{loser}") };
            assert_eq!(current.modified, winner);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_watchers_see_each_change_once_and_in_order_while_many_write() {
    let store = Store::memory();
    let writers = (0..8).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..250 {
                store.commit(Txn::create(pod(format!("{writer}-{n}")), "x")).await.unwrap();
            }
        })
    });
    let watchers: Vec<_> = (0..16)
        .map(|_| {
            let mut watch = store.watch(PODS, 0).unwrap();
            tokio::spawn(async move {
                let mut revisions = Vec::new();
                while revisions.len() < 2000 {
                    revisions.extend(watch.next().await.unwrap().unwrap().iter().map(|event| event.revision()));
                }
                revisions
            })
        })
        .collect();
    join_all(writers).await;
    for revisions in join_all(watchers).await {
        assert_eq!(revisions.unwrap(), (1..=2000).collect::<Vec<u64>>());
    }
}

#[tokio::test]
async fn a_watcher_that_falls_behind_the_history_is_told_so_and_then_ends() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Options { history_events: 10, ..Options::default() }).unwrap();
    let mut watch = store.watch(PODS, 0).unwrap();
    for n in 0..11 {
        store.commit(Txn::create(pod(n), "x")).await.unwrap();
    }
    assert!(matches!(watch.next().await, Some(Err(Error::Compacted { requested: 0, oldest: 1 }))));
    assert!(watch.next().await.is_none());
    assert!(matches!(store.watch(PODS, 0), Err(Error::Compacted { .. })));
    assert_eq!(store.watch(PODS, 1).unwrap().next().await.unwrap().unwrap().len(), 10);
    // A busy resource takes nothing from the history of a quiet one.
    assert!(store.watch("/registry/nodes/", 0).is_ok());
}

#[tokio::test]
async fn superseded_values_leave_the_history_when_they_outgrow_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Options { history_bytes: 1 << 20, ..Options::default() }).unwrap();
    for _ in 0..40 {
        store.commit(Txn { guards: vec![], ops: vec![Op::put(pod("x"), vec![0; 100_000])] }).await.unwrap();
    }
    let oldest = (0..40).find(|revision| store.snapshot(PODS, Some(*revision)).is_ok()).unwrap();
    assert!((29..=31).contains(&oldest), "{oldest}");
}

#[tokio::test]
async fn compaction_ends_older_lists_and_watches_and_no_newer_ones() {
    let store = Store::memory();
    for n in 0..10 {
        store.commit(Txn::create(pod(n), "x")).await.unwrap();
    }
    let mut old = store.watch(PODS, 2).unwrap();
    store.compact(5).unwrap();
    assert!(matches!(old.next().await, Some(Err(Error::Compacted { .. }))));
    for prefix in [PODS, "/registry/none/"] {
        assert!(matches!(store.watch(prefix, 4), Err(Error::Compacted { requested: 4, oldest: 5 })), "{prefix}");
        let at = |revision| store.list(prefix, List { at: Some(revision), ..List::default() });
        assert!(matches!(at(4), Err(Error::Compacted { requested: 4, oldest: 5 })), "{prefix}");
        assert!(at(5).is_ok());
        assert!(matches!(at(11), Err(Error::Future { requested: 11, current: 10 })));
    }
    assert_eq!(store.watch(PODS, 5).unwrap().next().await.unwrap().unwrap().len(), 5);
    assert!(matches!(store.compact(11), Err(Error::Future { .. })));
}

#[tokio::test]
async fn progress_grows_with_changes_elsewhere_but_never_past_what_was_delivered() {
    let store = Store::memory();
    let mut watch = store.watch(PODS, 0).unwrap();
    store.commit(Txn::create("/registry/nodes/n", "x")).await.unwrap();
    assert_eq!(watch.progressed_to(), 1);
    store.commit(Txn::create(pod("a"), "x")).await.unwrap();
    store.commit(Txn::create("/registry/nodes/m", "x")).await.unwrap();
    assert_eq!(watch.progressed_to(), 1);
    watch.next().await.unwrap().unwrap();
    assert_eq!(watch.progressed_to(), 3);
}

#[tokio::test]
async fn a_watch_of_one_key_sees_that_key_only() {
    let store = Store::memory();
    let mut watch = store.watch(&pod("a"), 0).unwrap();
    for name in ["a-b", "a", "aa"] {
        store.commit(Txn::create(pod(name), "x")).await.unwrap();
    }
    let events = watch.next().await.unwrap().unwrap();
    assert_eq!((events.len(), &*events[0].entry.key), (1, &*pod("a")));
    assert!(matches!(store.watch("/registry/", 0), Err(Error::Invalid(_))));
}

#[tokio::test]
async fn an_entry_with_a_time_to_live_is_deleted_by_a_revision_of_its_own() {
    let store = Store::memory();
    let put = |name, ttl| Txn {
        guards: vec![],
        ops: vec![Op::Put { key: pod(name).into(), value: "x".into(), ttl: Some(Duration::from_secs(ttl)) }],
    };
    store.commit(put("short", 0)).await.unwrap();
    store.commit(put("renewed", 0)).await.unwrap();
    store.commit(put("renewed", 100)).await.unwrap();
    let mut watch = store.watch(PODS, 3).unwrap();
    let events = watch.next().await.unwrap().unwrap();
    assert_eq!((events[0].kind, &*events[0].entry.key, events.len()), (EventKind::Deleted, &*pod("short"), 1));
    assert_eq!(events[0].revision(), 4);
    assert!(store.get(&pod("short")).is_none() && store.get(&pod("renewed")).is_some());
}

#[tokio::test]
async fn dropping_the_last_handle_ends_watches() {
    let store = Store::memory();
    let mut watch = store.watch(PODS, 0).unwrap();
    let waiting = tokio::spawn(async move { watch.next().await.is_none() });
    tokio::task::yield_now().await;
    drop(store);
    assert!(waiting.await.unwrap());
}

#[tokio::test]
async fn a_transaction_that_fails_half_way_leaves_nothing_and_takes_no_revision() {
    let store = Store::memory();
    let txn = Txn { guards: vec![], ops: vec![Op::put(pod("a"), "1"), Op::delete(pod("b"))] };
    assert!(matches!(store.commit(txn).await, Err(Error::Conflict { current: None, .. })));
    let twice = Txn { guards: vec![], ops: vec![Op::put(pod("a"), "1"), Op::put(pod("a"), "2")] };
    assert!(matches!(store.commit(twice).await, Err(Error::Invalid(_))));
    assert_eq!((store.revision(), store.get(&pod("a")).is_none()), (0, true));
    let only_guards = Txn { ops: vec![], ..Txn::guarded(Expect::Absent, Op::delete(pod("a"))) };
    assert_eq!(store.commit(only_guards).await.unwrap().revision, 0);
}

#[tokio::test]
async fn what_is_old_leaves_the_history_when_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let age = Duration::from_millis(200);
    let store = Store::open(dir.path(), Options { history_age: age, ..Options::default() }).unwrap();
    store.commit(Txn::create(pod("a"), "x")).await.unwrap();
    store.commit(Txn::create(pod("b"), "x")).await.unwrap();
    assert!(store.watch(PODS, 0).is_ok());
    tokio::time::sleep(age * 2).await;
    store.commit(Txn::create(pod("c"), "x")).await.unwrap();
    assert!(matches!(store.watch(PODS, 1), Err(Error::Compacted { requested: 1, oldest: 2 })));
    assert_eq!(store.watch(PODS, 2).unwrap().next().await.unwrap().unwrap().len(), 1);
}
