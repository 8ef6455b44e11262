//! Taking a pod's CSI volumes back: unpublished, and unstaged with the last pod of the node.

use std::path::Path;

use super::mount::report_in_use;
use super::record::{self, Record};
use super::wire::{Empty, UnpublishRequest, UnstageRequest};
use crate::volumes::{Volumes, blocking, pod_dir};

impl Volumes {
    /// Takes back all CSI volumes of a pod. Idempotent: it goes by what the records on disk say.
    pub async fn csi_tear_down(&self, uid: &str) -> Result<(), String> {
        let (root, pod) = (self.root.clone(), pod_dir(&self.root, uid));
        let records = blocking(move || Ok(record::of_pod(&pod))).await?;
        if records.is_empty() {
            return Ok(());
        }
        let mut detached = false;
        for (dir, record) in records {
            self.take_back(uid, &dir, &record).await.map_err(|error| {
                let name = record.volume.as_str();
                format!("UnmountVolume.TearDown failed for volume {name:?} : {error}")
            })?;
            detached |= record.attached;
        }
        self.drivers.rest();
        if detached {
            report_in_use(&self.client, &self.drivers, &root).await?;
        }
        Ok(())
    }

    async fn take_back(&self, uid: &str, dir: &Path, record: &Record) -> Result<(), String> {
        let driver = self.drivers.get(&record.driver_name)?;
        let _turn = self.drivers.turn(&record.driver_name, &record.volume_handle).await;
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let request = UnpublishRequest { volume_id: record.volume_handle.clone(), target_path: path(&record.target) };
        let _: Empty = driver.socket.call("/csi.v1.Node/NodeUnpublishVolume", request).await?;
        let (root, this, own) = (self.root.clone(), record.clone(), uid.to_owned());
        let last = blocking(move || {
            Ok(!record::all(&root).iter().any(|(uid, other)| *uid != own && other.same_volume(&this)))
        })
        .await?;
        if let Some(staging) = record.staging.as_ref().filter(|_| last) {
            let request =
                UnstageRequest { volume_id: record.volume_handle.clone(), staging_target_path: path(staging) };
            let _: Empty = driver.socket.call("/csi.v1.Node/NodeUnstageVolume", request).await?;
            let staging = staging.clone();
            blocking(move || {
                // The driver has unmounted it; a directory that is not empty is still somebody's.
                let _ = std::fs::remove_dir(&staging);
                let _ = staging.parent().map(std::fs::remove_dir);
                Ok(())
            })
            .await?;
        }
        let (dir, target) = (dir.to_owned(), record.target.clone());
        blocking(move || {
            // Drivers remove it themselves, mostly.
            let _ = if target.is_dir() { std::fs::remove_dir(&target) } else { std::fs::remove_file(&target) };
            record::forget(&dir)
        })
        .await
    }
}
