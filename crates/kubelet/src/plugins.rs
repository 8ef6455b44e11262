//! Registration of plugins: each puts a socket into a directory, tells there what it is, and is told whether it is welcome.
//! CSI drivers and drivers of dynamic resources register so; those of device plugins have a way of their own
//! ([`devices`](crate::devices)).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::claims::Claims;
use crate::logs::Changes;
use crate::volumes::csi::wire::{Empty, InfoRequest, PluginInfo, RegistrationStatus, Socket};
use crate::volumes::csi::{self, Drivers};

/// Before what failed is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// Who takes plugins in.
pub struct Registry {
    pub client: kube::Client,
    pub drivers: Drivers,
    pub claims: Arc<Claims>,
    /// Where plugins put their sockets.
    pub directory: PathBuf,
}

/// A plugin that was taken in, and its name.
enum Taken {
    Csi(String),
    Claims(String),
    /// Of a sort that is nothing to us.
    Stranger,
}

/// Where plugins register, beside the pods' directories.
pub fn directory(pods: &Path) -> PathBuf {
    pods.with_file_name("plugins_registry")
}

impl Registry {
    /// Serves registrations for ever.
    pub async fn serve(self) {
        loop {
            if let Err(error) = self.watch().await {
                tracing::warn!(%error, directory = %self.directory.display(), "plugins cannot register");
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn watch(&self) -> std::io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let changes = Changes::of(&self.directory)?;
        csi::ensure(&self.client, &self.drivers.node).await;
        let mut known: BTreeMap<PathBuf, Taken> = BTreeMap::new();
        loop {
            let present = sockets(&self.directory);
            let gone: Vec<PathBuf> = known.keys().filter(|path| !present.contains(*path)).cloned().collect();
            for path in gone {
                match known.remove(&path) {
                    Some(Taken::Csi(name)) => csi::forget(&self.client, &self.drivers, &name, &path).await,
                    Some(Taken::Claims(name)) => self.claims.clone().forget(name, &path),
                    Some(Taken::Stranger) | None => {}
                }
            }
            let mut failed = false;
            for path in present {
                if known.contains_key(&path) {
                    continue;
                }
                match self.greet(&path).await {
                    Ok(taken) => _ = known.insert(path, taken),
                    Err(error) => {
                        failed = true;
                        tracing::warn!(%error, socket = %path.display(), "a plugin cannot be registered yet");
                    }
                }
            }
            let retry = async {
                match failed {
                    true => tokio::time::sleep(AGAIN).await,
                    false => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = changes.next() => changed?,
                () = retry => {}
            }
        }
    }

    /// Asks a plugin who it is, and takes it in.
    async fn greet(&self, path: &Path) -> Result<Taken, String> {
        let socket = Socket::new(path)?;
        let info: PluginInfo = socket.call("/pluginregistration.Registration/GetInfo", InfoRequest {}).await?;
        let outcome = match info.kind.as_str() {
            "CSIPlugin" => {
                csi::take(&self.client, &self.drivers, path, &info).await.map(|()| Taken::Csi(info.name.clone()))
            }
            "DRAPlugin" => self.claims.register(path, &info).map(|()| Taken::Claims(info.name.clone())),
            _ => return Ok(Taken::Stranger),
        };
        let status = RegistrationStatus {
            plugin_registered: outcome.is_ok(),
            error: outcome.as_ref().err().cloned().unwrap_or_default(),
        };
        let _: Empty = socket.call("/pluginregistration.Registration/NotifyRegistrationStatus", status).await?;
        outcome
    }
}

fn sockets(directory: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let sockets = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()));
    sockets.map(|entry| entry.path()).collect()
}
