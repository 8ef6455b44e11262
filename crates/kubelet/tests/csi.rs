//! A small CSI driver registers with the kubelet, and its volumes are attached, staged, published and taken back.

mod harness;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use harness::{Node, ready};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{Node as ApiNode, PersistentVolume, PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, VolumeAttachment};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Resource};
use parking_lot::Mutex;
use prost::encoding::{WireType, decode_key, decode_varint};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A call that the driver got: the method's name and its texts by `field`, those of a map by `field.key`.
type Call = (String, BTreeMap<String, String>);

/// A driver that serves its registration and its node service on one socket, and mounts by making a directory.
struct Driver {
    calls: Arc<Mutex<Vec<Call>>>,
    socket: PathBuf,
}

impl Driver {
    fn start(node: &Node) -> Driver {
        let dir = node.data.path().join("plugins_registry");
        std::fs::create_dir_all(&dir).unwrap();
        let socket = dir.join("csi.test-reg.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let calls: Arc<Mutex<Vec<Call>>> = Arc::default();
        let (log, endpoint) = (calls.clone(), socket.to_string_lossy().into_owned());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (log, endpoint) = (log.clone(), endpoint.clone());
                let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
                    let (log, endpoint) = (log.clone(), endpoint.clone());
                    async move {
                        let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let texts = texts(&body[5..]);
                        let answer = serve(&method, &texts, &endpoint);
                        log.lock().push((method, texts));
                        let mut framed = vec![0];
                        framed.extend(u32::try_from(answer.len()).unwrap().to_be_bytes());
                        framed.extend(answer);
                        let mut trailers = http::HeaderMap::new();
                        trailers.insert("grpc-status", "0".parse().unwrap());
                        let frames =
                            [Ok::<_, hyper::Error>(Frame::data(Bytes::from(framed))), Ok(Frame::trailers(trailers))];
                        let body = StreamBody::new(futures::stream::iter(frames));
                        http::Response::builder().header("content-type", "application/grpc").body(body)
                    }
                });
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
            }
        });
        Driver { calls, socket }
    }

    /// The last call of a method, waited for.
    async fn called(&self, method: &str) -> BTreeMap<String, String> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some((_, texts)) = self.calls.lock().iter().rev().find(|(name, _)| name == method) {
                return texts.clone();
            }
            assert!(Instant::now() < deadline, "{method} was never called: {:?}", self.calls.lock());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn count(&self, method: &str) -> usize {
        self.calls.lock().iter().filter(|(name, _)| name == method).count()
    }
}

/// A field of bytes.
fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![tag << 3 | 2, u8::try_from(bytes.len()).unwrap()];
    out.extend(bytes);
    out
}

fn serve(method: &str, texts: &BTreeMap<String, String>, endpoint: &str) -> Vec<u8> {
    match method {
        "GetInfo" => {
            let parts = [(1, "CSIPlugin"), (2, "csi.test"), (3, endpoint), (4, "1.0.0")];
            parts.iter().flat_map(|(tag, text)| field(*tag, text.as_bytes())).collect()
        }
        "NodeGetInfo" => {
            let segment = [field(1, b"topology.csi.test/rack"), field(2, b"r7")].concat();
            [field(1, b"id-of-node"), vec![2 << 3, 5], field(3, &field(1, &segment))].concat()
        }
        // It stages and expands.
        "NodeGetCapabilities" => [1, 3].iter().flat_map(|kind| field(1, &field(1, &[1 << 3, *kind]))).collect(),
        "NodePublishVolume" => {
            std::fs::create_dir_all(&texts["4"]).unwrap();
            std::fs::write(Path::new(&texts["4"]).join("content"), "stored").unwrap();
            Vec::new()
        }
        "NodeUnpublishVolume" => {
            std::fs::remove_dir_all(&texts["2"]).unwrap();
            Vec::new()
        }
        _ => Vec::new(),
    }
}

/// The texts of a message; a field with two texts inside is an entry of a map.
fn texts(message: &[u8]) -> BTreeMap<String, String> {
    let (mut rest, mut found) = (message, BTreeMap::new());
    while !rest.is_empty() {
        let (tag, kind) = decode_key(&mut rest).unwrap();
        let number = decode_varint(&mut rest).unwrap();
        if kind != WireType::LengthDelimited {
            found.insert(tag.to_string(), number.to_string());
            continue;
        }
        let (part, after) = rest.split_at(usize::try_from(number).unwrap());
        rest = after;
        // Only entries of maps begin with a text in field 1 that another in field 2 follows.
        let entry = (part.first() == Some(&10)).then(|| texts(part)).filter(|entry| entry.len() == 2);
        match entry.as_ref().and_then(|entry| entry.get("1").zip(entry.get("2"))) {
            Some((key, value)) => found.insert(format!("{tag}.{key}"), value.clone()),
            None => found.insert(tag.to_string(), String::from_utf8_lossy(part).into_owned()),
        };
    }
    found
}

async fn put<K>(node: &Node, namespace: Option<&str>, object: Value) -> K
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Serialize + Clone + std::fmt::Debug,
{
    let request = kube::core::Request::new(K::url_path(&(), namespace));
    let request = request.create(&PostParams::default(), serde_json::to_vec(&object).unwrap()).unwrap();
    node.client.request(request).await.unwrap()
}

/// The node's object, once `test` holds of it.
async fn node_until(node: &Node, test: impl Fn(&Value) -> bool) -> Value {
    let nodes: Api<ApiNode> = Api::all(node.client.clone());
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let found = serde_json::to_value(nodes.get("node").await.unwrap()).unwrap();
        if test(&found) {
            return found;
        }
        assert!(Instant::now() < deadline, "{found}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A claim that is bound to a volume of the driver.
async fn bound(node: &Node) {
    let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "",
        "volumeName": "v", "resources": {"requests": {"storage": "1Gi"}}}});
    let claim: PersistentVolumeClaim = put(node, Some("default"), claim).await;
    let secret = json!({"metadata": {"name": "keys"}, "stringData": {"key": "open"}});
    put::<Secret>(node, Some("default"), secret).await;
    let volume = json!({"metadata": {"name": "v"}, "spec": {
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "mountOptions": ["noatime"],
        "claimRef": {"namespace": "default", "name": "data", "uid": claim.metadata.uid},
        "csi": {"driver": "csi.test", "volumeHandle": "h", "fsType": "ext4", "volumeAttributes": {"pool": "p"},
            "nodePublishSecretRef": {"name": "keys", "namespace": "default"}},
    }});
    put::<PersistentVolume>(node, None, volume).await;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(node.client.clone(), "default");
    let status = Patch::Merge(json!({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}}));
    claims.patch_status("data", &PatchParams::default(), &status).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drivers_volume_is_attached_staged_published_and_taken_back_also_after_a_restart() {
    let mut node = Node::start().await;
    let driver = Driver::start(&node);
    let status = driver.called("NotifyRegistrationStatus").await;
    assert_eq!(status, BTreeMap::from([("1".to_owned(), "1".to_owned())]), "registered, without an error");
    let listed: Api<CSINode> = Api::all(node.client.clone());
    let drivers = listed.get("node").await.unwrap().spec.drivers;
    assert_eq!((drivers[0].name.as_str(), drivers[0].node_id.as_str()), ("csi.test", "id-of-node"));
    assert_eq!(drivers[0].allocatable.as_ref().and_then(|it| it.count), Some(5));
    node_until(&node, |it| it["metadata"]["labels"]["topology.csi.test/rack"] == "r7").await;

    let object = json!({"metadata": {"name": "csi.test"}, "spec": {"attachRequired": true, "podInfoOnMount": true,
        "fsGroupPolicy": "File", "tokenRequests": [{"audience": "vault"}]}});
    put::<CSIDriver>(&node, None, object).await;
    bound(&node).await;
    let user = json!({"securityContext": {"fsGroup": 2345}, "terminationGracePeriodSeconds": 0, "volumes":
        [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}], "containers":
        [{"name": "a", "image": "app", "command": ["run"], "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]});
    let pod = node.create("user", user).await;
    let unique = "kubernetes.io/csi/csi.test^h";
    node_until(&node, |it| it["status"]["volumesInUse"][0] == unique).await;
    assert_eq!(driver.count("NodeStageVolume"), 0, "it is not attached yet");
    let name = Sha256::digest("hcsi.testnode").iter().fold("csi-".to_owned(), |name, byte| format!("{name}{byte:02x}"));
    let attachment = json!({"metadata": {"name": name}, "spec": {"attacher": "csi.test", "nodeName": "node",
        "source": {"persistentVolumeName": "v"}}});
    put::<VolumeAttachment>(&node, None, attachment).await;
    let attachments: Api<VolumeAttachment> = Api::all(node.client.clone());
    let done = Patch::Merge(json!({"status": {"attached": true, "attachmentMetadata": {"device": "sdx"}}}));
    attachments.patch_status(&name, &PatchParams::default(), &done).await.unwrap();
    node.until("user", ready).await;

    let staged = driver.called("NodeStageVolume").await;
    assert_eq!((&*staged["1"], &*staged["2.device"], &*staged["6.pool"]), ("h", "sdx", "p"));
    let published = driver.called("NodePublishVolume").await;
    let uid = pod.metadata.uid.unwrap();
    let target = node.data.path().join(format!("pods/{uid}/volumes/kubernetes.io~csi/v/mount"));
    assert_eq!((&*published["3"], Path::new(&published["4"])), (&*staged["3"], &*target));
    assert_eq!((&*published["7.key"], &*published["8.pool"]), ("open", "p"));
    let told = |key: &str| published[&format!("8.csi.storage.k8s.io/{key}")].clone();
    assert_eq!((told("pod.name"), told("pod.uid"), told("ephemeral")), ("user".into(), uid, "false".into()));
    assert!(told("serviceAccount.tokens").contains("\"vault\":{\"expirationTimestamp\""));
    assert_eq!(std::fs::metadata(target.join("content")).unwrap().gid(), 2345);
    assert_eq!(
        node.runtime.config("a").mounts.iter().find(|it| it.container_path == "/data").unwrap().host_path,
        target.to_string_lossy()
    );

    node.boot().await;
    node.pods().delete("user", &DeleteParams::default()).await.unwrap();
    node.until("user", Value::is_null).await;
    assert_eq!(driver.called("NodeUnpublishVolume").await["1"], "h");
    assert_eq!(driver.called("NodeUnstageVolume").await["2"], staged["3"]);
    assert!(!target.exists());
    node_until(&node, |it| it["status"]["volumesInUse"].as_array().is_none_or(Vec::is_empty)).await;

    std::fs::remove_file(&driver.socket).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !listed.get("node").await.unwrap().spec.drivers.is_empty() {
        assert!(Instant::now() < deadline, "a driver that has gone is still listed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_carries_a_volume_of_a_driver_that_makes_such_and_is_told_of_one_that_does_not() {
    let node = Node::start().await;
    let container = json!({"name": "a", "image": "app", "command": ["run"],
        "volumeMounts": [{"name": "own", "mountPath": "/own"}]});
    let inline = json!({"terminationGracePeriodSeconds": 0, "containers": [container], "volumes": [{"name": "own", "csi":
        {"driver": "csi.test", "volumeAttributes": {"size": "1"}}}]});
    node.create("early", inline.clone()).await;
    let told = |events: Vec<String>, part: &str| events.iter().any(|event| event.contains(part));
    let deadline = Instant::now() + Duration::from_secs(30);
    let missing = "MountVolume.SetUp failed for volume \"own\" : driver name csi.test not found in the list of registered CSI drivers";
    while !told(node.events("early").await, missing) {
        assert!(Instant::now() < deadline, "{:?}", node.events("early").await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let driver = Driver::start(&node);
    driver.called("NotifyRegistrationStatus").await;
    node.create("refused", inline).await;
    let refusal = "volume mode \"Ephemeral\" not supported by driver csi.test (only supports [\"Persistent\"])";
    while !told(node.events("refused").await, refusal) {
        assert!(Instant::now() < deadline + Duration::from_secs(30), "{:?}", node.events("refused").await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let object = json!({"metadata": {"name": "csi.test"}, "spec": {"attachRequired": false, "podInfoOnMount": true,
        "volumeLifecycleModes": ["Ephemeral"]}});
    put::<CSIDriver>(&node, None, object).await;
    node.until("refused", ready).await;
    let published = driver.called("NodePublishVolume").await;
    assert_eq!((&*published["8.csi.storage.k8s.io/ephemeral"], &*published["8.size"]), ("true", "1"));
    assert!(published["1"].starts_with("csi-") && driver.count("NodeStageVolume") == 0);
    let gone: Pod = node.pods().get("refused").await.unwrap();
    node.pods().delete("refused", &DeleteParams::default()).await.unwrap();
    node.until("refused", Value::is_null).await;
    driver.called("NodeUnpublishVolume").await;
    let directory = node.data.path().join("pods").join(gone.metadata.uid.unwrap());
    let deadline = Instant::now() + Duration::from_secs(30);
    while directory.exists() {
        assert!(Instant::now() < deadline, "{directory:?} stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
