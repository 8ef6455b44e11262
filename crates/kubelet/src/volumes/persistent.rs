//! The volumes behind claims: paths of the node, block devices and NFS shares.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeSpec};

use super::claim::Bound;
use super::{Makings, Source, block, blocking, host_path, local_path, nfs, set_up_failed};

impl Makings<'_> {
    /// The source of a volume that is claimed.
    pub(super) async fn claimed(&self) -> Result<Source, String> {
        let Bound { volume, read_only } = self.bound().await?;
        let name = volume.metadata.name.clone().unwrap_or_default();
        let spec = volume.spec.clone().unwrap_or_default();
        let block = spec.volume_mode.as_deref() == Some("Block");
        self.check_mode(block)?;
        let made = if let Some(source) = &spec.csi {
            self.csi_claimed(&volume, source, read_only).await
        } else if block {
            self.device(&name, &spec, read_only).await
        } else {
            self.mount(&volume, &spec, read_only).await
        };
        made.map_err(|error| match block {
            true => format!("MapVolume.SetUpDevice failed for volume {name:?} : {error}"),
            false => set_up_failed(&name, &error),
        })
    }

    async fn mount(
        &self,
        volume: &PersistentVolume,
        spec: &PersistentVolumeSpec,
        read_only: bool,
    ) -> Result<Source, String> {
        if let Some(local) = &spec.local {
            let path = PathBuf::from(&local.path);
            let (volume, root, ownership) = (volume.clone(), self.volumes.root.clone(), self.ownership);
            let made = path.clone();
            blocking(move || {
                if local_path::is_ours(&volume, &local_path::directory(&root)) {
                    local_path::prepare(&made)?;
                }
                if !made.exists() {
                    return Err(std::io::Error::other(format!("path {:?} does not exist", made.display().to_string())));
                }
                ownership.own_all(&made, read_only)
            })
            .await?;
            return Ok(Source::Path { path, read_only });
        }
        if let Some(source) = spec.host_path.clone() {
            let path = blocking(move || host_path::prepare(&source)).await?;
            return Ok(Source::Path { path, read_only });
        }
        if let Some(share) = nfs::Share::of(spec) {
            let path = self.dir("nfs", volume.metadata.name.as_deref().unwrap_or_default());
            let made = path.clone();
            blocking(move || nfs::mount(&share, &made)).await?;
            return Ok(Source::Path { path, read_only });
        }
        Err("no volume plugin matched".to_owned())
    }

    /// A block device; a file of the node is shown as one.
    async fn device(&self, name: &str, spec: &PersistentVolumeSpec, read_only: bool) -> Result<Source, String> {
        let Some(local) = &spec.local else { return Err("no block volume plugin matched".to_owned()) };
        let path = PathBuf::from(&local.path);
        let devices = super::pod_dir(&self.volumes.root, &self.pod.uid).join("volumeDevices");
        let link = devices.join("kubernetes.io~local-volume").join(name);
        let path = blocking(move || block::device(&path, &link, read_only)).await?;
        Ok(Source::Device { path, read_only })
    }
}
