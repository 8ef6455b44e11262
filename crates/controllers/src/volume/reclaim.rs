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

/// What becomes of a volume that its claim has released.
#[derive(Debug, PartialEq)]
enum Fate<'v> {
    Keep,
    /// Our own provisioner has made it, and its finalizer waits for the node to remove the data.
    Delete,
    /// A pod is made that empties it.
    Empty(&'static str, &'v Value),
    /// The pod has emptied it.
    Emptied,
    /// It failed, for this reason.
    Fail(&'static str, String),
}

/// `recycler` is the phase of the pod that empties the volume, if there is one, and its message.
fn fate<'v>(volume: &'v Volume, recycler: Option<(&str, Option<&str>)>) -> Fate<'v> {
    let fail = |reason, message: &str| Fate::Fail(reason, message.to_owned());
    match &*volume.spec.persistent_volume_reclaim_policy {
        "Retain" => Fate::Keep,
        "Delete" => match volume.metadata.annotations.get(PROVISIONED_BY).map(String::as_str) {
            Some(LOCAL_PATH) => Fate::Delete,
            // Whoever made it removes it.
            Some(_) => Fate::Keep,
            None => {
                let name = &volume.metadata.name;
                let why = "no deletable volume plugin matched";
                fail("VolumeFailedDelete", &format!("error getting deleter volume plugin for volume {name:?}: {why}"))
            }
        },
        "Recycle" => {
            let source = ["hostPath", "nfs"].into_iter().find_map(|kind| Some((kind, volume.spec.source.get(kind)?)));
            match (source, recycler) {
                (None, _) => fail("VolumeFailedRecycle", "No recycler plugin found for the volume!"),
                _ if volume.status.phase == "Failed" => Fate::Keep,
                (Some((kind, source)), None) => Fate::Empty(kind, source),
                (_, Some(("Succeeded", _))) => Fate::Emptied,
                (_, Some(("Failed", why))) => {
                    fail("VolumeFailedRecycle", &format!("Recycle failed: {}", why.unwrap_or("unknown error")))
                }
                _ => Fate::Keep,
            }
        }
        _ => fail("VolumeUnknownReclaimPolicy", "Volume has an unrecognized PersistentVolumeReclaimPolicy"),
    }
}

impl Binder {
    /// Called again when the pod that empties the volume changes.
    pub(super) async fn reclaim(&self, volume: &Volume) -> Result<(), Error> {
        let name = format!("{RECYCLER}{}", volume.metadata.name);
        let pod = self.pods.get(NAMESPACE, &name);
        let why = pod.as_ref().and_then(|pod| self.pods.parse(pod)?.status?.message);
        let fate = fate(volume, pod.as_ref().map(|pod| (&*pod.phase, why.as_deref())));
        if let (Fate::Emptied | Fate::Fail(..), Some(pod)) = (&fate, &pod) {
            self.env.delete::<Pod>(NAMESPACE, &name, &pod.uid, DeleteParams::default()).await?;
        }
        match fate {
            Fate::Keep => Ok(()),
            Fate::Delete => {
                let meta = &volume.metadata;
                self.env.delete::<PersistentVolume>("", &meta.name, &meta.uid, DeleteParams::default()).await
            }
            Fate::Empty(kind, source) => {
                let pod = serde_json::to_vec(&recycler(&name, kind, source))?;
                match self.env.create::<Pod>(NAMESPACE, pod).await {
                    Err(error) if !error.is_already_exists() => Err(error),
                    _ => Ok(()),
                }
            }
            Fate::Emptied => {
                tell_volume(&self.env, volume, Normal, "VolumeRecycled", "Volume recycled");
                self.unbind(volume).await
            }
            Fate::Fail(reason, message) => self.fail(volume, reason, &message).await,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_released_volume_is_kept_deleted_or_emptied_as_its_policy_says() {
        let volume = |policy: &str, by: &str, source: &str, phase: &str| -> Volume {
            let mut annotations = json!({});
            if !by.is_empty() {
                annotations[PROVISIONED_BY] = by.into();
            }
            serde_json::from_value(json!({"metadata": {"name": "v", "annotations": annotations},
                "spec": {"persistentVolumeReclaimPolicy": policy, source: {"path": "/x"}}, "status": {"phase": phase}}))
            .unwrap()
        };
        let cases = [
            ("Retain", "", "hostPath", "Released", None, "keep"),
            ("Delete", LOCAL_PATH, "hostPath", "Released", None, "delete"),
            ("Delete", "driver", "csi", "Released", None, "keep"),
            ("Delete", "", "hostPath", "Released", None, "VolumeFailedDelete"),
            ("Recycle", "", "csi", "Released", None, "VolumeFailedRecycle"),
            ("Recycle", "", "hostPath", "Released", None, "empty hostPath"),
            ("Recycle", "", "nfs", "Released", None, "empty nfs"),
            ("Recycle", "", "nfs", "Released", Some("Running"), "keep"),
            ("Recycle", "", "nfs", "Released", Some("Succeeded"), "emptied"),
            ("Recycle", "", "nfs", "Released", Some("Failed"), "VolumeFailedRecycle"),
            ("Recycle", "", "nfs", "Failed", None, "keep"),
            ("Else", "", "nfs", "Released", None, "VolumeUnknownReclaimPolicy"),
        ];
        for (policy, by, source, phase, recycler, expected) in cases {
            let volume = volume(policy, by, source, phase);
            let told = match fate(&volume, recycler.map(|phase| (phase, None))) {
                Fate::Keep => "keep".to_owned(),
                Fate::Delete => "delete".to_owned(),
                Fate::Empty(kind, _) => format!("empty {kind}"),
                Fate::Emptied => "emptied".to_owned(),
                Fate::Fail(reason, _) => reason.to_owned(),
            };
            assert_eq!(told, expected, "{policy} {by} {source} {phase} {recycler:?}");
        }
    }
}
