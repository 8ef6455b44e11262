//! `regatta down`: ends the process; with `--purge` also everything that the cluster made.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::containers;
use crate::data::{DataDir, Settings};

/// How long the server may take to stop.
const PATIENCE: Duration = Duration::from_secs(30);

pub async fn down(data_dir: &Path, purge: bool) -> Result<()> {
    let data = DataDir::at(data_dir)?;
    crate::preflight::root("down")?;
    let marker = match data.marker() {
        // What the marker says helps to remove the cluster, but is not needed for it.
        Err(error) if purge && data.run().exists() => {
            tracing::warn!(error = format!("{error:#}"), "the cluster is removed without its settings");
            None
        }
        marker => marker?,
    };
    if marker.is_none() {
        if !purge {
            bail!("no cluster has been started from {}", data.path.display());
        }
        if !data.run().exists() {
            match data.clear_remains()? {
                true => println!("removed what a failed start left in {}", data.path.display()),
                false => println!("there is nothing of a cluster in {}", data.path.display()),
            }
            return Ok(());
        }
    }
    match data.running()? {
        Some(pid) => {
            stop(&data, pid).await?;
            if !purge {
                println!("stopped; pods keep running until `regatta down --purge`");
            }
        }
        None if !purge => println!("the cluster of {} is not running", data.path.display()),
        None => {}
    }
    if purge {
        remove(&data, marker.map(|marker| marker.settings)).await?;
    }
    Ok(())
}

async fn stop(data: &DataDir, pid: i32) -> Result<()> {
    kill(Pid::from_raw(pid), Signal::SIGTERM).with_context(|| format!("cannot stop process {pid}"))?;
    let waiting = data.clone();
    // The lock is free when the process is gone.
    let gone = tokio::task::spawn_blocking(move || waiting.wait());
    match tokio::time::timeout(PATIENCE, gone).await {
        Ok(result) => result?,
        Err(_) => bail!("process {pid} does not stop within {} s", PATIENCE.as_secs()),
    }
}

/// Removes the cluster. Without its settings, which its marker has, only what it is known to make goes from its directory.
async fn remove(data: &DataDir, settings: Option<Settings>) -> Result<()> {
    let hold = data.take_to_remove()?;
    let (marked, settings) = (settings.is_some(), &settings.unwrap_or_default());
    containers::purge(data, settings).await.context("cannot remove the containers")?;
    net::PodNetwork::purge(&data.id, &data.join("net"), &data.run()).context("cannot remove the network")?;
    unmount(&[data.run(), data.path.clone()])?;
    crate::kubeconfig::remove(data, settings);
    if !marked {
        data.remove_own()?;
    }
    for path in [&data.run(), &data.path] {
        let everything = marked || *path != data.path;
        let removed = if everything { std::fs::remove_dir_all(path) } else { std::fs::remove_dir(path) };
        match removed {
            // Something that others have put there.
            Err(error) if !everything && error.kind() == std::io::ErrorKind::DirectoryNotEmpty => {}
            // A mount point, emptied by now, stays.
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {}
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    // The parent is shared with other clusters; it goes with the last.
    let _ = std::fs::remove_dir("/run/regatta");
    drop(hold);
    println!("removed the cluster of {}", data.path.display());
    Ok(())
}

/// Takes away every mount below the directories, the last one first.
fn unmount(directories: &[PathBuf]) -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
    let points = mounts.lines().rev().filter_map(|line| line.split(' ').nth(4));
    // A directory that is itself a mount point is the user's mount.
    let below = |point: &&str| directories.iter().any(|d| Path::new(point).starts_with(d) && Path::new(point) != d);
    for point in points.filter(below) {
        umount2(point, MntFlags::MNT_DETACH).with_context(|| format!("cannot unmount {point}"))?;
    }
    Ok(())
}
