//! `fsGroup`: the group that a pod's files belong to.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

use crate::pods::pod::Pod;

/// Who owns the files that are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ownership {
    pub fs_group: Option<u32>,
    /// The user of all containers, if they agree on one.
    pub user: Option<u32>,
    /// What has the right group at its root is taken to have it all below.
    pub on_root_mismatch: bool,
}

/// What the group may do with files, and what more with directories.
const WRITABLE: u32 = 0o660;
const READABLE: u32 = 0o440;
const DIRECTORY: u32 = 0o2110;

impl Ownership {
    pub fn of(pod: &Pod) -> Ownership {
        let whole = pod.spec().security_context.as_ref();
        let mut users = pod.members.iter().map(|m| {
            m.spec.security_context.as_ref().and_then(|s| s.run_as_user).or(whole.and_then(|w| w.run_as_user))
        });
        let first = users.next().flatten();
        let user = if users.all(|user| user == first) { first } else { None };
        let id = |id: i64| u32::try_from(id).ok();
        let policy = whole.and_then(|w| w.fs_group_change_policy.as_deref());
        Ownership {
            fs_group: whole.and_then(|w| w.fs_group).and_then(id),
            user: user.and_then(id),
            on_root_mismatch: policy == Some("OnRootMismatch"),
        }
    }

    /// Gives a file or directory to the group.
    pub fn own(self, path: &Path, read_only: bool) -> io::Result<()> {
        let Some(group) = self.fs_group else { return Ok(()) };
        let meta = fs::symlink_metadata(path)?;
        if meta.gid() != group {
            lchown(path, None, Some(group))?;
        }
        if meta.is_symlink() {
            return Ok(());
        }
        // A change of group takes the set-group-id bit away, so the mode is written after it.
        let mode = (meta.mode() & 0o7777) | wanted(meta.is_dir(), read_only);
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    }

    /// Gives everything at and below a directory to the group, the root last so that it tells that all is done.
    pub fn own_all(self, root: &Path, read_only: bool) -> io::Result<()> {
        let Some(group) = self.fs_group else { return Ok(()) };
        let meta = fs::metadata(root)?;
        let mask = wanted(true, read_only);
        if self.on_root_mismatch && meta.gid() == group && meta.mode() & mask == mask {
            return Ok(());
        }
        self.own_below(root, read_only)?;
        self.own(root, read_only)
    }

    fn own_below(self, dir: &Path, read_only: bool) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                self.own_below(&entry.path(), read_only)?;
            }
            match self.own(&entry.path(), read_only) {
                // Another pod may use the volume too.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                done => done?,
            }
        }
        Ok(())
    }
}

fn wanted(dir: bool, read_only: bool) -> u32 {
    let mask = if read_only { READABLE } else { WRITABLE };
    if dir { mask | DIRECTORY } else { mask }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_below_belongs_to_the_group_and_a_right_root_is_believed_where_asked() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir(root.join("d")).unwrap();
        fs::write(root.join("d/f"), "").unwrap();
        fs::set_permissions(root.join("d/f"), fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink("/nowhere", root.join("l")).unwrap();
        let all = Ownership { fs_group: Some(4000), ..Ownership::default() };
        let seen = |path: &str| {
            let meta = fs::symlink_metadata(root.join(path)).unwrap();
            (meta.gid(), meta.mode() & 0o7777)
        };
        all.own_all(root, false).unwrap();
        assert_eq!(seen("d/f"), (4000, 0o660));
        assert_eq!((seen("d").0, seen("d").1 & 0o2770), (4000, 0o2770));
        assert_eq!(seen("l").0, 4000);
        // A stranger's file stays as long as the root is right.
        lchown(root.join("d/f"), None, Some(0)).unwrap();
        Ownership { on_root_mismatch: true, ..all }.own_all(root, false).unwrap();
        assert_eq!(seen("d/f").0, 0);
        all.own_all(root, false).unwrap();
        assert_eq!(seen("d/f").0, 4000);
    }
}
