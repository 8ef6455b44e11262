//! `regatta cri`: the built-in runtime alone, served over its CRI socket to `crictl` and other kubelets.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use ipnet::IpNet;
use runtime::images::Registries;
use tokio::signal::unix::{SignalKind, signal};

use crate::data::{DataDir, Settings};
use crate::network::PodNetwork;
use crate::{containers, preflight};

#[derive(Args)]
pub struct Cri {
    /// Directory that keeps images and containers; a cluster's of `regatta up` is not to be shared
    #[arg(long, default_value = "/var/lib/regatta-cri")]
    data_dir: PathBuf,
    /// Socket to serve on
    #[arg(long, default_value = "/run/regatta/cri.sock")]
    listen: String,
    /// Range of the pods' addresses
    #[arg(long, default_value = "10.44.0.0/24")]
    pod_cidr: IpNet,
    /// Registries' mirrors, credentials and TLS settings, in the form of k3s's registries.yaml
    #[arg(long)]
    registries: Option<PathBuf>,
}

/// Serves until it is told to stop; the containers run on.
pub async fn run(options: Cri) -> Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    preflight::check()?;
    let data = DataDir::at(&options.data_dir)?;
    let (hold, _) = data.take()?;
    data.write_marker(&Settings::default())?;
    data.make_private()?;
    let socket = PathBuf::from(options.listen.strip_prefix("unix://").unwrap_or(&options.listen));
    if let Some(parent) = socket.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    let registries = options.registries.as_deref().map(Registries::load).transpose()?.unwrap_or_default();
    let config = net::Config {
        id: data.id.clone(),
        directory: data.join("net"),
        run: data.run(),
        ranges: net::Ranges { pods: vec![options.pod_cidr], cluster: vec![options.pod_cidr], services: Vec::new() },
        plugins: false,
        served: net::Served { addresses: Vec::new(), port: net::pod::base::DNS },
        mtu: crate::network::MTU,
    };
    let network = tokio::task::spawn_blocking(move || net::PodNetwork::open(config)).await?;
    let network = Arc::new(PodNetwork(network.context("cannot set up the pod network")?));
    let (runtime, images) = containers::built_in(&data, registries, network).await?;
    println!("the runtime is served at unix://{}", socket.display());
    let served = cri::serve(&socket, runtime, images);
    tokio::select! {
        error = served => error.map(|never| match never {}).with_context(|| format!("cannot serve {}", socket.display()))?,
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    let _ = std::fs::remove_file(&socket);
    drop(hold);
    Ok(())
}
