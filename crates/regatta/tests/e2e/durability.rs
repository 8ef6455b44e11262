//! A server that is killed under load loses nothing that it acknowledged, leaves no half write, and its revisions never go
//! back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use crate::cluster::{Cluster, Machine, PATIENCE, possible};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use rand::{Rng, SeedableRng, rngs::StdRng};

const ROUNDS: u64 = 100;
const WRITERS: u64 = 3;
/// Objects of each writer.
const NAMES: u64 = 8;

/// What an object may be: absent, or of a content, whose revision is known where the write was acknowledged.
#[derive(Clone, Debug, PartialEq)]
enum State {
    Absent,
    Present { value: String, revision: Option<u64> },
}

/// What is known of each object. Several states mean that the last write had no answer.
type Known = BTreeMap<String, Vec<State>>;

/// An acknowledged write, as a watch must tell it.
#[derive(Clone, Debug, PartialEq)]
enum Told {
    Written { name: String, value: String, revision: u64 },
    Deleted { name: String, value: String },
}

#[derive(Default)]
struct Round {
    known: Known,
    told: Vec<Told>,
}

/// A client of its own, as one that has just been started.
async fn configmaps(kubeconfig: &std::path::Path) -> Api<ConfigMap> {
    let file = Kubeconfig::read_from(kubeconfig).expect("kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.expect("config");
    Api::namespaced(kube::Client::try_from(config).expect("client"), "default")
}

fn revision(object: &ConfigMap) -> u64 {
    object.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).expect("revision")
}

fn name(object: &ConfigMap) -> String {
    object.metadata.name.clone().expect("name")
}

/// The content, which is whole: a half write would differ in its two parts.
fn value(object: &ConfigMap) -> String {
    let data = object.data.clone().unwrap_or_default();
    let (value, padding) = (&data["value"], &data["padding"]);
    assert!(padding.starts_with(value.as_str()) && padding.len() == 2000, "half a write: {data:?}");
    value.clone()
}

fn content(name: &str, value: &str) -> ConfigMap {
    let padding = format!("{value:x<2000}");
    ConfigMap {
        metadata: kube::api::ObjectMeta { name: Some(name.to_owned()), ..Default::default() },
        data: Some([("value".to_owned(), value.to_owned()), ("padding".to_owned(), padding)].into()),
        ..ConfigMap::default()
    }
}

/// Writes until the server is gone; what it was told goes into `round`.
async fn write(api: &Api<ConfigMap>, round: &mut Round, random: &mut StdRng, seen: &AtomicU64, end: &AtomicBool) {
    let names: Vec<String> = round.known.keys().cloned().collect();
    while !end.load(Ordering::Relaxed) {
        let name = &names[random.random_range(0..names.len())];
        let before = round.known[name].clone();
        let [state] = &before[..] else { panic!("{name} was not settled: {before:?}") };
        let fresh = format!("{:016x}", random.random::<u64>());
        let object = content(name, &fresh);
        let (result, intent) = match state {
            State::Present { value, .. } if random.random_ratio(1, 3) => {
                let result = api.delete(name, &DeleteParams::default()).await;
                (result.map(|_| Told::Deleted { name: name.clone(), value: value.clone() }), State::Absent)
            }
            _ => {
                let result = match state {
                    State::Absent => api.create(&PostParams::default(), &object).await,
                    State::Present { .. } => api.replace(name, &PostParams::default(), &object).await,
                };
                let told =
                    |o: ConfigMap| Told::Written { name: name.clone(), value: value(&o), revision: revision(&o) };
                (result.map(told), State::Present { value: fresh, revision: None })
            }
        };
        match result {
            Ok(told) => {
                let state = match &told {
                    Told::Written { value, revision, .. } => {
                        assert_ne!(seen.fetch_max(*revision, Ordering::SeqCst), *revision, "a revision came twice");
                        State::Present { value: value.clone(), revision: Some(*revision) }
                    }
                    Told::Deleted { .. } => State::Absent,
                };
                round.known.insert(name.clone(), vec![state]);
                round.told.push(told);
            }
            Err(kube::Error::Api(status)) if status.code < 500 => panic!("{name}: {status:?}"),
            Err(_) => {
                let mut either = before.clone();
                either.push(intent);
                round.known.insert(name.clone(), either);
                return;
            }
        }
    }
}

/// Follows the changes after `from`, until `last` has been told or the server is gone. `None` if that is too long ago.
async fn follow(api: &Api<ConfigMap>, from: u64, last: Option<u64>) -> Option<(Vec<Told>, u64)> {
    let mut told = Vec::new();
    let mut at = from;
    let mut gone = false;
    let work = async {
        let mut events = match api.watch(&WatchParams::default(), &from.to_string()).await {
            Ok(events) => events.boxed(),
            Err(kube::Error::Api(status)) if status.code == 410 => return gone = true,
            Err(_) if last.is_none() => return,
            Err(error) => panic!("watch: {error}"),
        };
        while last.is_none_or(|last| at < last) {
            let (object, deleted) = match events.next().await {
                Some(Ok(WatchEvent::Added(o) | WatchEvent::Modified(o))) => (o, false),
                Some(Ok(WatchEvent::Deleted(o))) => (o, true),
                Some(Ok(WatchEvent::Bookmark(_))) => continue,
                Some(Ok(WatchEvent::Error(status))) if status.code == 410 => return gone = true,
                Some(Err(_)) | None if last.is_none() => return,
                other => panic!("watch: {other:?}"),
            };
            assert!(revision(&object) > at, "a watch went from revision {at} to {}", revision(&object));
            at = revision(&object);
            if name(&object) == "kube-root-ca.crt" {
                continue;
            }
            let (name, value) = (name(&object), value(&object));
            told.push(if deleted {
                Told::Deleted { name, value }
            } else {
                Told::Written { name, value, revision: at }
            });
        }
    };
    tokio::time::timeout(PATIENCE, work).await.expect("a watch stands still");
    (!gone).then_some((told, at))
}

/// What is there, compared with what may be there; gives the list's revision.
async fn compare(api: &Api<ConfigMap>, rounds: &mut [Round], seen: &AtomicU64) -> u64 {
    let list = api.list(&ListParams::default()).await.expect("list");
    let at: u64 = list.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).expect("revision");
    assert!(at >= seen.load(Ordering::SeqCst), "the revision went back from {seen:?} to {at}");
    let mut there: BTreeMap<String, State> = list
        .items
        .iter()
        .filter(|o| name(o) != "kube-root-ca.crt")
        .map(|o| (name(o), State::Present { value: value(o), revision: Some(revision(o)) }))
        .collect();
    for (name, states) in rounds.iter_mut().flat_map(|r| r.known.iter_mut()) {
        let found = there.remove(name).unwrap_or(State::Absent);
        let allowed = states.iter().any(|state| match (state, &found) {
            (State::Present { value: wanted, revision: None }, State::Present { value, .. }) => wanted == value,
            (state, found) => state == found,
        });
        assert!(allowed, "{name} is {found:?}, clients were told {states:?}");
        *states = vec![found];
    }
    assert!(there.is_empty(), "objects that nobody made: {there:?}");
    seen.fetch_max(at, Ordering::SeqCst);
    at
}

/// Every acknowledged write after `from` is in what a watch told.
fn no_gap(rounds: &[Round], events: &[Told], from: u64) {
    for told in rounds.iter().flat_map(|r| &r.told) {
        let old = matches!(told, Told::Written { revision, .. } if *revision <= from);
        assert!(old || events.contains(told), "a watch after revision {from} did not tell {told:?}");
    }
}

#[test]
fn a_loaded_server_killed_a_hundred_times_keeps_every_write_it_acknowledged() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let mut cluster = Cluster::start(&machine, &[]);
    let kubeconfig = cluster.data.join("kubeconfig.yaml");
    let seen = Arc::new(AtomicU64::new(0));
    let end = Arc::new(AtomicBool::new(false));
    let gate = Arc::new(Barrier::new(usize::try_from(WRITERS).expect("few") + 2));
    let (sender, answers) = std::sync::mpsc::channel();
    let mut orders = Vec::new();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (order, rounds) = std::sync::mpsc::channel::<Round>();
            orders.push(order);
            let (sender, seen, end, gate, kubeconfig) =
                (sender.clone(), seen.clone(), end.clone(), gate.clone(), kubeconfig.clone());
            let machine = &machine;
            scope.spawn(move || {
                let mut random = StdRng::seed_from_u64(writer);
                for mut round in rounds {
                    inside(machine, async {
                        let api = configmaps(&kubeconfig).await;
                        gate.wait();
                        write(&api, &mut round, &mut random, &seen, &end).await;
                    });
                    sender.send((writer, round)).expect("the test waits");
                }
            });
        }
        let (watch, watches) = std::sync::mpsc::channel::<u64>();
        let (followed, results) = std::sync::mpsc::channel();
        {
            let (gate, kubeconfig, machine) = (gate.clone(), kubeconfig.clone(), &machine);
            scope.spawn(move || {
                for from in watches {
                    let result = inside(machine, async {
                        let api = configmaps(&kubeconfig).await;
                        gate.wait();
                        follow(&api, from, None).await
                    });
                    followed.send(result).expect("the test waits");
                }
            });
        }
        let mut random = StdRng::seed_from_u64(2026);
        let mut rounds: Vec<Round> = (0..WRITERS)
            .map(|writer| Round {
                known: (0..NAMES).map(|n| (format!("w{writer}-{n}"), vec![State::Absent])).collect(),
                told: Vec::new(),
            })
            .collect();
        let mut from = inside(&machine, async { compare(&configmaps(&kubeconfig).await, &mut rounds, &seen).await });
        let (mut writes, mut continued, mut too_old) = (0, 0, 0);
        for number in 0..ROUNDS {
            // In every tenth round the writers end before the server does, and a watch can go on after it.
            let quiet = number % 10 == 9;
            end.store(false, Ordering::SeqCst);
            for (order, round) in orders.iter().zip(rounds.drain(..)) {
                order.send(round).expect("writer");
            }
            watch.send(from).expect("watcher");
            gate.wait();
            std::thread::sleep(Duration::from_millis(random.random_range(20..250)));
            if quiet {
                end.store(true, Ordering::SeqCst);
            } else {
                cluster.crash();
            }
            let mut done: Vec<(u64, Round)> =
                (0..WRITERS).map(|_| answers.recv_timeout(PATIENCE).expect("a writer ends")).collect();
            if quiet {
                cluster.crash();
            }
            let (events, at) = results.recv_timeout(PATIENCE).expect("the watcher ends").expect("a watch begins");
            done.sort_by_key(|(writer, _)| *writer);
            rounds = done.into_iter().map(|(_, round)| round).collect();
            cluster.up();
            (from, continued, too_old) = inside(&machine, async {
                let api = configmaps(&kubeconfig).await;
                let now = compare(&api, &mut rounds, &seen).await;
                // Something that the watch must reach.
                let name = format!("w0-{}", number % NAMES);
                let fence = content(&name, &format!("{number:016}"));
                let state = &rounds[0].known[&name][0];
                let fence = match state {
                    State::Absent => api.create(&PostParams::default(), &fence).await,
                    State::Present { .. } => api.replace(&name, &PostParams::default(), &fence).await,
                }
                .expect("a write after the restart");
                let last = revision(&fence);
                assert!(last > now, "revision {last} was given out again");
                let state = State::Present { value: value(&fence), revision: Some(last) };
                rounds[0].known.insert(name, vec![state]);
                match follow(&api, at, Some(last)).await {
                    Some((more, _)) => {
                        let all: Vec<Told> = events.iter().cloned().chain(more).collect();
                        no_gap(&rounds, &all, from);
                        (last, continued + 1, too_old)
                    }
                    None => (last, continued, too_old + 1),
                }
            });
            for round in &mut rounds {
                writes += round.told.len();
                round.told.clear();
            }
        }
        drop((orders, watch));
        println!("{writes} writes acknowledged; {continued} watches went on, {too_old} were told 410");
        assert!(writes > 1000, "hardly any load: {writes} writes");
        assert!(continued > 0, "no watch went on");
    });
}

/// Runs the work on a thread in the machine, which is the calling one for good.
fn inside<T>(machine: &Machine, work: impl Future<Output = T>) -> T {
    machine.enter();
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime").block_on(work)
}
