//! How a container's processes are started, in what OCI's `config.json` does not say or libcontainer does not do for us.
//!
//! The server writes it beside `config.json`; the children of a shim read it, for the first process and for each exec.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::process::Process;
use super::sys::{Context, Result};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Launch {
    pub version: u32,
    /// The directory of the container's files for libcontainer.
    pub libcontainer: PathBuf,
    pub rootfs: Rootfs,
    pub image_mounts: Vec<ImageMount>,
    /// The pod's user namespace, where it is not the node's.
    pub users: Option<Users>,
    /// What is mounted, with its owners as that namespace has them, for a bind mount to take it from.
    pub mapped: Vec<(PathBuf, PathBuf)>,
    /// A directory a hierarchy; all are there and have their limits.
    pub cgroups: Vec<PathBuf>,
    /// Mount points whose propagation is to be set, with `mount(2)`'s flags: libcontainer leaves it as it finds it.
    pub propagation: Vec<(PathBuf, u64)>,
    pub oom_score_adj: Option<i32>,
    pub process: Process,
}

/// A user namespace, and whom the node has for its root.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Users {
    pub namespace: PathBuf,
    pub uid: u32,
    pub gid: u32,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Rootfs {
    /// Shared by all containers: each is mounted in a mount namespace of its own.
    pub mount_point: PathBuf,
    /// The lowest first.
    pub layers: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
}

/// An image that is mounted, read-only, for a bind mount to take it from.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageMount {
    pub mount_point: PathBuf,
    /// The lowest first.
    pub layers: Vec<PathBuf>,
    /// A path in the image, and where it alone is mounted.
    pub part: Option<(PathBuf, PathBuf)>,
}

impl Launch {
    pub const FILE: &str = "launch.json";

    pub fn read(bundle: &Path) -> Result<Launch> {
        let path = bundle.join(Self::FILE);
        let text = std::fs::read(&path).context(path.display())?;
        serde_json::from_slice(&text).context(path.display())
    }
}

/// What the children that make a process tell the shim, over a socket that closes when the program is running.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The process, as the host sees it. With a terminal its master comes along.
    Pid(i32),
    /// The process waits for the word to go on.
    Ready(crate::cri::LinuxContainerUser),
    Failed(String),
}

/// The most that a status may measure.
pub const STATUS_MAX: usize = 16 << 10;

/// The one byte that lets a created container go on.
pub const GO: &[u8] = b"!";
