//! The kubelet put together.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use client::{Cache, Caches, Recorder};
use k8s_openapi::api::core::v1;
use parking_lot::Mutex;
use runtime::PodCgroups;
use runtime::cri::{ImageService, RuntimeService};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::admission::Ledger;
use crate::cgroups;
use crate::claims::Claims;
use crate::collect;
use crate::config::Configuration;
use crate::context::Context;
use crate::devices::{self, Devices};
use crate::dns::ClusterDns;
use crate::eviction;
use crate::images::{CredentialProviders, Pulls};
use crate::logs;
use crate::node::resources::{Machine, kept_back};
use crate::node::{self, Node, facts};
use crate::objects::Objects;
use crate::placement::{self, Placement};
use crate::plugins::{self, Registry};
use crate::pods::manager::Pods;
use crate::pods::status::Host;
use crate::resources::{self, Rules};
use crate::server::{Server, health};
use crate::shutdown;
use crate::stats::{Asked, Rates};
use crate::users::Ranges;
use crate::volumes::{Made, Republished, Tokens, Volumes, csi, local_path};

/// What a kubelet is made of.
pub struct Config {
    pub node_name: String,
    /// The node's addresses, the primary one first.
    pub node_ips: Vec<IpAddr>,
    /// Labels besides those that every node gets.
    pub labels: BTreeMap<String, String>,
    /// Taints that the node registers with.
    pub taints: Vec<v1::Taint>,
    pub client: kube::Client,
    pub caches: Caches,
    /// Pods, all of the cluster or those of this node.
    pub pods: Cache<v1::Pod>,
    pub runtime: Arc<dyn RuntimeService>,
    pub images: Arc<dyn ImageService>,
    /// Where the kubelet keeps pods' volumes and logs.
    pub data_dir: PathBuf,
    /// The folder of static pods' manifests, made if it is missing; none for none.
    pub manifests: Option<PathBuf>,
    /// The addresses of the cluster's DNS.
    pub cluster_dns: Vec<IpAddr>,
    /// `cluster.local`.
    pub cluster_domain: String,
    pub configuration: Configuration,
    pub credential_providers: CredentialProviders,
    /// The cluster's cgroups, where the kubelet is to limit all pods together.
    pub pod_cgroups: Option<PodCgroups>,
    /// The port of the HTTPS server, if the binary serves one.
    pub port: Option<u16>,
}

/// A running kubelet. Dropping the last handle ends it; its containers run on.
#[derive(Clone)]
pub struct Handle {
    ready: watch::Receiver<bool>,
    server: Server,
    changed: Arc<Notify>,
    broken: watch::Receiver<Option<String>>,
    _running: Arc<DropGuard>,
}

impl Handle {
    /// Waits until the API shows the node as Ready.
    pub async fn ready(&self) {
        let _ = self.ready.clone().wait_for(|ready| *ready).await;
    }

    /// Waits until a defect of its own ends the kubelet, and says what it was. Its containers run on.
    pub fn broken(&self) -> impl Future<Output = String> + use<> {
        let mut broken = self.broken.clone();
        async move {
            loop {
                let why = broken.borrow_and_update().clone();
                match why {
                    Some(why) => return why,
                    // Ended in good order.
                    None if broken.changed().await.is_err() => std::future::pending().await,
                    None => {}
                }
            }
        }
    }

    /// The kubelet's HTTP server, which serves any stream that it is given.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Says that something of the node changed (its network became ready, an image came), so that its status follows at once.
    pub fn node_changed(&self) {
        self.changed.notify_one();
    }
}

/// Starts a kubelet; everything of it runs in tasks of the current tokio runtime.
pub struct Kubelet;

impl Kubelet {
    /// Starts the kubelet: pods that run already are adopted, the node is registered and kept alive.
    pub async fn run(config: Config) -> std::io::Result<Handle> {
        let (pods_dir, logs_dir) = (config.data_dir.join("pods"), config.data_dir.join("logs"));
        std::fs::create_dir_all(&pods_dir)?;
        std::fs::create_dir_all(&logs_dir)?;
        let ips: Vec<_> = config.node_ips.iter().map(ToString::to_string).collect();
        let thresholds = config.configuration.thresholds().map_err(std::io::Error::other)?;
        let machine = Machine::measure(&config.data_dir);
        let max_pods = config.configuration.pods_on(machine.cpus);
        let kept = kept_back(&config.configuration, &thresholds, &machine.capacity(max_pods));
        let mut taints = config.taints;
        taints.extend(config.configuration.register_with_taints.clone());
        let pods_limit = {
            let mut whole = resources::amounts(Some(&machine.capacity(max_pods)));
            whole.extend(
                facts::processes().and_then(|(_, most)| i64::try_from(most).ok()).map(|n| ("pid".to_owned(), n)),
            );
            let reserved = [&config.configuration.system_reserved, &config.configuration.kube_reserved];
            let reserved = reserved.map(|texts| eviction::reserved(texts).unwrap_or_default());
            let enforced = config.configuration.enforce_node_allocatable.iter().any(|part| part == "pods");
            cgroups::pods_limit(&whole, &reserved, enforced)
        };
        let node = Node {
            name: config.node_name.clone(),
            ips: ips.clone(),
            labels: config.labels,
            taints,
            machine,
            max_pods,
            kept,
            port: config.port,
            client: config.client.clone(),
        };
        let allocatable = resources::amounts(Some(&node.allocatable()));
        let ledger = Ledger::new(&config.node_name, allocatable.clone(), node.all_labels());
        let runtime_name = config.runtime.version().await.map_or_else(|_| "regatta".to_owned(), |v| v.runtime_name);
        let (dns, domain) = (&config.configuration.cluster_dns, &config.configuration.cluster_domain);
        let dns = if dns.is_empty() { config.cluster_dns } else { dns.clone() };
        let cluster_dns = ClusterDns {
            servers: dns.iter().map(ToString::to_string).collect(),
            domain: domain.clone().filter(|domain| !domain.is_empty()).unwrap_or(config.cluster_domain),
        };
        let resolv_conf = config.configuration.resolv_conf.clone();
        let manifests = config.configuration.static_pod_path.clone().filter(|path| !path.as_os_str().is_empty());
        let handlers = config.runtime.status().await.map(|status| status.runtime_handlers).unwrap_or_default();
        let recursive_read_only =
            handlers.iter().any(|handler| handler.name.is_empty() && handler.recursive_read_only_mounts);
        let stopping = CancellationToken::new();
        let changed = Arc::new(Notify::new());
        let devices = Arc::new(Devices::open(devices::directory(&config.data_dir), changed.clone())?);
        let claims =
            Arc::new(Claims::open(&config.data_dir, config.client.clone(), &config.node_name, stopping.clone())?);
        let (evicting, evicted) = mpsc::unbounded_channel();
        let objects = Objects::new(config.client.clone(), &config.caches);
        let (broken_sender, broken) = watch::channel(None);
        let ids = u32::try_from(config.configuration.user_namespaces.ids_per_pod).map_err(std::io::Error::other)?;
        let users = Ranges::open(pods_dir.clone(), ids, max_pods)?;
        let context = Arc::new(Context {
            users,
            recorder: Recorder::new(config.client.clone(), "kubelet", &config.node_name),
            volumes: Volumes {
                client: config.client.clone(),
                objects: objects.clone(),
                tokens: Tokens::default(),
                root: pods_dir,
                allocatable,
                made: Made::default(),
                republished: Republished::default(),
                drivers: csi::Drivers::new(&config.node_name),
            },
            node_name: config.node_name,
            client: config.client,
            runtime: config.runtime,
            images: config.images,
            objects,
            host: Host { ips, runtime: runtime_name, recursive_read_only },
            cluster_dns,
            resolv_conf: resolv_conf.unwrap_or_else(|| PathBuf::from("/etc/resolv.conf")),
            seccomp_profiles: config.data_dir.join("seccomp"),
            logs: logs_dir,
            rules: Rules::of(&config.configuration),
            registered: watch::channel(false).0,
            pods_changed: Notify::new(),
            ledger: Mutex::new(ledger),
            devices: devices.clone(),
            claims: claims.clone(),
            placement: Placement::open(&config.configuration, &config.data_dir)?,
            room: watch::channel(()).0,
            evicting,
            evicted: Mutex::new(Some(evicted)),
            manifests: manifests.or(config.manifests),
            pulls: Pulls::new(
                config.configuration.parallel_pulls(),
                config.credential_providers,
                config.configuration.image_pull_credentials_verification_policy,
                &config.data_dir,
            ),
            configuration: Arc::new(config.configuration),
            data: config.data_dir,
            readings: Arc::default(),
            asked: Asked::default(),
            image_records: Mutex::default(),
            rates: Rates::default(),
            evictions: Mutex::default(),
            probed: Mutex::default(),
            shutting_down: AtomicBool::new(false),
            stopping: stopping.clone(),
            broken: broken_sender,
        });
        let (ready_sender, ready) = watch::channel(false);
        context.spawn(devices.serve());
        context.spawn(placement::keep(context.clone()));
        context.spawn(node::renew(context.clone()));
        context.spawn(node::oom::watch(context.clone()));
        context.spawn(node.run(context.clone(), ready_sender, changed.clone()));
        let (root, persistent) = (context.volumes.root.clone(), config.caches.get());
        let (drivers, pods) = (context.volumes.drivers.clone(), root.clone());
        context.spawn(claims.clone().withdraw_all());
        let registry = Registry {
            client: context.client.clone(),
            drivers: drivers.clone(),
            claims,
            directory: plugins::directory(&pods),
        };
        context.spawn(registry.serve());
        context.spawn(csi::serve_expansion(csi::Expansion {
            client: context.client.clone(),
            drivers,
            pods,
            recorder: context.recorder.clone(),
            claims: config.caches.get(),
            volumes: config.caches.get(),
        }));
        context.spawn(local_path::serve(context.client.clone(), context.node_name.clone(), root, persistent));
        context.spawn(logs::rotate(context.clone()));
        context.spawn(collect::images(context.clone()));
        let (pods, source) = tokio::sync::oneshot::channel();
        let serving = context.clone();
        context.spawn(Pods::run(serving, config.pods, |started| {
            let _ = pods.send(started);
        }));
        let pods = source.await.map_err(std::io::Error::other)?;
        if let Some(groups) = config.pod_cgroups {
            context.spawn(cgroups::keep(context.clone(), pods.clone(), groups, pods_limit));
        }
        context.spawn(shutdown::watch(context.clone(), pods.clone(), changed.clone()));
        let manager = eviction::Manager::new(context.clone(), pods.clone(), thresholds, changed.clone());
        context.spawn(manager.run());
        if let Some(port) = context.configuration.healthz_port.filter(|port| *port > 0) {
            let address = (context.configuration.healthz_bind_address, port).into();
            context.spawn(health::serve(health::listen(address).await?));
        }
        let server = Server::new(context, pods);
        Ok(Handle { ready, server, changed, broken, _running: Arc::new(stopping.drop_guard()) })
    }
}
