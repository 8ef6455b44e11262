//! Pod sandboxes: what the containers of a pod share.

mod lifecycle;
pub(crate) mod namespaces;
mod network;

use std::sync::Arc;

use parking_lot::Mutex;

use crate::cri::{PodSandbox, PodSandboxState, PodSandboxStatus};
use crate::record::SandboxRecord;
use crate::shim_client::ShimClient;

pub(crate) use namespaces::can_map_users;
pub use namespaces::raise_loopback;
pub use network::{AttachRequest, Network, NoNetwork};

/// The name of the only handler that there is.
pub(crate) const HANDLER: &str = "runc";

/// A sandbox as the server knows it.
pub(crate) struct Sandbox {
    pub record: Mutex<SandboxRecord>,
    /// `None` when it is stopped or its shim is gone.
    pub shim: Mutex<Option<Arc<ShimClient>>>,
    /// One change at a time: stop and remove against each other and against containers being made.
    pub change: tokio::sync::RwLock<()>,
}

impl Sandbox {
    pub fn new(record: SandboxRecord) -> Sandbox {
        Sandbox { record: Mutex::new(record), shim: Mutex::new(None), change: tokio::sync::RwLock::new(()) }
    }

    pub fn state(&self) -> PodSandboxState {
        if self.shim.lock().is_some() && !self.record.lock().stopped {
            PodSandboxState::Ready
        } else {
            PodSandboxState::NotReady
        }
    }

    pub fn listed(&self) -> PodSandbox {
        let state = self.state();
        let record = self.record.lock();
        PodSandbox {
            id: record.id.clone(),
            metadata: record.config.metadata.clone(),
            state,
            created_at: record.created_at,
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
            runtime_handler: record.runtime_handler.clone(),
        }
    }

    pub fn status(&self) -> PodSandboxStatus {
        let state = self.state();
        let record = self.record.lock().clone();
        PodSandboxStatus {
            id: record.id,
            metadata: record.config.metadata,
            state,
            created_at: record.created_at,
            ips: record.ips,
            namespace_options: record.config.linux.security_context.namespace_options,
            labels: record.config.labels,
            annotations: record.config.annotations,
            runtime_handler: record.runtime_handler,
        }
    }
}
