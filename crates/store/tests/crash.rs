//! A process that writes under load is killed again and again; whatever it was told is there each time.

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use rand::Rng;
use store::{Op, Options, Store, Txn};

const DIRECTORY: &str = "STORE_CRASH_DIRECTORY";
const WRITERS: u64 = 16;
const KILLS: usize = 100;

fn counter(writer: u64) -> String {
    format!("/registry/counters/{writer:02}")
}

/// Each step changes up to three keys together. Every seventh step leaves only the counter.
fn step(store: &Store, writer: u64, n: u64) -> Txn {
    let pair = [format!("/registry/pods/{writer:02}/a"), format!("/registry/configmaps/{writer:02}/b")];
    let mut ops = vec![Op::put(counter(writer), n.to_string())];
    for key in pair {
        if !n.is_multiple_of(7) {
            ops.push(Op::put(key, format!("{n} {}", "x".repeat(4000))));
        } else if store.get(&key).is_some() {
            ops.push(Op::delete(key));
        }
    }
    Txn { guards: vec![], ops }
}

/// What is stored by a writer: the last step, after checking that nothing of it is missing, and its revision.
fn stored(store: &Store, writer: u64) -> Option<(u64, u64)> {
    let entry = store.get(&counter(writer))?;
    let n: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
    for key in [format!("/registry/pods/{writer:02}/a"), format!("/registry/configmaps/{writer:02}/b")] {
        let other = store.get(&key);
        assert_eq!(other.is_some(), !n.is_multiple_of(7), "{key} at step {n}");
        if let Some(other) = other {
            assert_eq!(other.modified, entry.modified, "half a transaction");
            assert!(other.value.starts_with(format!("{n} ").as_bytes()));
        }
    }
    Some((n, entry.modified))
}

/// The process that is killed: says `writer step revision` for each acknowledged commit.
fn write_forever(dir: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let store = Store::open(dir, Options::default()).unwrap();
        let writers = (0..WRITERS).map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut n = stored(&store, writer).map_or(0, |(n, _)| n);
                loop {
                    n += 1;
                    let revision = store.commit(step(&store, writer, n)).await.unwrap().revision;
                    writeln!(std::io::stdout().lock(), "\nack {writer} {n} {revision}").unwrap();
                }
            })
        });
        futures::future::join_all(writers).await;
    });
}

#[test]
fn a_hundred_kills_lose_no_acknowledged_write_and_leave_no_half_one() {
    if let Some(dir) = env::var_os(DIRECTORY) {
        return write_forever(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    let (mut newest, mut total) = (0, 0);
    for kill in 0..KILLS {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "a_hundred_kills_lose_no_acknowledged_write_and_leave_no_half_one", "--nocapture"])
            .env(DIRECTORY, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let reader = std::thread::spawn(move || {
            let lines = output.lines().map_while(Result::ok);
            lines.filter(|line| line.starts_with("ack ")).collect::<Vec<_>>()
        });
        std::thread::sleep(Duration::from_millis(rand::rng().random_range(5..250)));
        child.kill().unwrap();
        child.wait().unwrap();
        for line in reader.join().unwrap() {
            let numbers: Vec<u64> = line.split(' ').skip(1).filter_map(|number| number.parse().ok()).collect();
            if let [writer, n, revision] = numbers[..] {
                acknowledged.insert(writer, (n, revision));
                newest = newest.max(revision);
                total += 1;
            }
        }
        let store = Store::open(dir.path(), Options::default()).unwrap();
        assert!(store.revision() >= newest, "kill {kill}: revisions went back to {} from {newest}", store.revision());
        newest = store.revision();
        for writer in 0..WRITERS {
            let (told, told_revision) = acknowledged.get(&writer).copied().unwrap_or_default();
            let (found, revision) = stored(&store, writer).unwrap_or_default();
            assert!(found == told || found == told + 1, "kill {kill}: writer {writer} was told {told}, found {found}");
            assert!(revision >= told_revision && (found != told || revision == told_revision));
            acknowledged.insert(writer, (found, revision));
        }
    }
    println!("{total} acknowledged commits survived {KILLS} kills");
    assert!(total > 1000, "too little was written to prove anything");
}
