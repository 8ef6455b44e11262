//! Keeps running containers on the processors that are theirs: those that own none have what is left, which changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use runtime::cri::{ContainerFilter, ContainerState, LinuxContainerResources};

use crate::config::CpuManagerPolicy;
use crate::context::Context;
use crate::labels;

/// How often all are looked at.
const EVERY: Duration = Duration::from_secs(10);

/// Looks after containers, for ever.
pub async fn keep(context: Arc<Context>) {
    if context.configuration.cpu_manager_policy == CpuManagerPolicy::None {
        return;
    }
    let mut known = BTreeMap::new();
    loop {
        let running = ContainerFilter { state: Some(ContainerState::Running), ..Default::default() };
        let containers = context.runtime.list_containers(&running).await.unwrap_or_default();
        let mut now = BTreeMap::new();
        for container in containers {
            let Some(pod) = container.labels.get(labels::POD_UID) else { continue };
            let (cpuset_cpus, cpuset_mems) = context.placement.of(pod, &container.metadata.name);
            let place = (cpuset_cpus.clone(), cpuset_mems.clone());
            if known.get(&container.id) != Some(&place) {
                let resources = LinuxContainerResources { cpuset_cpus, cpuset_mems, ..Default::default() };
                if let Err(error) = context.runtime.update_container_resources(&container.id, resources).await {
                    tracing::warn!(container = container.id, %error, "a container's processors cannot be set");
                    continue;
                }
            }
            now.insert(container.id, place);
        }
        known = now;
        tokio::select! {
            () = context.placement.shared_changed.notified() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}
