//! The Container Runtime Interface of the built-in runtime.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::broadcast::error::RecvError;

use crate::cri::*;
use crate::record::save;
use crate::runtime::{Runtime, unblock};
use crate::sandbox::HANDLER;
use crate::shim::protocol::Request;

/// Whether all that a selector says is among the labels.
pub(crate) fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[async_trait]
impl RuntimeService for Runtime {
    async fn version(&self) -> Result<VersionResponse> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "regatta".into(),
            runtime_version: version,
            runtime_api_version: API_VERSION.into(),
        })
    }

    async fn status(&self) -> Result<StatusResponse> {
        let condition =
            |name: &str| RuntimeCondition { r#type: name.into(), status: true, ..RuntimeCondition::default() };
        let network = match self.config.network.check() {
            Ok(()) => condition("NetworkReady"),
            Err(error) => RuntimeCondition {
                status: false,
                reason: "NetworkPluginNotReady".into(),
                message: error.message,
                ..condition("NetworkReady")
            },
        };
        let user_namespaces = crate::sandbox::can_map_users();
        let handler =
            |name: &str| RuntimeHandler { name: name.into(), recursive_read_only_mounts: true, user_namespaces };
        Ok(StatusResponse {
            conditions: vec![condition("RuntimeReady"), network],
            // The default one goes without a name, and by the name that clusters' runtime classes know it by.
            runtime_handlers: ["", HANDLER].map(handler).into(),
            supplemental_groups_policy: true,
        })
    }

    /// The network is given its ranges when it is opened.
    async fn update_runtime_config(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn run_pod_sandbox(&self, config: PodSandboxConfig, runtime_handler: &str) -> Result<String> {
        self.make_sandbox(config, runtime_handler).await
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<()> {
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        let _changing = sandbox.change.write().await;
        if sandbox.record.lock().stopped {
            return Ok(());
        }
        for container in self.containers_of(id) {
            self.end_container(container.id(), Duration::ZERO).await?;
        }
        self.tear_down(&sandbox, id).await;
        let record = {
            let mut record = sandbox.record.lock();
            record.stopped = true;
            record.clone()
        };
        save(&self.paths.sandbox_record(id), &record)?;
        self.announce_sandbox(id, ContainerEventType::Stopped);
        Ok(())
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<()> {
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        self.stop_pod_sandbox(id).await?;
        for container in self.containers_of(id) {
            self.drop_container(container.id()).await?;
        }
        let _changing = sandbox.change.write().await;
        self.discard(id).await;
        self.sandboxes.write().remove(id);
        self.announce_sandbox(id, ContainerEventType::Deleted);
        Ok(())
    }

    async fn pod_sandbox_status(&self, id: &str) -> Result<PodSandboxStatus> {
        Ok(self.sandbox(id)?.status())
    }

    async fn list_pod_sandbox(&self, filter: &PodSandboxFilter) -> Result<Vec<PodSandbox>> {
        let mut found: Vec<_> = self.sandboxes.read().values().map(|sandbox| sandbox.listed()).collect();
        found.retain(|sandbox| {
            filter.id.as_ref().is_none_or(|id| *id == sandbox.id)
                && filter.state.is_none_or(|state| state == sandbox.state)
                && selects(&filter.label_selector, &sandbox.labels)
        });
        found.sort_by_key(|item| std::cmp::Reverse(item.created_at));
        Ok(found)
    }

    async fn update_pod_sandbox_resources(
        &self,
        id: &str,
        _overhead: Option<LinuxContainerResources>,
        resources: Option<LinuxContainerResources>,
    ) -> Result<()> {
        let sandbox = self.sandbox(id)?;
        let Some(resources) = resources else { return Ok(()) };
        let record = {
            let mut record = sandbox.record.lock();
            record.config.linux.resources = Some(resources.clone());
            record.clone()
        };
        let cgroup = self.hierarchies.at(&self.pod_cgroup(&record.config))?;
        unblock(move || Ok(cgroup.apply(&resources)?)).await?;
        Ok(save(&self.paths.sandbox_record(id), &record)?)
    }

    async fn create_container(
        &self,
        sandbox: &str,
        config: ContainerConfig,
        sandbox_config: &PodSandboxConfig,
    ) -> Result<String> {
        self.make_container(sandbox, config, sandbox_config).await
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        self.begin_container(id).await
    }

    async fn stop_container(&self, id: &str, timeout: Duration) -> Result<()> {
        match self.end_container(id, timeout).await {
            Err(error) if error.is_not_found() => Ok(()),
            result => result,
        }
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        self.drop_container(id).await
    }

    async fn list_containers(&self, filter: &ContainerFilter) -> Result<Vec<Container>> {
        let mut found: Vec<_> = self.containers.read().values().map(|container| container.listed()).collect();
        found.retain(|container| {
            filter.id.as_ref().is_none_or(|id| *id == container.id)
                && filter.state.is_none_or(|state| state == container.state)
                && filter.pod_sandbox_id.as_ref().is_none_or(|id| *id == container.pod_sandbox_id)
                && selects(&filter.label_selector, &container.labels)
        });
        found.sort_by_key(|item| std::cmp::Reverse(item.created_at));
        Ok(found)
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        Ok(self.container(id)?.status())
    }

    async fn update_container_resources(&self, id: &str, resources: LinuxContainerResources) -> Result<()> {
        self.change_resources(id, resources).await
    }

    async fn reopen_container_log(&self, id: &str) -> Result<()> {
        let container = self.container(id)?;
        if !container.is_running() {
            return Err(CriError::precondition(format!("container {id:?} is not running")));
        }
        let shim = self.shim(&container.record.sandbox_id)?;
        shim.call(Request::ReopenLog { container: id.to_owned() }, &[]).await.map(drop)
    }

    async fn exec_sync(&self, id: &str, cmd: Vec<String>, timeout: Duration) -> Result<ExecSyncResponse> {
        self.run_exec(id, cmd, timeout).await
    }

    async fn exec(&self, request: ExecRequest) -> Result<ExecSession> {
        Ok(self.open_exec(request).await?.0)
    }

    async fn attach(&self, request: AttachRequest) -> Result<ExecSession> {
        self.open_attach(request).await
    }

    async fn port_forward(&self, sandbox: &str, port: u16) -> Result<BoxDuplex> {
        self.open_port(sandbox, port).await
    }

    async fn container_stats(&self, id: &str) -> Result<ContainerStats> {
        self.container(id)?;
        let filter = ContainerStatsFilter { id: Some(id.to_owned()), ..ContainerStatsFilter::default() };
        let found = self.list_container_stats(&filter).await?.pop();
        found.ok_or_else(|| CriError::precondition(format!("container {id:?} is not running")))
    }

    async fn list_container_stats(&self, filter: &ContainerStatsFilter) -> Result<Vec<ContainerStats>> {
        let (runtime, filter) = (self.clone(), filter.clone());
        unblock(move || Ok(runtime.stats_of_containers(&filter))).await
    }

    async fn pod_sandbox_stats(&self, id: &str) -> Result<PodSandboxStats> {
        self.sandbox(id)?;
        let filter = PodSandboxStatsFilter { id: Some(id.to_owned()), ..PodSandboxStatsFilter::default() };
        let found = self.list_pod_sandbox_stats(&filter).await?.pop();
        found.ok_or_else(|| CriError::precondition(format!("sandbox {id:?} is not running")))
    }

    async fn list_pod_sandbox_stats(&self, filter: &PodSandboxStatsFilter) -> Result<Vec<PodSandboxStats>> {
        let (runtime, filter) = (self.clone(), filter.clone());
        unblock(move || Ok(runtime.stats_of_sandboxes(&filter))).await
    }

    async fn get_container_events(&self) -> Result<BoxStream<'static, Result<ContainerEventResponse>>> {
        let receiver = self.events.subscribe();
        let events = stream::unfold(receiver, |mut receiver| async move {
            match receiver.recv().await {
                Ok(event) => Some((Ok(event), receiver)),
                Err(RecvError::Lagged(missed)) => {
                    let message = format!("{missed} events were missed; list again");
                    Some((Err(CriError::new(Code::Unavailable, message)), receiver))
                }
                Err(RecvError::Closed) => None,
            }
        });
        Ok(events.boxed())
    }
}
