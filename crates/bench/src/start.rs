//! First start and restart, to an API server that is ready and to a Ready node.

use anyhow::Result;

use crate::cluster::{Cluster, Started};
use crate::report::Report;

const FIRST_STARTS: usize = 3;
const RESTARTS: usize = 5;

/// Starts a new cluster several times, and leaves the last one running.
pub async fn measure(cluster: &mut Cluster, first: Started, report: &mut Report) -> Result<()> {
    let mut starts = vec![first];
    while starts.len() < FIRST_STARTS {
        cluster.purge()?;
        starts.push(cluster.up().await?);
    }
    tell("first start", &starts, report);
    let mut starts = Vec::new();
    for _ in 0..RESTARTS {
        cluster.down()?;
        starts.push(cluster.up().await?);
    }
    tell("restart", &starts, report);
    Ok(())
}

fn tell(what: &str, starts: &[Started], report: &mut Report) {
    report.times(&format!("{what} to a ready API server"), &mut starts.iter().map(|s| s.server).collect::<Vec<_>>());
    report.times(&format!("{what} to a Ready node"), &mut starts.iter().map(|s| s.node).collect::<Vec<_>>());
}
