//! Measures a release build of Regatta, each figure with its unit, on a cluster of its own in a network namespace of its own.
//!
//! `scripts/bench [--only start,idle,pods,api,watch,schedule] [--data-dir DIR]`, as root, builds it with the binary and runs it.

mod api;
mod cluster;
mod goals;
mod idle;
mod pods;
mod process;
mod report;
mod schedule;
mod start;
mod watch;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use cluster::Cluster;
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};
use report::Report;

/// `RAMFS_MAGIC` of linux/magic.h.
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);

#[derive(Parser)]
struct Options {
    /// The binary to measure
    #[arg(long, default_value = "target/release/regatta")]
    binary: PathBuf,
    /// Where the cluster's data directory is made; its disk is what is measured
    #[arg(long, default_value = "/var/tmp")]
    data_dir: PathBuf,
    /// What to measure [default: everything]
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// Made-up nodes to schedule onto
    #[arg(long, default_value_t = 1_000)]
    nodes: usize,
    /// Pods to schedule
    #[arg(long, default_value_t = 2_000)]
    pods: usize,
    /// Objects to create, get and patch
    #[arg(long, default_value_t = 10_000)]
    objects: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Start,
    Idle,
    Pods,
    Api,
    Watch,
    Schedule,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let binary = options.binary.canonicalize().with_context(|| format!("no binary at {}", options.binary.display()))?;
    check_disk(&options.data_dir)?;
    own_network()?;
    // The provider is the process's own choice; it is made once.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(&options, binary))
}

async fn measure(options: &Options, binary: PathBuf) -> Result<()> {
    let wanted = |part| options.only.is_empty() || options.only.contains(&part);
    let mut report = Report::default();
    let mut cluster = Cluster::new(binary, &options.data_dir)?;
    let first = cluster.up().await?;
    if wanted(Part::Start) {
        start::measure(&mut cluster, first, &mut report).await?;
    }
    if wanted(Part::Idle) {
        idle::measure(&cluster, &mut report).await?;
    }
    if wanted(Part::Pods) {
        pods::measure(&cluster, &mut report).await?;
    }
    if wanted(Part::Api) {
        api::measure(&cluster, options.objects, &mut report).await?;
    }
    if wanted(Part::Watch) {
        watch::measure(&cluster, &mut report).await?;
    }
    if wanted(Part::Schedule) {
        schedule::measure(&cluster, options.nodes, options.pods, &mut report).await?;
    }
    report.summary();
    cluster.purge()
}

/// Refuses a file system in memory: what is durable there costs nothing.
fn check_disk(path: &Path) -> Result<()> {
    let about = statfs(path).with_context(|| format!("cannot use {}", path.display()))?;
    if [TMPFS_MAGIC, RAMFS_MAGIC].contains(&about.filesystem_type()) {
        bail!(
            "{} is in memory, so its figures would say nothing; name a directory on a disk with --data-dir",
            path.display()
        );
    }
    Ok(())
}

/// Leaves the machine's network: no packet of the benchmark can get out.
fn own_network() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace needs root")?;
    for line in [
        "link set lo up",
        "link add eth0 type veth peer name eth0p",
        "addr add 192.168.89.10/24 dev eth0",
        "link set eth0 up",
    ] {
        let status = Command::new("ip").args(line.split(' ')).status().context("the benchmark needs iproute2")?;
        if !status.success() {
            bail!("`ip {line}` failed");
        }
    }
    Ok(())
}
