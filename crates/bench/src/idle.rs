//! What a cluster uses that has nothing to do.

use std::time::Duration;

use anyhow::Result;

use crate::cluster::Cluster;
use crate::report::Report;

/// After a start, before it counts as idle: what a start leaves to be written is written by then.
const SETTLE: Duration = Duration::from_secs(20);
const WINDOW: Duration = Duration::from_secs(30);

pub async fn measure(cluster: &Cluster, report: &mut Report) -> Result<()> {
    tokio::time::sleep(SETTLE).await;
    let processes = cluster.processes()?;
    let before = processes.usage()?;
    tokio::time::sleep(WINDOW).await;
    let used = processes.usage()?.since(before);
    let (server, shims, count) = processes.memory()?;
    report.value("idle memory, PSS of all processes", (server + shims) as f64 / f64::from(1 << 20), "MiB");
    if count > 0 {
        report.value("  of it a shim", shims as f64 / count as f64 / f64::from(1 << 20), "MiB");
    }
    let seconds = WINDOW.as_secs_f64();
    report.value("idle CPU", 100.0 * used.cpu.as_secs_f64() / seconds, "% of a core");
    report.value("idle writes to disk", used.written as f64 / seconds, "B/s");
    Ok(())
}
