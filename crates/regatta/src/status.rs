//! `regatta status`: whether the cluster runs, and how its nodes are.

use std::path::Path;

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams};

use crate::data::DataDir;

/// Prints a line each for the process, the API and the nodes; fails where the cluster is not ready.
pub async fn status(data_dir: &Path) -> Result<()> {
    let data = DataDir::at(data_dir)?;
    let Some(marker) = data.marker()? else {
        bail!("no cluster has been started from {}", data.path.display());
    };
    let Some(pid) = data.running()? else {
        bail!("the cluster of {} is not running; start it with `regatta up`", data.path.display());
    };
    println!("process     {pid}");
    println!("data        {}", data.path.display());
    println!("kubeconfig  {}", marker.settings.kubeconfig.display());
    println!("server      {}", marker.settings.server);
    let client = crate::admin_client(&marker.settings).await?;
    let version = client.apiserver_version().await?;
    println!("version     {}", version.git_version);
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await?;
    let pods = Api::<Pod>::all(client).list(&ListParams::default()).await?;
    let mut ready = !nodes.items.is_empty();
    for node in &nodes {
        let is_ready = is_ready(node);
        ready &= is_ready;
        let name = node.metadata.name.as_deref().unwrap_or_default();
        println!("node        {name} {}", if is_ready { "Ready" } else { "NotReady" });
    }
    let running = pods.iter().filter(|p| p.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Running")));
    println!("pods        {} running of {}", running.count(), pods.items.len());
    if !ready {
        bail!("not every node is ready; see `kubectl describe nodes`");
    }
    Ok(())
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}
