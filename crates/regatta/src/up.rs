//! `regatta up`: the parts of a cluster, put together in one process.
//!
//! Every part reaches the API through the in-memory form of the dialer, with an identity of its own; none knows of another.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use apiserver::ApiServer;
use client::{Acceptor, Caches, Endpoint, Identity};
use futures::FutureExt;
use k8s_openapi::api::core::v1::Node;
use kubelet::Kubelet;
use runtime::images::Registries;
use store::{OpenError, Store};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

use crate::cli::Up;
use crate::data::DataDir;
use crate::kubeconfig::Kubeconfig;
use crate::network::PodNetwork;
use crate::parts::Parts;
use crate::pki::Pki;
use crate::renewal::KubeletPort;
use crate::settings::{Plan, settle};
use crate::{containers, detach, network, preflight, renewal};

const CLUSTER_DOMAIN: &str = "cluster.local";
const KUBELET_PORT: u16 = 10_250;
const NODE_PORTS: (u16, u16) = (30_000, 32_767);
/// How long the parts may take to end.
const STOP: Duration = Duration::from_secs(5);
/// What a stream to the kubelet holds before its writer waits.
const PIPE: usize = 64 * 1024;
/// After so long it is said why the node is not Ready.
const SLOW: Duration = Duration::from_secs(10);
/// After so long a start in the background is no longer waited for.
const TOO_SLOW: Duration = Duration::from_secs(60);
/// How often the store is asked whether it can still write.
const STORE_CHECK: Duration = Duration::from_secs(5);

/// Starts the cluster and runs it until it is told to stop.
pub async fn up(options: Up) -> Result<()> {
    let begin = Instant::now();
    let mut signals = Signals::listen()?;
    preflight::check()?;
    let data = DataDir::at(&options.data_dir)?;
    let (hold, previous) = data.take()?;
    preflight::check_directory(&data)?;
    let mut plan = settle(&options, &data, previous.as_ref())?;
    let node = NodeOptions::load(&options, &data)?;
    let registries = match &plan.settings.registries {
        Some(file) => Registries::load(file)?,
        None => Registries::default(),
    };
    let kubeconfig = Kubeconfig::open(&plan.settings.kubeconfig, &data)?;
    network::check_ranges(&data, &plan, previous.is_none())?;
    let listener = listen(plan.bind).await?;
    remember_kubeconfig(&mut plan);
    data.write_marker(&plan.settings)?;
    data.make_private()?;
    let pki = renewal::keys(&data, &plan)?;
    plan.settings.context = kubeconfig.write_admin(&data, &plan.settings.server, &pki)?;
    data.write_marker(&plan.settings)?;

    let plan = Arc::new(plan);
    let shutdown = CancellationToken::new();
    let (parts, mut failures) = Parts::new(shutdown.clone());
    let cluster = tokio::select! {
        cluster = compose(&data, &plan, pki, registries, node, listener, parts) => cluster?,
        () = signals.stop() => return Ok(()),
    };
    network::warn_of_firewalls(&data, &plan);
    let ended = tokio::select! {
        ended = run(&cluster, &plan, begin, options.detached, &mut failures) => ended,
        () = signals.stop() => Ok(()),
    };
    let stopped = cluster.stop(shutdown).await;
    drop(hold);
    ended.and(stopped)
}

/// Every kubeconfig that is ever written is known before it is.
fn remember_kubeconfig(plan: &mut Plan) {
    let settings = &mut plan.settings;
    if !settings.kubeconfigs.contains(&settings.kubeconfig) {
        settings.kubeconfigs.push(settings.kubeconfig.clone());
    }
}

/// Says when the cluster is ready, or why it is not; ends only where it cannot go on.
async fn run(
    cluster: &Cluster,
    plan: &Plan,
    begin: Instant,
    detached: bool,
    failures: &mut UnboundedReceiver<String>,
) -> Result<()> {
    let ready = async {
        let late = async {
            tokio::time::sleep(SLOW).await;
            let why = cluster.why_not_ready().await;
            tracing::warn!(
                "the node is not Ready after {} s, and the cluster goes on without it: {why}",
                SLOW.as_secs()
            );
            tokio::time::sleep(TOO_SLOW - SLOW).await;
            if detached {
                // Who waits for the start stops waiting.
                say(&format!("{}: {}", detach::LATE, cluster.why_not_ready().await));
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = cluster.kubelet.ready() => {}
            () = late => {}
        }
        say(&format!(
            "{} after {:.2} s; export KUBECONFIG={}",
            detach::READY,
            begin.elapsed().as_secs_f64(),
            plan.settings.kubeconfig.display()
        ));
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = ready => unreachable!("it never ends"),
        why = failures.recv() => {
            bail!("{}; containers keep running, start it again", why.unwrap_or_else(|| "every part has ended".to_owned()))
        }
    }
}

/// Says a line to whoever has started the process, who may have stopped listening: that ends nothing.
fn say(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{line}");
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

/// The cluster while it runs.
struct Cluster {
    server: ApiServer,
    kubelet: kubelet::Handle,
    parts: Parts,
    node_name: String,
    admin: kube::Client,
}

impl Cluster {
    /// Ends everything but the containers.
    async fn stop(self, shutdown: CancellationToken) -> Result<()> {
        shutdown.cancel();
        // Before the API, whose answers it would miss.
        drop(self.kubelet);
        let tasks = self.parts.tasks();
        tasks.close();
        if tokio::time::timeout(STOP, tasks.wait()).await.is_err() {
            tracing::warn!(parts = tasks.len(), "some parts did not stop in time");
        }
        self.server.shutdown().await;
        Ok(())
    }

    /// What the API says about the node.
    async fn why_not_ready(&self) -> String {
        match kube::Api::<Node>::all(self.admin.clone()).get_opt(&self.node_name).await {
            Ok(Some(node)) => about(&node),
            Ok(None) => format!("the node {:?} has not been registered; the log says why", self.node_name),
            Err(error) => format!("the API does not tell: {error}"),
        }
    }
}

/// What a node says about not being Ready.
fn about(node: &Node) -> String {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    match conditions.iter().find(|condition| condition.type_ == "Ready") {
        Some(ready) if ready.status == "True" => "the node is Ready by now".to_owned(),
        Some(ready) => {
            let text = |field: &Option<String>| field.clone().unwrap_or_default();
            format!("{}: {}", text(&ready.reason), text(&ready.message))
        }
        None => "the node has not told its condition yet".to_owned(),
    }
}

async fn compose(
    data: &DataDir,
    plan: &Arc<Plan>,
    pki: Pki,
    registries: Registries,
    own: NodeOptions,
    listener: TcpListener,
    parts: Parts,
) -> Result<Cluster> {
    let shutdown = parts.shutdown().clone();
    let store = open_store(&data.join("store")).await?;
    parts.tasks().spawn(watch_store(store.clone(), parts.clone()));
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
    parts.need("the API server's port", async move { serving.serve_https(listener).await });
    let endpoint = Endpoint::Memory(server.acceptor());
    let client_for = {
        let endpoint = endpoint.clone();
        move |name: &str| client::connect(&endpoint, Identity::part(name))
    };
    let caches = Caches::new(client::connect(&endpoint, Identity::component("system:kube-controller-manager")));
    let dns = net::pod::dns_address(plan.service_cidr);
    let network = network::open(data, plan, dns).await?;

    let attach = Arc::new(PodNetwork(network.network.clone()));
    let containers = containers::open(data, &plan.settings, registries, attach, &parts).await?;

    let context = controllers::Context {
        client_for: Arc::new(client_for),
        caches: caches.clone(),
        root_ca: pki.authority.certificate.clone(),
        authority: Some(controllers::Authority {
            certificate: pki.authority.certificate.clone(),
            key: pki.authority.key.clone(),
        }),
    };
    {
        let (context, plan, shutdown) = (context.clone(), plan.clone(), shutdown.clone());
        parts.keep("pod ranges", move || {
            let prefix = plan.pod_cidr.prefix_len();
            controllers::run_pod_ranges(context.clone(), plan.cluster_cidr, prefix, shutdown.clone())
        });
    }
    let stopping = shutdown.clone();
    parts.keep("controllers", move || controllers::run(context.clone(), stopping.clone()));
    {
        let (endpoint, caches, plan, shutdown) = (endpoint.clone(), caches.clone(), plan.clone(), shutdown.clone());
        parts.keep("scheduler", move || {
            let client = client::connect(&endpoint, Identity::component("system:kube-scheduler"));
            scheduler::run(client, caches.clone(), plan.scheduler.clone(), shutdown.clone())
        });
    }

    names(&parts, &endpoint, &caches, plan, &network).await?;
    let node = net::proxy::Node {
        name: plan.settings.node_name.clone(),
        zone: None,
        pods: vec![plan.pod_cidr],
        cluster: vec![plan.cluster_cidr],
        served: vec![dns],
    };
    let (followed, nft) = (caches.clone(), network.network.nft());
    parts.keep("proxy", move || net::proxy::run(followed.clone(), nft.clone(), node.clone()));

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
        // A machine without control groups runs pods all the same.
        pod_cgroups: runtime::PodCgroups::new(&format!("regatta-{}", data.id)).ok(),
        manifests: Some(own.manifests),
        port: Some(kubelet_listener.local_addr()?.port()),
    })
    .await?;
    let port = KubeletPort::open(kubelet.server().clone(), kubelet_listener, &pki, &parts)?;
    parts.tasks().spawn(shutdown.run_until_cancelled_owned(renewal::run(
        data.clone(),
        plan.clone(),
        pki,
        server.clone(),
        port,
    )));
    let (broken, failing) = (kubelet.broken(), parts.clone());
    let watched = async move { failing.fail(format!("the kubelet has failed: {}", broken.await)) };
    parts.tasks().spawn(parts.shutdown().clone().run_until_cancelled_owned(watched));
    let serving = kubelet.server().clone();
    // Only the API server of this process has the door, so who comes through it is known.
    let acceptor: Acceptor = Arc::new(move |stream, _| serving.accept(stream));
    if door.set(acceptor).is_err() {
        unreachable!("the door is opened once");
    }
    let admin = client::connect(&endpoint, Identity::admin("system:regatta"));
    Ok(Cluster { server, kubelet, parts, node_name: plan.settings.node_name.clone(), admin })
}

/// Ends the process when the store can write no more: only opening it again helps.
async fn watch_store(store: Store, parts: Parts) {
    while parts.shutdown().run_until_cancelled(tokio::time::sleep(STORE_CHECK)).await.is_some() {
        if !store.is_writable() {
            parts.fail("the store can write no more".to_owned());
            return;
        }
    }
}

/// Serves the cluster's names and makes the Service by which they are found.
async fn names(
    parts: &Parts,
    endpoint: &Endpoint,
    caches: &Caches,
    plan: &Plan,
    network: &network::Opened,
) -> Result<()> {
    let client = client::connect(endpoint, Identity::admin("system:regatta"));
    net::dns::ensure_service(client, network.dns).await.context("cannot make the Service of the cluster's DNS")?;
    let ranges = vec![plan.service_cidr, plan.cluster_cidr];
    let config = net::dns::Config {
        zone: net::dns::Zone { domain: CLUSTER_DOMAIN.to_owned(), addresses: vec![network.dns], ranges },
        port: network.dns_port,
        resolv_conf: "/etc/resolv.conf".into(),
    };
    let mut first = Some(net::dns::Dns::bind(config.clone()).await?);
    let caches = caches.clone();
    parts.keep("DNS", move || {
        let (bound, config, caches) = (first.take(), config.clone(), caches.clone());
        async move {
            let bound = match bound {
                Some(bound) => Ok(bound),
                None => net::dns::Dns::bind(config).await,
            };
            match bound {
                Ok(dns) => dns.run(caches).await,
                Err(error) => tracing::error!(%error, "the cluster's names are not served"),
            }
        }
    });
    Ok(())
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
