//! The data directory: everything that a cluster keeps, under one path, used by one process at a time.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The version of the directory's layout that is written. Every earlier one is read.
const FORMAT: u32 = 1;
const MARKER: &str = "regatta.json";
/// What a first start that was cut short may leave before its marker is there.
const REMAINS: [&str; 4] = ["lock", "regatta.log", "regatta.new", OVERLAY_CHECK];
/// Where it is tried whether the file system can be overlaid.
pub const OVERLAY_CHECK: &str = ".overlay-check";
/// What others may have put there before the first start: the root of a file system of its own, and static pods.
const WELCOME: [&str; 2] = ["lost+found", "manifests"];
/// What only root may look into: secrets, keys, and what pods keep.
const PRIVATE: [&str; 4] = ["store", "pki", "kubelet", "runtime"];

/// What else a cluster makes in its directory.
const OWN: [&str; 5] = [MARKER, "kubeconfig.yaml", "images", "net", "cni"];

/// A data directory, known by its path.
#[derive(Clone, Debug)]
pub struct DataDir {
    pub path: PathBuf,
    /// Eight hex digits made from the path: part of the name of all that the cluster makes in the kernel.
    pub id: String,
}

/// What is written about a directory when it is made, and at each start.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Marker {
    version: u32,
    /// The settings of the last start, for `status`, `down` and `image`.
    pub settings: Settings,
}

/// Settings that must not change while the cluster lives, or that other commands need.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    pub cluster_cidr: String,
    pub service_cidr: String,
    pub node_name: String,
    pub kubeconfig: PathBuf,
    /// Its name in the kubeconfig; empty where an earlier version wrote the file.
    pub context: String,
    /// Every kubeconfig that was ever written.
    pub kubeconfigs: Vec<PathBuf>,
    pub https_port: u16,
    pub bind_address: Option<IpAddr>,
    pub server: String,
    pub registries: Option<PathBuf>,
    /// Another runtime's, or empty for the built-in one.
    pub container_runtime_endpoint: String,
    /// Plugins attach the pods, in place of the built-in network.
    pub cni: bool,
    pub cni_bin_dir: PathBuf,
    pub cni_conf_dir: PathBuf,
}

/// The right to use a directory, held while the process lives.
pub struct Hold {
    _lock: Flock<File>,
}

impl DataDir {
    /// The directory at `path`, which need not exist.
    pub fn at(path: &Path) -> Result<DataDir> {
        let path = resolve(path).with_context(|| format!("cannot use {}", path.display()))?;
        let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
        let id = digest.iter().take(4).map(|b| format!("{b:02x}")).collect();
        Ok(DataDir { path, id })
    }

    /// Where sockets, namespaces and mounts are while the machine is up.
    pub fn run(&self) -> PathBuf {
        Path::new("/run/regatta").join(&self.id)
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes the directory if it is new and takes it for this process. A directory that holds something else is refused.
    pub fn take(&self) -> Result<(Hold, Option<Settings>)> {
        let shown = self.path.display();
        fs::create_dir_all(&self.path)
            .with_context(|| format!("cannot make the data directory {shown}; choose another with --data-dir"))?;
        let marker = self.marker()?;
        if marker.is_none() && !self.is_fresh()? {
            bail!("the directory {shown} holds files that are not Regatta's; choose an empty one with --data-dir");
        }
        let hold = self.lock()?;
        Ok((hold, marker.map(|m| m.settings)))
    }

    /// Takes what is left of a cluster for its removal. What the kernel has of it proves that the directory was its own.
    pub fn take_to_remove(&self) -> Result<Hold> {
        fs::create_dir_all(&self.path).with_context(|| format!("cannot make {}", self.path.display()))?;
        self.lock()
    }

    /// Whether nothing is there but what may be before a first start.
    fn is_fresh(&self) -> Result<bool> {
        let entries =
            fs::read_dir(&self.path).with_context(|| format!("cannot read {}", self.path.display()))?.flatten();
        let known = |name: &std::ffi::OsStr| REMAINS.iter().chain(&WELCOME).any(|known| name == *known);
        Ok(entries.into_iter().all(|entry| known(&entry.file_name())))
    }

    /// Takes away what a first start that failed has left; gives whether that was anything.
    pub fn clear_remains(&self) -> Result<bool> {
        let remains = REMAINS.map(|name| self.path.join(name));
        if !remains.iter().any(|path| path.exists()) || !self.is_fresh()? {
            return Ok(false);
        }
        let hold = self.lock()?;
        remove(remains)?;
        drop(hold);
        // What others have put there stays, and its directory with it.
        let _ = fs::remove_dir(&self.path);
        Ok(true)
    }

    /// Takes away all that a cluster is known to make here.
    pub fn remove_own(&self) -> Result<()> {
        remove(REMAINS.iter().chain(&PRIVATE).chain(&OWN).map(|name| self.path.join(name)))?;
        // Others' files may be in there.
        let _ = fs::remove_dir(self.path.join("manifests"));
        Ok(())
    }

    /// Makes the directories that only root may look into, and closes those that an earlier version left open.
    pub fn make_private(&self) -> Result<()> {
        for name in PRIVATE {
            let path = self.path.join(name);
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.and_then(|()| {
                let mode = fs::metadata(&path)?.permissions().mode() & 0o7777;
                if mode == 0o700 { Ok(()) } else { fs::set_permissions(&path, Permissions::from_mode(0o700)) }
            })
            .with_context(|| format!("cannot make {}", path.display()))?;
        }
        Ok(())
    }

    fn lock(&self) -> Result<Hold> {
        let path = self.path.join("lock");
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(&path).with_context(|| {
                format!("cannot write to the data directory {}; choose another with --data-dir", self.path.display())
            })?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                lock.set_len(0)?;
                lock.rewind()?;
                write!(lock, "{}", std::process::id())?;
                Ok(Hold { _lock: lock })
            }
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid)?;
                bail!(
                    "a cluster is already running from {} (process {}); stop it with `regatta down` or choose another \
                     directory with --data-dir",
                    self.path.display(),
                    pid.trim()
                )
            }
            Err((_, error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }

    /// The process that uses the directory, if one does.
    pub fn running(&self) -> Result<Option<i32>> {
        // To look is enough: who may not write asks too.
        let mut file = match File::open(self.path.join("lock")) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.refused(error)),
        };
        let mut pid = String::new();
        file.read_to_string(&mut pid)?;
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(_) => Ok(None),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(pid.trim().parse().ok()),
            Err((_, error)) => Err(error.into()),
        }
    }

    /// Why the directory cannot be looked into, and what to do about it.
    fn refused(&self, error: std::io::Error) -> anyhow::Error {
        let shown = self.path.display();
        match error.kind() {
            ErrorKind::PermissionDenied => {
                anyhow::anyhow!("only root may look into the data directory {shown}; run the command with sudo")
            }
            _ => anyhow::Error::new(error).context(format!("cannot read the data directory {shown}")),
        }
    }

    /// Waits until no process uses the directory.
    pub fn wait(&self) -> Result<()> {
        let file = File::options().read(true).write(true).open(self.path.join("lock"))?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
        Ok(())
    }

    /// What the last start wrote.
    pub fn marker(&self) -> Result<Option<Marker>> {
        let path = self.path.join(MARKER);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.refused(error)),
        };
        let marker: Marker = serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged; restore it or start with an empty --data-dir", path.display()))?;
        if marker.version > FORMAT {
            bail!(
                "the data directory {} was written by a newer Regatta (layout {}, this one knows {FORMAT}); use that one",
                self.path.display(),
                marker.version
            );
        }
        Ok(Some(marker))
    }

    pub fn write_marker(&self, settings: &Settings) -> Result<()> {
        let marker = Marker { version: FORMAT, settings: settings.clone() };
        let text = serde_json::to_string_pretty(&marker)?;
        let path = self.path.join(MARKER);
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            return Ok(());
        }
        crate::pki::write(&path, &text, 0o644)
    }
}

fn remove(paths: impl IntoIterator<Item = PathBuf>) -> Result<()> {
    for path in paths {
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The directory's one path, whether it exists or not: links and `..` on the way are followed as far as there is
/// anything, so that a cluster's id is the same before and after its first start.
fn resolve(path: &Path) -> std::io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let mut resolved = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                resolved.pop();
            }
            other => {
                resolved.push(other);
                // What is not there yet is taken by its name.
                resolved = fs::canonicalize(&resolved).unwrap_or(resolved);
            }
        }
    }
    Ok(resolved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_id_however_it_is_named_before_and_after_it_is_made() {
        let top = tempfile::tempdir().expect("directory");
        let top = fs::canonicalize(top.path()).expect("path");
        fs::create_dir_all(top.join("real/deep")).expect("directory");
        std::os::unix::fs::symlink(top.join("real/deep"), top.join("link")).expect("link");
        let names = ["real/data", "link/../data", "none/../real/data", "real/deep/../data", "./real/./data"];
        let ids = || names.map(|name| DataDir::at(&top.join(name)).expect("path").id);
        let before = ids();
        assert!(before.iter().all(|id| *id == before[0]), "{before:?}");
        fs::create_dir(top.join("real/data")).expect("data");
        assert_eq!(ids(), before);
        assert_eq!(DataDir::at(&top.join("link/../data")).expect("path").path, top.join("real/data"));
    }

    #[test]
    fn what_a_first_start_may_find_is_no_hindrance_and_what_a_failed_one_left_can_be_cleared() {
        let directory = tempfile::tempdir().expect("directory");
        let data = DataDir::at(&directory.path().join("data")).expect("path");
        for name in ["lost+found", "manifests"] {
            fs::create_dir_all(data.join(name)).expect("directory");
        }
        fs::write(data.join("regatta.new"), "{").expect("remains");
        drop(data.take().expect("taken"));
        assert!(data.clear_remains().expect("cleared"));
        let mut left: Vec<_> = fs::read_dir(&data.path).expect("left").flatten().map(|e| e.file_name()).collect();
        left.sort();
        assert_eq!(left, ["lost+found", "manifests"]);
        assert!(!data.clear_remains().expect("cleared"), "nothing was left");
        fs::write(data.join("mine"), "x").expect("file");
        fs::write(data.join("lock"), "").expect("file");
        assert!(!data.clear_remains().expect("looked"));
        assert!(data.join("lock").exists());
    }

    #[test]
    fn what_is_secret_is_closed_to_others_also_in_a_directory_of_earlier() {
        let directory = tempfile::tempdir().expect("directory");
        let data = DataDir::at(directory.path()).expect("path");
        fs::create_dir(data.join("store")).expect("directory");
        fs::set_permissions(data.join("store"), Permissions::from_mode(0o755)).expect("mode");
        data.make_private().expect("private");
        for name in PRIVATE {
            let mode = fs::metadata(data.join(name)).expect("directory").permissions().mode();
            assert_eq!(mode & 0o7777, 0o700, "{name}");
        }
    }

    #[test]
    fn a_directory_is_used_by_one_process_and_never_if_it_holds_something_else() {
        let directory = tempfile::tempdir().expect("directory");
        let data = DataDir::at(&directory.path().join("data")).expect("path");
        let (hold, settings) = data.take().expect("taken");
        assert!(settings.is_none());
        data.write_marker(&Settings { node_name: "a".to_owned(), ..Settings::default() }).expect("marker");
        let error = data.take().err().expect("refused").to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        assert_eq!(data.running().expect("known"), Some(std::process::id() as i32));
        drop(hold);
        assert_eq!(data.running().expect("known"), None);
        assert_eq!(data.take().expect("taken").1.expect("settings").node_name, "a");
        fs::write(directory.path().join("file"), "x").expect("file");
        let foreign = DataDir::at(directory.path()).expect("path");
        assert!(foreign.take().err().expect("refused").to_string().contains("not Regatta's"));
        fs::write(data.join(MARKER), "{").expect("damage");
        assert!(data.take().err().expect("refused").to_string().contains("is damaged"));
        fs::write(data.join(MARKER), r#"{"version": 99, "settings": {}}"#).expect("newer");
        assert!(data.take().err().expect("refused").to_string().contains("newer Regatta"));
    }
}
