//! The runtime service.

use std::sync::Arc;
use std::time::Duration;

use ::runtime::cri::{PodSandboxConfig, RuntimeService};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use tonic::{Request, Response, Status};

use super::streams::Streams;
use crate::convert::{Wire, status};
use crate::v1::{self, runtime_service_server};

pub struct Served {
    pub runtime: Arc<dyn RuntimeService>,
    pub streams: Arc<Streams>,
}

/// A method: its name and messages, and what gives the answer from the request's fields. Whatever fails is a status.
macro_rules! methods {
    ($($name:ident($request:ident) -> $response:ident: |$this:ident, $asked:ident| $answer:expr;)*) => {
        #[tonic::async_trait]
        impl runtime_service_server::RuntimeService for Served {
            type GetContainerEventsStream = BoxStream<'static, Result<v1::ContainerEventResponse, Status>>;

            async fn get_container_events(
                &self,
                _: Request<v1::GetEventsRequest>,
            ) -> Result<Response<Self::GetContainerEventsStream>, Status> {
                let events = self.runtime.get_container_events().await.map_err(status)?;
                // A listener that lags is cut off, and lists again when it comes back.
                Ok(Response::new(events.map_ok(Wire::to_wire).map_err(status).boxed()))
            }

            $(async fn $name(&self, request: Request<v1::$request>) -> Result<Response<v1::$response>, Status> {
                let ($this, $asked) = (self, request.into_inner());
                Ok(Response::new($answer))
            })*
        }
    };
}

fn seconds(number: i64) -> Duration {
    Duration::from_secs(u64::try_from(number).unwrap_or(0))
}

methods! {
    version(VersionRequest) -> VersionResponse: |this, _asked| this.runtime.version().await.map_err(status)?.to_wire();
    status(StatusRequest) -> StatusResponse: |this, _asked| this.runtime.status().await.map_err(status)?.to_wire();
    update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse: |this, asked| {
        let network = asked.runtime_config.unwrap_or_default().network_config.unwrap_or_default();
        this.runtime.update_runtime_config(&network.pod_cidr).await.map_err(status)?;
        v1::UpdateRuntimeConfigResponse {}
    };
    runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse: |_this, _asked| {
        let linux = v1::LinuxRuntimeConfiguration { cgroup_driver: v1::CgroupDriver::Cgroupfs as i32 };
        v1::RuntimeConfigResponse { linux: Some(linux) }
    };
    run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse: |this, asked| {
        let made = this.runtime.run_pod_sandbox(Wire::from_wire(asked.config), &asked.runtime_handler).await;
        v1::RunPodSandboxResponse { pod_sandbox_id: made.map_err(status)? }
    };
    stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse: |this, asked| {
        this.runtime.stop_pod_sandbox(&asked.pod_sandbox_id).await.map_err(status)?;
        v1::StopPodSandboxResponse {}
    };
    remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse: |this, asked| {
        this.runtime.remove_pod_sandbox(&asked.pod_sandbox_id).await.map_err(status)?;
        v1::RemovePodSandboxResponse {}
    };
    pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse: |this, asked| {
        let found = this.runtime.pod_sandbox_status(&asked.pod_sandbox_id).await.map_err(status)?;
        v1::PodSandboxStatusResponse { status: found.to_wire(), ..Default::default() }
    };
    list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse: |this, asked| {
        let found = this.runtime.list_pod_sandbox(&Wire::from_wire(asked.filter)).await.map_err(status)?;
        v1::ListPodSandboxResponse { items: found.to_wire() }
    };
    update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest) -> UpdatePodSandboxResourcesResponse:
        |this, asked| {
            let (overhead, resources) = (Wire::from_wire(asked.overhead), Wire::from_wire(asked.resources));
            let updated = this.runtime.update_pod_sandbox_resources(&asked.pod_sandbox_id, overhead, resources);
            updated.await.map_err(status)?;
            v1::UpdatePodSandboxResourcesResponse {}
        };
    create_container(CreateContainerRequest) -> CreateContainerResponse: |this, asked| {
        let sandbox: PodSandboxConfig = Wire::from_wire(asked.sandbox_config);
        let config = Wire::from_wire(asked.config);
        let made = this.runtime.create_container(&asked.pod_sandbox_id, config, &sandbox).await;
        v1::CreateContainerResponse { container_id: made.map_err(status)? }
    };
    start_container(StartContainerRequest) -> StartContainerResponse: |this, asked| {
        this.runtime.start_container(&asked.container_id).await.map_err(status)?;
        v1::StartContainerResponse {}
    };
    stop_container(StopContainerRequest) -> StopContainerResponse: |this, asked| {
        this.runtime.stop_container(&asked.container_id, seconds(asked.timeout)).await.map_err(status)?;
        v1::StopContainerResponse {}
    };
    remove_container(RemoveContainerRequest) -> RemoveContainerResponse: |this, asked| {
        this.runtime.remove_container(&asked.container_id).await.map_err(status)?;
        v1::RemoveContainerResponse {}
    };
    list_containers(ListContainersRequest) -> ListContainersResponse: |this, asked| {
        let found = this.runtime.list_containers(&Wire::from_wire(asked.filter)).await.map_err(status)?;
        v1::ListContainersResponse { containers: found.to_wire() }
    };
    container_status(ContainerStatusRequest) -> ContainerStatusResponse: |this, asked| {
        let found = this.runtime.container_status(&asked.container_id).await.map_err(status)?;
        // As other runtimes tell it: tools read the process's id there.
        let more = serde_json::json!({"sandboxID": found.pod_sandbox_id, "pid": found.pid}).to_string();
        let info = asked.verbose.then(|| ("info".to_owned(), more)).into_iter().collect();
        v1::ContainerStatusResponse { status: found.to_wire(), info }
    };
    update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse: |this, asked| {
        let resources = Wire::from_wire(asked.linux);
        this.runtime.update_container_resources(&asked.container_id, resources).await.map_err(status)?;
        v1::UpdateContainerResourcesResponse {}
    };
    reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse: |this, asked| {
        this.runtime.reopen_container_log(&asked.container_id).await.map_err(status)?;
        v1::ReopenContainerLogResponse {}
    };
    exec_sync(ExecSyncRequest) -> ExecSyncResponse: |this, asked| {
        let done = this.runtime.exec_sync(&asked.container_id, asked.cmd, seconds(asked.timeout)).await;
        done.map_err(status)?.to_wire()
    };
    exec(ExecRequest) -> ExecResponse: |this, asked| {
        v1::ExecResponse { url: this.streams.exec(Wire::from_wire(asked)).await.map_err(status)? }
    };
    attach(AttachRequest) -> AttachResponse: |this, asked| {
        v1::AttachResponse { url: this.streams.attach(Wire::from_wire(asked)).await.map_err(status)? }
    };
    port_forward(PortForwardRequest) -> PortForwardResponse: |this, asked| {
        let forwarded = this.streams.port_forward(asked.pod_sandbox_id, Wire::from_wire(asked.port)).await;
        v1::PortForwardResponse { url: forwarded.map_err(status)? }
    };
    container_stats(ContainerStatsRequest) -> ContainerStatsResponse: |this, asked| {
        let stats = this.runtime.container_stats(&asked.container_id).await.map_err(status)?;
        v1::ContainerStatsResponse { stats: stats.to_wire() }
    };
    list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse: |this, asked| {
        let stats = this.runtime.list_container_stats(&Wire::from_wire(asked.filter)).await.map_err(status)?;
        v1::ListContainerStatsResponse { stats: stats.to_wire() }
    };
    pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse: |this, asked| {
        let stats = this.runtime.pod_sandbox_stats(&asked.pod_sandbox_id).await.map_err(status)?;
        v1::PodSandboxStatsResponse { stats: stats.to_wire() }
    };
    list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse: |this, asked| {
        let stats = this.runtime.list_pod_sandbox_stats(&Wire::from_wire(asked.filter)).await.map_err(status)?;
        v1::ListPodSandboxStatsResponse { stats: stats.to_wire() }
    };
    checkpoint_container(CheckpointContainerRequest) -> CheckpointContainerResponse: |this, asked| {
        this.runtime.checkpoint_container(&asked.container_id, &asked.location).await.map_err(status)?;
        v1::CheckpointContainerResponse {}
    };
    list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse: |_this, _asked| {
        v1::ListMetricDescriptorsResponse::default()
    };
    list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse: |_this, _asked| {
        v1::ListPodSandboxMetricsResponse::default()
    };
}
