//! The store's directory: recognised by a version file, held by a lock file.
//!
//! ```text
//!   VERSION   "regatta store, format 1"
//!   lock      locked while the store is open; holds the process id of whoever has it
//!   data/     the database
//!   DAMAGED   what was found wrong; while it is there the store is not opened
//! ```

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
};

/// The form in which this version writes.
const FORMAT: u32 = 1;
const MARK: &str = "regatta store, format ";

/// Why a directory could not be opened as a store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system refused to read or write.
    #[error("cannot use {path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The directory holds something else.
    #[error("{0} is not empty and holds no store: name another directory, or empty this one")]
    Foreign(PathBuf),
    /// Another process has it open.
    #[error("the store in {path} is in use by process {pid}: stop that first")]
    Locked {
        /// The store's directory.
        path: PathBuf,
        /// The process, or `?` when it has not said.
        pid: String,
    },
    /// A newer program wrote it.
    #[error("the store in {path} has the format {found:?}, this program knows up to {FORMAT}: use a newer one")]
    Version {
        /// The store's directory.
        path: PathBuf,
        /// What its version file says.
        found: String,
    },
    /// What is stored cannot be read back as it was written.
    #[error(
        "the store in {path} is damaged ({reason}): restore it from a backup and remove its file DAMAGED, where this is \
         noted, or move the directory away to begin anew"
    )]
    Damaged {
        /// The store's directory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// A store's directory, held as long as this lives.
pub(super) struct Directory {
    pub(super) path: PathBuf,
    _lock: File,
}

impl Directory {
    /// Takes the directory, making it when it is absent or empty.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let io = |at: &Path| {
            let path = at.to_owned();
            move |source| OpenError::Io { path, source }
        };
        fs::create_dir_all(path).map_err(io(path))?;
        let version = path.join("VERSION");
        let is_new = !version.try_exists().map_err(io(&version))?;
        if is_new {
            for file in fs::read_dir(path).map_err(io(path))? {
                let name = file.map_err(io(path))?.file_name();
                // Both are left when a first start is cut short.
                if name != "lock" && name != "VERSION.new" {
                    return Err(OpenError::Foreign(path.into()));
                }
            }
        }
        let lock = Self::lock(path)?;
        if is_new {
            let new = path.join("VERSION.new");
            fs::write(&new, format!("{MARK}{FORMAT}\n")).map_err(io(&new))?;
            File::open(&new).and_then(|file| file.sync_all()).map_err(io(&new))?;
            fs::rename(&new, &version).map_err(io(&version))?;
            File::open(path).and_then(|dir| dir.sync_all()).map_err(io(path))?;
        }
        let mark = fs::read(&version).map_err(io(&version))?;
        let mark = String::from_utf8_lossy(&mark);
        match mark.trim_end().strip_prefix(MARK).map(str::parse) {
            Some(Ok(FORMAT)) => match fs::read_to_string(path.join("DAMAGED")) {
                Ok(reason) => Err(OpenError::Damaged { path: path.into(), reason: reason.trim_end().into() }),
                Err(_) => Ok(Self { path: path.into(), _lock: lock }),
            },
            Some(_) => Err(OpenError::Version { path: path.into(), found: mark.trim_end()[MARK.len()..].into() }),
            None => Err(OpenError::Damaged { path: path.into(), reason: "its VERSION file is not one".into() }),
        }
    }

    /// Writes down that the store is damaged: the database repairs itself by forgetting, and a second look would find
    /// nothing wrong.
    pub(super) fn damaged(&self, reason: String) -> OpenError {
        let file = self.path.join("DAMAGED");
        if let Err(error) = fs::write(&file, format!("{reason}\n")).and_then(|()| File::open(&file)?.sync_all()) {
            tracing::error!(%error, path = %file.display(), "cannot note that the store is damaged");
        }
        OpenError::Damaged { path: self.path.clone(), reason }
    }

    fn lock(path: &Path) -> Result<File, OpenError> {
        let file = path.join("lock");
        let io = |source| OpenError::Io { path: file.clone(), source };
        let mut lock = File::options().create(true).truncate(false).read(true).write(true).open(&file).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(source)) => return Err(io(source)),
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                _ = lock.read_to_string(&mut pid);
                let pid = if pid.trim().is_empty() { "?" } else { pid.trim() };
                return Err(OpenError::Locked { path: path.into(), pid: pid.into() });
            }
        }
        lock.set_len(0).map_err(io)?;
        lock.rewind().map_err(io)?;
        writeln!(lock, "{}", std::process::id()).map_err(io)?;
        Ok(lock)
    }
}
