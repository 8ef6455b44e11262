//! A control plane in one process, and a kubelet that only pretends.

use std::{
    collections::HashMap,
    fmt::Debug,
    sync::{Arc, Mutex, Once, OnceLock},
    time::{Duration, Instant},
};

use apiserver::{ApiServer, Config, Pki};
use client::{Cache, Caches, Endpoint, Identity, Item};
use futures::FutureExt;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::Deployment,
        core::v1::{Event, Node, Pod},
    },
};
use kube::{
    Api, Resource,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use rcgen::{CertificateParams, KeyPair};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use store::Store;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use crate::slow_stream::slowed;

pub const NAMESPACE: &str = "default";

/// A cluster of which only the kubelet is not real.
pub struct Cluster {
    pub client: kube::Client,
    pub caches: Caches,
    shutdown: CancellationToken,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Cluster {
    pub async fn start() -> Cluster {
        Cluster::seen_late(Duration::ZERO).await
    }

    /// A cluster whose controllers' caches are behind by up to `lag`.
    async fn seen_late(lag: Duration) -> Cluster {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            let _ = rustls::crypto::ring::default_provider().install_default();
            let filter = tracing_subscriber::EnvFilter::from_default_env();
            let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        });
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().pem();
        let authority = controllers::Authority { certificate: certificate.clone(), key: key.serialize_pem() };
        let measured: Arc<OnceLock<Caches>> = Arc::default();
        let config = Config {
            store: Store::memory(),
            pki: Pki {
                client_ca: certificate.clone(),
                serving_certificate: certificate,
                serving_key: key.serialize_pem(),
                service_account_key: KeyPair::generate().unwrap().serialize_pem(),
            },
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            node_ports: (30000, 32767),
            advertise: "192.0.2.1:6443".parse().unwrap(),
            kubelet: Some(kubelet_dialer(measured.clone())),
        };
        let server = ApiServer::new(config).await.unwrap();
        let endpoint = Endpoint::Memory(server.acceptor());
        let client = client::connect(&endpoint, Identity::admin("admin"));
        let watcher = || Identity::component("system:kube-controller-manager");
        let caches = Caches::new(client::connect(&endpoint, watcher()));
        let _ = measured.set(caches.clone());
        let seen = if lag.is_zero() {
            caches.clone()
        } else {
            let late = Endpoint::Memory(slowed(server.acceptor(), lag));
            Caches::new(client::connect(&late, watcher()))
        };
        let context = controllers::Context {
            client_for: Arc::new(move |name| client::connect(&endpoint, Identity::part(name))),
            caches: seen,
            root_ca: "the root".to_owned(),
            authority: Some(authority),
        };
        let shutdown = CancellationToken::new();
        let pods = "10.1.0.0/16".parse().unwrap();
        tokio::spawn(controllers::run_pod_ranges(context.clone(), pods, 24, shutdown.clone()));
        tokio::spawn(controllers::run(context, shutdown.clone()));
        Cluster { client, caches, shutdown }
    }

    /// A cluster with a node on which every pod runs and is ready at once.
    pub async fn with_node() -> Cluster {
        Cluster::with_lag(Duration::ZERO).await
    }

    /// The same, but its controllers' caches are behind by up to `lag`. Those of the test and of the kubelet are not.
    pub async fn with_lag(lag: Duration) -> Cluster {
        let cluster = Cluster::seen_late(lag).await;
        cluster.add_node("node-1").await;
        tokio::spawn(cluster.shutdown.clone().run_until_cancelled_owned(heartbeats(cluster.client.clone())));
        tokio::spawn(
            cluster.shutdown.clone().run_until_cancelled_owned(kubelet(cluster.client.clone(), cluster.caches.clone())),
        );
        cluster
    }

    pub async fn add_node(&self, name: &str) {
        let node = json!({
            "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": "a", "kubernetes.io/hostname": name}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        self.make::<Node>(node).await;
    }

    pub fn api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// Creates an object in its namespace, by default `default`.
    pub async fn make<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Serialize + Clone + Debug,
    {
        let cluster_wide = ["Node", "Namespace", "PersistentVolume", "ClusterRole", "PriorityClass", "ServiceCIDR"];
        let is_namespaced = !cluster_wide.contains(&&*K::kind(&()));
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or(NAMESPACE).to_owned();
        let path = K::url_path(&(), is_namespaced.then_some(&namespace));
        let request =
            kube::core::Request::new(path).create(&PostParams::default(), serde_json::to_vec(&object).unwrap());
        self.client.request(request.unwrap()).await.unwrap_or_else(|error| panic!("{object}: {error}"))
    }

    /// Changes an object, and waits until the caches show it.
    pub async fn patch<K>(&self, name: &str, patch: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
    {
        let patched = self.api::<K>().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
        let revision = patched.meta().resource_version.as_ref().unwrap().parse().unwrap();
        assert!(self.caches.get::<K>().reached(revision, Duration::from_secs(10)).await);
        patched
    }

    pub async fn delete<K>(&self, name: &str, params: DeleteParams)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
    {
        self.api::<K>().delete(name, &params).await.unwrap();
    }

    /// All objects of a kind in the namespace, once `test` holds of them.
    pub async fn until<K>(&self, what: &str, test: impl Fn(&[K]) -> bool) -> Vec<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug + 'static,
    {
        self.once(what, |cache| cache.list_ns(NAMESPACE), test).await
    }

    async fn once<K>(
        &self,
        what: &str,
        list: impl Fn(&Cache<K>) -> Vec<Arc<Item>>,
        test: impl Fn(&[K]) -> bool,
    ) -> Vec<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + 'static,
    {
        let cache = self.caches.get::<K>();
        let mut changes = cache.subscribe();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            let all: Vec<K> = list(&cache).iter().map(|item| item.parse().unwrap()).collect();
            if cache.is_synced() && test(&all) {
                return all;
            }
            if tokio::time::timeout_at(deadline, changes.next()).await.is_err() {
                panic!("never came true: {what}\n{}", describe(&all));
            }
        }
    }

    /// All objects of a kind of the whole cluster, once `test` holds of them.
    pub async fn until_anywhere<K>(&self, what: &str, test: impl Fn(&[K]) -> bool) -> Vec<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + 'static,
    {
        self.once(what, |cache| cache.list(), test).await
    }

    /// The object of this name, once `test` holds of it.
    pub async fn until_one<K>(&self, name: &str, what: &str, test: impl Fn(&K) -> bool) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug + 'static,
    {
        let is_it = |object: &&K| object.meta().name.as_deref() == Some(name);
        let all = self.until::<K>(what, |all| all.iter().find(is_it).is_some_and(&test)).await;
        all.iter().find(is_it).cloned().unwrap()
    }

    /// The first event about an object with this reason, with its message.
    pub async fn until_told(&self, about: &str, reason: &str) -> String {
        let is_meant = |event: &Event| {
            event.involved_object.name.as_deref() == Some(about) && event.reason.as_deref() == Some(reason)
        };
        let all = self.until::<Event>(reason, |all| all.iter().any(is_meant)).await;
        let message = all.iter().find(|event| is_meant(event)).and_then(|event| event.message.clone());
        format!("{reason} {}", message.unwrap_or_default())
    }

    /// The reasons and messages of all events about an object.
    pub async fn events(&self, about: &str) -> Vec<String> {
        let api = self.api::<Event>();
        let all = api.list(&ListParams::default().fields(&format!("involvedObject.name={about}"))).await.unwrap();
        let line = |event: &Event| {
            format!("{} {}", event.reason.clone().unwrap_or_default(), event.message.clone().unwrap_or_default())
        };
        all.items.iter().map(line).collect()
    }
}

fn describe<K: Debug>(all: &[K]) -> String {
    all.iter().map(|object| format!("{object:?}\n")).collect()
}

/// Says from time to time that the node is alive.
async fn heartbeats(client: kube::Client) {
    let nodes: Api<Node> = Api::all(client);
    loop {
        let now = k8s_openapi::jiff::Timestamp::now();
        let ready = json!({"type": "Ready", "status": "True", "lastHeartbeatTime": now.to_string()});
        let patch = json!({"status": {"conditions": [ready]}});
        let _ = nodes.patch_status("node-1", &PatchParams::default(), &Patch::Strategic(patch)).await;
        tokio::time::sleep(Duration::from_secs(15)).await;
    }
}

/// The node that a pod asks for by its name, as those of DaemonSets do; otherwise the first.
fn wanted_node(pod: &Pod) -> String {
    let spec = serde_json::to_value(&pod.spec).unwrap();
    let required = "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0";
    let name = spec.pointer(&format!("{required}/matchFields/0/values/0")).and_then(Value::as_str);
    name.unwrap_or("node-1").to_owned()
}

/// Binds every pod to a node and reports it as running and ready; lets deleted pods go.
///
/// A pod that is annotated with `test/phase` gets that phase instead, and with `test/unready` is not ready.
async fn kubelet(client: kube::Client, caches: Caches) {
    let mut changes = caches.get::<Pod>().subscribe();
    let mut address = 0u32;
    loop {
        let change = changes.next().await;
        let Some(item) = change.new else { continue };
        let api: Api<Pod> = Api::namespaced(client.clone(), item.namespace());
        if item.deleting {
            let _ = api.delete(item.name(), &DeleteParams::default().grace_period(0)).await;
            continue;
        }
        let pod: Pod = item.parse().unwrap();
        let annotation = |key: &str| pod.metadata.annotations.as_ref().and_then(|all| all.get(key).cloned());
        if item.node_name.is_empty() {
            let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": item.name()},
                "target": {"apiVersion": "v1", "kind": "Node", "name": wanted_node(&pod)}});
            let path = format!("/api/v1/namespaces/{}/pods/{}/binding", item.namespace(), item.name());
            let request = http::Request::post(path).header("content-type", "application/json");
            let _ = client.request_text(request.body(serde_json::to_vec(&binding).unwrap()).unwrap()).await;
            continue;
        }
        let phase = annotation("test/phase").unwrap_or_else(|| "Running".to_owned());
        if *item.phase == *phase {
            continue;
        }
        address += 1;
        let ip = format!("10.1.{}.{}", address / 250, address % 250 + 1);
        let ready = if phase == "Running" && annotation("test/unready").is_none() { "True" } else { "False" };
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::now());
        let patch = json!({"status": {"phase": phase, "podIP": ip, "podIPs": [{"ip": ip}], "startTime": now,
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": now}]}});
        let _ = api.patch_status(item.name(), &PatchParams::default(), &Patch::Merge(patch)).await;
    }
}

/// Answers `/stats/summary` for all pods that run: those of a Deployment share the load that is written on it as
/// `test/load`, in thousandths of a core.
fn kubelet_dialer(caches: Arc<OnceLock<Caches>>) -> apiserver::KubeletDialer {
    let totals: Arc<Mutex<HashMap<String, (Instant, f64)>>> = Arc::default();
    Arc::new(move |_node: String| {
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        let summary = caches.get().map(|caches| summary(caches, &totals).to_string()).unwrap_or_default();
        tokio::spawn(async move {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                match far.read_u8().await {
                    Ok(byte) => request.push(byte),
                    Err(_) => return,
                }
            }
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", summary.len());
            let _ = far.write_all((head + &summary).as_bytes()).await;
        });
        std::future::ready(Ok(Box::new(near) as Box<dyn apiserver::Stream>)).boxed()
    })
}

fn summary(caches: &Caches, totals: &Mutex<HashMap<String, (Instant, f64)>>) -> Value {
    let (now, time) = (Instant::now(), k8s_openapi::jiff::Timestamp::now().to_string());
    let mut totals = totals.lock().unwrap();
    let running: Vec<_> = caches.get::<Pod>().list().into_iter().filter(|pod| &*pod.phase == "Running").collect();
    let load = |app: &str| {
        let deployment = caches.get::<Deployment>().read(NAMESPACE, app)?;
        let load: f64 = deployment.metadata.annotations?.get("test/load")?.parse().ok()?;
        Some(load / running.iter().filter(|pod| pod.labels.get("app") == Some(app)).count() as f64)
    };
    let mut counter = |key: &str, millicores: f64| {
        let (since, total) = totals.entry(key.to_owned()).or_insert((now, 0.0));
        *total += now.duration_since(*since).as_secs_f64() * millicores * 1e6;
        *since = now;
        json!({"cpu": {"time": time, "usageCoreNanoSeconds": *total as u64}, "memory": {"workingSetBytes": 1 << 20}})
    };
    let node = counter("node", 1000.0);
    let pods: Vec<Value> = running
        .iter()
        .map(|pod| {
            let mut container = counter(&pod.uid, pod.labels.get("app").and_then(load).unwrap_or(0.0));
            container["name"] = "c".into();
            json!({"podRef": {"name": pod.name(), "namespace": pod.namespace(), "uid": pod.uid}, "containers": [container]})
        })
        .collect();
    json!({"node": node, "pods": pods})
}
