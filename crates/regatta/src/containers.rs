//! Whose hands the pods' containers are in: the built-in runtime's, or another's behind its CRI socket.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::cni::{self, Directories};
use crate::cni_network::CniNetwork;
use crate::data::{DataDir, Settings};
use crate::network::PodNetwork;
use crate::parts::Parts;
use anyhow::{Context, Result};
use runtime::cri::{CriError, ImageService, PodSandboxFilter, RuntimeService};
use runtime::images::{Images, Registries};
use runtime::sandbox::{Network, NoNetwork};
use runtime::{PodCgroups, Runtime};

/// The label by which pods of this cluster are told from others of the same remote runtime.
const OWNER: &str = "regatta.dev/cluster";

/// How often the sandboxes of another runtime are compared with the addresses that they have.
const LOOK: Duration = Duration::from_secs(20);

pub struct Containers {
    pub runtime: Arc<dyn RuntimeService>,
    pub images: Arc<dyn ImageService>,
}

/// The built-in runtime of a data directory.
pub async fn built_in(
    data: &DataDir,
    registries: Registries,
    network: Arc<dyn Network>,
) -> Result<(Arc<Runtime>, Arc<Images>)> {
    let images = Images::open(data.join("images"), registries)?;
    let runtime = Runtime::open(config(data, images.clone(), network)).await?;
    Ok((Arc::new(runtime), images))
}

fn config(data: &DataDir, images: Arc<Images>, network: Arc<dyn Network>) -> runtime::Config {
    runtime::Config::new(&data.join("runtime"), &data.run().join("runtime"), &data.id, images, network)
}

async fn remote(data: &DataDir, endpoint: &str) -> Result<cri::Remote> {
    let groups = PodCgroups::new(&format!("regatta-{}", data.id)).map_err(CriError::from)?;
    Ok(cri::Remote::connect(endpoint).await?.owned_by(OWNER, &data.id, groups))
}

fn directories(settings: &Settings) -> Directories {
    Directories { bin: settings.cni_bin_dir.clone(), conf: settings.cni_conf_dir.clone() }
}

/// The network that configured plugins make.
fn plugins(data: &DataDir, settings: &Settings) -> Result<Arc<dyn Network>> {
    let attached = data.join("cni");
    let network = CniNetwork::open(directories(settings), attached).context("cannot keep track of attached pods")?;
    Ok(Arc::new(network))
}

fn socket(data: &DataDir) -> PathBuf {
    data.run().join("cni.sock")
}

/// Opens the runtime that the settings name. Another's asks for pods' networks by plugins, which are answered from here.
pub async fn open(
    data: &DataDir,
    settings: &Settings,
    registries: Registries,
    network: Arc<PodNetwork>,
    parts: &Parts,
) -> Result<Containers> {
    let endpoint = &settings.container_runtime_endpoint;
    if endpoint.is_empty() {
        let built_in_network = network.clone();
        let attach = if settings.cni { plugins(data, settings)? } else { network };
        let (runtime, images) = built_in(data, registries, attach).await?;
        give_back(&*runtime, &built_in_network.0).await?;
        return Ok(Containers { runtime, images });
    }
    std::fs::create_dir_all(data.run())?;
    let socket = socket(data);
    directories(settings).install(&data.id, &socket)?;
    // Of all its sandboxes: it attaches those of others to this network too.
    let (everything, attached) = (Arc::new(cri::Remote::connect(endpoint).await?), network.clone());
    parts.keep("addresses", move || give_back_in_time(everything.clone(), attached.clone()));
    parts.keep("plugin server", move || {
        let (socket, network) = (socket.clone(), network.clone());
        async move {
            if let Err(error) = cni::serve(socket, network).await {
                tracing::error!(error = format!("{error:#}"), "plugins of the pod network are not answered");
            }
        }
    });
    let remote = Arc::new(remote(data, endpoint).await?);
    Ok(Containers { runtime: remote.clone(), images: remote })
}

/// Gives back the addresses of sandboxes that are gone, and removes their interfaces. Nothing is being attached yet.
async fn give_back(runtime: &dyn RuntimeService, network: &net::PodNetwork) -> Result<()> {
    network.gc(sandboxes(runtime).await?).await.context("cannot give back the addresses of pods that are gone")
}

async fn sandboxes(runtime: &dyn RuntimeService) -> Result<HashSet<String>> {
    let there = runtime.list_pod_sandbox(&PodSandboxFilter::default()).await?;
    Ok(there.into_iter().map(|sandbox| sandbox.id).collect())
}

/// Gives back, for ever, the addresses of another runtime's sandboxes that went without a word: those that it does not list twice,
/// since it lists one only after it has attached it.
async fn give_back_in_time(runtime: Arc<cri::Remote>, network: Arc<PodNetwork>) {
    let network = &network.0;
    let mut missed = HashSet::new();
    loop {
        let looked = async {
            let there = sandboxes(&*runtime).await?;
            let missing: HashSet<String> = network.attached().into_iter().filter(|id| !there.contains(id)).collect();
            for sandbox in missing.intersection(&missed) {
                network.detach(sandbox).await?;
            }
            anyhow::Ok(missing)
        };
        match looked.await {
            Ok(missing) => missed = missing,
            Err(error) => tracing::debug!(error = format!("{error:#}"), "the sandboxes' addresses cannot be compared"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Ends every container, in good order where the records can be read.
pub async fn purge(data: &DataDir, settings: &Settings) -> Result<()> {
    if !settings.container_runtime_endpoint.is_empty() {
        // Addresses and interfaces go all at once, afterwards.
        let _ = std::fs::remove_file(socket(data));
        let runtime = remote(data, &settings.container_runtime_endpoint).await?;
        for sandbox in runtime.list_pod_sandbox(&PodSandboxFilter::default()).await? {
            // What the kubelet was removing may be gone by now.
            let gone = |error: CriError| if error.is_not_found() { Ok(()) } else { Err(error) };
            runtime.stop_pod_sandbox(&sandbox.id).await.or_else(gone).context("cannot stop a pod")?;
            runtime.remove_pod_sandbox(&sandbox.id).await.or_else(gone).context("cannot remove a pod")?;
        }
        directories(settings).remove(&data.id);
    }
    let images = Images::open(data.join("images"), Registries::default())?;
    // What the built-in network has goes all at once, afterwards; plugins are asked for each pod.
    let network = if settings.cni { plugins(data, settings)? } else { Arc::new(NoNetwork) };
    let config = config(data, images, network);
    match Runtime::open(config.clone()).await {
        Ok(runtime) => runtime.purge().await?,
        Err(error) => {
            tracing::warn!(%error, "the containers' records cannot be used; removing by force");
            runtime::sweep(&config)?;
        }
    }
    Ok(())
}
