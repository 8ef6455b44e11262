//! The runtime service of a remote runtime.

use std::time::Duration;

use ::runtime::cri::*;
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;

use super::{GROUP, REQUEST_TIMEOUT, Remote, events};
use crate::convert::{Wire, error};
use crate::{streaming, v1};

/// Calls a method with a request, in the time that ordinary calls have or as much longer as given, and gives its answer.
macro_rules! call {
    ($this:ident . $method:ident ($request:expr)) => {
        call!($this.$method($request, Duration::ZERO))
    };
    ($this:ident . $method:ident ($request:expr, $longer:expr)) => {{
        let mut request = tonic::Request::new($request);
        request.set_timeout(REQUEST_TIMEOUT + $longer);
        $this.runtime.clone().$method(request).await.map_err(error).map(tonic::Response::into_inner)
    }};
}

fn missing(what: &str) -> CriError {
    CriError::internal(format!("the container runtime's answer has no {what}"))
}

#[async_trait]
impl RuntimeService for Remote {
    async fn version(&self) -> Result<VersionResponse> {
        let request = v1::VersionRequest { version: API_VERSION.to_owned() };
        Ok(Wire::from_wire(call!(self.version(request))?))
    }

    async fn status(&self) -> Result<StatusResponse> {
        Ok(Wire::from_wire(call!(self.status(v1::StatusRequest { verbose: false }))?))
    }

    async fn update_runtime_config(&self, pod_cidr: &str) -> Result<()> {
        let network_config = Some(v1::NetworkConfig { pod_cidr: pod_cidr.to_owned() });
        let runtime_config = Some(v1::RuntimeConfig { network_config });
        call!(self.update_runtime_config(v1::UpdateRuntimeConfigRequest { runtime_config })).map(drop)
    }

    async fn run_pod_sandbox(&self, mut config: PodSandboxConfig, runtime_handler: &str) -> Result<String> {
        config.labels = self.own(config.labels);
        if let Some(groups) = &self.groups {
            let group = groups.path(&config);
            self.set_group(group.clone(), config.linux.resources.clone()).await?;
            config.linux.cgroup_parent = format!("/{group}");
            config.annotations.insert(GROUP.to_owned(), group);
        }
        let request =
            v1::RunPodSandboxRequest { config: config.to_wire(), runtime_handler: runtime_handler.to_owned() };
        // It may pull an image first.
        let response = call!(self.run_pod_sandbox(request, REQUEST_TIMEOUT))?;
        self.changed.notify_one();
        Ok(response.pod_sandbox_id)
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<()> {
        let result = call!(self.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() }));
        self.changed.notify_one();
        result.map(drop)
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<()> {
        let group = self.group_of(id).await;
        let result = call!(self.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() }));
        self.changed.notify_one();
        if let (Ok(_), Some(groups), Some(group)) = (&result, &self.groups, group) {
            groups.remove(&group);
        }
        result.map(drop)
    }

    async fn pod_sandbox_status(&self, id: &str) -> Result<PodSandboxStatus> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let status = call!(self.pod_sandbox_status(request))?.status.ok_or_else(|| missing("sandbox status"))?;
        Ok(Wire::from_wire(status))
    }

    async fn list_pod_sandbox(&self, filter: &PodSandboxFilter) -> Result<Vec<PodSandbox>> {
        let filter = PodSandboxFilter { label_selector: self.own(filter.label_selector.clone()), ..filter.clone() };
        let request = v1::ListPodSandboxRequest { filter: filter.to_wire() };
        Ok(Wire::from_wire(call!(self.list_pod_sandbox(request))?.items))
    }

    /// Older runtimes do not know this call, which tells them what the kubelet has done already.
    async fn update_pod_sandbox_resources(
        &self,
        id: &str,
        overhead: Option<LinuxContainerResources>,
        resources: Option<LinuxContainerResources>,
    ) -> Result<()> {
        if let Some(group) = self.group_of(id).await {
            self.set_group(group, resources.clone()).await?;
        }
        let request = v1::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: id.to_owned(),
            overhead: overhead.to_wire(),
            resources: resources.to_wire(),
        };
        match call!(self.update_pod_sandbox_resources(request)) {
            Err(error) if error.code != Code::Unimplemented => Err(error),
            _ => Ok(()),
        }
    }

    async fn create_container(
        &self,
        sandbox: &str,
        mut config: ContainerConfig,
        sandbox_config: &PodSandboxConfig,
    ) -> Result<String> {
        config.labels = self.own(config.labels);
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: config.to_wire(),
            sandbox_config: sandbox_config.clone().to_wire(),
        };
        let response = call!(self.create_container(request))?;
        self.changed.notify_one();
        Ok(response.container_id)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        let result = call!(self.start_container(v1::StartContainerRequest { container_id: id.to_owned() }));
        self.changed.notify_one();
        result.map(drop)
    }

    async fn stop_container(&self, id: &str, timeout: Duration) -> Result<()> {
        // Whole seconds: a part of one is not to become none.
        let seconds = i64::try_from(timeout.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout: seconds };
        let result = call!(self.stop_container(request, timeout));
        self.changed.notify_one();
        result.map(drop)
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        let result = call!(self.remove_container(v1::RemoveContainerRequest { container_id: id.to_owned() }));
        self.changed.notify_one();
        result.map(drop)
    }

    async fn list_containers(&self, filter: &ContainerFilter) -> Result<Vec<Container>> {
        let filter = ContainerFilter { label_selector: self.own(filter.label_selector.clone()), ..filter.clone() };
        let request = v1::ListContainersRequest { filter: filter.to_wire() };
        Ok(Wire::from_wire(call!(self.list_containers(request))?.containers))
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        // The process's id is only in what the runtime tells a curious caller, in a form of its own.
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
        let response = call!(self.container_status(request))?;
        let mut status: ContainerStatus = Wire::from_wire(response.status.ok_or_else(|| missing("container status"))?);
        status.pod_sandbox_id = told(&response.info, "sandboxID").unwrap_or_default();
        status.pid = told(&response.info, "pid").and_then(|pid| pid.parse().ok()).unwrap_or(0);
        Ok(status)
    }

    async fn update_container_resources(&self, id: &str, resources: LinuxContainerResources) -> Result<()> {
        let request = v1::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: resources.to_wire(),
            ..v1::UpdateContainerResourcesRequest::default()
        };
        call!(self.update_container_resources(request)).map(drop)
    }

    async fn reopen_container_log(&self, id: &str) -> Result<()> {
        call!(self.reopen_container_log(v1::ReopenContainerLogRequest { container_id: id.to_owned() })).map(drop)
    }

    async fn checkpoint_container(&self, id: &str, location: &str) -> Result<()> {
        let request = v1::CheckpointContainerRequest {
            container_id: id.to_owned(),
            location: location.to_owned(),
            ..v1::CheckpointContainerRequest::default()
        };
        call!(self.checkpoint_container(request)).map(drop)
    }

    async fn exec_sync(&self, id: &str, cmd: Vec<String>, timeout: Duration) -> Result<ExecSyncResponse> {
        let seconds = i64::try_from(timeout.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        let request = v1::ExecSyncRequest { container_id: id.to_owned(), cmd, timeout: seconds };
        if timeout.is_zero() {
            let response = self.runtime.clone().exec_sync(request).await.map_err(error)?;
            return Ok(Wire::from_wire(response.into_inner()));
        }
        Ok(Wire::from_wire(call!(self.exec_sync(request, timeout))?))
    }

    async fn exec(&self, request: ExecRequest) -> Result<ExecSession> {
        let streams = streaming::Streams::of_exec(&request);
        let url = call!(self.exec(request.to_wire()))?.url;
        streaming::open(&url, streams).await
    }

    async fn attach(&self, request: AttachRequest) -> Result<ExecSession> {
        let streams = streaming::Streams::of_attach(&request);
        let url = call!(self.attach(request.to_wire()))?.url;
        streaming::open(&url, streams).await
    }

    async fn port_forward(&self, sandbox: &str, port: u16) -> Result<BoxDuplex> {
        let request = v1::PortForwardRequest { pod_sandbox_id: sandbox.to_owned(), port: vec![i32::from(port)] };
        let url = call!(self.port_forward(request))?.url;
        streaming::open_port(&url, port).await
    }

    async fn container_stats(&self, id: &str) -> Result<ContainerStats> {
        let response = call!(self.container_stats(v1::ContainerStatsRequest { container_id: id.to_owned() }))?;
        Ok(Wire::from_wire(response.stats.ok_or_else(|| missing("statistics"))?))
    }

    async fn list_container_stats(&self, filter: &ContainerStatsFilter) -> Result<Vec<ContainerStats>> {
        let filter = ContainerStatsFilter { label_selector: self.own(filter.label_selector.clone()), ..filter.clone() };
        let request = v1::ListContainerStatsRequest { filter: filter.to_wire() };
        Ok(Wire::from_wire(call!(self.list_container_stats(request))?.stats))
    }

    async fn pod_sandbox_stats(&self, id: &str) -> Result<PodSandboxStats> {
        let response = call!(self.pod_sandbox_stats(v1::PodSandboxStatsRequest { pod_sandbox_id: id.to_owned() }))?;
        Ok(Wire::from_wire(response.stats.ok_or_else(|| missing("statistics"))?))
    }

    async fn list_pod_sandbox_stats(&self, filter: &PodSandboxStatsFilter) -> Result<Vec<PodSandboxStats>> {
        let filter =
            PodSandboxStatsFilter { label_selector: self.own(filter.label_selector.clone()), ..filter.clone() };
        let request = v1::ListPodSandboxStatsRequest { filter: filter.to_wire() };
        Ok(Wire::from_wire(call!(self.list_pod_sandbox_stats(request))?.stats))
    }

    /// The runtime's own events where it has them; else those that comparing lists gives.
    async fn get_container_events(&self) -> Result<BoxStream<'static, Result<ContainerEventResponse>>> {
        match self.runtime.clone().get_container_events(v1::GetEventsRequest {}).await {
            Ok(events) => {
                let events = events.into_inner().map(|event| event.map(Wire::from_wire).map_err(error));
                let this = self.clone();
                let ours = move |event: &Result<ContainerEventResponse>| {
                    let pod = event.as_ref().ok().and_then(|event| event.pod_sandbox_status.as_ref());
                    std::future::ready(pod.is_none_or(|pod| this.owns(&pod.labels)))
                };
                Ok(events.filter(ours).boxed())
            }
            Err(status) if status.code() == tonic::Code::Unimplemented => Ok(events::poll(self.clone()).boxed()),
            Err(status) => Err(error(status)),
        }
    }
}

/// A field of the object in JSON that runtimes give under `info`.
fn told(info: &std::collections::BTreeMap<String, String>, field: &str) -> Option<String> {
    let object: serde_json::Value = serde_json::from_str(info.get("info")?).ok()?;
    match object.get(field)? {
        serde_json::Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}
