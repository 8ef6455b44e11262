//! `regatta up`: the parts of a cluster, put together in one process.
//!
//! Every part reaches the API through the in-memory form of the dialer, with an identity of its own; none knows of another.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use apiserver::ApiServer;
use client::{Acceptor, Caches, Endpoint, Identity};
use futures::FutureExt;
use ipnet::IpNet;
use kubelet::Kubelet;
use runtime::images::Registries;
use store::{OpenError, Store};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cli::Up;
use crate::data::DataDir;
use crate::network::PodNetwork;
use crate::pki::Pki;
use crate::settings::{Plan, settle};
use crate::{containers, kubeconfig, preflight};

/// The version of Kubernetes whose API is served.
pub const KUBERNETES_VERSION: &str = "v1.36.0";

const CLUSTER_DOMAIN: &str = "cluster.local";
const KUBELET_PORT: u16 = 10_250;
const NODE_PORTS: (u16, u16) = (30_000, 32_767);
/// How long the parts may take to end.
const STOP: Duration = Duration::from_secs(5);
/// What a stream to the kubelet holds before its writer waits.
const PIPE: usize = 64 * 1024;

/// Starts the cluster and runs it until it is told to stop.
pub async fn up(options: Up) -> Result<()> {
    let begin = Instant::now();
    let mut signals = Signals::listen()?;
    preflight::check()?;
    let data = DataDir::at(&options.data_dir)?;
    let (hold, previous) = data.take()?;
    let plan = settle(&options, &data, previous.as_ref())?;
    let node = NodeOptions::load(&options, &data)?;
    let registries = match &plan.settings.registries {
        Some(file) => Registries::load(file)?,
        None => Registries::default(),
    };
    let listener = listen(plan.bind).await?;
    data.write_marker(&plan.settings)?;
    let pki = keys(&data, &plan)?;
    kubeconfig::write_admin(&plan.settings.kubeconfig, &plan.settings.server, &pki)?;

    let shutdown = CancellationToken::new();
    let parts = tokio::select! {
        parts = compose(&data, &plan, &pki, registries, node, listener, shutdown.clone()) => parts?,
        () = signals.stop() => return Ok(()),
    };
    tokio::select! {
        () = parts.kubelet.ready() => {}
        () = signals.stop() => return parts.stop(shutdown).await,
    }
    println!(
        "{} after {:.2} s; export KUBECONFIG={}",
        crate::detach::READY,
        begin.elapsed().as_secs_f64(),
        plan.settings.kubeconfig.display()
    );
    signals.stop().await;
    let result = parts.stop(shutdown).await;
    drop(hold);
    result
}

/// What the kubelet is told by files of its own.
struct NodeOptions {
    configuration: kubelet::Configuration,
    credential_providers: kubelet::CredentialProviders,
    manifests: PathBuf,
}

impl NodeOptions {
    fn load(options: &Up, data: &DataDir) -> Result<NodeOptions> {
        let configuration =
            kubelet::Configuration::load(options.kubelet_config.as_deref(), options.kubelet_config_dir.as_deref())
                .context("the kubelet's configuration cannot be used")?;
        let credential_providers =
            match (&options.image_credential_provider_config, &options.image_credential_provider_bin_dir) {
                (Some(file), Some(programs)) => kubelet::CredentialProviders::load(file, programs)
                    .context("the credential providers cannot be used")?,
                _ => kubelet::CredentialProviders::default(),
            };
        let manifests = options.pod_manifest_path.clone().unwrap_or_else(|| data.join("manifests"));
        Ok(NodeOptions { configuration, credential_providers, manifests })
    }
}

/// The parts while they run.
struct Parts {
    server: ApiServer,
    kubelet: kubelet::Handle,
    tasks: TaskTracker,
}

impl Parts {
    /// Ends everything but the containers.
    async fn stop(self, shutdown: CancellationToken) -> Result<()> {
        shutdown.cancel();
        self.tasks.close();
        if tokio::time::timeout(STOP, self.tasks.wait()).await.is_err() {
            tracing::warn!(parts = self.tasks.len(), "some parts did not stop in time");
        }
        self.server.shutdown().await;
        Ok(())
    }
}

async fn compose(
    data: &DataDir,
    plan: &Plan,
    pki: &Pki,
    registries: Registries,
    own: NodeOptions,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<Parts> {
    let tasks = TaskTracker::new();
    let store = open_store(&data.join("store")).await?;
    let door: Arc<OnceLock<Acceptor>> = Arc::default();
    let server = ApiServer::new(apiserver::Config {
        store,
        pki: apiserver::Pki {
            client_ca: pki.authority.certificate.clone(),
            serving_certificate: pki.serving.certificate.clone(),
            serving_key: pki.serving.key.clone(),
            service_account_key: pki.service_account_key.clone(),
        },
        service_cidr: plan.service_cidr,
        node_ports: NODE_PORTS,
        advertise: SocketAddr::new(plan.node_address, plan.bind.port()),
        kubelet: Some(kubelet_dialer(plan.settings.node_name.clone(), door.clone())),
    })
    .await?;
    let serving = server.clone();
    // Ends with the server, after the parts that need it.
    tokio::spawn(async move { serving.serve_https(listener).await });
    let endpoint = Endpoint::Memory(server.acceptor());
    let client_for = {
        let endpoint = endpoint.clone();
        move |name: &str| client::connect(&endpoint, Identity::part(name))
    };
    let caches = Caches::new(client::connect(&endpoint, Identity::component("system:kube-controller-manager")));
    let dns = net::pod::dns_address(plan.service_cidr);
    let network = crate::network::open(data, plan, dns).await?;

    let attach = Arc::new(PodNetwork(network.clone()));
    let containers = containers::open(data, &plan.settings, registries, attach, &tasks, &shutdown).await?;

    let context = controllers::Context {
        client_for: Arc::new(client_for),
        caches: caches.clone(),
        root_ca: pki.authority.certificate.clone(),
        authority: Some(controllers::Authority {
            certificate: pki.authority.certificate.clone(),
            key: pki.authority.key.clone(),
        }),
    };
    let prefix = plan.pod_cidr.prefix_len();
    tasks.spawn(controllers::run_pod_ranges(context.clone(), plan.cluster_cidr, prefix, shutdown.clone()));
    tasks.spawn(controllers::run(context, shutdown.clone()));
    tasks.spawn(scheduler::run(
        client::connect(&endpoint, Identity::component("system:kube-scheduler")),
        caches.clone(),
        plan.scheduler.clone(),
        shutdown.clone(),
    ));

    let ranges = vec![plan.service_cidr, plan.cluster_cidr];
    names(&tasks, &endpoint, &caches, dns, ranges, &shutdown).await?;
    let node = net::proxy::Node {
        name: plan.settings.node_name.clone(),
        zone: None,
        pods: vec![plan.pod_cidr],
        cluster: vec![plan.cluster_cidr],
        served: vec![dns],
    };
    tasks.spawn(until(shutdown.clone(), net::proxy::run(caches.clone(), network.nft(), node)));

    let kubelet_listener = listen_for_kubelet(&own.configuration, plan).await?;
    let kubelet = Kubelet::run(kubelet::Config {
        node_name: plan.settings.node_name.clone(),
        node_ips: vec![plan.node_address],
        labels: BTreeMap::new(),
        taints: Vec::new(),
        client: client::connect(&endpoint, Identity::node(&plan.settings.node_name)),
        pods: caches.get(),
        caches,
        runtime: containers.runtime,
        images: containers.images,
        data_dir: data.join("kubelet"),
        cluster_dns: vec![dns],
        cluster_domain: CLUSTER_DOMAIN.to_owned(),
        configuration: own.configuration,
        credential_providers: own.credential_providers,
        manifests: Some(own.manifests),
        port: Some(kubelet_listener.local_addr()?.port()),
    })
    .await?;
    let keys = kubelet::Keys {
        certificate: pki.kubelet.certificate.clone(),
        key: pki.kubelet.key.clone(),
        client_authority: pki.authority.certificate.clone(),
    };
    tasks.spawn(kubelet.server().serve_https(kubelet_listener, &keys, shutdown.clone())?);
    let serving = kubelet.server().clone();
    // Only the API server of this process has the door, so who comes through it is known.
    let acceptor: Acceptor = Arc::new(move |stream, _| serving.accept(stream));
    if door.set(acceptor).is_err() {
        unreachable!("the door is opened once");
    }
    Ok(Parts { server, kubelet, tasks })
}

/// Serves the cluster's names and makes the Service by which they are found.
async fn names(
    tasks: &TaskTracker,
    endpoint: &Endpoint,
    caches: &Caches,
    address: IpAddr,
    ranges: Vec<IpNet>,
    shutdown: &CancellationToken,
) -> Result<()> {
    let client = client::connect(endpoint, Identity::admin("system:regatta"));
    net::dns::ensure_service(client, address).await.context("cannot make the Service of the cluster's DNS")?;
    let config = net::dns::Config {
        zone: net::dns::Zone { domain: CLUSTER_DOMAIN.to_owned(), addresses: vec![address], ranges },
        resolv_conf: "/etc/resolv.conf".into(),
    };
    let dns = net::dns::Dns::bind(config).await?;
    tasks.spawn(until(shutdown.clone(), dns.run(caches.clone())));
    Ok(())
}

/// Runs the work until the token is cancelled.
async fn until(shutdown: CancellationToken, work: impl Future<Output = ()>) {
    // Either way it has ended.
    let _ = shutdown.run_until_cancelled(work).await;
}

/// Reaches the kubelet of this process, and no other.
fn kubelet_dialer(node: String, door: Arc<OnceLock<Acceptor>>) -> apiserver::KubeletDialer {
    Arc::new(move |wanted: String| {
        let result = match door.get() {
            Some(acceptor) if wanted == node => {
                let (near, far) = tokio::io::duplex(PIPE);
                acceptor(far, Identity::component("system:apiserver"));
                Ok(Box::new(near) as Box<dyn apiserver::Stream>)
            }
            Some(_) => Err(std::io::Error::other(format!("no route to node {wanted:?}"))),
            None => Err(std::io::Error::other("the kubelet has not started yet")),
        };
        std::future::ready(result).boxed()
    })
}

async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            anyhow::anyhow!("port {} is in use by another program; choose another with --https-port", address.port())
        }
        std::io::ErrorKind::AddrNotAvailable => {
            anyhow::anyhow!("this machine has no address {}; choose another with --bind-address", address.ip())
        }
        _ => anyhow::Error::new(error).context(format!("cannot listen on {address}")),
    })
}

/// The kubelet's port: the one that is configured, else the usual one, or any where another cluster of this machine has that.
async fn listen_for_kubelet(configuration: &kubelet::Configuration, plan: &Plan) -> Result<TcpListener> {
    let address = |port| SocketAddr::new(configuration.address.unwrap_or(plan.bind.ip()), port);
    let wanted = address(configuration.port.unwrap_or(KUBELET_PORT));
    match TcpListener::bind(wanted).await {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && configuration.port.is_none() => {
            TcpListener::bind(address(0)).await.context("cannot listen for the kubelet")
        }
        bound => bound.with_context(|| format!("cannot listen on the kubelet's address {wanted}")),
    }
}

/// The keys, with serving certificates for every name and address by which this machine is known.
fn keys(data: &DataDir, plan: &Plan) -> Result<Pki> {
    let service = plan.service_cidr.hosts().next().context("--service-cidr is empty")?;
    let mut addresses =
        vec![std::net::Ipv4Addr::LOCALHOST.into(), std::net::Ipv6Addr::LOCALHOST.into(), plan.node_address, service];
    addresses.extend(crate::address::reachable(&plan.interface_prefix)?);
    addresses.sort();
    addresses.dedup();
    let names = std::slice::from_ref(&plan.settings.node_name);
    Pki::ensure(&data.join("pki"), names, &addresses)
}

/// What tells the server to stop.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> Result<Signals> {
        Ok(Signals { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Opens the store. The directory is held, so who still has it open is a process that is ending.
async fn open_store(path: &Path) -> Result<Store> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let asked = Instant::now();
    loop {
        match Store::open(path, store::Options::default()) {
            Err(OpenError::Locked { .. }) if asked.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            opened => return Ok(opened?),
        }
    }
}
