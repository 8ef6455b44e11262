//! Removing every trace of a runtime.

use std::fs;

use nix::mount::{MntFlags, umount2};

use crate::config::Config;
use crate::cri::{CriError, PodSandboxFilter, Result, RuntimeService};
use crate::runtime::{Runtime, unblock};

impl Runtime {
    /// Ends and removes all sandboxes, then the cgroups, mounts and directories: nothing of it is left but the images.
    /// The runtime is not to be used afterwards.
    pub async fn purge(self) -> Result<()> {
        for sandbox in self.list_pod_sandbox(&PodSandboxFilter::default()).await? {
            if let Err(error) = self.remove_pod_sandbox(&sandbox.id).await {
                tracing::warn!(sandbox = sandbox.id, %error, "cannot remove a sandbox in good order");
            }
        }
        let config = self.config.clone();
        drop(self);
        unblock(move || sweep(&config)).await
    }
}

/// By force, whatever the records say: for what an orderly end has left, or a runtime that cannot be opened.
pub fn sweep(config: &Config) -> Result<()> {
    if let Ok(hierarchies) = crate::cgroup::Hierarchies::detect() {
        let top = hierarchies.at(&config.cgroup_parent)?;
        top.kill();
        // The kernel takes a killed process out of its group a moment later.
        for _ in 0..200 {
            if top.remove().is_ok() {
                break;
            }
            top.kill();
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
    let run = match fs::canonicalize(&config.run) {
        Ok(run) => run,
        Err(_) => config.run.clone(),
    };
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let below =
        text.lines().filter_map(|line| line.split(' ').nth(4)).filter(|at| std::path::Path::new(at).starts_with(&run));
    // The last mounted first.
    for at in below.collect::<Vec<_>>().into_iter().rev() {
        umount2(at, MntFlags::MNT_DETACH).map_err(|error| CriError::internal(format!("unmount {at}: {error}")))?;
    }
    let paths = config.paths();
    for directory in [run, paths.sandboxes(), paths.containers(), paths.trash()] {
        // Somebody may be emptying the trash: what vanishes meanwhile is what we want gone.
        let removed = fs::remove_dir_all(&directory).or_else(|_| fs::remove_dir_all(&directory));
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(CriError::internal(format!("remove {}: {error}", directory.display())));
            }
            _ => {}
        }
    }
    Ok(())
}
