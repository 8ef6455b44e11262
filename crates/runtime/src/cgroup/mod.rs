//! Control groups, version 1, 2 and the hybrid of both.
//!
//! On version 1 (and the hybrid) a group is a directory of the same path in every hierarchy that is mounted, on version 2
//! it is one directory.

mod devices;
pub mod pods;
mod resources;
mod stats;

use std::fs;
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

pub use devices::{Access, Rule, default_rules};
pub use stats::Usage;

/// What a failed operation was about.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("no cgroup hierarchy is mounted; mount one at /sys/fs/cgroup")]
    None,
    #[error("cgroup {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("invalid cgroup path {0:?}")]
    Path(String),
    #[error("cgroup device rules: {0}")]
    Devices(io::Error),
}

type Result<T, E = CgroupError> = std::result::Result<T, E>;

const CONTROLLERS: &[&str] = &[
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "rdma",
    "misc",
];

/// The hierarchies of this machine.
#[derive(Clone, Debug)]
pub struct Hierarchies {
    all: Vec<Hierarchy>,
    v2: bool,
}

#[derive(Clone, Debug)]
struct Hierarchy {
    mount: PathBuf,
    /// Those of version 1; empty for version 2 and for named hierarchies.
    controllers: Vec<String>,
}

impl Hierarchies {
    pub fn detect() -> Result<Hierarchies> {
        let path = Path::new("/proc/self/mountinfo");
        let text = fs::read_to_string(path).map_err(|source| CgroupError::Io { path: path.into(), source })?;
        Hierarchies::parse(&text)
    }

    fn parse(mountinfo: &str) -> Result<Hierarchies> {
        let mut all: Vec<Hierarchy> = Vec::new();
        let mut v1 = false;
        for line in mountinfo.lines() {
            let Some((mount, file_system)) = line.split_once(" - ") else { continue };
            let mount = mount.split(' ').nth(4).unwrap_or_default();
            let mut fields = file_system.split(' ');
            let (kind, options) = (fields.next().unwrap_or_default(), fields.nth(1).unwrap_or_default());
            if !matches!(kind, "cgroup" | "cgroup2") {
                continue;
            }
            let controllers: Vec<String> = match kind {
                "cgroup" => options.split(',').filter(|name| CONTROLLERS.contains(name)).map(String::from).collect(),
                _ => Vec::new(),
            };
            v1 |= !controllers.is_empty();
            // A hierarchy may be mounted in several places.
            let seen =
                |h: &Hierarchy| h.mount == Path::new(mount) || !controllers.is_empty() && h.controllers == controllers;
            if !all.iter().any(seen) {
                all.push(Hierarchy { mount: mount.into(), controllers });
            }
        }
        if all.is_empty() { Err(CgroupError::None) } else { Ok(Hierarchies { all, v2: !v1 }) }
    }

    /// Whether resources are controlled by version 2.
    pub fn is_v2(&self) -> bool {
        self.v2
    }

    /// How a group of version 1 is shown inside a container: its directories, and where they are mounted there. What
    /// several controllers share (`cpu,cpuacct`) is found under the name of each, too.
    pub fn mounts_of(&self, path: &str) -> Vec<(PathBuf, PathBuf)> {
        let controlled = self.all.iter().filter(|hierarchy| !hierarchy.controllers.is_empty());
        let pairs = |hierarchy: &Hierarchy| {
            let directory = hierarchy.mount.join(path.trim_matches('/'));
            let own = hierarchy.mount.file_name().map(|name| name.to_string_lossy().into_owned());
            let mut names: Vec<String> = own.into_iter().collect();
            names
                .extend(hierarchy.controllers.iter().filter(|name| !names.contains(name)).cloned().collect::<Vec<_>>());
            names.into_iter().map(move |name| (directory.clone(), Path::new("/sys/fs/cgroup").join(name)))
        };
        controlled.flat_map(pairs).collect()
    }

    /// Removes groups of pods below a parent, but those given and what is in them. Where a process is, nothing is removed.
    pub fn remove_stray_pods(&self, parent: &str, kept: &[String]) {
        for hierarchy in &self.all {
            let top = hierarchy.mount.join(parent.trim_matches('/'));
            // Those below come first.
            for group in tree(&top).into_iter().rev() {
                let below = group.strip_prefix(&top).unwrap_or(Path::new(""));
                let of_pod = below.components().any(|part| part.as_os_str().as_encoded_bytes().starts_with(b"pod"));
                if of_pod && !kept.iter().any(|kept| group.starts_with(hierarchy.mount.join(kept))) {
                    let _ = fs::remove_dir(group);
                }
            }
        }
    }

    /// The group at a path below every hierarchy's root, whether it exists or not.
    pub fn at(&self, path: &str) -> Result<Cgroup> {
        let path = Path::new(path.trim_start_matches('/'));
        if path.components().any(|part| !matches!(part, Component::Normal(_))) || path.as_os_str().is_empty() {
            return Err(CgroupError::Path(path.display().to_string()));
        }
        Ok(Cgroup { hierarchies: self.clone(), path: path.to_owned() })
    }
}

/// One control group.
#[derive(Clone, Debug)]
pub struct Cgroup {
    hierarchies: Hierarchies,
    path: PathBuf,
}

impl Cgroup {
    /// Its directory in every hierarchy.
    pub fn directories(&self) -> Vec<PathBuf> {
        self.hierarchies.all.iter().map(|hierarchy| hierarchy.mount.join(&self.path)).collect()
    }

    /// Its directory where a controller is, if that is on this machine.
    pub fn directory(&self, controller: &str) -> Option<PathBuf> {
        let find = |h: &&Hierarchy| self.hierarchies.v2 || h.controllers.iter().any(|name| name == controller);
        self.hierarchies.all.iter().find(find).map(|h| h.mount.join(&self.path))
    }

    /// A directory that lists all of its processes.
    pub fn processes(&self) -> PathBuf {
        self.directory("pids").or_else(|| self.directory("memory")).unwrap_or_else(|| self.directories().remove(0))
    }

    /// The file with the count `oom_kill`.
    pub fn oom_file(&self) -> Option<PathBuf> {
        let name = if self.hierarchies.v2 { "memory.events" } else { "memory.oom_control" };
        self.directory("memory").map(|directory| directory.join(name))
    }

    pub fn exists(&self) -> bool {
        self.processes().exists()
    }

    /// Makes it and those above it, where they are missing.
    pub fn create(&self) -> Result<()> {
        for hierarchy in &self.hierarchies.all {
            let mut at = hierarchy.mount.clone();
            for part in self.path.components() {
                if self.hierarchies.v2 {
                    delegate(&at, at == hierarchy.mount);
                }
                at.push(part);
                if let Err(error) = fs::create_dir(&at)
                    && error.kind() != io::ErrorKind::AlreadyExists
                {
                    return Err(failed(&at, error));
                }
                if hierarchy.controllers.iter().any(|name| name == "cpuset") {
                    inherit_cpuset(&at)?;
                }
            }
        }
        Ok(())
    }

    /// Kills every process of it and of those below it.
    pub fn kill(&self) {
        for directory in tree(&self.processes()) {
            crate::shim::kill_cgroup(&directory);
        }
    }

    /// Removes it and those below it. Fails where a process is left.
    pub fn remove(&self) -> Result<()> {
        for directory in self.directories() {
            for directory in tree(&directory).into_iter().rev() {
                match fs::remove_dir(&directory) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&directory, error)),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Moves another process into it.
    pub fn add(&self, pid: u32) -> Result<()> {
        self.directories().iter().try_for_each(|directory| write(&directory.join("cgroup.procs"), &pid.to_string()))
    }
}

/// A directory and all below it, parents first.
fn tree(top: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut next = vec![top.to_owned()];
    while let Some(directory) = next.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        all.push(directory);
        next.extend(entries.flatten().filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()));
    }
    all
}

/// Lets groups below a directory of version 2 have its controllers, as far as it has them itself.
fn delegate(directory: &Path, top: bool) {
    let available = fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
    let enabled = fs::read_to_string(directory.join("cgroup.subtree_control")).unwrap_or_default();
    let mut missing =
        available.split_whitespace().filter(|name| !enabled.split_whitespace().any(|e| e == *name)).peekable();
    if top && missing.peek().is_some() {
        vacate(directory);
    }
    for name in missing {
        let _ = fs::write(directory.join("cgroup.subtree_control"), format!("+{name}"));
    }
}

/// In a container the top is the root of a cgroup namespace, thus a group like any other: it gives memory to those below
/// it only when no process is in it. Its processes go where they go in other images that make groups.
fn vacate(top: &Path) {
    // The real root has no type, and may keep its processes.
    if !top.join("cgroup.type").exists() {
        return;
    }
    let leaf = top.join("init");
    // Who forks meanwhile needs another round.
    for _ in 0..10 {
        let pids = fs::read_to_string(top.join("cgroup.procs")).unwrap_or_default();
        if pids.is_empty() {
            return;
        }
        let _ = fs::create_dir(&leaf);
        for pid in pids.lines() {
            if let Err(error) = write(&leaf.join("cgroup.procs"), pid) {
                tracing::debug!(%error, pid, "a process stays at the top of the cgroups");
            }
        }
    }
}

/// A new group of version 1's cpuset is empty, and takes no process so. Also one that somebody else made just now and
/// has not filled yet is filled: what is made below it must not inherit its emptiness.
fn inherit_cpuset(directory: &Path) -> Result<()> {
    let Some(parent) = directory.parent() else { return Ok(()) };
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let value = |group: &Path| {
            let text = fs::read_to_string(group.join(name)).map_err(|error| failed(group, error))?;
            Ok::<_, CgroupError>(text.trim().to_owned())
        };
        if value(directory)?.is_empty() {
            write(&directory.join(name), &value(parent)?)?;
        }
    }
    Ok(())
}

fn failed(path: &Path, source: io::Error) -> CgroupError {
    CgroupError::Io { path: path.into(), source }
}

fn write(path: &Path, value: &str) -> Result<()> {
    write_existing(path, value).map_err(|error| failed(path, error))
}

/// Asked to make a file, the kernel's file system says that this is not allowed, and not that there is none.
fn write_existing(path: &Path, value: &str) -> io::Result<()> {
    fs::File::options().write(true).truncate(true).open(path)?.write_all(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found_in_each_layout() {
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let hybrid = "31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                      34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      35 30 0:28 / /mnt/memory rw - cgroup cgroup rw,memory\n";
        let found = Hierarchies::parse(v2).unwrap();
        assert!(found.is_v2());
        assert_eq!(found.at("/a/b").unwrap().directories(), [Path::new("/sys/fs/cgroup/a/b")]);
        let found = Hierarchies::parse(hybrid).unwrap();
        assert!(!found.is_v2());
        let group = found.at("a").unwrap();
        assert_eq!(group.directories().len(), 4);
        assert_eq!(group.directory("cpuacct").unwrap(), Path::new("/sys/fs/cgroup/cpu,cpuacct/a"));
        assert_eq!(group.oom_file().unwrap(), Path::new("/sys/fs/cgroup/memory/a/memory.oom_control"));
        assert!(Hierarchies::parse("25 1 8:1 / / rw - ext4 /dev/sda rw\n").is_err());
    }

    #[test]
    fn an_empty_cpuset_is_filled_from_above_and_another_is_kept() {
        let top = tempfile::tempdir().unwrap();
        let (half, full) = (top.path().join("half"), top.path().join("full"));
        for (group, cpus, mems) in [(top.path(), "0-3\n", "0\n"), (&half, "1\n", "\n"), (&full, "2\n", "0\n")] {
            fs::create_dir_all(group).unwrap();
            fs::write(group.join("cpuset.cpus"), cpus).unwrap();
            fs::write(group.join("cpuset.mems"), mems).unwrap();
        }
        let read =
            |group: &Path| ["cpus", "mems"].map(|n| fs::read_to_string(group.join(format!("cpuset.{n}"))).unwrap());
        inherit_cpuset(&half).unwrap();
        assert_eq!(read(&half), ["1\n", "0"]);
        inherit_cpuset(&full).unwrap();
        assert_eq!(read(&full), ["2\n", "0\n"]);
    }

    #[test]
    fn processes_leave_the_root_of_a_cgroup_namespace_and_stay_in_the_real_one() {
        let top = tempfile::tempdir().unwrap();
        let leaf = top.path().join("init");
        fs::create_dir(&leaf).unwrap();
        fs::write(leaf.join("cgroup.procs"), "").unwrap();
        fs::write(top.path().join("cgroup.procs"), "7\n").unwrap();
        fs::write(top.path().join("cgroup.controllers"), "memory\n").unwrap();
        let moved = || fs::read_to_string(leaf.join("cgroup.procs")).unwrap();
        delegate(top.path(), true);
        assert_eq!(moved(), "");
        fs::write(top.path().join("cgroup.type"), "domain\n").unwrap();
        fs::write(top.path().join("cgroup.subtree_control"), "memory\n").unwrap();
        delegate(top.path(), true);
        assert_eq!(moved(), "");
        fs::write(top.path().join("cgroup.subtree_control"), "").unwrap();
        delegate(top.path(), true);
        assert_eq!(moved(), "7");
        assert_eq!(fs::read_to_string(top.path().join("cgroup.subtree_control")).unwrap(), "+memory");
    }

    #[test]
    fn a_file_that_the_kernel_does_not_have_is_not_found() {
        let unified = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
        let Some(top) = unified.into_iter().find(|path| path.join("cgroup.controllers").exists()) else {
            eprintln!("skipped: needs cgroup version 2");
            return;
        };
        let error = write_existing(&top.join("memory.none.max"), "1").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn groups_of_pods_that_are_not_kept_are_removed_and_no_others() {
        let top = tempfile::tempdir().unwrap();
        let groups = ["own/kubepods/podA/c", "own/kubepods/podB/c", "own/kubepods/burstable/podC", "own/shims", "podD"];
        groups.iter().for_each(|group| fs::create_dir_all(top.path().join(group)).unwrap());
        let all = vec![Hierarchy { mount: top.path().into(), controllers: Vec::new() }];
        Hierarchies { all, v2: true }.remove_stray_pods("/own", &["own/kubepods/podA".to_owned()]);
        let left: Vec<_> = groups.iter().filter(|group| top.path().join(group).exists()).collect();
        assert_eq!(left, [&groups[0], &groups[3], &groups[4]]);
        assert!(top.path().join("own/kubepods/burstable").exists());
    }

    #[test]
    fn a_hierarchy_of_several_controllers_is_shown_under_the_name_of_each() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      31 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let shown = Hierarchies::parse(mounts).unwrap().mounts_of("a/b");
        let shown: Vec<_> = shown.iter().map(|(from, at)| format!("{} {}", from.display(), at.display())).collect();
        assert_eq!(
            shown,
            [
                "/sys/fs/cgroup/cpu,cpuacct/a/b /sys/fs/cgroup/cpu,cpuacct",
                "/sys/fs/cgroup/cpu,cpuacct/a/b /sys/fs/cgroup/cpu",
                "/sys/fs/cgroup/cpu,cpuacct/a/b /sys/fs/cgroup/cpuacct",
                "/sys/fs/cgroup/memory/a/b /sys/fs/cgroup/memory",
            ]
        );
    }

    #[test]
    fn a_path_that_leaves_its_hierarchy_is_refused() {
        let found = Hierarchies::parse("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n").unwrap();
        for path in ["", "/", "../a", "a/../../b"] {
            assert!(found.at(path).is_err(), "{path}");
        }
    }
}
