//! A runtime without processes: it keeps what it is asked for, ends containers when told, and writes their logs.
//!
//! A container's command says what it does: `run` goes on for ever, `exit N` ends at once, `stubborn` ignores its stop signal.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use jiff::Timestamp;
use parking_lot::Mutex;
use runtime::cri::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{broadcast, mpsc};

#[derive(Default)]
pub struct State {
    pub sandboxes: BTreeMap<String, (PodSandboxConfig, PodSandboxStatus)>,
    pub containers: BTreeMap<String, (ContainerConfig, ContainerStatus)>,
    pub images: BTreeSet<String>,
    /// Who asks for the images meets a defect.
    pub defect: bool,
    /// Images that no registry has.
    pub missing: BTreeSet<String>,
    pub pulls: Vec<(String, Option<String>)>,
    /// What `check NAME` succeeds for.
    pub flags: BTreeSet<String>,
    pub calls: Vec<String>,
    /// Whether pods can have users of their own.
    pub maps_users: bool,
    next: u32,
}

pub struct Fake {
    pub state: Mutex<State>,
    events: broadcast::Sender<ContainerEventResponse>,
}

fn now() -> i64 {
    Timestamp::now().as_nanosecond() as i64
}

impl Fake {
    pub fn new() -> Arc<Fake> {
        let state = State { images: ["app".to_owned()].into(), ..Default::default() };
        Arc::new(Fake { state: Mutex::new(state), events: broadcast::channel(1024).0 })
    }

    fn tell(&self, sandbox: &str, container: &str, kind: ContainerEventType) {
        let state = self.state.lock();
        let event = ContainerEventResponse {
            container_id: container.to_owned(),
            container_event_type: kind,
            created_at: now(),
            pod_sandbox_status: state.sandboxes.get(sandbox).map(|(_, status)| status.clone()),
            containers_statuses: Vec::new(),
        };
        drop(state);
        let _ = self.events.send(event);
    }

    /// Ends a running container.
    pub fn end(&self, id: &str, code: i32) {
        let mut state = self.state.lock();
        let Some((_, status)) = state.containers.get_mut(id).filter(|(_, s)| s.state == ContainerState::Running) else {
            return;
        };
        status.state = ContainerState::Exited;
        status.exit_code = code;
        status.finished_at = now();
        status.reason = if code == 0 { "Completed" } else { "Error" }.to_owned();
        let sandbox = status.pod_sandbox_id.clone();
        drop(state);
        self.tell(&sandbox, id, ContainerEventType::Stopped);
    }

    /// The ids of the running containers of that name.
    pub fn running(&self, name: &str) -> Vec<String> {
        let state = self.state.lock();
        let running =
            state.containers.values().filter(|(c, s)| c.metadata.name == name && s.state == ContainerState::Running);
        running.map(|(_, s)| s.id.clone()).collect()
    }

    pub fn config(&self, name: &str) -> ContainerConfig {
        let state = self.state.lock();
        state.containers.values().map(|(c, _)| c).rfind(|c| c.metadata.name == name).unwrap().clone()
    }
}

#[async_trait]
impl RuntimeService for Fake {
    async fn version(&self) -> Result<VersionResponse> {
        Ok(VersionResponse { runtime_name: "fake".into(), runtime_version: "1".into(), ..Default::default() })
    }

    async fn status(&self) -> Result<StatusResponse> {
        let yes = |kind: &str| RuntimeCondition { r#type: kind.into(), status: true, ..Default::default() };
        let user_namespaces = self.state.lock().maps_users;
        Ok(StatusResponse {
            conditions: vec![yes("RuntimeReady"), yes("NetworkReady")],
            runtime_handlers: vec![RuntimeHandler { user_namespaces, ..Default::default() }],
            ..Default::default()
        })
    }

    async fn update_runtime_config(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn run_pod_sandbox(&self, config: PodSandboxConfig, _: &str) -> Result<String> {
        let mut state = self.state.lock();
        state.next += 1;
        let id = format!("sandbox{}", state.next);
        let status = PodSandboxStatus {
            id: id.clone(),
            metadata: config.metadata.clone(),
            state: PodSandboxState::Ready,
            created_at: now(),
            ips: vec!["127.0.0.1".parse().unwrap()],
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            ..Default::default()
        };
        state.sandboxes.insert(id.clone(), (config, status));
        Ok(id)
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<()> {
        let mut state = self.state.lock();
        state.calls.push(format!("stop {id}"));
        if let Some((_, status)) = state.sandboxes.get_mut(id) {
            status.state = PodSandboxState::NotReady;
        }
        drop(state);
        self.tell(id, id, ContainerEventType::Stopped);
        Ok(())
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<()> {
        let mut state = self.state.lock();
        state.sandboxes.remove(id);
        state.containers.retain(|_, (_, status)| status.pod_sandbox_id != id);
        Ok(())
    }

    async fn pod_sandbox_status(&self, id: &str) -> Result<PodSandboxStatus> {
        let state = self.state.lock();
        state.sandboxes.get(id).map(|(_, s)| s.clone()).ok_or_else(|| CriError::not_found("no such sandbox"))
    }

    async fn list_pod_sandbox(&self, filter: &PodSandboxFilter) -> Result<Vec<PodSandbox>> {
        let state = self.state.lock();
        let fits = |s: &&PodSandboxStatus| filter.label_selector.iter().all(|(k, v)| s.labels.get(k) == Some(v));
        let all = state.sandboxes.values().map(|(_, s)| s).filter(fits).map(|s| PodSandbox {
            id: s.id.clone(),
            metadata: s.metadata.clone(),
            state: s.state,
            created_at: s.created_at,
            labels: s.labels.clone(),
            ..Default::default()
        });
        Ok(all.collect())
    }

    async fn update_pod_sandbox_resources(
        &self,
        _: &str,
        _: Option<LinuxContainerResources>,
        _: Option<LinuxContainerResources>,
    ) -> Result<()> {
        Ok(())
    }

    async fn create_container(&self, sandbox: &str, config: ContainerConfig, _: &PodSandboxConfig) -> Result<String> {
        let mut state = self.state.lock();
        state.next += 1;
        let id = format!("container{:04}", state.next);
        let logs = state.sandboxes.get(sandbox).map(|(c, _)| c.log_directory.clone()).unwrap_or_default();
        let status = ContainerStatus {
            id: id.clone(),
            pod_sandbox_id: sandbox.to_owned(),
            metadata: config.metadata.clone(),
            state: ContainerState::Created,
            created_at: now(),
            image: config.image.clone(),
            image_ref: format!("sha256:{}", config.image.image),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            mounts: config.mounts.clone(),
            log_path: Path::new(&logs).join(&config.log_path).to_string_lossy().into_owned(),
            ..Default::default()
        };
        state.containers.insert(id.clone(), (config, status));
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        let mut state = self.state.lock();
        let (config, status) = state.containers.get_mut(id).ok_or_else(|| CriError::not_found("no such container"))?;
        status.state = ContainerState::Running;
        status.started_at = now();
        let words: Vec<_> = config.command.iter().chain(&config.args).cloned().collect();
        let line = format!("{} stdout F {}\n", Timestamp::now(), words.join(" "));
        std::fs::write(&status.log_path, line).map_err(CriError::from)?;
        let (sandbox, name) = (status.pod_sandbox_id.clone(), config.metadata.name.clone());
        state.calls.push(format!("start {name}"));
        drop(state);
        self.tell(&sandbox, id, ContainerEventType::Started);
        if words.first().map(String::as_str) == Some("exit") {
            self.end(id, words[1].parse().unwrap());
        }
        Ok(())
    }

    async fn stop_container(&self, id: &str, timeout: Duration) -> Result<()> {
        let (name, stubborn) = {
            let mut state = self.state.lock();
            let Some((config, _)) = state.containers.get(id) else { return Ok(()) };
            let (name, stubborn) =
                (config.metadata.name.clone(), config.command.first().is_some_and(|c| c == "stubborn"));
            state.calls.push(format!("stop {name} {}", timeout.as_secs_f64().round()));
            (name, stubborn)
        };
        let _ = name;
        if stubborn {
            tokio::time::sleep(timeout).await;
        }
        self.end(id, if stubborn { 137 } else { 143 });
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        self.state.lock().containers.remove(id);
        Ok(())
    }

    async fn list_containers(&self, filter: &ContainerFilter) -> Result<Vec<Container>> {
        let state = self.state.lock();
        let fits = |s: &&ContainerStatus| {
            filter.label_selector.iter().all(|(k, v)| s.labels.get(k) == Some(v))
                && filter.state.is_none_or(|state| state == s.state)
        };
        let all = state.containers.values().map(|(_, s)| s).filter(fits).map(|s| Container {
            id: s.id.clone(),
            pod_sandbox_id: s.pod_sandbox_id.clone(),
            metadata: s.metadata.clone(),
            state: s.state,
            labels: s.labels.clone(),
            ..Default::default()
        });
        Ok(all.collect())
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        let state = self.state.lock();
        state.containers.get(id).map(|(_, s)| s.clone()).ok_or_else(|| CriError::not_found("no such container"))
    }

    async fn update_container_resources(&self, _: &str, _: LinuxContainerResources) -> Result<()> {
        Ok(())
    }

    async fn reopen_container_log(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn exec_sync(&self, id: &str, cmd: Vec<String>, _: Duration) -> Result<ExecSyncResponse> {
        let mut state = self.state.lock();
        let name = state.containers.get(id).map(|(c, _)| c.metadata.name.clone()).unwrap_or_default();
        if cmd[0] != "check" {
            state.calls.push(format!("exec {name} {}", cmd.join(" ")));
        }
        let good = cmd[0] != "check" || state.flags.contains(&cmd[1]);
        Ok(ExecSyncResponse { stdout: b"no".to_vec(), stderr: Vec::new(), exit_code: i32::from(!good) })
    }

    /// Gives back what comes in, in capitals on the error output, and ends with the number of its command's words.
    async fn exec(&self, request: ExecRequest) -> Result<ExecSession> {
        let (stdin, mut input) = tokio::io::duplex(1024);
        let (mut out, stdout) = tokio::io::duplex(1024);
        let (mut err, stderr) = tokio::io::duplex(1024);
        let (resize, mut sizes) = mpsc::channel(4);
        let work = async move {
            let mut text = String::new();
            if request.stdin {
                input.read_to_string(&mut text).await?;
            }
            if let Ok(TerminalSize { width, height }) = sizes.try_recv() {
                text.push_str(&format!("{width}x{height}"));
            }
            out.write_all(text.as_bytes()).await?;
            err.write_all(text.to_uppercase().as_bytes()).await?;
            Ok(request.cmd.len() as i32)
        };
        let work = tokio::spawn(work);
        Ok(ExecSession {
            stdin: request.stdin.then(|| Box::pin(stdin) as BoxWrite),
            stdout: request.stdout.then(|| Box::pin(stdout) as BoxRead),
            stderr: request.stderr.then(|| Box::pin(stderr) as BoxRead),
            resize,
            exit: Box::pin(async move { work.await.unwrap() }),
        })
    }

    async fn attach(&self, request: AttachRequest) -> Result<ExecSession> {
        let AttachRequest { container_id, stdin, tty, stdout, stderr } = request;
        self.exec(ExecRequest { container_id, cmd: Vec::new(), tty, stdin, stdout, stderr }).await
    }

    async fn port_forward(&self, _: &str, port: u16) -> Result<BoxDuplex> {
        Ok(Box::pin(tokio::net::TcpStream::connect(("127.0.0.1", port)).await?))
    }

    async fn container_stats(&self, _: &str) -> Result<ContainerStats> {
        Ok(ContainerStats::default())
    }

    async fn list_container_stats(&self, _: &ContainerStatsFilter) -> Result<Vec<ContainerStats>> {
        Ok(Vec::new())
    }

    async fn pod_sandbox_stats(&self, _: &str) -> Result<PodSandboxStats> {
        Ok(PodSandboxStats::default())
    }

    async fn list_pod_sandbox_stats(&self, _: &PodSandboxStatsFilter) -> Result<Vec<PodSandboxStats>> {
        Ok(Vec::new())
    }

    async fn get_container_events(&self) -> Result<BoxStream<'static, Result<ContainerEventResponse>>> {
        let receiver = self.events.subscribe();
        let events = futures::stream::unfold(receiver, |mut receiver| async move {
            match receiver.recv().await {
                Ok(event) => Some((Ok(event), receiver)),
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    Some((Err(CriError::new(Code::Unavailable, "lagged")), receiver))
                }
                Err(broadcast::error::RecvError::Closed) => None,
            }
        });
        Ok(events.boxed())
    }
}

#[async_trait]
impl ImageService for Fake {
    async fn list_images(&self, _: &ImageFilter) -> Result<Vec<Image>> {
        let state = self.state.lock();
        assert!(!state.defect, "a defect");
        Ok(state
            .images
            .iter()
            .map(|i| Image { id: i.clone(), repo_tags: vec![i.clone()], ..Default::default() })
            .collect())
    }

    async fn image_status(&self, image: &ImageSpec) -> Result<Option<Image>> {
        let found = self.state.lock().images.contains(&image.image);
        Ok(found.then(|| Image { id: image.image.clone(), ..Default::default() }))
    }

    async fn pull_image(
        &self,
        image: ImageSpec,
        auth: Option<AuthConfig>,
        _: Option<&PodSandboxConfig>,
    ) -> Result<String> {
        let mut state = self.state.lock();
        state.pulls.push((image.image.clone(), auth.map(|a| a.username)));
        if state.missing.contains(&image.image) {
            return Err(CriError::not_found(format!("{}: not found", image.image)));
        }
        state.images.insert(image.image.clone());
        Ok(image.image)
    }

    async fn remove_image(&self, image: &ImageSpec) -> Result<()> {
        self.state.lock().images.remove(&image.image);
        Ok(())
    }

    async fn image_fs_info(&self) -> Result<ImageFsInfoResponse> {
        Ok(ImageFsInfoResponse::default())
    }
}
