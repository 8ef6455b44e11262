//! First start and restart, to a Ready node.

use std::time::Duration;

use anyhow::Result;

use crate::cluster::Cluster;
use crate::report::Report;

const RESTARTS: usize = 5;

pub async fn measure(cluster: &mut Cluster, first: Duration, report: &mut Report) -> Result<()> {
    report.time("first start to a Ready node", first);
    let mut restarts = Vec::new();
    for _ in 0..RESTARTS {
        cluster.down()?;
        restarts.push(cluster.up().await?);
    }
    report.times("restart to a Ready node", &mut restarts);
    Ok(())
}
