//! Claims of dynamic resources: a driver on a real socket, a kubelet on a runtime without processes.

mod harness;
#[allow(dead_code, reason = "the test is the other side")]
#[path = "../src/volumes/csi/wire.rs"]
mod registration;
#[path = "../src/claims/wire.rs"]
mod wire;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use harness::{Node, ready};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use prost::Message;
use registration::{Empty, InfoRequest, PluginInfo, RegistrationStatus};
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tonic::Status;
use tonic_prost::ProstCodec;
use wire::{Claims, Device, Prepared, PreparedClaim, Unprepared, UnpreparedClaim};

const DRIVER: &str = "gpu.example.com";

/// A driver that serves until it is dropped.
struct Driver {
    task: tokio::task::JoinHandle<()>,
    socket: PathBuf,
    asked: Asked,
}

type Asked = Arc<Mutex<Vec<String>>>;

impl Drop for Driver {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Driver {
    /// One that serves `version`, and fails for claims of the name `bad`.
    fn start(node: &Node, version: &'static str) -> Driver {
        let directory = node.data.path().join("plugins_registry");
        std::fs::create_dir_all(&directory).unwrap();
        let socket = directory.join("gpu-reg.sock");
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let asked: Asked = Arc::default();
        let (log, endpoint) = (asked.clone(), socket.display().to_string());
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (log, endpoint) = (log.clone(), endpoint.clone());
                let service = service_fn(move |request| {
                    let (log, endpoint) = (log.clone(), endpoint.clone());
                    async move { Ok::<_, Infallible>(answer(request, version, endpoint, log).await) }
                });
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                connections.spawn(server.serve_connection(TokioIo::new(stream), service));
            }
        });
        Driver { task, socket, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    async fn until_asked(&self, what: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.asked().iter().any(|asked| asked == what) {
            assert!(Instant::now() < deadline, "{what} is not in {:?}", self.asked());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn unary<Q, A>(
    request: http::Request<Incoming>,
    work: impl Fn(Q) -> A + Clone + Send + Sync + 'static,
) -> http::Response<tonic::body::Body>
where
    Q: Message + Default + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    let service = tower::service_fn(move |request: tonic::Request<Q>| {
        let answer = work(request.into_inner());
        async move { Ok::<_, Status>(tonic::Response::new(answer)) }
    });
    tonic::server::Grpc::new(ProstCodec::<A, Q>::default()).unary(service, request).await
}

async fn answer(
    request: http::Request<Incoming>,
    version: &'static str,
    endpoint: String,
    log: Asked,
) -> http::Response<tonic::body::Body> {
    let path = request.uri().path().to_owned();
    let service = format!("/k8s.io.kubelet.pkg.apis.dra.{version}/");
    let note = move |what: String| log.lock().unwrap().push(what);
    let names = |claims: &Claims| claims.claims.iter().map(|claim| claim.name.clone()).collect::<Vec<_>>().join(",");
    if path.ends_with("/GetInfo") {
        let info = PluginInfo {
            kind: "DRAPlugin".into(),
            name: DRIVER.into(),
            endpoint,
            supported_versions: vec!["v9.DRAPlugin".into(), version.into()],
        };
        return unary(request, move |_: InfoRequest| info.clone()).await;
    }
    if path.ends_with("/NotifyRegistrationStatus") {
        let told = move |status: RegistrationStatus| {
            note(format!("registered {} {}", status.plugin_registered, status.error));
            Empty {}
        };
        return unary(request, told).await;
    }
    if path == format!("{service}NodePrepareResources") {
        let prepare = move |claims: Claims| {
            note(format!("prepare {}", names(&claims)));
            let device = |request: &str, name: &str| Device {
                request_names: vec![request.into()],
                pool_name: "pool".into(),
                device_name: name.into(),
                cdi_device_ids: vec![format!("example.com/gpu={name}")],
            };
            let prepared = |name: &str| match name {
                "bad" => PreparedClaim { error: "no power".into(), ..Default::default() },
                _ => PreparedClaim { devices: vec![device("big", "g0"), device("small", "g1")], ..Default::default() },
            };
            Prepared { claims: claims.claims.iter().map(|claim| (claim.uid.clone(), prepared(&claim.name))).collect() }
        };
        return unary(request, prepare).await;
    }
    if path == format!("{service}NodeUnprepareResources") {
        let unprepare = move |claims: Claims| {
            note(format!("unprepare {}", names(&claims)));
            let done = |claim: wire::Claim| (claim.uid, UnpreparedClaim::default());
            Unprepared { claims: claims.claims.into_iter().map(done).collect() }
        };
        return unary(request, unprepare).await;
    }
    Status::unimplemented("").into_http()
}

async fn claim(node: &Node, name: &str) {
    let exactly = |name: &str| json!({"name": name, "exactly": {"deviceClassName": "gpu"}});
    let object = json!({"metadata": {"name": name},
        "spec": {"devices": {"requests": [exactly("big"), exactly("small")]}}});
    let claims: Api<ResourceClaim> = Api::namespaced(node.client.clone(), "default");
    claims.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
}

/// Gives the claim devices, for the pods.
async fn allocate(node: &Node, name: &str, pods: &[(&str, String)]) {
    let result =
        |request: &str, device: &str| json!({"request": request, "driver": DRIVER, "pool": "pool", "device": device});
    let reserved: Vec<Value> =
        pods.iter().map(|(name, uid)| json!({"resource": "pods", "name": name, "uid": uid})).collect();
    let status = json!({"status": {"reservedFor": reserved,
        "allocation": {"devices": {"results": [result("big", "g0"), result("small", "g1")]}}}});
    let claims: Api<ResourceClaim> = Api::namespaced(node.client.clone(), "default");
    claims.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
}

fn uses(container: &str, claim: &str, request: Option<&str>) -> Value {
    let mut of_container = json!({"name": "mine"});
    if let Some(request) = request {
        of_container["request"] = json!(request);
    }
    json!({"resourceClaims": [{"name": "mine", "resourceClaimName": claim}],
        "containers": [{"name": container, "image": "app", "command": ["run"], "resources": {"claims": [of_container]}}]})
}

fn devices(node: &Node, container: &str) -> Vec<String> {
    node.runtime.config(container).cdi_devices.into_iter().map(|device| device.name).collect()
}

async fn until_event(node: &Node, pod: &str, event: &str) {
    let deadline = Instant::now() + Duration::from_secs(40);
    let wanted = format!(
        "FailedPrepareDynamicResources: Failed to prepare dynamic resources: prepare dynamic resources: {event}"
    );
    while !node.events(pod).await.contains(&wanted) {
        assert!(Instant::now() < deadline, "{wanted} is not in {:#?}", node.events(pod).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_is_prepared_for_its_pods_once_and_taken_back_with_the_last() {
    let mut node = Node::start().await;
    claim(&node, "c").await;
    let uid = node.create("first", uses("a", "c", None)).await.uid().unwrap();
    let claims: Api<ResourceClaim> = Api::namespaced(node.client.clone(), "default");
    let of_claim = claims.get("c").await.unwrap().uid().unwrap();
    until_event(&node, "first", &format!("pod first ({uid}) is not allowed to use ResourceClaim c ({of_claim})")).await;
    allocate(&node, "c", &[("first", uid.clone())]).await;
    until_event(&node, "first", &format!("DRA driver {DRIVER} is not registered")).await;
    let driver = Driver::start(&node, "v1.DRAPlugin");
    node.until("first", ready).await;
    assert_eq!(driver.asked(), ["registered true ", "prepare c"]);
    assert_eq!(devices(&node, "a"), ["example.com/gpu=g0", "example.com/gpu=g1"]);

    // Over a restart of the kubelet, and then of the container, nothing is prepared again.
    node.boot().await;
    node.runtime.end(&node.runtime.running("a").remove(0), 1);
    node.until("first", |pod| pod["status"]["containerStatuses"][0]["restartCount"] == 1 && ready(pod)).await;
    assert_eq!(devices(&node, "a"), ["example.com/gpu=g0", "example.com/gpu=g1"]);
    driver.until_asked("registered true ").await;

    // Another pod uses the same, of which it sees a part.
    let other = node.create("second", uses("b", "c", Some("small"))).await.uid().unwrap();
    allocate(&node, "c", &[("first", uid), ("second", other)]).await;
    node.until("second", ready).await;
    assert_eq!(devices(&node, "b"), ["example.com/gpu=g1"]);
    node.pods().delete("first", &DeleteParams::default()).await.unwrap();
    node.until("first", Value::is_null).await;
    assert!(!driver.asked().iter().any(|asked| asked.starts_with("unprepare")), "{:?}", driver.asked());
    node.pods().delete("second", &DeleteParams::default()).await.unwrap();
    node.until("second", Value::is_null).await;
    driver.until_asked("unprepare c").await;
    assert_eq!(driver.asked().iter().filter(|asked| asked.starts_with("prepare")).count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_driver_serves_and_what_it_refuses_is_told_and_what_a_killed_kubelet_left_is_taken_back() {
    let mut node = Node::start().await;
    let driver = Driver::start(&node, "v1beta1.DRAPlugin");
    for name in ["bad", "good"] {
        claim(&node, name).await;
    }
    let uid = node.create("refused", uses("a", "bad", None)).await.uid().unwrap();
    allocate(&node, "bad", &[("refused", uid)]).await;
    until_event(&node, "refused", "NodePrepareResources failed for ResourceClaim bad: no power").await;
    let uid = node.create("fine", uses("b", "good", None)).await.uid().unwrap();
    allocate(&node, "good", &[("fine", uid)]).await;
    node.until("fine", ready).await;

    // The kubelet is away while the pod is removed by force, and its containers with it.
    node.kubelet = None;
    let at_once = DeleteParams { grace_period_seconds: Some(0), ..Default::default() };
    node.pods().delete("fine", &at_once).await.unwrap();
    node.runtime.state.lock().sandboxes.clear();
    node.runtime.state.lock().containers.clear();
    node.boot().await;
    driver.until_asked("unprepare good").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_drivers_offered_is_withdrawn_when_the_kubelet_starts() {
    let mut node = Node::start().await;
    node.kubelet = None;
    let slices: Api<ResourceSlice> = Api::all(node.client.clone());
    for (name, of) in [("here", "node"), ("there", "other")] {
        let slice = json!({"metadata": {"name": name}, "spec": {"driver": DRIVER, "nodeName": of,
            "pool": {"name": of, "generation": 1, "resourceSliceCount": 1}, "devices": [{"name": "g0"}]}});
        slices.create(&PostParams::default(), &serde_json::from_value(slice).unwrap()).await.unwrap();
    }
    node.boot().await;
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let left: Vec<String> =
            slices.list(&ListParams::default()).await.unwrap().iter().map(ResourceExt::name_any).collect();
        if left == ["there"] {
            break;
        }
        assert!(Instant::now() < deadline, "{left:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
