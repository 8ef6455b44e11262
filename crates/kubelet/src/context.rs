//! What every part of the kubelet works with.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use client::Recorder;
use client::events::EventType;
use k8s_openapi::api::core::v1;
use parking_lot::Mutex;
use runtime::cri::{ImageService, RuntimeService};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::admission::Ledger;
use crate::claims::Claims;
use crate::collect::Records;
use crate::config::Configuration;
use crate::containers::security::Seccomp;
use crate::devices::Devices;
use crate::dns::ClusterDns;
use crate::eviction::Eviction;
use crate::images::Pulls;
use crate::objects::Objects;
use crate::placement::Placement;
use crate::pods::pod::Pod;
use crate::pods::status::Host;
use crate::resources::Rules;
use crate::stats::{Asked, Rates, Readings};
use crate::users::Ranges;
use crate::volumes::Volumes;

/// Shared by all pod workers and the node's server.
pub struct Context {
    pub node_name: String,
    pub client: kube::Client,
    pub runtime: Arc<dyn RuntimeService>,
    pub images: Arc<dyn ImageService>,
    pub recorder: Recorder,
    pub objects: Objects,
    pub volumes: Volumes,
    pub host: Host,
    pub cluster_dns: ClusterDns,
    /// The node's own resolver settings.
    pub resolv_conf: PathBuf,
    pub seccomp_profiles: PathBuf,
    /// `<data>/logs/pods`.
    pub logs: PathBuf,
    /// What the settings of cgroups depend on.
    pub rules: Rules,
    /// Whether the API has the node's object.
    pub registered: watch::Sender<bool>,
    /// Told when a pod comes or goes.
    pub pods_changed: Notify,
    pub ledger: Mutex<Ledger>,
    /// Changes when a pod has given back what it held.
    pub room: watch::Sender<()>,
    /// Pods by uid that give way to critical ones, and what they are told; [`Context::preempted`] is the other end.
    pub evicting: mpsc::UnboundedSender<(String, Eviction)>,
    pub evicted: Mutex<Option<mpsc::UnboundedReceiver<(String, Eviction)>>>,
    /// The folder of static pods' manifests.
    pub manifests: Option<PathBuf>,
    pub configuration: Arc<Configuration>,
    /// The kubelet's own directory; its disk is the node's.
    pub data: PathBuf,
    pub readings: Arc<Readings>,
    pub asked: Asked,
    pub image_records: Mutex<Records>,
    pub pulls: Pulls,
    pub devices: Arc<Devices>,
    pub claims: Arc<Claims>,
    pub placement: Placement,
    pub users: Ranges,
    pub rates: Rates,
    /// Pods that were evicted, by signal.
    pub evictions: Mutex<BTreeMap<&'static str, u64>>,
    /// Probes by container, kind and result.
    pub probed: Mutex<BTreeMap<ProbeKey, u64>>,
    /// The node is about to go down.
    pub shutting_down: AtomicBool,
    /// Cancelled when the kubelet ends.
    pub stopping: CancellationToken,
    /// Why the kubelet cannot go on.
    pub broken: watch::Sender<Option<String>>,
}

impl Context {
    /// Runs a task until it is done or the kubelet ends. A defect in it is the kubelet's end.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let task = tokio::spawn(self.stopping.clone().run_until_cancelled_owned(work));
        let broken = self.broken.clone();
        tokio::spawn(async move {
            if let Err(error) = task.await
                && error.is_panic()
            {
                broken.send_replace(Some(error.to_string()));
            }
        });
    }

    pub fn seccomp(&self) -> Seccomp<'_> {
        Seccomp { profiles: &self.seccomp_profiles, confines: self.configuration.seccomp_default }
    }

    /// What the node holds for the pod is free again.
    pub fn release(&self, uid: &str) {
        if self.ledger.lock().release(uid) {
            self.room.send_replace(());
        }
    }

    /// The pods that give way. Only the first to ask gets them.
    pub fn preempted(&self) -> mpsc::UnboundedReceiver<(String, Eviction)> {
        self.evicted.lock().take().unwrap_or_else(|| mpsc::unbounded_channel().1)
    }

    /// The directory of a pod's logs, named as upstream's.
    pub fn log_dir(&self, pod: &Pod) -> PathBuf {
        self.logs.join(format!("{}_{}_{}", pod.namespace, pod.name, pod.uid))
    }

    /// An event about the node itself.
    pub fn tell_of_node(&self, kind: EventType, reason: &str, message: String) {
        let about = v1::ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(self.node_name.clone()),
            uid: Some(self.node_name.clone()),
            ..Default::default()
        };
        self.recorder.record(about, kind, reason, message);
    }

    pub fn count_probe(&self, pod: &Pod, container: &str, kind: &'static str, result: &'static str) {
        let key = ProbeKey {
            container: container.to_owned(),
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            pod_uid: pod.uid.clone(),
            kind,
            result,
        };
        *self.probed.lock().entry(key).or_default() += 1;
    }

    /// Forgets what was counted of a pod that is gone.
    pub fn forget_probes(&self, uid: &str) {
        self.probed.lock().retain(|key, _| key.pod_uid != uid);
    }

    pub fn count_eviction(&self, signal: &'static str) {
        *self.evictions.lock().entry(signal).or_default() += 1;
    }

    /// Tells the user of something that went as it should.
    pub fn tell(&self, pod: &Pod, container: Option<&str>, reason: &str, message: String) {
        self.recorder.record(pod.reference(container), EventType::Normal, reason, message);
    }

    /// Tells the user of something that did not.
    pub fn warn(&self, pod: &Pod, container: Option<&str>, reason: &str, message: String) {
        self.recorder.record(pod.reference(container), EventType::Warning, reason, message);
    }
}

/// What a probe's outcome is counted under; in the order of the metric's labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProbeKey {
    pub container: String,
    pub namespace: String,
    pub pod: String,
    pub pod_uid: String,
    pub kind: &'static str,
    pub result: &'static str,
}
