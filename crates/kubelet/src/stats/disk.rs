//! What directories take on their disks. Reading a tree is dear, so what was read is kept for a while.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long a reading serves those that do not need the newest.
const FRESH: Duration = Duration::from_secs(60);
/// Readings kept at most.
const KEPT: usize = 10_000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    pub bytes: u64,
    pub inodes: u64,
}

impl std::ops::AddAssign for Used {
    fn add_assign(&mut self, other: Used) {
        self.bytes += other.bytes;
        self.inodes += other.inodes;
    }
}

/// Readings by directory.
#[derive(Debug, Default)]
pub struct Readings(Mutex<HashMap<PathBuf, (Instant, Used)>>);

impl Readings {
    /// What is below a directory, itself included; read anew if it must be `fresh` or the last reading is old.
    pub fn used(&self, path: &Path, fresh: bool) -> Used {
        if !fresh
            && let Some((at, used)) = self.0.lock().get(path)
            && at.elapsed() < FRESH
        {
            return *used;
        }
        let used = read(path);
        let mut all = self.0.lock();
        if all.len() >= KEPT {
            all.retain(|_, (at, _)| at.elapsed() < FRESH);
        }
        all.insert(path.to_owned(), (Instant::now(), used));
        used
    }
}

/// Each file counts once, however many names it has, and other file systems below do not.
fn read(top: &Path) -> Used {
    let Ok(own) = fs::symlink_metadata(top) else { return Used::default() };
    let mut used = Used { bytes: own.blocks() * 512, inodes: 1 };
    let mut linked = HashSet::new();
    let mut next = if own.is_dir() { vec![top.to_owned()] } else { Vec::new() };
    while let Some(directory) = next.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.dev() != own.dev() || meta.nlink() > 1 && !meta.is_dir() && !linked.insert(meta.ino()) {
                continue;
            }
            used += Used { bytes: meta.blocks() * 512, inodes: 1 };
            if meta.is_dir() {
                next.push(entry.path());
            }
        }
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_two_names_counts_once_and_readings_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("d")).unwrap();
        fs::write(directory.path().join("d/a"), vec![1; 8192]).unwrap();
        fs::hard_link(directory.path().join("d/a"), directory.path().join("b")).unwrap();
        let readings = Readings::default();
        let first = readings.used(directory.path(), false);
        assert_eq!(first.inodes, 3);
        assert!((8192..65536).contains(&first.bytes), "{first:?}");
        fs::write(directory.path().join("c"), "x").unwrap();
        assert_eq!(readings.used(directory.path(), false), first);
        assert_eq!(readings.used(directory.path(), true).inodes, 4);
    }
}
