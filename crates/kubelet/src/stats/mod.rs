//! What pods and the node use: gathered when somebody asks, for `/stats/summary`, the metrics and eviction.

pub mod disk;
mod rates;
mod remote;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1;
use runtime::cri::{ContainerStats, PodSandboxStats};

pub use disk::{Readings, Used};
pub use rates::Rates;
pub use remote::{Asked, remote};

use crate::context::Context;
use crate::node::facts::{self, Disk};
use crate::pods::pod::Pod;
use crate::volumes::pod_dir;

/// A volume that is on the node.
#[derive(Clone, Debug, Default)]
pub struct VolumeUsage {
    pub name: String,
    /// The claim behind it.
    pub claim: Option<String>,
    /// Its file system.
    pub disk: Disk,
    pub used: Used,
    /// On the node's own disk, as long as the pod lives.
    pub local: bool,
}

/// What one pod uses.
#[derive(Clone, Debug, Default)]
pub struct PodUsage {
    pub stats: PodSandboxStats,
    pub volumes: Vec<VolumeUsage>,
    pub logs: BTreeMap<String, Used>,
}

impl PodUsage {
    /// On the node's disk: what containers wrote, their logs and the volumes that end with the pod.
    pub fn local(&self) -> Used {
        let mut sum = Used::default();
        for container in &self.stats.containers {
            sum += written(container);
        }
        self.logs
            .values()
            .chain(self.volumes.iter().filter(|v| v.local).map(|v| &v.used))
            .for_each(|used| sum += *used);
        sum
    }

    /// A container's use of `memory` or `ephemeral-storage`.
    pub fn container(&self, name: &str, resource: &str) -> Option<i64> {
        let stats = self.stats.containers.iter().find(|c| c.attributes.metadata.name == name)?;
        let number = match resource {
            "memory" => stats.memory.working_set_bytes?,
            "ephemeral-storage" => written(stats).bytes + self.logs.get(name).map_or(0, |used| used.bytes),
            _ => return None,
        };
        i64::try_from(number).ok()
    }
}

/// What a container wrote outside of volumes.
pub fn written(container: &ContainerStats) -> Used {
    let layer = container.writable_layer.as_ref();
    Used {
        bytes: layer.and_then(|l| l.used_bytes).unwrap_or(0),
        inodes: layer.and_then(|l| l.inodes_used).unwrap_or(0),
    }
}

/// What a pod has on the node's own disks and in its memory, beside what the runtime counts.
pub async fn on_disk(context: &Context, pod: &Pod, fresh: bool) -> (Vec<VolumeUsage>, BTreeMap<String, Used>) {
    let volumes: Vec<_> = pod.spec().volumes.clone().unwrap_or_default();
    let (top, logs) = (pod_dir(&context.volumes.root, &pod.uid).join("volumes"), context.log_dir(pod));
    let (readings, pod_name) = (context.readings.clone(), pod.name.clone());
    let work = move || {
        let read = |path: &Path| readings.used(path, fresh);
        let volumes = directories(&top).into_iter().filter_map(|(name, path)| {
            let spec = volumes.iter().find(|v| v.name == name && !is_remote(v))?;
            Some(volume(spec, &pod_name, &path, read))
        });
        let volumes: Vec<_> = volumes.collect();
        let logs = std::fs::read_dir(logs).into_iter().flatten().flatten();
        let logs = logs.map(|e| (e.file_name().to_string_lossy().into_owned(), readings.used(&e.path(), fresh)));
        (volumes, logs.collect())
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_default()
}

/// Whether the volume may be another machine's, so that whoever asks about it may have to wait for ever.
fn is_remote(volume: &v1::Volume) -> bool {
    volume.persistent_volume_claim.is_some()
        || volume.ephemeral.is_some()
        || volume.nfs.is_some()
        || volume.csi.is_some()
}

/// The volumes that have a directory of their own: `<plugin>/<name>` below `top`.
fn directories(top: &Path) -> Vec<(String, PathBuf)> {
    let plugins = std::fs::read_dir(top).into_iter().flatten().flatten();
    let entries = plugins.flat_map(|plugin| std::fs::read_dir(plugin.path()).into_iter().flatten().flatten());
    entries.map(|e| (e.file_name().to_string_lossy().into_owned(), e.path())).collect()
}

fn volume(spec: &v1::Volume, pod: &str, path: &Path, read: impl Fn(&Path) -> Used) -> VolumeUsage {
    // A CSI driver's volume is one step further down.
    let path = Some(path.join("mount")).filter(|p| p.is_dir()).unwrap_or_else(|| path.to_owned());
    let disk = Disk::at(&path).unwrap_or_default();
    let claimed = spec.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.clone());
    let claim = claimed.or_else(|| spec.ephemeral.as_ref().map(|_| format!("{pod}-{}", spec.name)));
    let in_memory = spec.empty_dir.as_ref().is_some_and(|e| e.medium.as_deref().is_some_and(|m| !m.is_empty()));
    let used = if is_remote(spec) || in_memory {
        let inodes = disk.inodes.saturating_sub(disk.inodes_free);
        Used { bytes: disk.capacity.saturating_sub(disk.free), inodes }
    } else {
        read(&path)
    };
    let local = !in_memory && (spec.empty_dir.is_some() || spec.config_map.is_some() || spec.git_repo.is_some());
    VolumeUsage { name: spec.name.clone(), claim, disk, used, local }
}

/// The node's own numbers.
pub struct NodeUsage {
    /// Nanoseconds of all processors since the machine started.
    pub cpu: u64,
    pub memory: facts::Memory,
    pub interfaces: Vec<runtime::cri::NetworkInterfaceUsage>,
    pub node_disk: Option<Disk>,
    pub image_disk: Option<Disk>,
    pub image_used: Used,
    /// Processes that there are, and that there may be.
    pub processes: Option<(u64, u64)>,
}

impl NodeUsage {
    pub async fn read(context: &Context) -> NodeUsage {
        let images = context.images.image_fs_info().await.unwrap_or_default().image_filesystems;
        let image_used =
            images.first().map(|fs| Used { bytes: fs.used_bytes.unwrap_or(0), inodes: fs.inodes_used.unwrap_or(0) });
        let image_path = images.first().map(|fs| PathBuf::from(&fs.mountpoint)).filter(|path| path.exists());
        let image_path = image_path.unwrap_or_else(|| context.data.clone());
        NodeUsage {
            cpu: facts::cpu_nanoseconds(),
            memory: facts::Memory::read(),
            interfaces: facts::interfaces(),
            node_disk: Disk::at(&context.data),
            image_disk: Disk::at(&image_path),
            image_used: image_used.unwrap_or_default(),
            processes: facts::processes(),
        }
    }
}
