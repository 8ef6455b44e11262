//! Claims: what a pod's claim is bound to, and whether the pod may use it so.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::Api;

use super::Makings;

/// A bound claim.
pub struct Bound {
    pub volume: PersistentVolume,
    pub read_only: bool,
}

impl Makings<'_> {
    /// The claim's name and whether the pod mounts it for reading only.
    fn claim(&self) -> (String, bool) {
        match &self.volume.persistent_volume_claim {
            Some(source) => (source.claim_name.clone(), source.read_only.unwrap_or(false)),
            None => (format!("{}-{}", self.pod.name, self.volume.name), false),
        }
    }

    /// The volume behind the claim, as the server has it now.
    pub async fn bound(&self) -> Result<Bound, String> {
        let (name, read_only) = self.claim();
        let namespace = &self.pod.namespace;
        let failed = |why: String| {
            let volume = &self.volume.name;
            format!(
                "Unable to attach or mount volumes: unmounted volumes=[{volume}], unattached volumes=[], failed to process \
                 volumes=[{volume}]: error processing PVC {namespace}/{name}: {why}"
            )
        };
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.volumes.client.clone(), namespace);
        let claim = claims.get(&name).await;
        let claim = claim.map_err(|e| failed(format!("failed to fetch PVC from API server: {}", message(e))))?;
        if self.volume.ephemeral.is_some() {
            let owners = claim.metadata.owner_references.as_deref().unwrap_or_default();
            if !owners.iter().any(|owner| owner.uid == self.pod.uid && owner.controller == Some(true)) {
                let pod = &self.pod.name;
                let why = "(pod is not owner)";
                return Err(failed(format!("PVC {namespace}/{name} was not created for pod {namespace}/{pod} {why}")));
            }
        }
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(failed("PVC is being deleted".to_owned()));
        }
        let is_bound = is_bound(&claim);
        let volume = claim.spec.and_then(|s| s.volume_name).filter(|name| is_bound && !name.is_empty());
        let volume = volume.ok_or_else(|| failed("PVC is not bound".to_owned()))?;
        let volumes: Api<PersistentVolume> = Api::all(self.volumes.client.clone());
        let volume = volumes.get(&volume).await;
        let volume = volume.map_err(|e| failed(format!("failed to fetch PV from API server: {}", message(e))))?;
        let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        if reference.and_then(|reference| reference.uid.as_ref()) != claim.metadata.uid.as_ref() {
            let name = volume.metadata.name.unwrap_or_default();
            return Err(failed(format!(
                "found PV object {name:?} but its pv.Spec.ClaimRef.UID does not point to the PVC"
            )));
        }
        Ok(Bound { volume, read_only })
    }

    /// Whether containers use the volume as a device. One that is used in the other way is told so.
    pub fn check_mode(&self, block: bool) -> Result<(), String> {
        let name = &self.volume.name;
        let devices = self.pod.members.iter().flat_map(|m| m.spec.volume_devices.iter().flatten());
        let mounts = self.pod.members.iter().flat_map(|m| m.spec.volume_mounts.iter().flatten());
        if block && mounts.into_iter().any(|mount| mount.name == *name) {
            return Err(format!("volume {name} has volumeMode Block, but is specified in volumeMounts"));
        }
        if !block && devices.into_iter().any(|device| device.name == *name) {
            return Err(format!("volume {name} has volumeMode Filesystem, but is specified in volumeDevices"));
        }
        Ok(())
    }
}

/// Whether a claim is bound. The annotation is what the scheduler goes by; the phase follows it a moment later.
fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    let annotations = claim.metadata.annotations.as_ref();
    let is_completed = annotations.is_some_and(|all| all.contains_key("pv.kubernetes.io/bind-completed"));
    match claim.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some("Bound") => true,
        Some("Pending") | None => is_completed,
        _ => false,
    }
}

fn message(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_is_bound_before_its_phase_says_so_but_not_once_its_volume_is_lost() {
        let cases = [
            ("Bound", "", true),
            ("Pending", "pv.kubernetes.io/bind-completed", true),
            ("Pending", "volume.kubernetes.io/selected-node", false),
            ("Lost", "pv.kubernetes.io/bind-completed", false),
        ];
        for (phase, annotation, expected) in cases {
            let metadata = json!({"name": "c", "annotations": {annotation: "yes"}});
            let claim = serde_json::from_value(json!({"metadata": metadata, "status": {"phase": phase}})).unwrap();
            assert_eq!(is_bound(&claim), expected, "{phase} {annotation}");
        }
    }
}
