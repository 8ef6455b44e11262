//! What the server remembers of sandboxes and containers, on disk. Every version before the written one is read.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cri::{ContainerConfig, PodSandboxConfig};

pub const VERSION: u32 = 1;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxRecord {
    pub version: u32,
    pub id: String,
    pub config: PodSandboxConfig,
    pub runtime_handler: String,
    pub created_at: i64,
    pub ips: Vec<IpAddr>,
    /// It was made whole. One that was not is what a crash left.
    pub ready: bool,
    pub stopped: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerRecord {
    pub version: u32,
    pub id: String,
    pub sandbox_id: String,
    pub config: ContainerConfig,
    pub image_id: String,
    /// The images that it mounts as volumes.
    pub volume_image_ids: Vec<String>,
    /// How the image is named to users: by digest, if it has one.
    pub image_ref: String,
    pub created_at: i64,
    /// The absolute path of its log, or empty.
    pub log_path: String,
    pub stop_signal: i32,
    pub cgroup: String,
    pub made: bool,
}

const UNFINISHED: &str = "new";

/// Whether it is what a crash has left of a write; the record that it was to replace stands.
pub fn is_unfinished(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == UNFINISHED)
}

/// Writes a record by rename: a reader sees the old or the new.
pub fn save<T: Serialize>(path: &Path, record: &T) -> io::Result<()> {
    let temporary = path.with_extension(UNFINISHED);
    fs::write(&temporary, serde_json::to_vec(record).map_err(io::Error::other)?)?;
    fs::rename(&temporary, path)
}

/// Reads a record, if there is one that can be read.
pub fn load<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let text = fs::read(path).ok()?;
    serde_json::from_slice(&text).inspect_err(|error| tracing::warn!(path = %path.display(), %error, "unreadable")).ok()
}
