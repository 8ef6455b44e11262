//! What the runtime asks of a pod network.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use crate::cri::{PortMapping, Result};

/// A sandbox that wants addresses.
#[derive(Clone, Debug)]
pub struct AttachRequest {
    pub sandbox_id: String,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// The pinned network namespace. It has a loopback interface that is up.
    pub netns: PathBuf,
    pub port_mappings: Vec<PortMapping>,
}

/// The network of pods. Both calls are idempotent: a repeated attach gives the same addresses.
#[async_trait]
pub trait Network: Send + Sync {
    /// Gives the sandbox its interface, routes and addresses, the primary address first.
    async fn attach(&self, request: AttachRequest) -> Result<Vec<IpAddr>>;
    /// Takes them back. `netns` may be gone already.
    async fn detach(&self, sandbox_id: &str, netns: &Path) -> Result<()>;
    /// Why no pod can be attached for now, as where nothing is configured yet. A node without a network is not ready.
    fn check(&self) -> Result<()> {
        Ok(())
    }
}

/// Pods with nothing but a loopback interface.
pub struct NoNetwork;

#[async_trait]
impl Network for NoNetwork {
    async fn attach(&self, _: AttachRequest) -> Result<Vec<IpAddr>> {
        Ok(Vec::new())
    }

    async fn detach(&self, _: &str, _: &Path) -> Result<()> {
        Ok(())
    }
}
