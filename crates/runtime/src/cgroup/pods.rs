//! The groups of pods, for who runs their containers elsewhere: a remote runtime limits containers, and nobody else the
//! pods around them.

use std::fs;

use super::{Hierarchies, Result};
use crate::cri::{LinuxContainerResources, PodSandboxConfig};

/// The groups below one parent, which is the cluster's own.
#[derive(Clone, Debug)]
pub struct PodCgroups {
    hierarchies: Hierarchies,
    parent: String,
}

impl PodCgroups {
    pub fn new(parent: &str) -> Result<PodCgroups> {
        Ok(PodCgroups { hierarchies: Hierarchies::detect()?, parent: parent.to_owned() })
    }

    /// A group below the parent.
    pub fn below(&self, path: &str) -> String {
        format!("{}/{}", self.parent.trim_matches('/'), path.trim_matches('/'))
    }

    /// The pod's group, always below the parent.
    pub fn path(&self, config: &PodSandboxConfig) -> String {
        path(&self.parent, config)
    }

    /// Makes a group, if it is missing, and sets its limits.
    pub fn make(&self, path: &str, resources: Option<&LinuxContainerResources>) -> Result<()> {
        let group = self.hierarchies.at(path)?;
        group.create()?;
        resources.map_or(Ok(()), |resources| group.apply(resources))
    }

    /// Removes a group that nobody is in; another sandbox's keeps it.
    pub fn remove(&self, path: &str) {
        if let Ok(group) = self.hierarchies.at(path) {
            for directory in group.directories() {
                let _ = fs::remove_dir(directory);
            }
        }
    }
}

/// Where a pod's group is below a parent.
pub fn path(parent: &str, config: &PodSandboxConfig) -> String {
    let own = parent.trim_matches('/');
    let wanted = config.linux.cgroup_parent.trim_matches('/');
    match wanted {
        "" => format!("{own}/kubepods/pod{}", config.metadata.uid),
        _ if wanted == own || wanted.starts_with(&format!("{own}/")) => wanted.to_owned(),
        _ => format!("{own}/{wanted}"),
    }
}
