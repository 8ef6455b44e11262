//! The embedded store on disk: restarts, foreign and damaged directories, a full disk.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use store::{Error, List, Op, Options, Store, Txn};

const PODS: &str = "/registry/pods/";

fn open(dir: &Path) -> Store {
    Store::open(dir, Options::default()).unwrap()
}

fn refusal(dir: &Path) -> String {
    Store::open(dir, Options::default()).err().expect("it must not open").to_string()
}

async fn put(store: &Store, key: &str, value: impl Into<bytes::Bytes>) -> Result<u64, Error> {
    Ok(store.commit(Txn { guards: vec![], ops: vec![Op::put(key, value)] }).await?.revision)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for file in fs::read_dir(dir).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all
}

#[tokio::test]
async fn a_restart_brings_everything_back_and_quiet_resources_are_watched_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, "/registry/nodes/n", "1").await.unwrap();
    let node = put(&store, "/registry/nodes/n", "2").await.unwrap();
    put(&store, "/registry/pods/a/x", "3").await.unwrap();
    put(&store, "/registry/pods/a/y", vec![7; 100_000]).await.unwrap();
    let gone =
        store.commit(Txn { guards: vec![], ops: vec![Op::delete("/registry/pods/a/x")] }).await.unwrap().revision;
    put(&store, "/registry/leases/l", "4").await.unwrap();
    drop(store);

    let store = open(dir.path());
    assert_eq!(store.revision(), 6);
    let entry = store.get("/registry/nodes/n").unwrap();
    assert_eq!((&*entry.value, entry.created, entry.modified), (&b"2"[..], 1, node));
    assert_eq!(store.get("/registry/pods/a/y").unwrap().value.len(), 100_000);
    assert!(store.get("/registry/pods/a/x").is_none());
    assert!(store.watch("/registry/nodes/", node).is_ok());
    assert!(matches!(store.watch("/registry/nodes/", node - 1), Err(Error::Compacted { .. })));
    assert!(store.watch(PODS, gone).is_ok());
    assert!(matches!(store.watch(PODS, gone - 1), Err(Error::Compacted { .. })), "a delete counts too");
    assert!(store.list(PODS, List { at: Some(gone), ..List::default() }).is_ok());
    assert_eq!(put(&store, "/registry/nodes/n", "5").await.unwrap(), 7);
}

#[tokio::test]
async fn a_time_to_live_outlives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let ttl = Some(Duration::from_secs(1));
    let op = Op::Put { key: "/registry/events/a/x".into(), value: "x".into(), ttl };
    store.commit(Txn { guards: vec![], ops: vec![op] }).await.unwrap();
    drop(store);
    let store = open(dir.path());
    let mut watch = store.watch("/registry/events/", 1).unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap()[0].revision(), 2);
    assert!(store.get("/registry/events/a/x").is_none());
}

#[tokio::test]
async fn nothing_is_written_while_nothing_changes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, "/registry/nodes/n", "1").await.unwrap();
    let io = || {
        let io = fs::read_to_string("/proc/self/io").unwrap();
        io.lines().filter(|line| line.starts_with("write_bytes")).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = io();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(io(), before);
    drop(store);
}

#[test]
fn a_directory_of_something_else_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), "x").unwrap();
    assert!(refusal(dir.path()).contains("is not empty and holds no store"));
    assert_eq!(files(dir.path()).len(), 1);
}

#[test]
fn a_second_open_names_the_process_that_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let message = refusal(dir.path());
    assert!(message.contains(&format!("in use by process {}:", std::process::id())), "{message}");
    drop(store);
    open(dir.path());
}

#[test]
fn a_newer_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    fs::write(dir.path().join("VERSION"), "regatta store, format 2\n").unwrap();
    assert!(refusal(dir.path()).contains("has the format \"2\""));
    fs::write(dir.path().join("VERSION"), "hello\n").unwrap();
    assert!(refusal(dir.path()).contains("is damaged"));
}

/// Flips one bit in the middle of whatever the needle marks.
fn flip(path: &Path, needle: &[u8], offset: usize) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap() + offset;
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

fn journal(dir: &Path) -> PathBuf {
    files(dir).into_iter().find(|path| path.extension().is_some_and(|extension| extension == "jnl")).unwrap()
}

#[tokio::test]
async fn damage_in_the_journal_is_told_and_loses_nothing_silently() {
    // A bit in a value, in the key before it, and around where the batch begins.
    for offset in [40_isize, 3, -1, -5, -12, -20, -40, -60] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        for n in 0..20 {
            put(&store, &format!("/registry/pods/a/{n:02}"), vec![b'v'; 100]).await.unwrap();
        }
        drop(store);
        let key = b"e/registry/pods/a/07";
        let mut bytes = fs::read(journal(dir.path())).unwrap();
        let at = bytes.windows(key.len()).position(|window| window == key).unwrap();
        bytes[at.checked_add_signed(offset).unwrap()] ^= 0x10;
        fs::write(journal(dir.path()), bytes).unwrap();
        let message = refusal(dir.path());
        assert!(message.contains("is damaged"), "offset {offset}: {message}");
        // Looking does not make it worse.
        let message = refusal(dir.path());
        assert!(message.contains("is damaged"), "offset {offset}, again: {message}");
    }
}

#[tokio::test]
async fn damage_in_a_table_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in 0..60 {
        put(&store, &format!("/registry/pods/a/{n:02}"), vec![n; 100_000]).await.unwrap();
    }
    let table = |dir: &Path| {
        files(dir).into_iter().find(|path| fs::metadata(path).unwrap().len() > 1 << 20 && path.extension().is_none())
    };
    while table(dir.path()).is_none() {
        put(&store, "/registry/pods/a/x", vec![1; 100_000]).await.unwrap();
    }
    drop(store);
    drop(open(dir.path()));
    flip(&table(dir.path()).unwrap(), b"e/registry/pods/a/07", 1000);
    assert!(refusal(dir.path()).contains("is damaged"));
}

/// A file system of its own with little space, unmounted at the end.
struct Small(tempfile::TempDir);

impl Small {
    fn new(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(dir.path())
            .output();
        mount.is_ok_and(|mount| mount.status.success()).then_some(Self(dir))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_keeps_reads_and_recovers_with_space() {
    let Some(disk) = Small::new("24m") else {
        eprintln!("skipped: no right to mount");
        return;
    };
    let ballast = disk.0.path().join("ballast");
    fs::write(&ballast, vec![1; 12 << 20]).unwrap();
    let dir = disk.0.path().join("store");
    let store = open(&dir);
    let mut kept = Vec::new();
    let refused = loop {
        let key = format!("/registry/pods/a/{:05}", kept.len());
        match put(&store, &key, vec![b'x'; 10_000]).await {
            Ok(_) => kept.push(key),
            Err(error) => break error,
        }
    };
    // Whether a batch or the sorting of earlier ones first finds the disk full is chance.
    let reasons = ["No space left", "in the background failed"];
    let known = matches!(&refused, Error::Storage(reason) if reasons.iter().any(|known| reason.contains(known)));
    assert!(known, "{refused}");
    assert!(kept.len() > 100);
    // It goes on refusing, or takes what has found a place since, but is never of two minds.
    for size in [200_000, 100_000, 10_000] {
        let key = format!("/registry/pods/b/{size}");
        if put(&store, &key, vec![b'x'; size]).await.is_ok() {
            kept.push(key);
        }
    }
    let revision = store.revision();
    assert_eq!((revision, store.list(PODS, List::default()).unwrap().entries.len()), (kept.len() as u64, kept.len()));

    fs::remove_file(&ballast).unwrap();
    assert_eq!(put(&store, "/registry/pods/a/more", "x").await.unwrap(), revision + 1);
    drop(store);
    let store = open(&dir);
    assert_eq!(
        (store.revision(), store.list(PODS, List::default()).unwrap().entries.len()),
        (revision + 1, kept.len() + 1)
    );
    assert!(kept.iter().all(|key| store.get(key).is_some()));
}
