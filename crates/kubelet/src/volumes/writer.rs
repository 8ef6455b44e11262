//! Files that change all at once: a new directory is filled, then one renamed link (`..data`) makes it the content.
//!
//! The layout is the one that programs which watch their configuration know: `key -> ..data/key`, `..data -> ..<time>`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Component, Path};

use super::{File, Ownership, Payload};

const DATA: &str = "..data";
const NEXT: &str = "..data_tmp";

/// Makes `dir` show exactly this payload. Nothing is touched where it does already.
pub fn write(dir: &Path, payload: &Payload, ownership: Ownership) -> io::Result<()> {
    if let Some(bad) = payload.keys().find(|path| !clean(path)) {
        return Err(io::Error::other(format!("invalid path: {bad:?}")));
    }
    if !dir.exists() {
        fs::create_dir_all(dir)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777))?;
    }
    let old = fs::read_link(dir.join(DATA)).ok();
    if let Some(old) = &old
        && same(&dir.join(old), payload)
    {
        return Ok(());
    }
    let name = format!("..{}", jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S.%9f"));
    let fresh = dir.join(&name);
    fs::create_dir(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    for (path, file) in payload {
        place(&fresh, path, file, ownership)?;
    }
    ownership.own(&fresh, true)?;
    ownership.own(dir, true)?;
    let next = dir.join(NEXT);
    let _ = fs::remove_file(&next);
    symlink(&name, &next)?;
    fs::rename(&next, dir.join(DATA))?;
    link(dir, payload)?;
    if let Some(old) = old {
        let _ = fs::remove_dir_all(dir.join(old));
    }
    Ok(())
}

/// Relative, without `..`, and not beginning with it.
fn clean(path: &str) -> bool {
    !path.is_empty()
        && !path.starts_with("..")
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

fn place(root: &Path, path: &str, file: &File, ownership: Ownership) -> io::Result<()> {
    let target = root.join(path);
    let mut parents: Vec<_> = target.ancestors().skip(1).take_while(|parent| *parent != root).collect();
    parents.reverse();
    for parent in parents {
        if !parent.is_dir() {
            fs::create_dir(parent)?;
            fs::set_permissions(parent, fs::Permissions::from_mode(0o755))?;
            ownership.own(parent, true)?;
        }
    }
    fs::write(&target, &file.data)?;
    fs::set_permissions(&target, fs::Permissions::from_mode(file.mode))?;
    if let Some(user) = file.user {
        chown(&target, Some(user), None)?;
    }
    ownership.own(&target, true)
}

fn same(dir: &Path, payload: &Payload) -> bool {
    let mut files = 0;
    for (path, file) in payload {
        let full = dir.join(path);
        let kept = fs::read(&full).is_ok_and(|data| data == file.data);
        if !kept {
            return false;
        }
        files += 1;
    }
    count(dir) == files
}

fn count(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
}

/// Makes the visible names, and removes those that have gone.
fn link(dir: &Path, payload: &Payload) -> io::Result<()> {
    let tops: BTreeSet<_> = payload.keys().filter_map(|path| path.split('/').next()).collect();
    for top in &tops {
        let visible = dir.join(top);
        if fs::symlink_metadata(&visible).is_err() {
            symlink(Path::new(DATA).join(top), &visible)?;
        }
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !tops.contains(&*name) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |text: &str| File { data: text.into(), mode: 0o640, user: None };
        files.iter().map(|(path, text)| ((*path).to_owned(), file(text))).collect()
    }

    fn shown(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.starts_with(".."));
        names.sort();
        names
    }

    #[test]
    fn a_change_replaces_all_files_at_once_and_no_change_touches_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        write(dir, &payload(&[("a", "1"), ("d/b", "2")]), Ownership::default()).unwrap();
        let first = fs::read_link(dir.join(DATA)).unwrap();
        assert_eq!(
            (shown(dir), fs::read_to_string(dir.join("d/b")).unwrap()),
            (vec!["a".into(), "d".into()], "2".into())
        );
        assert_eq!(fs::metadata(dir.join("a")).unwrap().permissions().mode() & 0o7777, 0o640);

        write(dir, &payload(&[("a", "1"), ("d/b", "2")]), Ownership::default()).unwrap();
        assert_eq!(fs::read_link(dir.join(DATA)).unwrap(), first);

        write(dir, &payload(&[("a", "3")]), Ownership::default()).unwrap();
        assert_eq!((shown(dir), fs::read_to_string(dir.join("a")).unwrap()), (vec!["a".into()], "3".into()));
        assert!(!dir.join(first).exists());
    }

    #[test]
    fn a_path_cannot_leave_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["../a", "a/../../b", "/a", "..a", ""] {
            assert!(write(dir.path(), &payload(&[(path, "1")]), Ownership::default()).is_err(), "{path}");
        }
    }
}
