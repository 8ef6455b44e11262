//! A pod's volumes: what is on disk or mounted for them before its containers start, and kept up to date afterwards.
//!
//! Everything of one pod is below `<root>/pods/<uid>/volumes/<plugin>/<name>`, as upstream lays it out. Preparing is idempotent:
//! it is how a restarted kubelet takes over. What shows API objects is looked at again whenever those change; all else is made
//! once, so that what containers did to it since stays.

mod block;
mod claim;
pub mod csi;
mod empty_dir;
mod host_path;
pub mod local_path;
mod mounts;
mod nfs;
mod ownership;
mod payload;
mod persistent;
mod tokens;
mod trust;
mod writer;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

pub use mounts::{bind, unmount_below};
pub use ownership::Ownership;
pub use payload::{File, Payload};
pub use tokens::Tokens;

use crate::fields::Addresses;
use crate::objects::Objects;
use crate::pods::pod::Pod;
use crate::resources::Amounts;

/// Where a container's mount of a volume comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// A path of the node; `read_only` whatever the mount says.
    Path { path: PathBuf, read_only: bool },
    /// The content of an image.
    Image { reference: String },
    /// A block device of the node.
    Device { path: PathBuf, read_only: bool },
}

/// The volumes of a pod, ready to be mounted.
#[derive(Clone, Debug, Default)]
pub struct Prepared {
    pub sources: BTreeMap<String, Source>,
    /// When a token in them must be renewed.
    pub refresh_at: Option<Timestamp>,
}

/// What volumes are made from.
#[derive(Clone)]
pub struct Volumes {
    pub client: kube::Client,
    pub objects: Objects,
    pub tokens: Tokens,
    /// `<data>/pods`.
    pub root: PathBuf,
    pub allocatable: Amounts,
    pub made: Made,
    pub republished: Republished,
    pub drivers: csi::Drivers,
}

/// The volumes that are made once, of all pods by uid and name.
pub type Made = Arc<Mutex<HashMap<(String, String), Source>>>;

/// When drivers that want to be asked again are, by the pods' uids and the volumes' names.
pub type Republished = Arc<Mutex<HashMap<(String, String), Timestamp>>>;

/// One volume of a pod, and what it is made by.
struct Makings<'a> {
    volumes: &'a Volumes,
    pod: &'a Pod,
    volume: &'a v1::Volume,
    ownership: Ownership,
    stopping: &'a CancellationToken,
}

/// The directory of all that a pod has on disk.
pub fn pod_dir(root: &Path, uid: &str) -> PathBuf {
    root.join(uid)
}

impl Volumes {
    /// Makes all volumes at once that containers of the pod use. The error names the volume, as the event `FailedMount`
    /// does. What is waited for, is so until the pod is to stop.
    pub async fn prepare(
        &self,
        pod: &Pod,
        addresses: &Addresses,
        stopping: &CancellationToken,
    ) -> Result<Prepared, String> {
        let ownership = Ownership::of(pod);
        let used = pod.used_volumes();
        let volumes = pod.spec().volumes.iter().flatten().filter(|volume| used.contains(volume.name.as_str()));
        let done = futures::future::try_join_all(volumes.map(|volume| async move {
            let makings = Makings { volumes: self, pod, volume, ownership, stopping };
            let (source, refresh_at) = makings.make(addresses).await?;
            Ok::<_, String>((volume.name.clone(), source, refresh_at))
        }));
        let mut prepared = Prepared::default();
        for (name, source, refresh_at) in done.await? {
            prepared.sources.insert(name, source);
            prepared.refresh_at = [prepared.refresh_at, refresh_at].into_iter().flatten().min();
        }
        Ok(prepared)
    }

    /// Unmounts and removes all that the pod has on disk. Idempotent.
    pub async fn tear_down(&self, uid: &str) -> Result<(), String> {
        let dir = pod_dir(&self.root, uid);
        self.tokens.forget(uid);
        self.csi_tear_down(uid).await?;
        blocking(move || {
            block::detach_below(&dir)?;
            mounts::unmount_below(&dir)?;
            // Nothing is removed through a mount that stayed.
            if let Some(point) = mounts::mounted_below(&dir)?.first() {
                return Err(std::io::Error::other(format!("{} is still mounted", point.display())));
            }
            match std::fs::remove_dir_all(&dir) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        })
        .await?;
        self.made.lock().retain(|(pod, _), _| pod != uid);
        self.republished.lock().retain(|(pod, _), _| pod != uid);
        Ok(())
    }
}

impl Makings<'_> {
    /// The directory of the volume below the pod's.
    fn dir(&self, plugin: &str, name: &str) -> PathBuf {
        let volumes = pod_dir(&self.volumes.root, &self.pod.uid).join("volumes");
        volumes.join(format!("kubernetes.io~{plugin}")).join(name)
    }

    /// The volume, and when it is to be looked at again.
    async fn make(&self, addresses: &Addresses) -> Result<(Source, Option<Timestamp>), String> {
        let key = (self.pod.uid.clone(), self.volume.name.clone());
        let known = self.volumes.made.lock().get(&key).cloned();
        let due = self.volumes.republished.lock().get(&key).copied();
        if let Some(source) = known.filter(|_| due.is_none_or(|due| due > Timestamp::now())) {
            return Ok((source, due));
        }
        let failed = |error: String| set_up_failed(&self.volume.name, &error);
        if let Some(source) = self.make_once().await? {
            let due = self.volumes.republished.lock().get(&key).copied();
            self.volumes.made.lock().insert(key, source.clone());
            return Ok((source, due));
        }
        let (payload, plugin, refresh_at) = self.payload(addresses).await.map_err(failed)?;
        let in_memory = matches!(plugin, "secret" | "projected");
        let (path, ownership) = (self.dir(plugin, &self.volume.name), self.ownership);
        let made = path.clone();
        let write = blocking(move || {
            if in_memory {
                mounts::tmpfs(&made, None)?;
            }
            writer::write(&made, &payload, ownership)
        });
        write.await.map_err(failed)?;
        Ok((Source::Path { path, read_only: true }, refresh_at))
    }

    /// A volume that does not change once it is made; none for one that shows API objects.
    async fn make_once(&self) -> Result<Option<Source>, String> {
        let volume = self.volume;
        let failed = |error: String| set_up_failed(&volume.name, &error);
        let writable = |path| Some(Source::Path { path, read_only: false });
        if let Some(source) = &volume.empty_dir {
            let path = self.dir("empty-dir", &volume.name);
            let (made, ownership) = (path.clone(), self.ownership);
            let medium = empty_dir::Medium::of(source, self.pod, &self.volumes.allocatable).map_err(failed)?;
            blocking(move || empty_dir::prepare(&made, medium, ownership)).await.map_err(failed)?;
            return Ok(writable(path));
        }
        if let Some(source) = &volume.host_path {
            let source = source.clone();
            return blocking(move || host_path::prepare(&source)).await.map(writable).map_err(failed);
        }
        if let Some(source) = &volume.nfs {
            let share = nfs::Share::new(source, &[]);
            let path = self.dir("nfs", &volume.name);
            let made = path.clone();
            blocking(move || nfs::mount(&share, &made)).await.map_err(failed)?;
            return Ok(Some(Source::Path { path, read_only: source.read_only.unwrap_or(false) }));
        }
        if let Some(source) = &volume.csi {
            return self.csi_inline(source).await.map(Some).map_err(failed);
        }
        if let Some(source) = &volume.image {
            // The image is brought with that of the container that mounts it.
            let reference = source.reference.clone().unwrap_or_default();
            return Ok(Some(Source::Image { reference }));
        }
        if volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() {
            return self.claimed().await.map(Some);
        }
        Ok(None)
    }

    /// Waits for something unless the pod is to stop before.
    async fn awaited<T>(&self, what: impl Future<Output = T>) -> Result<T, String> {
        self.stopping.run_until_cancelled(what).await.ok_or_else(|| "context canceled".to_owned())
    }

    /// The files of a volume that shows API objects.
    async fn payload(&self, addresses: &Addresses) -> Result<(Payload, &'static str, Option<Timestamp>), String> {
        let volume = self.volume;
        let makings = payload::Makings {
            volumes: self.volumes,
            pod: self.pod,
            addresses,
            ownership: self.ownership,
            volume: &volume.name,
        };
        let mut out = Payload::new();
        if let Some(s) = &volume.config_map {
            let mode = s.default_mode.unwrap_or(0o644);
            makings.config_map(&s.name, s.items.as_deref(), s.optional, mode, &mut out).await?;
            return Ok((out, "configmap", None));
        }
        if let Some(s) = &volume.secret {
            let (name, mode) = (s.secret_name.as_deref().unwrap_or_default(), s.default_mode.unwrap_or(0o644));
            makings.secret(name, s.items.as_deref(), s.optional, mode, &mut out).await?;
            return Ok((out, "secret", None));
        }
        if let Some(s) = &volume.downward_api {
            makings.downward(s.items.as_deref(), s.default_mode.unwrap_or(0o644), &mut out)?;
            return Ok((out, "downward-api", None));
        }
        if let Some(s) = &volume.projected {
            let refresh_at = makings.projected(s, &mut out).await?;
            return Ok((out, "projected", refresh_at));
        }
        Err(format!("no volume plugin matched name: {}", volume.name))
    }
}

/// What a pod is told when a volume cannot be made.
fn set_up_failed(volume: &str, error: &str) -> String {
    format!("MountVolume.SetUp failed for volume {volume:?} : {error}")
}

/// Opens a file below a volume, never through a link that leads out of it.
pub fn open_below(root: &Path, path: &str) -> std::io::Result<std::fs::File> {
    let volume = std::fs::File::open(root)?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    Ok(std::fs::File::from(openat2(&volume, path, how)?))
}

/// File system work that may block, off the threads that serve everybody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
