//! The messages of the device plugin API (`v1beta1`), as far as a kubelet sends and reads them, and calls to a plugin's socket.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::UnixStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_prost::ProstCodec;

const CONNECT: Duration = Duration::from_secs(10);
const WORK: Duration = Duration::from_secs(30);

macro_rules! messages {
    ($($name:ident { $($(#[$field:meta])+ $part:ident: $kind:ty,)* })*) => {$(
        #[derive(Clone, PartialEq, Message)]
        pub struct $name { $($(#[$field])+ pub $part: $kind,)* }
    )*};
}

messages! {
    Empty {}
    RegisterRequest {
        #[prost(string, tag = "1")] version: String,
        #[prost(string, tag = "2")] endpoint: String,
        #[prost(string, tag = "3")] resource_name: String,
        #[prost(message, optional, tag = "4")] options: Option<Options>,
    }
    Options {
        #[prost(bool, tag = "1")] pre_start_required: bool,
        #[prost(bool, tag = "2")] get_preferred_allocation_available: bool,
    }
    Listed {
        #[prost(message, repeated, tag = "1")] devices: Vec<Device>,
    }
    Device {
        #[prost(string, tag = "1")] id: String,
        #[prost(string, tag = "2")] health: String,
        #[prost(message, optional, tag = "3")] topology: Option<Topology>,
    }
    Topology {
        #[prost(message, repeated, tag = "1")] nodes: Vec<NumaNode>,
    }
    NumaNode {
        #[prost(int64, tag = "1")] id: i64,
    }
    PreferredRequest {
        #[prost(message, repeated, tag = "1")] container_requests: Vec<ContainerPreferred>,
    }
    ContainerPreferred {
        #[prost(string, repeated, tag = "1")] available: Vec<String>,
        #[prost(string, repeated, tag = "2")] must_include: Vec<String>,
        #[prost(int32, tag = "3")] allocation_size: i32,
    }
    Preferred {
        #[prost(message, repeated, tag = "1")] container_responses: Vec<Ids>,
    }
    // Of one container; a request to allocate and one before its start are the same.
    Ids {
        #[prost(string, repeated, tag = "1")] devices: Vec<String>,
    }
    AllocateRequest {
        #[prost(message, repeated, tag = "1")] container_requests: Vec<Ids>,
    }
    Allocated {
        #[prost(message, repeated, tag = "1")] container_responses: Vec<ContainerAllocated>,
    }
    ContainerAllocated {
        #[prost(map = "string, string", tag = "1")] envs: HashMap<String, String>,
        #[prost(message, repeated, tag = "2")] mounts: Vec<Mount>,
        #[prost(message, repeated, tag = "3")] devices: Vec<Node>,
        #[prost(map = "string, string", tag = "4")] annotations: HashMap<String, String>,
        #[prost(message, repeated, tag = "5")] cdi_devices: Vec<Named>,
    }
    Mount {
        #[prost(string, tag = "1")] container_path: String,
        #[prost(string, tag = "2")] host_path: String,
        #[prost(bool, tag = "3")] read_only: bool,
    }
    Node {
        #[prost(string, tag = "1")] container_path: String,
        #[prost(string, tag = "2")] host_path: String,
        #[prost(string, tag = "3")] permissions: String,
    }
    Named {
        #[prost(string, tag = "1")] name: String,
    }
}

/// A plugin's socket.
#[derive(Clone, Debug)]
pub struct Socket(Channel);

impl Socket {
    /// Connects at the first call.
    pub fn new(path: PathBuf) -> Result<Socket, String> {
        let endpoint = Endpoint::try_from("http://plugin").map_err(|e| e.to_string())?.connect_timeout(CONNECT);
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        Ok(Socket(endpoint.connect_with_connector_lazy(connector)))
    }

    async fn ready(&self) -> Result<tonic::client::Grpc<Channel>, Status> {
        let mut grpc = tonic::client::Grpc::new(self.0.clone());
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(grpc)
    }

    /// Calls a method of the plugin such as `/v1beta1.DevicePlugin/Allocate`.
    pub async fn call<Q, A>(&self, method: &'static str, message: Q) -> Result<A, String>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let work = async {
            let path = http::uri::PathAndQuery::from_static(method);
            self.ready().await?.unary(tonic::Request::new(message), path, ProstCodec::<Q, A>::default()).await
        };
        let answer = tokio::time::timeout(WORK, work).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("context deadline exceeded")));
        let shown = |s: Status| format!("rpc error: code = {:?} desc = {}", s.code(), s.message());
        answer.map(tonic::Response::into_inner).map_err(shown)
    }

    /// The plugin's devices, whenever they change.
    pub async fn list_and_watch(&self) -> Result<tonic::Streaming<Listed>, Status> {
        let path = http::uri::PathAndQuery::from_static("/v1beta1.DevicePlugin/ListAndWatch");
        let codec = ProstCodec::<Empty, Listed>::default();
        let answer = self.ready().await?.server_streaming(tonic::Request::new(Empty {}), path, codec).await?;
        Ok(answer.into_inner())
    }
}
