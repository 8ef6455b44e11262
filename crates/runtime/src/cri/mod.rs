//! The Container Runtime Interface as Rust traits: the line between a kubelet and a container runtime.
//!
//! Structures are shaped and named as the messages of CRI v1 (`k8s.io/cri-api/pkg/apis/runtime/v1`). What CRI does by a
//! detour for want of streams of its own (exec, attach and port-forward give a URL there) gives streams here.

mod container;
mod image;
mod sandbox;
mod stats;

pub use container::*;
pub use image::*;
pub use sandbox::*;
pub use stats::*;

use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

/// The version of the interface that these traits have.
pub const API_VERSION: &str = "v1";

/// What kind of failure a call met: gRPC's codes as far as CRI gives them a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Code {
    Cancelled,
    Unknown,
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    AlreadyExists,
    ResourceExhausted,
    FailedPrecondition,
    Unimplemented,
    Internal,
    Unavailable,
}

/// A failed call of the runtime. The message is one that a user may read in an event or a container's status.
#[derive(Clone, Debug, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct CriError {
    pub code: Code,
    pub message: String,
}

impl CriError {
    pub fn new(code: Code, message: impl Into<String>) -> CriError {
        CriError { code, message: message.into() }
    }

    pub fn not_found(message: impl Into<String>) -> CriError {
        CriError::new(Code::NotFound, message)
    }

    pub fn invalid(message: impl Into<String>) -> CriError {
        CriError::new(Code::InvalidArgument, message)
    }

    pub fn precondition(message: impl Into<String>) -> CriError {
        CriError::new(Code::FailedPrecondition, message)
    }

    pub fn internal(message: impl Into<String>) -> CriError {
        CriError::new(Code::Internal, message)
    }

    pub fn is_not_found(&self) -> bool {
        self.code == Code::NotFound
    }
}

impl From<std::io::Error> for CriError {
    fn from(error: std::io::Error) -> CriError {
        CriError::internal(error.to_string())
    }
}

pub type Result<T, E = CriError> = std::result::Result<T, E>;

pub type BoxRead = Pin<Box<dyn AsyncRead + Send>>;
pub type BoxWrite = Pin<Box<dyn AsyncWrite + Send>>;

/// Both directions of one connection.
pub trait Duplex: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Duplex for T {}
pub type BoxDuplex = Pin<Box<dyn Duplex>>;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct VersionResponse {
    pub version: String,
    pub runtime_name: String,
    pub runtime_version: String,
    pub runtime_api_version: String,
}

/// `RuntimeReady` and `NetworkReady`, as a node's conditions want them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RuntimeCondition {
    pub r#type: String,
    pub status: bool,
    pub reason: String,
    pub message: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RuntimeHandler {
    /// Empty for the default handler.
    pub name: String,
    pub recursive_read_only_mounts: bool,
    pub user_namespaces: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StatusResponse {
    pub conditions: Vec<RuntimeCondition>,
    pub runtime_handlers: Vec<RuntimeHandler>,
    pub supplemental_groups_policy: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ExecSyncResponse {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit_code: i32,
}

/// A command in a running container. With a terminal `stderr` must be false, as in CRI.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ExecRequest {
    pub container_id: String,
    pub cmd: Vec<String>,
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// A container's own streams. `stdin` and `tty` must fit what the container was made with.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct AttachRequest {
    pub container_id: String,
    pub stdin: bool,
    pub tty: bool,
    pub stdout: bool,
    pub stderr: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    pub width: u16,
    pub height: u16,
}

/// The streams of an exec or attach. A stream that was not asked for is `None`.
///
/// Dropping `stdin` closes it; dropping the session leaves the process to its own (it sees closed streams), as upstream's
/// runtimes do. `exit` yields an exec's exit code once the process and its output are done, and for an attach 0 when the
/// container's streams end.
pub struct ExecSession {
    pub stdin: Option<BoxWrite>,
    pub stdout: Option<BoxRead>,
    pub stderr: Option<BoxRead>,
    pub resize: mpsc::Sender<TerminalSize>,
    pub exit: BoxFuture<'static, Result<i32>>,
}

/// Sandboxes and containers. Every call may be made again after a failure; stop and remove of what is gone succeed.
#[async_trait]
pub trait RuntimeService: Send + Sync {
    async fn version(&self) -> Result<VersionResponse>;
    async fn status(&self) -> Result<StatusResponse>;
    async fn update_runtime_config(&self, pod_cidr: &str) -> Result<()>;

    /// Makes and starts a sandbox, its network attached, and gives its id. What fails leaves nothing behind.
    async fn run_pod_sandbox(&self, config: PodSandboxConfig, runtime_handler: &str) -> Result<String>;
    /// Ends all processes of a sandbox at once and frees its addresses. Idempotent.
    async fn stop_pod_sandbox(&self, pod_sandbox_id: &str) -> Result<()>;
    /// Removes a sandbox and its containers, by force if they run. Idempotent.
    async fn remove_pod_sandbox(&self, pod_sandbox_id: &str) -> Result<()>;
    async fn pod_sandbox_status(&self, pod_sandbox_id: &str) -> Result<PodSandboxStatus>;
    async fn list_pod_sandbox(&self, filter: &PodSandboxFilter) -> Result<Vec<PodSandbox>>;
    async fn update_pod_sandbox_resources(
        &self,
        pod_sandbox_id: &str,
        overhead: Option<LinuxContainerResources>,
        resources: Option<LinuxContainerResources>,
    ) -> Result<()>;

    async fn create_container(
        &self,
        pod_sandbox_id: &str,
        config: ContainerConfig,
        sandbox_config: &PodSandboxConfig,
    ) -> Result<String>;
    async fn start_container(&self, container_id: &str) -> Result<()>;
    /// Sends the container's stop signal, waits for at most `timeout`, then kills. Returns when the container is gone.
    async fn stop_container(&self, container_id: &str, timeout: Duration) -> Result<()>;
    async fn remove_container(&self, container_id: &str) -> Result<()>;
    async fn list_containers(&self, filter: &ContainerFilter) -> Result<Vec<Container>>;
    async fn container_status(&self, container_id: &str) -> Result<ContainerStatus>;
    async fn update_container_resources(&self, container_id: &str, resources: LinuxContainerResources) -> Result<()>;
    /// Writes a running container's state to an archive, where that can be done: it takes CRIU.
    async fn checkpoint_container(&self, container_id: &str, _location: &str) -> Result<()> {
        self.container_status(container_id).await?;
        let message = "checkpoint/restore is not supported: CRIU is not available to this container runtime";
        Err(CriError::new(Code::Unimplemented, message))
    }
    /// Opens the container's log file anew, after it was renamed. Nothing written meanwhile is lost.
    async fn reopen_container_log(&self, container_id: &str) -> Result<()>;

    /// A `timeout` of zero waits for ever; one that passes kills the command and gives `DeadlineExceeded`.
    async fn exec_sync(&self, container_id: &str, cmd: Vec<String>, timeout: Duration) -> Result<ExecSyncResponse>;
    async fn exec(&self, request: ExecRequest) -> Result<ExecSession>;
    async fn attach(&self, request: AttachRequest) -> Result<ExecSession>;
    /// A connection to `127.0.0.1:port` (or `[::1]:port`) inside the sandbox's network.
    async fn port_forward(&self, pod_sandbox_id: &str, port: u16) -> Result<BoxDuplex>;

    async fn container_stats(&self, container_id: &str) -> Result<ContainerStats>;
    async fn list_container_stats(&self, filter: &ContainerStatsFilter) -> Result<Vec<ContainerStats>>;
    async fn pod_sandbox_stats(&self, pod_sandbox_id: &str) -> Result<PodSandboxStats>;
    async fn list_pod_sandbox_stats(&self, filter: &PodSandboxStatsFilter) -> Result<Vec<PodSandboxStats>>;

    /// What happens to containers from now on. A receiver that lags gets an `Unavailable` error in its place and must
    /// list again; the stream goes on.
    async fn get_container_events(&self) -> Result<BoxStream<'static, Result<ContainerEventResponse>>>;
}

/// Images. References are as users write them (`nginx`, `ghcr.io/a/b:tag`, `...@sha256:...`) or image ids.
#[async_trait]
pub trait ImageService: Send + Sync {
    async fn list_images(&self, filter: &ImageFilter) -> Result<Vec<Image>>;
    /// `None` where no such image is present.
    async fn image_status(&self, image: &ImageSpec) -> Result<Option<Image>>;
    /// Gives the id of the image that was pulled.
    async fn pull_image(
        &self,
        image: ImageSpec,
        auth: Option<AuthConfig>,
        sandbox_config: Option<&PodSandboxConfig>,
    ) -> Result<String>;
    /// Idempotent; refused with `FailedPrecondition` only where the image cannot be removed.
    async fn remove_image(&self, image: &ImageSpec) -> Result<()>;
    async fn image_fs_info(&self) -> Result<ImageFsInfoResponse>;
}
