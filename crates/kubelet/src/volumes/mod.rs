//! A pod's volumes: what is on disk or mounted for them before its containers start, and kept up to date afterwards.
//!
//! Everything of one pod is below `<root>/pods/<uid>/volumes/<plugin>/<name>`, as upstream lays it out. Preparing is idempotent:
//! it is how a restarted kubelet takes over, and how changed objects reach running pods.

mod claim;
mod empty_dir;
mod host_path;
mod mounts;
mod payload;
mod tokens;
mod writer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1;
use runtime::cri::{ImageService, ImageSpec};

pub use mounts::{bind, unmount_below};
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
    pub images: Arc<dyn ImageService>,
    /// `<data>/pods`.
    pub root: PathBuf,
    pub allocatable: Amounts,
}

/// Who owns the files that are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ownership {
    pub fs_group: Option<u32>,
    /// The user of all containers, if they agree on one.
    pub user: Option<u32>,
}

impl Ownership {
    fn of(pod: &Pod) -> Ownership {
        let whole = pod.spec().security_context.as_ref();
        let mut users = pod.members.iter().map(|m| {
            m.spec.security_context.as_ref().and_then(|s| s.run_as_user).or(whole.and_then(|w| w.run_as_user))
        });
        let first = users.next().flatten();
        let user = if users.all(|user| user == first) { first } else { None };
        let id = |id: i64| u32::try_from(id).ok();
        Ownership { fs_group: whole.and_then(|w| w.fs_group).and_then(id), user: user.and_then(id) }
    }
}

/// The directory of all that a pod has on disk.
pub fn pod_dir(root: &Path, uid: &str) -> PathBuf {
    root.join(uid)
}

impl Volumes {
    /// Makes all volumes of the pod at once. The error names the volume, as the event `FailedMount` does.
    pub async fn prepare(&self, pod: &Pod, addresses: &Addresses) -> Result<Prepared, String> {
        let ownership = Ownership::of(pod);
        let volumes = pod.spec().volumes.iter().flatten();
        let one = |volume| self.one(pod, volume, addresses, ownership);
        let done = futures::future::try_join_all(volumes.map(|volume| async move {
            let done = one(volume).await;
            done.map_err(|error| format!("MountVolume.SetUp failed for volume {:?} : {error}", volume.name))
        }));
        let mut prepared = Prepared::default();
        for (name, source, refresh_at) in done.await? {
            prepared.sources.insert(name, source);
            prepared.refresh_at = [prepared.refresh_at, refresh_at].into_iter().flatten().min();
        }
        Ok(prepared)
    }

    async fn one(
        &self,
        pod: &Pod,
        volume: &v1::Volume,
        addresses: &Addresses,
        ownership: Ownership,
    ) -> Result<(String, Source, Option<Timestamp>), String> {
        let name = volume.name.clone();
        let dir = |plugin: &str| {
            pod_dir(&self.root, &pod.uid).join("volumes").join(format!("kubernetes.io~{plugin}")).join(&name)
        };
        let writable = |path| Source::Path { path, read_only: false };
        if let Some(source) = &volume.empty_dir {
            let (path, source) = (dir("empty-dir"), source.clone());
            let made = path.clone();
            blocking(move || empty_dir::prepare(&made, &source, ownership)).await?;
            return Ok((name, writable(path), None));
        }
        if let Some(source) = &volume.host_path {
            let source = source.clone();
            let path = blocking(move || host_path::prepare(&source)).await?;
            return Ok((name, writable(path), None));
        }
        if let Some(source) = &volume.image {
            let reference = source.reference.clone().unwrap_or_default();
            self.image(&reference, source.pull_policy.as_deref()).await?;
            return Ok((name, Source::Image { reference }, None));
        }
        let claim = volume.persistent_volume_claim.as_ref().map(|c| (c.claim_name.clone(), c.read_only));
        let claim = claim.or_else(|| volume.ephemeral.as_ref().map(|_| (format!("{}-{name}", pod.name), None)));
        if let Some((claim, read_only)) = claim {
            let path = claim::resolve(&self.client, &pod.namespace, &claim).await?;
            return Ok((name, Source::Path { path, read_only: read_only.unwrap_or(false) }, None));
        }
        let (payload, plugin, refresh_at) = self.payload(pod, volume, addresses, ownership).await?;
        let in_memory = matches!(plugin, "secret" | "projected");
        let path = dir(plugin);
        let made = path.clone();
        blocking(move || {
            if in_memory {
                mounts::tmpfs(&made, None)?;
            }
            writer::write(&made, &payload, ownership)
        })
        .await?;
        Ok((name, Source::Path { path, read_only: true }, refresh_at))
    }

    /// Sees that the image of an image volume is present.
    async fn image(&self, reference: &str, policy: Option<&str>) -> Result<(), String> {
        let spec = ImageSpec { image: reference.to_owned(), ..Default::default() };
        let present = self.images.image_status(&spec).await.map_err(|e| e.message)?.is_some();
        match policy {
            Some("Never") if !present => Err(format!("image {reference:?} is not present with pull policy of Never")),
            Some("Always") => self.images.pull_image(spec, None, None).await.map(|_| ()).map_err(|e| e.message),
            _ if present => Ok(()),
            _ => self.images.pull_image(spec, None, None).await.map(|_| ()).map_err(|e| e.message),
        }
    }

    /// The files of a volume that shows API objects.
    async fn payload(
        &self,
        pod: &Pod,
        volume: &v1::Volume,
        addresses: &Addresses,
        ownership: Ownership,
    ) -> Result<(Payload, &'static str, Option<Timestamp>), String> {
        let makings = payload::Makings { volumes: self, pod, addresses, ownership, volume: &volume.name };
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
        Err("the volume's type is not supported by this node".to_owned())
    }

    /// Unmounts and removes all that the pod has on disk. Idempotent.
    pub async fn tear_down(&self, uid: &str) -> Result<(), String> {
        let dir = pod_dir(&self.root, uid);
        self.tokens.forget(uid);
        blocking(move || {
            mounts::unmount_below(&dir)?;
            match std::fs::remove_dir_all(&dir) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        })
        .await
    }
}

/// File system work that may block, off the threads that serve everybody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
