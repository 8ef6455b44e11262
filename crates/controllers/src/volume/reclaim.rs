//! What becomes of a volume whose claim is gone: it is kept, emptied for the next, or removed.

use api::volume::{LOCAL_PATH, PROVISIONED_BY, Volume};
use client::events::EventType::{Normal, Warning};
use k8s_openapi::api::core::v1::{PersistentVolume, Pod};
use kube::api::DeleteParams;
use serde_json::{Value, json};

use super::{binder::Binder, tell_volume};
use crate::frame::Error;

/// A pod that empties a volume is named so, with the volume's name after it.
pub(super) const RECYCLER: &str = "recycler-for-";
const NAMESPACE: &str = "default";
const IMAGE: &str = "registry.k8s.io/build-image/debian-base:bookworm-v1.0.4";
const SCRUB: &str = "test -e /scrub && find /scrub -mindepth 1 -delete && test -z \"$(ls -A /scrub)\" || exit 1";
/// A recycler that takes longer has failed.
const DEADLINE_SECONDS: i64 = 300;

impl Binder {
    pub(super) async fn reclaim(&self, volume: &Volume) -> Result<(), Error> {
        match &*volume.spec.persistent_volume_reclaim_policy {
            "Delete" => self.remove(volume).await,
            "Recycle" => self.recycle(volume).await,
            "Retain" => Ok(()),
            _ => {
                let message = "Volume has an unrecognized PersistentVolumeReclaimPolicy";
                self.fail(volume, "VolumeUnknownReclaimPolicy", message).await
            }
        }
    }

    /// Deletes a volume that this cluster's own provisioner has made; its finalizer waits for the node to remove the data.
    async fn remove(&self, volume: &Volume) -> Result<(), Error> {
        match volume.metadata.annotations.get(PROVISIONED_BY).map(String::as_str) {
            Some(LOCAL_PATH) => {
                let meta = &volume.metadata;
                self.env.delete::<PersistentVolume>("", &meta.name, &meta.uid, DeleteParams::default()).await
            }
            // Whoever made it removes it.
            Some(_) => Ok(()),
            None => {
                let message = format!(
                    "error getting deleter volume plugin for volume {:?}: no deletable volume plugin matched",
                    volume.metadata.name
                );
                self.fail(volume, "VolumeFailedDelete", &message).await
            }
        }
    }

    /// Has a pod empty the volume; this is called again when that pod changes.
    async fn recycle(&self, volume: &Volume) -> Result<(), Error> {
        let source = ["hostPath", "nfs"].iter().find_map(|kind| Some((kind, volume.spec.source.get(*kind)?)));
        let Some((kind, source)) = source else {
            return self.fail(volume, "VolumeFailedRecycle", "No recycler plugin found for the volume!").await;
        };
        if volume.status.phase == "Failed" {
            return Ok(());
        }
        let name = format!("{RECYCLER}{}", volume.metadata.name);
        let Some(pod) = self.pods.get(NAMESPACE, &name) else {
            let pod = serde_json::to_vec(&recycler(&name, kind, source))?;
            return match self.env.create::<Pod>(NAMESPACE, pod).await {
                Err(error) if !error.is_already_exists() => Err(error),
                _ => Ok(()),
            };
        };
        match &*pod.phase {
            "Succeeded" => {
                self.env.delete::<Pod>(NAMESPACE, &name, &pod.uid, DeleteParams::default()).await?;
                tell_volume(&self.env, volume, Normal, "VolumeRecycled", "Volume recycled");
                self.unbind(volume).await
            }
            "Failed" => {
                self.env.delete::<Pod>(NAMESPACE, &name, &pod.uid, DeleteParams::default()).await?;
                let why = self.pods.parse(&pod).and_then(|pod| pod.status?.message);
                let message = format!("Recycle failed: {}", why.unwrap_or_else(|| "unknown error".to_owned()));
                self.fail(volume, "VolumeFailedRecycle", &message).await
            }
            _ => Ok(()),
        }
    }

    async fn fail(&self, volume: &Volume, reason: &str, message: &str) -> Result<(), Error> {
        if volume.status.phase != "Failed" {
            tell_volume(&self.env, volume, Warning, reason, message);
        }
        self.set_volume_phase(volume, "Failed", message).await
    }
}

fn recycler(name: &str, kind: &str, source: &Value) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "activeDeadlineSeconds": DEADLINE_SECONDS, "restartPolicy": "Never",
            "volumes": [{"name": "vol", kind: source}],
            "containers": [{
                "name": "pv-recycler", "image": IMAGE, "command": ["/bin/sh"], "args": ["-c", SCRUB],
                "volumeMounts": [{"name": "vol", "mountPath": "/scrub"}],
            }],
        },
    })
}
