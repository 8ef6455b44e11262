//! Making, starting and ending containers.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::cdi::Edits;
use super::spec::{self, Input};
use super::{Container, signal_number};
use crate::cri::{
    Code, ContainerConfig, ContainerEventType, CriError, LinuxContainerResources, NamespaceMode, PodSandboxConfig,
    Result,
};
use crate::images::Image;
use crate::record::{ContainerRecord, VERSION, save};
use crate::runtime::{Runtime, new_id, now, unblock};
use crate::shim::Launch;
use crate::shim::protocol::{Create, Phase, Reply, Request};

/// What a killed container may take until it is reaped, before somebody is told that it cannot be killed.
pub(crate) const KILL_TIMEOUT: Duration = Duration::from_secs(60);

impl Runtime {
    pub(crate) async fn make_container(
        &self,
        sandbox_id: &str,
        config: ContainerConfig,
        sandbox_config: &PodSandboxConfig,
    ) -> Result<String> {
        let sandbox = self.sandbox(sandbox_id)?;
        let _unchanged = sandbox.change.read().await;
        let shim = self.shim(sandbox_id)?;
        let image = self.image(&config.image.image)?;
        let volumes = config.mounts.iter().filter_map(|mount| mount.image.as_ref());
        let volumes: Vec<Arc<Image>> = volumes.map(|image| self.image(&image.image)).collect::<Result<_>>()?;
        let id = new_id();
        let pod_cgroup = self.pod_cgroup(&sandbox.record.lock().config);
        let mut record = ContainerRecord {
            version: VERSION,
            id: id.clone(),
            sandbox_id: sandbox_id.to_owned(),
            image_id: image.id.clone(),
            volume_image_ids: volumes.iter().map(|image| image.id.clone()).collect(),
            image_ref: image.repo_digests.first().unwrap_or(&image.id).clone(),
            created_at: now(),
            log_path: log_path(sandbox_config, &config),
            stop_signal: stop_signal(&config, &image)?,
            cgroup: format!("{pod_cgroup}/{id}"),
            config,
            made: false,
        };
        let sandbox_record = sandbox.record.lock().clone();
        let (runtime, bundle_of) = (self.clone(), record.clone());
        let made = unblock(move || runtime.make_bundle(&sandbox_record, &bundle_of, &image, &volumes)).await;
        let result = match made {
            Ok(create) => shim.call(Request::Create(create), &[]).await,
            Err(error) => Err(error),
        };
        match result {
            Ok((Reply::Container(info), _)) => {
                record.made = true;
                save(&self.paths.container(&id).join("container.json"), &record)?;
                let container = Arc::new(Container::new(record, info));
                self.containers.write().insert(id.clone(), container.clone());
                self.announce(&container, ContainerEventType::Created);
                Ok(id)
            }
            Ok((other, _)) => Err(CriError::internal(format!("unexpected answer of a shim: {other:?}"))),
            Err(error) => {
                self.discard_container(&id, &record).await;
                Err(error)
            }
        }
    }

    fn image(&self, name: &str) -> Result<Arc<Image>> {
        self.config.images.resolve(name).ok_or_else(|| CriError::not_found(format!("image {name:?} not found")))
    }

    /// Makes the container's directories, cgroup and bundle.
    fn make_bundle(
        &self,
        sandbox: &crate::record::SandboxRecord,
        record: &ContainerRecord,
        image: &Arc<Image>,
        volumes: &[Arc<Image>],
    ) -> Result<Create> {
        let (id, config) = (&record.id, &record.config);
        let (directory, bundle) = (self.paths.container(id), self.paths.bundle(id));
        fs::create_dir_all(&directory)?;
        save(&directory.join("container.json"), record)?;
        for image in volumes.iter().chain([image]) {
            self.config.images.hold(&image.id, id)?;
        }
        for directory in [directory.join("upper"), directory.join("work"), bundle.clone()] {
            fs::create_dir_all(directory)?;
        }
        for at in 0..volumes.len() {
            fs::create_dir_all(bundle.join("volumes").join(at.to_string()))?;
        }

        let cgroup = self.hierarchies.at(&record.cgroup)?;
        let cdi: Vec<String> = config.cdi_devices.iter().map(|device| device.name.clone()).collect();
        let mut input = Input {
            edits: Edits::of(&cdi, &self.config.cdi)?,
            id,
            paths: &self.paths,
            sandbox,
            config,
            image,
            volumes,
            cgroups: cgroup.directories(),
            cgroup_path: &record.cgroup,
            cgroup_mounts: Vec::new(),
            v2: self.hierarchies.is_v2(),
            pid_namespace: self.pid_namespace(sandbox, config)?,
        };
        if !input.v2 {
            input.cgroup_mounts = self.hierarchies.mounts_of(&record.cgroup);
        }
        let bundled = spec::build(&input)?;
        if let Some(users) = &bundled.launch.users {
            std::os::unix::fs::chown(directory.join("upper"), Some(users.uid), Some(users.gid))?;
        }
        cgroup.create()?;
        cgroup.apply(&config.linux.resources)?;
        if let Some(rules) = &bundled.devices {
            cgroup.restrict_devices(rules)?;
        }
        fs::write(bundle.join("config.json"), bundled.spec.to_string())?;
        save(&bundle.join(Launch::FILE), &bundled.launch)?;
        Ok(Create {
            container: id.clone(),
            bundle,
            state: directory.join("state.json"),
            log: (!record.log_path.is_empty()).then(|| PathBuf::from(&record.log_path)),
            stdin: config.stdin,
            stdin_once: config.stdin_once,
            tty: config.tty,
            cgroup: cgroup.processes(),
            oom: cgroup.oom_file(),
        })
    }

    fn pid_namespace(
        &self,
        sandbox: &crate::record::SandboxRecord,
        config: &ContainerConfig,
    ) -> Result<Option<PathBuf>> {
        let options = &config.linux.security_context.namespace_options;
        Ok(match options.pid {
            NamespaceMode::Pod => Some(self.paths.namespace(&sandbox.id, "pid")).filter(|path| path.exists()),
            NamespaceMode::Container | NamespaceMode::Node => None,
            NamespaceMode::Target => {
                let target = self.container(&options.target_id)?;
                if !target.is_running() {
                    return Err(CriError::precondition(format!("target container {:?} is not running", target.id())));
                }
                Some(format!("/proc/{}/ns/pid", target.pid()).into())
            }
        })
    }

    pub(crate) async fn begin_container(&self, id: &str) -> Result<()> {
        let container = self.container(id)?;
        let shim = self.shim(&container.record.sandbox_id)?;
        let result = shim.call(Request::Start { container: id.to_owned() }, &[]).await;
        // The news of it came before the answer, and is taken note of elsewhere: whoever asks now must be told it.
        let noted = async {
            let mut info = container.info.subscribe();
            let _ = info.wait_for(|info| !matches!(info.phase, Phase::Creating | Phase::Created)).await;
        };
        if result.as_ref().err().is_none_or(|error| error.code == Code::Unknown) {
            let _ = tokio::time::timeout(Duration::from_secs(1), noted).await;
        }
        match result {
            Ok(_) => Ok(()),
            Err(error) => Err(CriError { message: format!("unable to start container process: {error}"), ..error }),
        }
    }

    pub(crate) async fn end_container(&self, id: &str, timeout: Duration) -> Result<()> {
        let container = self.container(id)?;
        let Ok(shim) = self.shim(&container.record.sandbox_id) else { return Ok(()) };
        let signal = |signal| Request::Signal { container: id.to_owned(), signal };
        let mut info = container.info.subscribe();
        let started = info.borrow().phase == Phase::Running;
        if started && !timeout.is_zero() {
            shim.call(signal(container.record.stop_signal), &[]).await?;
            let exited = info.wait_for(|info| info.phase == Phase::Exited);
            if matches!(tokio::time::timeout(timeout, exited).await, Ok(Ok(_))) {
                return Ok(());
            }
        }
        if !container.is_exited() {
            shim.call(signal(libc::SIGKILL), &[]).await?;
            let exited = info.wait_for(|info| info.phase == Phase::Exited);
            if tokio::time::timeout(KILL_TIMEOUT, exited).await.is_err() {
                let message = format!("container {id:?} does not end after it was killed");
                return Err(CriError::new(crate::cri::Code::DeadlineExceeded, message));
            }
        }
        Ok(())
    }

    pub(crate) async fn drop_container(&self, id: &str) -> Result<()> {
        let Ok(container) = self.container(id) else { return Ok(()) };
        self.end_container(id, Duration::ZERO).await?;
        if let Ok(shim) = self.shim(&container.record.sandbox_id) {
            shim.call(Request::Remove { container: id.to_owned() }, &[]).await?;
        }
        self.discard_container(id, &container.record).await;
        self.containers.write().remove(id);
        self.announce(&container, ContainerEventType::Deleted);
        Ok(())
    }

    /// Removes all that there is of a container that does not run; its record last.
    pub(crate) async fn discard_container(&self, id: &str, record: &ContainerRecord) {
        let (runtime, id, record) = (self.clone(), id.to_owned(), record.clone());
        let _ = unblock(move || {
            if let Ok(cgroup) = runtime.hierarchies.at(&record.cgroup) {
                if cgroup.exists() {
                    cgroup.kill();
                }
                if let Err(error) = cgroup.remove() {
                    tracing::warn!(container = id, %error, "a container's cgroup is left");
                }
            }
            for directory in [runtime.paths.bundle(&id), runtime.paths.libcontainer().join(&id)] {
                let _ = fs::remove_dir_all(directory);
            }
            for image in record.volume_image_ids.iter().chain([&record.image_id]).filter(|image| !image.is_empty()) {
                runtime.config.images.release(image, &id);
            }
            // In one step, so that no half is left; a writable layer can take long to delete.
            let doomed = runtime.paths.trash().join(&id);
            if fs::rename(runtime.paths.container(&id), &doomed).is_ok() {
                let _ = std::thread::Builder::new().name("trash".into()).spawn(move || remove_tree(&doomed));
            }
            Ok(())
        })
        .await;
    }

    pub(crate) async fn change_resources(&self, id: &str, resources: LinuxContainerResources) -> Result<()> {
        let container = self.container(id)?;
        if container.is_exited() {
            return Err(CriError::precondition(format!("container {id:?} is not running")));
        }
        let cgroup = self.hierarchies.at(&container.record.cgroup)?;
        let path = self.paths.container(id).join("container.json");
        unblock(move || {
            let mut known = container.resources.lock();
            cgroup.apply(&resources)?;
            merge(&mut known, resources);
            let mut record = container.record.clone();
            record.config.linux.resources = known.clone();
            Ok(save(&path, &record)?)
        })
        .await
    }
}

/// What was specified replaces what was.
fn merge(known: &mut LinuxContainerResources, new: LinuxContainerResources) {
    let numbers = [
        (&mut known.cpu_period, new.cpu_period),
        (&mut known.cpu_quota, new.cpu_quota),
        (&mut known.cpu_shares, new.cpu_shares),
        (&mut known.memory_limit_in_bytes, new.memory_limit_in_bytes),
        (&mut known.oom_score_adj, new.oom_score_adj),
        (&mut known.memory_swap_limit_in_bytes, new.memory_swap_limit_in_bytes),
        (&mut known.pids_limit, new.pids_limit),
    ];
    for (known, new) in numbers.into_iter().filter(|(_, new)| *new != 0) {
        *known = new;
    }
    for (known, new) in [(&mut known.cpuset_cpus, new.cpuset_cpus), (&mut known.cpuset_mems, new.cpuset_mems)] {
        if !new.is_empty() {
            *known = new;
        }
    }
    known.unified.extend(new.unified);
    if !new.hugepage_limits.is_empty() {
        known.hugepage_limits = new.hugepage_limits;
    }
}

fn log_path(sandbox: &PodSandboxConfig, config: &ContainerConfig) -> String {
    if sandbox.log_directory.is_empty() || config.log_path.is_empty() {
        return String::new();
    }
    Path::new(&sandbox.log_directory).join(&config.log_path).display().to_string()
}

fn stop_signal(config: &ContainerConfig, image: &Image) -> Result<i32> {
    let image = image.config.config().as_ref().and_then(|config| config.stop_signal().clone()).unwrap_or_default();
    let name = if config.stop_signal.is_empty() { &image } else { &config.stop_signal };
    if name.is_empty() {
        return Ok(libc::SIGTERM);
    }
    signal_number(name).ok_or_else(|| CriError::invalid(format!("invalid stop signal {name:?}")))
}

/// Removes a tree; what fails is tried again when the runtime is opened next.
fn remove_tree(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove a writable layer");
    }
}
