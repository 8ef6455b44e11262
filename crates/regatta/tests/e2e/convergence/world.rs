//! A control plane in this process whose parts can be restarted and whose connections break, and kubelets that only pretend.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use apiserver::{ApiServer, Config, Pki};
use client::{Caches, Endpoint, Identity};
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use parking_lot::{Mutex, RwLock};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use store::Store;
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio_util::sync::CancellationToken;

pub const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];
pub const NAMESPACE: &str = "default";

/// What a run can restart.
const PARTS: [Part; 3] = [Part::Controllers, Part::Scheduler, Part::Kubelets];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Controllers,
    Scheduler,
    Kubelets,
}

struct Running {
    part: Part,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

pub struct World {
    /// The user's, whose connections never break.
    pub client: kube::Client,
    store: Store,
    pki: Pki,
    network: Arc<Network>,
    running: Mutex<Vec<Running>>,
    faults: AtomicU64,
}

/// What lies between the clients and the server of the moment.
struct Network {
    server: RwLock<Option<ApiServer>>,
    /// Cancelled to break every connection that there is.
    breaks: Mutex<CancellationToken>,
    /// Whether connections end by themselves, sooner or later.
    fragile: AtomicBool,
    random: Mutex<StdRng>,
}

impl Network {
    /// An endpoint through which every connection may break at any byte, in either direction.
    fn endpoint(self: &Arc<Self>) -> Endpoint {
        let network = self.clone();
        Endpoint::Memory(Arc::new(move |stream: DuplexStream, identity: Identity| {
            let Some(server) = network.server.read().clone() else { return };
            let (near, far) = tokio::io::duplex(64 * 1024);
            server.acceptor()(far, identity);
            let stop = network.breaks.lock().child_token();
            let lives = network.fragile.load(Ordering::Relaxed).then(|| {
                let millis = network.random.lock().random_range(5..400);
                Duration::from_millis(millis)
            });
            tokio::spawn(async move {
                let (mut client, mut server) = (stream, near);
                let copy = tokio::io::copy_bidirectional(&mut client, &mut server);
                let end = async {
                    match lives {
                        Some(lives) => tokio::time::sleep(lives).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    _ = copy => {}
                    () = stop.cancelled() => {}
                    () = end => {}
                }
                let _ = client.shutdown().await;
            });
        }))
    }
}

fn pki() -> Pki {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
    let certificate = params.self_signed(&key).expect("a certificate").pem();
    Pki {
        client_ca: certificate.clone(),
        serving_certificate: certificate,
        serving_key: key.serialize_pem(),
        service_account_key: KeyPair::generate().expect("a key").serialize_pem(),
    }
}

async fn serve(store: &Store, pki: &Pki) -> ApiServer {
    let config = Config {
        store: store.clone(),
        pki: Pki {
            client_ca: pki.client_ca.clone(),
            serving_certificate: pki.serving_certificate.clone(),
            serving_key: pki.serving_key.clone(),
            service_account_key: pki.service_account_key.clone(),
        },
        service_cidr: "10.96.0.0/16".parse().expect("a range"),
        node_ports: (30000, 32767),
        advertise: "192.0.2.1:6443".parse().expect("an address"),
        kubelet: None,
    };
    ApiServer::new(config).await.expect("a server")
}

impl World {
    pub async fn start(seed: u64) -> World {
        let (store, pki) = (Store::memory(), pki());
        let server = serve(&store, &pki).await;
        let network = Arc::new(Network {
            server: RwLock::new(Some(server)),
            breaks: Mutex::default(),
            fragile: AtomicBool::new(false),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
        });
        // The user asks whatever server there is; that it does not answer is for the caller to bear.
        let (to, none) = (network.clone(), AtomicU64::new(0));
        let user = Endpoint::Memory(Arc::new(move |stream, identity| match to.server.read().clone() {
            Some(server) => server.acceptor()(stream, identity),
            None => {
                none.fetch_add(1, Ordering::Relaxed);
            }
        }));
        let client = client::connect(&user, Identity::admin("user"));
        let world = World { client, store, pki, network, running: Mutex::default(), faults: AtomicU64::new(0) };
        let nodes: Api<Node> = Api::all(world.client.clone());
        for name in NODES {
            let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
                "status": {"capacity": {"cpu": "8", "memory": "16Gi", "pods": "110"},
                    "allocatable": {"cpu": "8", "memory": "16Gi", "pods": "110"},
                    "conditions": [{"type": "Ready", "status": "True"}]}});
            nodes
                .create(&PostParams::default(), &serde_json::from_value(node).expect("a node"))
                .await
                .expect("created");
        }
        PARTS.into_iter().for_each(|part| world.begin(part));
        world.network.fragile.store(true, Ordering::Relaxed);
        world
    }

    fn begin(&self, part: Part) {
        let stop = CancellationToken::new();
        let (endpoint, shutdown) = (self.network.endpoint(), stop.clone());
        let caches = |name: &str| Caches::new(client::connect(&endpoint, Identity::component(name)));
        let task = match part {
            Part::Controllers => {
                let caches = caches("system:kube-controller-manager");
                let endpoint = endpoint.clone();
                let context = controllers::Context {
                    client_for: Arc::new(move |name| client::connect(&endpoint, Identity::part(name))),
                    caches,
                    root_ca: "the root".to_owned(),
                    authority: None,
                };
                tokio::spawn(controllers::run(context, shutdown))
            }
            Part::Scheduler => {
                let name = "system:kube-scheduler";
                let client = client::connect(&endpoint, Identity::component(name));
                tokio::spawn(scheduler::run(client, caches(name), scheduler::Options::default(), shutdown))
            }
            Part::Kubelets => {
                let caches = caches("system:kube-controller-manager");
                let seed = self.network.random.lock().random();
                let kubelets = NODES
                    .map(|node| kubelet(node, client::connect(&endpoint, Identity::node(node)), caches.clone(), seed));
                tokio::spawn(async move {
                    shutdown.run_until_cancelled(join_all(kubelets)).await;
                })
            }
        };
        self.running.lock().push(Running { part, stop, task });
    }

    /// Ends a part at whatever it is doing, and starts it anew.
    async fn restart(&self, part: Part) {
        let running = {
            let mut all = self.running.lock();
            let at = all.iter().position(|running| running.part == part).expect("it runs");
            all.swap_remove(at)
        };
        running.stop.cancel();
        running.task.abort();
        let _ = running.task.await;
        self.begin(part);
    }

    /// Ends the server with all its connections; another takes its place on the same store.
    async fn restart_server(&self) {
        let old = self.network.server.write().take().expect("a server");
        self.break_connections();
        tokio::spawn(async move { old.shutdown().await });
        let new = serve(&self.store, &self.pki).await;
        *self.network.server.write() = Some(new);
    }

    fn break_connections(&self) {
        std::mem::take(&mut *self.network.breaks.lock()).cancel();
    }

    /// Does something that goes wrong in clusters.
    pub async fn fault(&self, random: &mut StdRng) {
        self.faults.fetch_add(1, Ordering::Relaxed);
        match random.random_range(0..8) {
            0 => self.restart_server().await,
            1 | 2 => self.break_connections(),
            3..=5 => self.restart(*PARTS.choose(random).expect("a part")).await,
            6 => self.meddle(random).await,
            _ => self.kill_a_pod(random).await,
        }
    }

    /// Writes to objects that others are about to write to.
    async fn meddle(&self, random: &mut StdRng) {
        for path in ["apps/v1|deployments", "apps/v1|replicasets", "apps/v1|statefulsets", "batch/v1|jobs", "|pods"] {
            let (group, plural) = path.split_once('|').expect("two parts");
            let root = if group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{group}") };
            let all = format!("{root}/namespaces/{NAMESPACE}/{plural}");
            let Ok(list) = self.get(&all).await else { continue };
            for item in list["items"].as_array().into_iter().flatten() {
                if random.random_bool(0.5) {
                    continue;
                }
                let name = item["metadata"]["name"].as_str().unwrap_or_default();
                let patch = json!({"metadata": {"annotations": {"meddled": random.random::<u32>().to_string()}}});
                let request = hyper::Request::patch(format!("{all}/{name}"));
                let request = request.header("content-type", "application/merge-patch+json");
                let request = request.body(serde_json::to_vec(&patch).expect("JSON")).expect("a request");
                let _ = self.client.request_text(request).await;
            }
        }
    }

    /// Deletes a pod that nobody wanted deleted, at once or in order.
    async fn kill_a_pod(&self, random: &mut StdRng) {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        // Pods of Jobs are left alone, since the model counts them.
        let list = pods.list(&ListParams::default().labels("!batch.kubernetes.io/job-name")).await;
        let Some(pod) = list.ok().and_then(|list| list.items.choose(random).cloned()) else { return };
        let params =
            if random.random_bool(0.5) { DeleteParams::default() } else { DeleteParams::default().grace_period(0) };
        let _ = pods.delete(pod.metadata.name.as_deref().unwrap_or_default(), &params).await;
    }

    /// From now on everything works.
    pub async fn end_faults(&mut self) {
        self.network.fragile.store(false, Ordering::Relaxed);
        // Those that would still break by themselves.
        self.break_connections();
    }

    pub fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    /// What is at a path, as the user sees it.
    pub async fn get(&self, path: &str) -> kube::Result<Value> {
        self.client.request(hyper::Request::get(path).body(Vec::new()).expect("a request")).await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for running in self.running.lock().drain(..) {
            running.stop.cancel();
            running.task.abort();
        }
        self.break_connections();
        if let Some(server) = self.network.server.write().take() {
            tokio::spawn(async move { server.shutdown().await });
        }
    }
}

/// Runs the pods of a node: after a while they are ready, those of Jobs then succeed, and deleted ones go after another while.
async fn kubelet(node: &'static str, client: kube::Client, caches: Caches, seed: u64) {
    let cache = caches.get::<Pod>();
    let mut changes = cache.subscribe();
    let mut random = StdRng::seed_from_u64(seed ^ node.len() as u64 ^ node.as_bytes()[node.len() - 1] as u64);
    let at_work: Arc<Mutex<HashSet<Box<str>>>> = Arc::default();
    let mut pods = tokio::task::JoinSet::new();
    let mut beats = tokio::time::interval(Duration::from_secs(10));
    loop {
        let change = tokio::select! {
            change = changes.next() => change,
            _ = beats.tick() => {
                beat(&client, node).await;
                continue;
            }
            Some(_) = pods.join_next() => continue,
        };
        let Some(item) = change.new.filter(|item| &*item.node_name == node) else { continue };
        if !at_work.lock().insert(item.uid.clone()) {
            continue;
        }
        let delay = Duration::from_millis(if random.random_bool(0.1) {
            random.random_range(100..400)
        } else {
            random.random_range(0..30)
        });
        let (client, cache, at_work) = (client.clone(), cache.clone(), at_work.clone());
        pods.spawn(async move {
            let seen = || cache.get(item.namespace(), item.name()).filter(|now| now.uid == item.uid);
            while let Some(now) = seen() {
                tokio::time::sleep(delay).await;
                if step(&client, &now).await {
                    // Until the cache shows what was written, or somebody else has written.
                    for _ in 0..100 {
                        if seen().is_none_or(|seen| seen.resource_version != now.resource_version) {
                            break;
                        }
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    continue;
                }
                // What changed meanwhile was left to us.
                at_work.lock().remove(&item.uid);
                let is_same = seen().is_none_or(|seen| seen.resource_version == now.resource_version);
                if is_same || !at_work.lock().insert(item.uid.clone()) {
                    return;
                }
            }
            at_work.lock().remove(&item.uid);
        });
    }
}

/// Says that the node is alive.
async fn beat(client: &kube::Client, node: &str) {
    let nodes: Api<Node> = Api::all(client.clone());
    let now = k8s_openapi::jiff::Timestamp::now().to_string();
    let patch = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": now}]}});
    let _ = nodes.patch_status(node, &PatchParams::default(), &Patch::Strategic(patch)).await;
}

/// The next thing to do for a pod; false if there is nothing more until it changes.
async fn step(client: &kube::Client, item: &client::Item) -> bool {
    let pods: Api<Pod> = Api::namespaced(client.clone(), item.namespace());
    let is_work = item.labels.get("batch.kubernetes.io/job-name").is_some();
    if item.deleting {
        let gone = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(kube::api::Preconditions { uid: Some(item.uid.to_string()), resource_version: None }),
            ..DeleteParams::default()
        };
        let _ = pods.delete(item.name(), &gone).await;
        return true;
    }
    let next = match &*item.phase {
        "Running" if is_work => "Succeeded",
        "Running" | "Succeeded" | "Failed" => return false,
        _ => "Running",
    };
    let address = {
        let bytes = item.uid.bytes().fold(0u16, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
        format!("10.1.{}.{}", bytes >> 8, bytes & 255)
    };
    let now = k8s_openapi::jiff::Timestamp::now().to_string();
    let ready = if next == "Running" { "True" } else { "False" };
    let patch = json!({"metadata": {"uid": item.uid}, "status": {"phase": next, "podIP": address, "podIPs": [{"ip": address}],
        "startTime": now, "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": now}]}});
    let _ = pods.patch_status(item.name(), &PatchParams::default(), &Patch::Strategic(patch)).await;
    true
}
