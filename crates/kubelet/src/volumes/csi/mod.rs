//! Volumes of CSI drivers: the drivers that have registered with this node, and what they mount for pods.
//!
//! Drivers register by a socket ([`plugins`](crate::plugins), [`register`]). A volume is staged once a node and published for each
//! pod ([`mount`]). What was done is on disk before it is done ([`record`]), so that a restarted kubelet takes back what a killed
//! one began ([`unmount`]).

mod expand;
mod mount;
mod record;
mod register;
mod unmount;
pub mod wire;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

pub use expand::{Expansion, serve as serve_expansion};
pub use register::{ensure, forget, take};
use wire::Socket;

/// A driver that serves this node.
#[derive(Clone, Debug)]
pub struct Driver {
    pub socket: Socket,
    pub node_id: String,
    /// By the numbers in [`wire`].
    pub capabilities: Vec<i32>,
    /// The socket by which it registered.
    registered_by: PathBuf,
}

impl Driver {
    fn can(&self, capability: i32) -> bool {
        self.capabilities.contains(&capability)
    }
}

/// All drivers by name, and who works on which volume. Clones share.
#[derive(Clone, Default)]
pub struct Drivers {
    known: Arc<Mutex<HashMap<String, Driver>>>,
    busy: Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>,
    /// The node's name, which attachments and secrets are asked for by.
    pub node: Arc<str>,
}

impl Drivers {
    pub fn new(node: &str) -> Drivers {
        Drivers { node: node.into(), ..Drivers::default() }
    }

    fn get(&self, name: &str) -> Result<Driver, String> {
        let known = self.known.lock().get(name).cloned();
        known.ok_or_else(|| format!("driver name {name} not found in the list of registered CSI drivers"))
    }

    /// One at a time stages and unstages a volume.
    async fn turn(&self, driver: &str, handle: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = self.busy.lock().entry(format!("{driver}^{handle}")).or_default().clone();
        lock.lock_owned().await
    }

    /// Forgets whose turn it was of volumes that nobody works on.
    fn rest(&self) {
        self.busy.lock().retain(|_, lock| Arc::strong_count(lock) > 1);
    }
}

/// Where volumes are staged, as drivers know it.
fn staging(pods: &Path, driver: &str, handle: &str) -> PathBuf {
    let csi = pods.with_file_name("plugins").join("kubernetes.io/csi");
    csi.join(driver).join(hash(&[handle])).join("globalmount")
}

/// SHA-256 in hexadecimal of texts without anything between them.
fn hash(texts: &[&str]) -> String {
    use sha2::{Digest, Sha256};
    use std::fmt::Write;
    let digest = Sha256::digest(texts.concat());
    digest.iter().fold(String::new(), |mut text, byte| {
        // Writing to a text cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
