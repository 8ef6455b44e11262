//! A runtime behind a socket, as the kubelet's own runtime looks.

mod events;
mod images;
mod runtime;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ::runtime::PodCgroups;
use ::runtime::cri::{CriError, LinuxContainerResources, Result};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::v1::image_service_client::ImageServiceClient;
use crate::v1::runtime_service_client::RuntimeServiceClient;

/// What a list of many containers may measure, as upstream's kubelet has it.
const MESSAGE_MAX: usize = 16 << 20;

/// The annotation that says which group a sandbox's pod has.
const GROUP: &str = "regatta.dev/cgroup";

/// How long an ordinary call may take, as upstream's `runtimeRequestTimeout`.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);

/// A runtime that speaks CRI v1 on a Unix socket. Clones are one connection, which is made anew when it breaks.
#[derive(Clone)]
pub struct Remote {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    /// Something was changed through this connection: who polls for events looks at once.
    changed: Arc<Notify>,
    /// A label that all our sandboxes and containers have; those of others are not seen.
    owner: BTreeMap<String, String>,
    groups: Option<PodCgroups>,
}

impl Remote {
    /// Gives the runtime at `unix:///run/containerd/containerd.sock`, or at a plain absolute path, once it answers.
    pub async fn connect(endpoint: &str) -> Result<Remote> {
        let path = socket_path(endpoint)?;
        let connect = move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        };
        // The address is never dialled: the socket is what is connected to.
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(connect));
        let remote = Remote {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_MAX),
            images: ImageServiceClient::new(channel).max_decoding_message_size(MESSAGE_MAX),
            changed: Arc::default(),
            owner: BTreeMap::new(),
            groups: None,
        };
        let version = ::runtime::cri::RuntimeService::version(&remote).await.map_err(|error| CriError {
            message: format!("the container runtime at {endpoint} does not answer: {}", error.message),
            ..error
        })?;
        tracing::info!(
            endpoint,
            runtime = version.runtime_name,
            version = version.runtime_version,
            "the container runtime answers"
        );
        Ok(remote)
    }

    /// Labels what is made from now on, and sees nothing else: several may share one runtime. Pods have their groups
    /// below the owner's.
    pub fn owned_by(self, label: &str, value: &str, groups: PodCgroups) -> Remote {
        Remote { owner: BTreeMap::from([(label.to_owned(), value.to_owned())]), groups: Some(groups), ..self }
    }

    /// Labels, or a selector, with the owner's.
    fn own(&self, mut labels: BTreeMap<String, String>) -> BTreeMap<String, String> {
        labels.extend(self.owner.clone());
        labels
    }

    /// Makes a pod's group, or sets its limits anew.
    async fn set_group(&self, path: String, resources: Option<LinuxContainerResources>) -> Result<()> {
        let Some(groups) = self.groups.clone() else { return Ok(()) };
        let made = tokio::task::spawn_blocking(move || groups.make(&path, resources.as_ref())).await;
        made.map_err(|error| CriError::internal(error.to_string()))?.map_err(Into::into)
    }

    /// The group of a sandbox's pod, if it has one of ours.
    async fn group_of(&self, sandbox: &str) -> Option<String> {
        self.groups.as_ref()?;
        ::runtime::cri::RuntimeService::pod_sandbox_status(self, sandbox).await.ok()?.annotations.remove(GROUP)
    }

    fn owns(&self, labels: &BTreeMap<String, String>) -> bool {
        self.owner.iter().all(|(label, value)| labels.get(label) == Some(value))
    }
}

/// Where an endpoint's socket is.
pub fn socket_path(endpoint: &str) -> Result<PathBuf> {
    let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
    if path.starts_with('/') {
        Ok(path.into())
    } else {
        Err(CriError::invalid(format!("container runtime endpoint {endpoint:?} is not a unix:// URL or absolute path")))
    }
}

#[cfg(test)]
mod tests {
    use super::socket_path;

    #[test]
    fn an_endpoint_is_a_url_or_a_path() {
        for (endpoint, path) in [
            ("unix:///run/containerd/containerd.sock", Some("/run/containerd/containerd.sock")),
            ("/run/crio/crio.sock", Some("/run/crio/crio.sock")),
            ("tcp://127.0.0.1:1", None),
            ("run/crio.sock", None),
        ] {
            assert_eq!(socket_path(endpoint).ok(), path.map(Into::into), "{endpoint}");
        }
    }
}
