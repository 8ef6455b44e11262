//! The data directory: everything that a cluster keeps, under one path, used by one process at a time.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The version of the directory's layout that is written. Every earlier one is read.
const FORMAT: u32 = 1;
const MARKER: &str = "regatta.json";

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
    pub https_port: u16,
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
        let path = std::path::absolute(path).with_context(|| format!("cannot use {}", path.display()))?;
        // Links on the way would give one directory two ids.
        let path = fs::canonicalize(&path).unwrap_or(path);
        let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
        let id = digest.iter().take(4).map(|b| format!("{b:02x}")).collect();
        Ok(DataDir { path, id })
    }

    /// Where sockets, namespaces and mounts are while the machine is up.
    pub fn run(&self) -> PathBuf {
        Path::new("/run/regatta").join(&self.id)
    }

    pub fn exists(&self) -> bool {
        self.path.join(MARKER).exists()
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
        if marker.is_none()
            && fs::read_dir(&self.path).with_context(|| format!("cannot read {shown}"))?.next().is_some()
        {
            let own =
                fs::read_dir(&self.path)?.flatten().all(|e| e.file_name() == "lock" || e.file_name() == "regatta.log");
            if !own {
                bail!("the directory {shown} holds files that are not Regatta's; choose an empty one with --data-dir");
            }
        }
        let hold = self.lock()?;
        Ok((hold, marker.map(|m| m.settings)))
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
        let Ok(mut file) = File::options().read(true).write(true).open(self.path.join("lock")) else { return Ok(None) };
        let mut pid = String::new();
        file.read_to_string(&mut pid)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(_) => Ok(None),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(pid.trim().parse().ok()),
            Err((_, error)) => Err(error.into()),
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
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
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

#[cfg(test)]
mod tests {
    use super::*;

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
