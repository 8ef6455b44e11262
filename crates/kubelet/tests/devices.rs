//! Device plugins: a plugin on a real socket, a kubelet on a runtime without processes.

mod harness;
#[allow(dead_code, reason = "the test is the other side")]
#[path = "../src/devices/wire.rs"]
mod wire;

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;

use futures::StreamExt;
use harness::{Node, ready};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1;
use kube::Api;
use serde_json::json;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tonic::Status;
use tonic_prost::ProstCodec;
use wire::{
    AllocateRequest, Allocated, ContainerAllocated, Device, Empty, Ids, Listed, Options, RegisterRequest, Socket,
};

const RESOURCE: &str = "example.com/widget";

/// A plugin that serves until it is dropped.
struct Plugin {
    task: tokio::task::JoinHandle<()>,
    devices: watch::Sender<Vec<(&'static str, bool)>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Plugin {
    async fn start(directory: &Path, devices: &[(&'static str, bool)]) -> Plugin {
        let path = directory.join("widget.sock");
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(path).unwrap();
        let (sender, devices) = watch::channel(devices.to_vec());
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = asked.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (devices, log) = (devices.clone(), log.clone());
                let service = service_fn(move |request| {
                    let (devices, log) = (devices.clone(), log.clone());
                    async move { Ok::<_, Infallible>(answer(request, devices, log).await) }
                });
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                connections.spawn(server.serve_connection(TokioIo::new(stream), service));
            }
        });
        let plugin = Plugin { task, devices: sender, asked };
        let register = |version: &str| RegisterRequest {
            version: version.to_owned(),
            endpoint: "widget.sock".to_owned(),
            resource_name: RESOURCE.to_owned(),
            options: Some(Options { pre_start_required: true, get_preferred_allocation_available: false }),
        };
        let kubelet = Socket::new(directory.join("kubelet.sock")).unwrap();
        let refused: Result<Empty, String> = kubelet.call("/v1beta1.Registration/Register", register("v1alpha")).await;
        assert!(refused.unwrap_err().contains("requested API version \"v1alpha\" is not supported"));
        let _: Empty = kubelet.call("/v1beta1.Registration/Register", register("v1beta1")).await.unwrap();
        plugin
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn answer(
    request: http::Request<Incoming>,
    devices: watch::Receiver<Vec<(&'static str, bool)>>,
    log: Arc<Mutex<Vec<String>>>,
) -> http::Response<tonic::body::Body> {
    match request.uri().path() {
        "/v1beta1.DevicePlugin/ListAndWatch" => {
            let list = tower::service_fn(move |_: tonic::Request<Empty>| {
                let changes = listed(devices.clone());
                async move { Ok::<_, Status>(tonic::Response::new(changes)) }
            });
            tonic::server::Grpc::new(ProstCodec::<Listed, Empty>::default()).server_streaming(list, request).await
        }
        "/v1beta1.DevicePlugin/Allocate" => {
            let allocate = tower::service_fn(move |request: tonic::Request<AllocateRequest>| {
                let ids = request.into_inner().container_requests.remove(0).devices.join(",");
                log.lock().unwrap().push(format!("allocate {ids}"));
                let one = ContainerAllocated {
                    envs: HashMap::from([("WIDGETS".to_owned(), ids)]),
                    mounts: vec![wire::Mount {
                        container_path: "/w".into(),
                        host_path: "/tmp".into(),
                        read_only: true,
                    }],
                    devices: vec![wire::Node {
                        container_path: "/dev/widget".into(),
                        host_path: "/dev/null".into(),
                        permissions: "rw".into(),
                    }],
                    ..Default::default()
                };
                async move { Ok::<_, Status>(tonic::Response::new(Allocated { container_responses: vec![one] })) }
            });
            tonic::server::Grpc::new(ProstCodec::<Allocated, AllocateRequest>::default()).unary(allocate, request).await
        }
        "/v1beta1.DevicePlugin/PreStartContainer" => {
            let start = tower::service_fn(move |request: tonic::Request<Ids>| {
                log.lock().unwrap().push(format!("start {}", request.into_inner().devices.join(",")));
                async move { Ok::<_, Status>(tonic::Response::new(Empty {})) }
            });
            tonic::server::Grpc::new(ProstCodec::<Empty, Ids>::default()).unary(start, request).await
        }
        _ => Status::unimplemented("").into_http(),
    }
}

/// The list as it is, and again whenever it changes.
fn listed(
    devices: watch::Receiver<Vec<(&'static str, bool)>>,
) -> impl futures::Stream<Item = Result<Listed, Status>> + Send + 'static {
    let lists = futures::stream::unfold((devices, true), |(mut devices, first)| async move {
        if !first {
            devices.changed().await.ok()?;
        }
        let list = devices.borrow_and_update().clone();
        let one = |(id, well): (&str, bool)| Device {
            id: id.to_owned(),
            health: if well { "Healthy" } else { "Unhealthy" }.to_owned(),
            topology: None,
        };
        Some((Listed { devices: list.into_iter().map(one).collect() }, (devices, false)))
    });
    lists.map(Ok)
}

/// Waits until the node shows these amounts.
async fn until_amounts(node: &Node, capacity: &str, allocatable: &str) {
    let nodes: Api<v1::Node> = Api::all(node.client.clone());
    let mut shown = Default::default();
    for _ in 0..3000 {
        let status = nodes.get("node").await.unwrap().status.unwrap();
        let get = |map: Option<std::collections::BTreeMap<String, _>>| {
            map.and_then(|m| {
                m.get(RESOURCE).map(|q: &k8s_openapi::apimachinery::pkg::api::resource::Quantity| q.0.clone())
            })
            .unwrap_or_default()
        };
        shown = (get(status.capacity), get(status.allocatable));
        if (shown.0.as_str(), shown.1.as_str()) == (capacity, allocatable) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the node shows {shown:?}");
}

fn wants(count: u32) -> serde_json::Value {
    json!({"containers": [{"name": "a", "image": "app", "command": ["run"],
        "resources": {"limits": {RESOURCE: count.to_string()}, "requests": {RESOURCE: count.to_string()}}}]})
}

fn env(config: &runtime::cri::ContainerConfig) -> String {
    config.envs.iter().find(|e| e.key == "WIDGETS").map(|e| e.value.clone()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_gets_devices_that_nobody_else_has_and_keeps_them_over_restarts() {
    let mut node = Node::start().await;
    let directory: PathBuf = node.data.path().join("device-plugins");
    let plugin = Plugin::start(&directory, &[("one", true), ("two", false)]).await;
    until_amounts(&node, "2", "1").await;
    plugin.devices.send(vec![("one", true), ("two", true)]).unwrap();
    until_amounts(&node, "2", "2").await;

    node.create("p", wants(1)).await;
    node.until("p", ready).await;
    let id = node.runtime.running("a").remove(0);
    let config = node.runtime.state.lock().containers[&id].0.clone();
    let first = env(&config);
    assert!(matches!(first.as_str(), "one" | "two"));
    assert!(config.devices.iter().any(|d| d.container_path == "/dev/widget" && d.permissions == "rw"));
    assert!(config.mounts.iter().any(|m| m.container_path == "/w" && m.readonly));
    assert_eq!(plugin.asked(), [format!("allocate {first}"), format!("start {first}")]);

    // Its container restarts, and then the kubelet: it keeps what it has.
    node.runtime.end(&id, 1);
    node.until("p", |pod| pod["status"]["containerStatuses"][0]["restartCount"] == 1 && ready(pod)).await;
    assert_eq!(env(&node.runtime.config("a")), first);
    drop(plugin);
    until_amounts(&node, "2", "0").await;
    node.boot().await;
    let plugin = Plugin::start(&directory, &[("one", true), ("two", true)]).await;
    until_amounts(&node, "2", "2").await;
    node.create("q", wants(1)).await;
    node.until("q", ready).await;
    let other = if first == "one" { "two" } else { "one" };
    assert_eq!(plugin.asked(), [format!("allocate {other}"), format!("start {other}")]);

    // There are no more.
    node.create("r", wants(1)).await;
    let refused = node.until("r", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(refused["status"]["reason"], format!("OutOf{RESOURCE}"));
}
