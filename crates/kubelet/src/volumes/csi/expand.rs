//! Growing the file systems of CSI volumes that are mounted: once a driver's controller has made a volume larger, its node
//! service makes what is on it larger, and the claim shows it.

use std::collections::HashMap;
use std::path::PathBuf;

use api::volume::{Claim, Volume};
use client::events::{EventType, Recorder};
use client::{Cache, Item};
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::wire::{CapacityRange, EXPAND, ExpandRequest, ExpandResponse};
use super::{Drivers, record};
use crate::volumes::blocking;

/// What the growing of volumes works with.
pub struct Expansion {
    pub client: kube::Client,
    pub drivers: Drivers,
    pub pods: PathBuf,
    pub recorder: Recorder,
    pub claims: Cache<PersistentVolumeClaim>,
    pub volumes: Cache<PersistentVolume>,
}

/// Serves for ever.
pub async fn serve(this: Expansion) {
    let mut changes = this.claims.subscribe();
    loop {
        let change = changes.next().await;
        let Some(item) = change.new else { continue };
        if let Some((claim, volume)) = this.pending(&item)
            && let Err(error) = this.expand(&claim, &volume).await
        {
            this.tell(&claim, EventType::Warning, "FileSystemResizeFailed", &error);
        }
    }
}

impl Expansion {
    /// A claim whose volume is larger than what is on it, as its status says.
    fn pending(&self, item: &Item) -> Option<(Claim, Volume)> {
        let text = std::str::from_utf8(&item.bytes).ok()?;
        if !["NodeResizePending", "FileSystemResizePending"].iter().any(|mark| text.contains(mark)) {
            return None;
        }
        let claim: Claim = item.parse().ok()?;
        let volume: Volume = self.volumes.get("", &claim.spec.volume_name)?.parse().ok()?;
        (volume.capacity() > claim.capacity()).then_some((claim, volume))
    }

    async fn expand(&self, claim: &Claim, volume: &Volume) -> Result<(), String> {
        let (pods, name) = (self.pods.clone(), volume.metadata.name.clone());
        let used =
            blocking(move || Ok(record::all(&pods).into_iter().find(|(_, record)| record.volume == name))).await?;
        let Some((_, record)) = used else { return Ok(()) };
        let driver = self.drivers.get(&record.driver_name)?;
        if driver.can(EXPAND) {
            let path = |path: &PathBuf| path.to_string_lossy().into_owned();
            let request = ExpandRequest {
                volume_id: record.volume_handle.clone(),
                volume_path: path(&record.target),
                capacity_range: Some(CapacityRange { required_bytes: volume.capacity().value() }),
                staging_target_path: record.staging.as_ref().map(path).unwrap_or_default(),
                volume_capability: None,
                secrets: HashMap::new(),
            };
            let _: ExpandResponse = driver.socket.call("/csi.v1.Node/NodeExpandVolume", request).await?;
        }
        let capacity = volume.spec.capacity.get("storage");
        let conditions = json!([
            {"type": "FileSystemResizePending", "$patch": "delete"}, {"type": "Resizing", "$patch": "delete"},
        ]);
        let status = json!({
            "capacity": {"storage": capacity}, "allocatedResources": {"storage": capacity},
            "allocatedResourceStatuses": null, "conditions": conditions,
        });
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &claim.metadata.namespace);
        let patch = Patch::Strategic(json!({ "status": status }));
        claims.patch_status(&claim.metadata.name, &PatchParams::default(), &patch).await.map_err(|e| e.to_string())?;
        let message = format!("MountVolume.NodeExpandVolume succeeded for volume {:?}", volume.metadata.name);
        self.tell(claim, EventType::Normal, "FileSystemResizeSuccessful", &message);
        Ok(())
    }

    fn tell(&self, claim: &Claim, kind: EventType, reason: &str, message: &str) {
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("PersistentVolumeClaim".to_owned()),
            namespace: Some(claim.metadata.namespace.clone()),
            name: Some(claim.metadata.name.clone()),
            uid: Some(claim.metadata.uid.clone()),
            ..ObjectReference::default()
        };
        self.recorder.record(about, kind, reason, message);
    }
}
