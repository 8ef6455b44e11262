//! The messages of the Container Storage Interface (`csi.v1`) and of plugins' registration, as far as a node sends and reads
//! them, and how a call is made over a socket.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_prost::ProstCodec;

/// How long a driver may take to mount, and to answer a simple question.
const WORK: Duration = Duration::from_secs(120);
const CONNECT: Duration = Duration::from_secs(10);

macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field:meta])+ $part:ident: $kind:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Message)]
        pub struct $name { $($(#[$field])+ pub $part: $kind,)* }
    )*};
}

messages! {
    /// Asks a plugin who it is.
    InfoRequest {}
    PluginInfo {
        #[prost(string, tag = "1")] kind: String,
        #[prost(string, tag = "2")] name: String,
        #[prost(string, tag = "3")] endpoint: String,
        #[prost(string, repeated, tag = "4")] supported_versions: Vec<String>,
    }
    RegistrationStatus {
        #[prost(bool, tag = "1")] plugin_registered: bool,
        #[prost(string, tag = "2")] error: String,
    }
    /// Of requests and answers that say nothing.
    Empty {}
    NodeInfo {
        #[prost(string, tag = "1")] node_id: String,
        #[prost(int64, tag = "2")] max_volumes_per_node: i64,
        #[prost(message, optional, tag = "3")] accessible_topology: Option<Topology>,
    }
    Topology {
        #[prost(map = "string, string", tag = "1")] segments: HashMap<String, String>,
    }
    NodeCapabilities {
        #[prost(message, repeated, tag = "1")] capabilities: Vec<NodeCapability>,
    }
    NodeCapability {
        #[prost(message, optional, tag = "1")] rpc: Option<NodeRpc>,
    }
    NodeRpc {
        #[prost(int32, tag = "1")] kind: i32,
    }
    Capability {
        #[prost(message, optional, tag = "1")] block: Option<Empty>,
        #[prost(message, optional, tag = "2")] mount: Option<MountCapability>,
        #[prost(message, optional, tag = "3")] access_mode: Option<AccessMode>,
    }
    MountCapability {
        #[prost(string, tag = "1")] fs_type: String,
        #[prost(string, repeated, tag = "2")] mount_flags: Vec<String>,
        #[prost(string, tag = "3")] volume_mount_group: String,
    }
    AccessMode {
        #[prost(int32, tag = "1")] mode: i32,
    }
    StageRequest {
        #[prost(string, tag = "1")] volume_id: String,
        #[prost(map = "string, string", tag = "2")] publish_context: HashMap<String, String>,
        #[prost(string, tag = "3")] staging_target_path: String,
        #[prost(message, optional, tag = "4")] volume_capability: Option<Capability>,
        #[prost(map = "string, string", tag = "5")] secrets: HashMap<String, String>,
        #[prost(map = "string, string", tag = "6")] volume_context: HashMap<String, String>,
    }
    UnstageRequest {
        #[prost(string, tag = "1")] volume_id: String,
        #[prost(string, tag = "2")] staging_target_path: String,
    }
    PublishRequest {
        #[prost(string, tag = "1")] volume_id: String,
        #[prost(map = "string, string", tag = "2")] publish_context: HashMap<String, String>,
        #[prost(string, tag = "3")] staging_target_path: String,
        #[prost(string, tag = "4")] target_path: String,
        #[prost(message, optional, tag = "5")] volume_capability: Option<Capability>,
        #[prost(bool, tag = "6")] readonly: bool,
        #[prost(map = "string, string", tag = "7")] secrets: HashMap<String, String>,
        #[prost(map = "string, string", tag = "8")] volume_context: HashMap<String, String>,
    }
    UnpublishRequest {
        #[prost(string, tag = "1")] volume_id: String,
        #[prost(string, tag = "2")] target_path: String,
    }
    ExpandRequest {
        #[prost(string, tag = "1")] volume_id: String,
        #[prost(string, tag = "2")] volume_path: String,
        #[prost(message, optional, tag = "3")] capacity_range: Option<CapacityRange>,
        #[prost(string, tag = "4")] staging_target_path: String,
        #[prost(message, optional, tag = "5")] volume_capability: Option<Capability>,
        #[prost(map = "string, string", tag = "6")] secrets: HashMap<String, String>,
    }
    CapacityRange {
        #[prost(int64, tag = "1")] required_bytes: i64,
    }
    ExpandResponse {
        #[prost(int64, tag = "1")] capacity_bytes: i64,
    }
}

/// What a driver's node service can do, by the numbers of `NodeServiceCapability`.
pub const STAGE_UNSTAGE: i32 = 1;
pub const EXPAND: i32 = 3;
pub const SINGLE_NODE_MULTI_WRITER: i32 = 5;
pub const VOLUME_MOUNT_GROUP: i32 = 6;

/// The number of a volume's access mode. Newer drivers tell one pod from one node.
pub fn access_mode(mode: &str, tells_pods: bool) -> AccessMode {
    let mode = match (mode, tells_pods) {
        ("ReadWriteOnce", true) => 7,
        ("ReadWriteOncePod", true) => 6,
        ("ReadWriteOnce" | "ReadWriteOncePod", false) => 1,
        ("ReadOnlyMany", _) => 3,
        ("ReadWriteMany", _) => 5,
        _ => 0,
    };
    AccessMode { mode }
}

/// A socket that a plugin serves.
#[derive(Clone, Debug)]
pub struct Socket(Channel);

impl Socket {
    /// Connects at the first call, and again whenever the plugin was restarted.
    pub fn new(path: &Path) -> Result<Socket, String> {
        let path = PathBuf::from(path);
        let endpoint = Endpoint::try_from("http://plugin").map_err(|e| e.to_string())?.connect_timeout(CONNECT);
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        Ok(Socket(endpoint.connect_with_connector_lazy(connector)))
    }

    /// Calls a method such as `/csi.v1.Node/NodeGetInfo`. The error is as upstream's events quote it.
    pub async fn call<Q, A>(&self, method: &'static str, message: Q) -> Result<A, String>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let shown =
            |status: tonic::Status| format!("rpc error: code = {:?} desc = {}", status.code(), status.message());
        let mut grpc = tonic::client::Grpc::new(self.0.clone());
        let work = async {
            grpc.ready().await.map_err(|e| shown(tonic::Status::unavailable(e.to_string())))?;
            let path = http::uri::PathAndQuery::from_static(method);
            let codec = ProstCodec::<Q, A>::default();
            grpc.unary(tonic::Request::new(message), path, codec).await.map_err(shown)
        };
        let timeout = || Err(shown(tonic::Status::deadline_exceeded("context deadline exceeded")));
        tokio::time::timeout(WORK, work).await.unwrap_or_else(|_| timeout()).map(tonic::Response::into_inner)
    }
}
