//! What the machine must offer, looked at before anything is made: each thing that is missing is said in one sentence.

use std::fs;

use anyhow::{Result, bail};

pub fn check() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("a cluster needs root: run `sudo regatta up`");
    }
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !filesystems.lines().any(|l| l.ends_with("overlay")) && !module_exists("overlay") {
        bail!("the kernel has no overlayfs; load the module `overlay` or use a kernel with CONFIG_OVERLAY_FS");
    }
    for namespace in ["mnt", "net", "pid", "ipc", "uts"] {
        if !std::path::Path::new("/proc/self/ns").join(namespace).exists() {
            bail!("the kernel has no {namespace} namespaces, which containers need");
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if !mounts.lines().any(|l| l.contains(" - cgroup2 ") || l.contains(" - cgroup ")) {
        bail!("no cgroup hierarchy is mounted; mount cgroup2 on /sys/fs/cgroup");
    }
    Ok(())
}

/// A module that the kernel would load at first use.
fn module_exists(name: &str) -> bool {
    let Ok(release) = fs::read_to_string("/proc/sys/kernel/osrelease") else { return false };
    let listed = format!("/lib/modules/{}/modules.dep", release.trim());
    fs::read_to_string(listed).is_ok_and(|text| text.contains(&format!("/{name}.ko")))
}
