//! What every part of the kubelet works with.

use std::path::PathBuf;
use std::sync::Arc;

use client::Recorder;
use client::events::EventType;
use parking_lot::Mutex;
use runtime::cri::{ImageService, RuntimeService};
use tokio_util::sync::CancellationToken;

use crate::admission::Ledger;
use crate::dns::ClusterDns;
use crate::objects::Objects;
use crate::pods::pod::Pod;
use crate::pods::status::Host;
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
    pub node_memory: i64,
    pub ledger: Mutex<Ledger>,
    /// Cancelled when the kubelet ends.
    pub stopping: CancellationToken,
}

impl Context {
    /// Runs a task until it is done or the kubelet ends.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.stopping.clone().run_until_cancelled_owned(work));
    }

    /// The directory of a pod's logs, named as upstream's.
    pub fn log_dir(&self, pod: &Pod) -> PathBuf {
        self.logs.join(format!("{}_{}_{}", pod.namespace, pod.name, pod.uid))
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
