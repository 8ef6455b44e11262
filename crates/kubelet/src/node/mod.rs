//! The node's own object and lease: registered once, then written when something changed, every five minutes otherwise.

pub mod facts;
mod lease;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use runtime::cri::{ImageFilter, ImageService, RuntimeService};
use serde_json::json;
use tokio::sync::{Notify, watch};

use crate::pods::status::whole_seconds;

pub use lease::renew;

/// How often an unchanged status is written anyway.
const REPORT: Duration = Duration::from_secs(300);
/// How often it is looked for changes that nothing announces, such as a disk that fills up.
const LOOK: Duration = Duration::from_secs(60);
/// How often a runtime or an API that is not ready yet is asked again.
const STARTING: Duration = Duration::from_millis(100);
/// Images that a status lists at most.
const IMAGES_MAX: usize = 50;
/// Free space below which a disk is under pressure, in parts of a hundred.
const DISK_FREE_MIN: u64 = 5;

/// The node as it is configured.
#[derive(Clone)]
pub struct Node {
    pub name: String,
    pub ips: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<v1::Taint>,
    pub max_pods: u32,
    pub data: PathBuf,
    /// The port of the kubelet's HTTPS server, if it has one.
    pub port: Option<u16>,
    pub runtime: Arc<dyn RuntimeService>,
    pub images: Arc<dyn ImageService>,
    pub client: kube::Client,
}

impl Node {
    fn api(&self) -> Api<v1::Node> {
        Api::all(self.client.clone())
    }

    /// All labels that the node gets at registration.
    pub fn all_labels(&self) -> BTreeMap<String, String> {
        let arch = facts::architecture();
        let mut labels: BTreeMap<_, _> = [
            ("kubernetes.io/hostname", self.name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", arch),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", arch),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        labels.extend(self.labels.clone());
        labels
    }

    pub fn capacity(&self) -> BTreeMap<String, Quantity> {
        let (disk, _) = facts::disk(&self.data);
        [
            ("cpu", facts::cpus().to_string()),
            ("memory", format!("{}Ki", facts::memory() / 1024)),
            ("pods", self.max_pods.to_string()),
            ("ephemeral-storage", format!("{}Ki", disk / 1024)),
            ("hugepages-1Gi", "0".to_owned()),
            ("hugepages-2Mi", "0".to_owned()),
        ]
        .map(|(name, text)| (name.to_owned(), Quantity(text)))
        .into()
    }

    /// Registers the node and keeps its status true. `ready` turns true when the API shows it Ready.
    pub async fn run(self, ready: watch::Sender<bool>, changed: Arc<Notify>) {
        let mut known = loop {
            match self.register().await {
                Ok(node) => break node.status.unwrap_or_default(),
                Err(error) => {
                    tracing::debug!(%error, "the node cannot be registered yet");
                    tokio::time::sleep(STARTING).await;
                }
            }
        };
        let mut written: Option<tokio::time::Instant> = None;
        loop {
            let status = self.status(&known).await;
            let is_ready = condition(&status, "Ready").is_some_and(|c| c.status == "True");
            let due = written.is_none_or(|at| at.elapsed() >= REPORT);
            if due || differ(&known, &status) {
                match self.write(&status).await {
                    Ok(()) => {
                        known = status;
                        written = Some(tokio::time::Instant::now());
                        ready.send_if_modified(|was| std::mem::replace(was, is_ready) != is_ready);
                    }
                    Err(error) => tracing::warn!(%error, "writing the node's status failed"),
                }
            }
            let pause = if is_ready && written.is_some() { LOOK } else { STARTING };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = changed.notified() => {}
            }
        }
    }

    async fn register(&self) -> kube::Result<v1::Node> {
        let api = self.api();
        let labels = self.all_labels();
        if let Some(node) = api.get_opt(&self.name).await? {
            let missing = labels.iter().any(|(k, v)| node.metadata.labels.as_ref().and_then(|l| l.get(k)) != Some(v));
            if missing {
                let patch = json!({"metadata": {"labels": labels}});
                api.patch(&self.name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
            }
            return Ok(node);
        }
        let annotations = [("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), "true".to_owned())];
        let node = v1::Node {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(labels),
                annotations: Some(annotations.into()),
                ..Default::default()
            },
            spec: Some(v1::NodeSpec {
                taints: (!self.taints.is_empty()).then(|| self.taints.clone()),
                ..Default::default()
            }),
            status: Some(self.status(&v1::NodeStatus::default()).await),
        };
        api.create(&PostParams::default(), &node).await
    }

    async fn write(&self, status: &v1::NodeStatus) -> kube::Result<()> {
        let mut value = json!({ "status": status });
        // These lists merge by key; the whole is meant.
        for list in ["addresses"] {
            if let Some(items) = value["status"][list].as_array_mut() {
                items.insert(0, json!({"$patch": "replace"}));
            }
        }
        self.api().patch_status(&self.name, &PatchParams::default(), &Patch::Strategic(value)).await.map(|_| ())
    }

    async fn status(&self, last: &v1::NodeStatus) -> v1::NodeStatus {
        let version = self.runtime.version().await.ok();
        let version = version.map(|v| format!("{}://{}", v.runtime_name, v.runtime_version)).unwrap_or_default();
        let addresses = self.ips.iter().map(|ip| ("InternalIP", ip)).chain([("Hostname", &self.name)]);
        let addresses = addresses.map(|(kind, text)| v1::NodeAddress { type_: kind.to_owned(), address: text.clone() });
        let capacity = self.capacity();
        let daemon_endpoints = self.port.map(|port| v1::NodeDaemonEndpoints {
            kubelet_endpoint: Some(v1::DaemonEndpoint { port: i32::from(port) }),
        });
        v1::NodeStatus {
            addresses: Some(addresses.collect()),
            allocatable: Some(capacity.clone()),
            capacity: Some(capacity),
            conditions: Some(self.conditions(last).await),
            daemon_endpoints,
            images: self.listed_images().await,
            node_info: Some(facts::system_info(version)),
            ..Default::default()
        }
    }

    async fn listed_images(&self) -> Option<Vec<v1::ContainerImage>> {
        let mut images = self.images.list_images(&ImageFilter::default()).await.ok()?;
        images.sort_by_key(|image| std::cmp::Reverse(image.size));
        images.truncate(IMAGES_MAX);
        let listed = images.into_iter().map(|image| v1::ContainerImage {
            names: Some(image.repo_digests.into_iter().chain(image.repo_tags).collect()),
            size_bytes: i64::try_from(image.size).ok(),
        });
        Some(listed.collect())
    }

    async fn conditions(&self, last: &v1::NodeStatus) -> Vec<v1::NodeCondition> {
        let now = Time(whole_seconds(Timestamp::now()));
        let runtime = match self.runtime.status().await {
            Ok(status) => {
                let broken = status.conditions.into_iter().filter(|c| !c.status);
                let broken: Vec<_> = broken
                    .map(|c| {
                        let what = if c.r#type == "NetworkReady" {
                            "container runtime network not ready"
                        } else {
                            "container runtime not ready"
                        };
                        format!("{what}: {}=false reason:{} message:{}", c.r#type, c.reason, c.message)
                    })
                    .collect();
                if broken.is_empty() { Ok(()) } else { Err(broken.join("; ")) }
            }
            Err(error) => Err(format!("container runtime is down: {error}")),
        };
        let (disk, free) = facts::disk(&self.data);
        let full = disk > 0 && free * 100 / disk < DISK_FREE_MIN;
        let mut conditions = vec![
            fact("MemoryPressure", false, "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            if full {
                fact("DiskPressure", true, "KubeletHasDiskPressure", "kubelet has disk pressure")
            } else {
                fact("DiskPressure", false, "KubeletHasNoDiskPressure", "kubelet has no disk pressure")
            },
            fact("PIDPressure", false, "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            match runtime {
                Ok(()) => fact("Ready", true, "KubeletReady", "kubelet is posting ready status"),
                Err(why) => fact("Ready", false, "KubeletNotReady", &why),
            },
        ];
        for new in &mut conditions {
            let old = condition(last, &new.type_).filter(|old| old.status == new.status);
            new.last_transition_time = old.and_then(|o| o.last_transition_time.clone()).or_else(|| Some(now.clone()));
            new.last_heartbeat_time = Some(now.clone());
        }
        conditions
    }
}

fn fact(kind: &str, value: bool, reason: &str, message: &str) -> v1::NodeCondition {
    v1::NodeCondition {
        type_: kind.to_owned(),
        status: if value { "True" } else { "False" }.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        ..Default::default()
    }
}

fn condition<'a>(status: &'a v1::NodeStatus, kind: &str) -> Option<&'a v1::NodeCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == kind)
}

/// Whether anything but the heartbeat changed.
fn differ(a: &v1::NodeStatus, b: &v1::NodeStatus) -> bool {
    let bare = |status: &v1::NodeStatus| {
        let mut bare = status.clone();
        for condition in bare.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        if let Some(conditions) = &mut bare.conditions {
            conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        }
        // Others write these.
        (bare.addresses, bare.capacity, bare.conditions, bare.images, bare.node_info)
    };
    bare(a) != bare(b)
}
