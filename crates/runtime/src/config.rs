//! What a runtime is opened with, and where its files are.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::images::Images;
use crate::sandbox::Network;

#[derive(Clone)]
pub struct Config {
    /// What must outlive a reboot: records, logs of ends, writable layers.
    pub root: PathBuf,
    /// What need not: sockets, pinned namespaces, mount points.
    pub run: PathBuf,
    /// Tells this cluster's things from another's on the same machine.
    pub id: String,
    /// What is executed as the shim; normally this very program.
    pub binary: PathBuf,
    pub images: Arc<Images>,
    pub network: Arc<dyn Network>,
    /// The cgroup below which all pods are, as `regatta-<id>`.
    pub cgroup_parent: String,
    /// Where vendors describe their devices; what is in a later directory goes first.
    pub cdi: Vec<PathBuf>,
}

impl Config {
    pub fn new(root: &Path, run: &Path, id: &str, images: Arc<Images>, network: Arc<dyn Network>) -> Config {
        Config {
            root: root.to_owned(),
            run: run.to_owned(),
            id: id.to_owned(),
            binary: "/proc/self/exe".into(),
            images,
            network,
            cgroup_parent: format!("regatta-{id}"),
            cdi: ["/etc/cdi", "/var/run/cdi"].map(PathBuf::from).into(),
        }
    }

    pub(crate) fn paths(&self) -> Paths {
        Paths { root: self.root.clone(), run: self.run.clone() }
    }
}

/// The directories of one runtime.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    pub root: PathBuf,
    pub run: PathBuf,
}

impl Paths {
    pub fn sandboxes(&self) -> PathBuf {
        self.root.join("sandboxes")
    }

    pub fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// What is removed already and only takes up room until somebody has the time.
    pub fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    /// A sandbox's record.
    pub fn sandbox_record(&self, id: &str) -> PathBuf {
        self.sandboxes().join(format!("{id}.json"))
    }

    /// A container's record, writable layer and end.
    pub fn container(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }

    /// A sandbox's socket, namespaces and generated files.
    pub fn sandbox_run(&self, id: &str) -> PathBuf {
        self.run.join("s").join(id)
    }

    /// The mount that all of a sandbox's mounts are below, so that they go at once: taking away a mount costs
    /// milliseconds.
    pub fn sandbox_mount(&self, id: &str) -> PathBuf {
        self.sandbox_run(id).join("m")
    }

    pub fn namespace(&self, id: &str, name: &str) -> PathBuf {
        self.sandbox_mount(id).join("ns").join(name)
    }

    /// What the containers have as `/dev/shm`.
    pub fn shm(&self, id: &str) -> PathBuf {
        self.sandbox_mount(id).join("shm")
    }

    /// A container's OCI bundle.
    pub fn bundle(&self, id: &str) -> PathBuf {
        self.run.join("c").join(id)
    }

    /// Where libcontainer keeps its own.
    pub fn libcontainer(&self) -> PathBuf {
        self.run.join("l")
    }

    /// Where every container's root file system is mounted, each in a mount namespace of its own.
    pub fn rootfs(&self) -> PathBuf {
        self.run.join("rootfs")
    }

    pub fn programs(&self) -> PathBuf {
        self.run.join("bin")
    }
}
