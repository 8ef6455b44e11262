//! From a volume of a CSI driver to a path or device for a pod: attached, staged, published, given to the pod's group.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1;
use k8s_openapi::api::storage::v1::{CSIDriver, CSIDriverSpec, VolumeAttachment};
use kube::api::{Patch, PatchParams, WatchParams};
use kube::core::WatchEvent;
use kube::{Api, ResourceExt};
use serde_json::json;

use super::record::{self, Record};
use super::wire::{
    self, Capability, Empty, MountCapability, PublishRequest, SINGLE_NODE_MULTI_WRITER, STAGE_UNSTAGE, StageRequest,
    VOLUME_MOUNT_GROUP,
};
use super::{Driver, Drivers, hash, staging};
use crate::volumes::{Makings, Source, blocking, pod_dir};

/// How long a volume may take to be attached.
const ATTACH: Duration = Duration::from_secs(120);

/// How often a driver that wants it is asked to publish a volume that it has published.
const REPUBLISH: jiff::SignedDuration = jiff::SignedDuration::from_secs(60);

/// One volume on its way to one pod.
struct Work {
    name: String,
    handle: String,
    driver_name: String,
    driver: Driver,
    object: CSIDriverSpec,
    fs_type: String,
    access_modes: Vec<String>,
    mount_options: Vec<String>,
    attributes: HashMap<String, String>,
    stage_secret: Option<v1::SecretReference>,
    publish_secret: Option<v1::SecretReference>,
    read_only: bool,
    block: bool,
    ephemeral: bool,
}

impl Makings<'_> {
    /// A claimed volume of a driver.
    pub async fn csi_claimed(
        &self,
        volume: &v1::PersistentVolume,
        source: &v1::CSIPersistentVolumeSource,
        read_only: bool,
    ) -> Result<Source, String> {
        let spec = volume.spec.clone().unwrap_or_default();
        let (driver, object) = self.driver(&source.driver).await?;
        let work = Work {
            name: volume.name_any(),
            handle: source.volume_handle.clone(),
            driver_name: source.driver.clone(),
            driver,
            object,
            fs_type: source.fs_type.clone().unwrap_or_default(),
            access_modes: spec.access_modes.unwrap_or_default(),
            mount_options: spec.mount_options.unwrap_or_default(),
            attributes: source.volume_attributes.clone().unwrap_or_default().into_iter().collect(),
            stage_secret: source.node_stage_secret_ref.clone(),
            publish_secret: source.node_publish_secret_ref.clone(),
            read_only: read_only || source.read_only.unwrap_or(false),
            block: spec.volume_mode.as_deref() == Some("Block"),
            ephemeral: false,
        };
        self.publish(work).await
    }

    /// A volume that the pod carries in its own specification.
    pub async fn csi_inline(&self, source: &v1::CSIVolumeSource) -> Result<Source, String> {
        let (driver, object) = self.driver(&source.driver).await?;
        let modes = object.volume_lifecycle_modes.clone().unwrap_or_default();
        if !modes.iter().any(|mode| mode == "Ephemeral") {
            let name = &source.driver;
            return Err(format!("volume mode \"Ephemeral\" not supported by driver {name} (only supports {modes:?})"));
        }
        let secret = source.node_publish_secret_ref.as_ref().map(|secret| v1::SecretReference {
            name: Some(secret.name.clone()),
            namespace: Some(self.pod.namespace.clone()),
        });
        let work = Work {
            name: self.volume.name.clone(),
            handle: format!("csi-{}", hash(&[&self.pod.uid, &self.volume.name])),
            driver_name: source.driver.clone(),
            driver,
            object,
            fs_type: source.fs_type.clone().unwrap_or_default(),
            access_modes: vec!["ReadWriteOnce".to_owned()],
            mount_options: Vec::new(),
            attributes: source.volume_attributes.clone().unwrap_or_default().into_iter().collect(),
            stage_secret: None,
            publish_secret: secret,
            read_only: source.read_only.unwrap_or(false),
            block: false,
            ephemeral: true,
        };
        self.publish(work).await
    }

    /// A driver that has registered, and what its object says; without an object, the defaults.
    async fn driver(&self, name: &str) -> Result<(Driver, CSIDriverSpec), String> {
        let driver = self.volumes.drivers.get(name)?;
        let all: Api<CSIDriver> = Api::all(self.volumes.client.clone());
        let object = all.get_opt(name).await.map_err(|e| e.to_string())?;
        let none = CSIDriverSpec { volume_lifecycle_modes: Some(vec!["Persistent".to_owned()]), ..Default::default() };
        Ok((driver, object.map_or(none, |object| object.spec)))
    }

    async fn publish(&self, work: Work) -> Result<Source, String> {
        let pods = &self.volumes.root;
        let part = if work.block { "volumeDevices" } else { "volumes" };
        let dir = pod_dir(pods, &self.pod.uid).join(part).join("kubernetes.io~csi").join(&work.name);
        let target = dir.join(if work.block { "device" } else { "mount" });
        let stages = !work.ephemeral && work.driver.can(STAGE_UNSTAGE);
        let attaches = !work.ephemeral && work.object.attach_required.unwrap_or(true);
        let record = Record {
            version: 1,
            driver_name: work.driver_name.clone(),
            volume_handle: work.handle.clone(),
            volume: if work.ephemeral { String::new() } else { work.name.clone() },
            target: target.clone(),
            staging: stages.then(|| staging(pods, &work.driver_name, &work.handle)),
            attached: attaches,
            block: work.block,
        };
        let (written, made) = (record.clone(), dir.clone());
        blocking(move || written.write(&made)).await?;
        let mut publish_context = HashMap::new();
        if attaches {
            report_in_use(&self.volumes.client, &self.volumes.drivers, pods).await?;
            publish_context = self.attached(&work).await?;
        }
        let capability = self.capability(&work);
        let _turn = self.volumes.drivers.turn(&work.driver_name, &work.handle).await;
        let key = (self.pod.uid.clone(), self.volume.name.clone());
        let again = self.volumes.republished.lock().contains_key(&key);
        if let Some(staging) = record.staging.as_ref().filter(|_| !again) {
            let made = staging.clone();
            blocking(move || std::fs::create_dir_all(made)).await?;
            let request = StageRequest {
                volume_id: work.handle.clone(),
                publish_context: publish_context.clone(),
                staging_target_path: staging.to_string_lossy().into_owned(),
                volume_capability: Some(capability.clone()),
                secrets: self.secrets(work.stage_secret.as_ref()).await?,
                volume_context: work.attributes.clone(),
            };
            let _: Empty = work.driver.socket.call("/csi.v1.Node/NodeStageVolume", request).await?;
        }
        let mut volume_context = work.attributes.clone();
        self.pod_info(&work, &mut volume_context).await?;
        let request = PublishRequest {
            volume_id: work.handle.clone(),
            publish_context,
            staging_target_path: record
                .staging
                .as_ref()
                .map(|it| it.to_string_lossy().into_owned())
                .unwrap_or_default(),
            target_path: target.to_string_lossy().into_owned(),
            volume_capability: Some(capability),
            readonly: work.read_only,
            secrets: self.secrets(work.publish_secret.as_ref()).await?,
            volume_context,
        };
        let _: Empty = work.driver.socket.call("/csi.v1.Node/NodePublishVolume", request).await?;
        if work.object.requires_republish == Some(true) {
            self.volumes.republished.lock().insert(key, jiff::Timestamp::now() + REPUBLISH);
        }
        if work.block {
            return Ok(Source::Device { path: target, read_only: work.read_only });
        }
        if self.owns(&work) && !again {
            let (made, ownership, read_only) = (target.clone(), self.ownership, work.read_only);
            blocking(move || ownership.own_all(&made, read_only)).await?;
        }
        Ok(Source::Path { path: target, read_only: work.read_only })
    }

    /// Whether the kubelet, and not the driver, gives the files to the pod's group.
    fn owns(&self, work: &Work) -> bool {
        if work.driver.can(VOLUME_MOUNT_GROUP) {
            return false;
        }
        match work.object.fs_group_policy.as_deref().unwrap_or("ReadWriteOnceWithFSType") {
            "File" => true,
            "None" => false,
            _ => {
                let single = |mode: &String| matches!(&**mode, "ReadWriteOnce" | "ReadWriteOncePod");
                !work.fs_type.is_empty() && work.access_modes.iter().any(single) && !work.read_only
            }
        }
    }

    fn capability(&self, work: &Work) -> Capability {
        let mode = work.access_modes.first().map(String::as_str).unwrap_or_default();
        let group = self.ownership.fs_group.filter(|_| work.driver.can(VOLUME_MOUNT_GROUP));
        let mount = MountCapability {
            fs_type: work.fs_type.clone(),
            mount_flags: work.mount_options.clone(),
            volume_mount_group: group.map(|group| group.to_string()).unwrap_or_default(),
        };
        Capability {
            block: work.block.then(Empty::default),
            mount: (!work.block).then_some(mount),
            access_mode: Some(wire::access_mode(mode, work.driver.can(SINGLE_NODE_MULTI_WRITER))),
        }
    }

    async fn secrets(&self, reference: Option<&v1::SecretReference>) -> Result<HashMap<String, String>, String> {
        let Some(reference) = reference else { return Ok(HashMap::new()) };
        let (name, namespace) = (reference.name.as_deref(), reference.namespace.as_deref());
        let (name, namespace) = (name.unwrap_or_default(), namespace.unwrap_or_default());
        let secret = self.volumes.objects.secret(namespace, name).await?;
        let secret = secret.ok_or_else(|| format!("failed to find the secret {name} in the namespace {namespace}"))?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(secret.data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, text(bytes.0))).collect())
    }

    /// What a driver wants to know of the pod.
    async fn pod_info(&self, work: &Work, context: &mut HashMap<String, String>) -> Result<(), String> {
        let pod = self.pod;
        let account = pod.spec().service_account_name.clone().unwrap_or_default();
        if work.object.pod_info_on_mount == Some(true) {
            let facts = [
                ("pod.name", pod.name.clone()),
                ("pod.namespace", pod.namespace.clone()),
                ("pod.uid", pod.uid.clone()),
                ("serviceAccount.name", account),
                ("ephemeral", work.ephemeral.to_string()),
            ];
            context.extend(facts.map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), value)));
        }
        let wanted = work.object.token_requests.as_deref().unwrap_or_default();
        if wanted.is_empty() {
            return Ok(());
        }
        let mut tokens = serde_json::Map::new();
        for request in wanted {
            let projection = v1::ServiceAccountTokenProjection {
                audience: Some(request.audience.clone()),
                expiration_seconds: request.expiration_seconds,
                path: request.audience.clone(),
            };
            let key = format!("csi/{}", self.volume.name);
            let (token, until) = self.volumes.tokens.get(&self.volumes.client, pod, &key, &projection).await?;
            let until = until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            tokens.insert(request.audience.clone(), json!({"token": token, "expirationTimestamp": until}));
        }
        let text = serde_json::Value::Object(tokens).to_string();
        context.insert("csi.storage.k8s.io/serviceAccount.tokens".to_owned(), text);
        Ok(())
    }

    /// Waits until the volume is attached to this node; gives what the driver's controller says of it.
    async fn attached(&self, work: &Work) -> Result<HashMap<String, String>, String> {
        let all: Api<VolumeAttachment> = Api::all(self.volumes.client.clone());
        let node = &*self.volumes.drivers.node;
        let name = format!("csi-{}", hash(&[&work.handle, &work.driver_name, node]));
        let done = |attachment: &VolumeAttachment| {
            let status = attachment.status.as_ref().filter(|status| status.attached)?;
            Some(status.attachment_metadata.clone().unwrap_or_default().into_iter().collect())
        };
        let wait = async {
            let params = WatchParams::default().fields(&format!("metadata.name={name}"));
            let mut version = "0".to_owned();
            if let Some(found) = all.get_opt(&name).await? {
                if let Some(context) = done(&found) {
                    return Ok(Some(context));
                }
                version = found.resource_version().unwrap_or(version);
            }
            let mut events = all.watch(&params, &version).await?.boxed();
            while let Some(event) = events.next().await {
                if let WatchEvent::Added(found) | WatchEvent::Modified(found) = event?
                    && let Some(context) = done(&found)
                {
                    return Ok(Some(context));
                }
            }
            Ok::<_, kube::Error>(None)
        };
        let (driver, handle) = (&work.driver_name, &work.handle);
        match self.awaited(tokio::time::timeout(ATTACH, wait)).await? {
            Ok(Ok(Some(context))) => Ok(context),
            Ok(Err(error)) => Err(error.to_string()),
            _ => {
                Err(format!("timed out waiting for external-attacher of {driver} CSI driver to attach volume {handle}"))
            }
        }
    }
}

/// Says in the node's status which attached volumes its pods use, so that none is detached under them.
pub async fn report_in_use(client: &kube::Client, drivers: &Drivers, pods: &Path) -> Result<(), String> {
    let root = PathBuf::from(pods);
    let mut used = blocking(move || {
        let attached = record::all(&root).into_iter().filter(|(_, record)| record.attached);
        Ok(attached.map(|(_, record)| record.unique()).collect::<Vec<_>>())
    })
    .await?;
    used.sort();
    used.dedup();
    let nodes: Api<v1::Node> = Api::all(client.clone());
    let patch = json!({"status": {"volumesInUse": used}});
    let answer = nodes.patch_status(&drivers.node, &PatchParams::default(), &Patch::Merge(patch)).await;
    answer.map(drop).map_err(|e| format!("the node's volumes cannot be reported: {e}"))
}
