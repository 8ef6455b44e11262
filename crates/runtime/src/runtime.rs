//! The runtime: what it knows, how it comes back after a restart.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::Read;
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::mount::{MsFlags, mount};
use parking_lot::RwLock;
use tokio::sync::{broadcast, mpsc};

use crate::cgroup::{CgroupError, Hierarchies};
use crate::config::{Config, Paths};
use crate::container::Container;
use crate::cri::{ContainerEventResponse, ContainerEventType, CriError, PodSandboxConfig, Result};
use crate::record::{ContainerRecord, SandboxRecord, is_unfinished, load, save};
use crate::sandbox::Sandbox;
use crate::sandbox::namespaces::unmount;
use crate::shim::protocol::{ContainerInfo, Phase};
use crate::shim_client::{News, ShimClient, reach};

/// How many events a listener may be behind.
const EVENTS: usize = 1024;

/// The exit code of a container whose end nobody saw.
const LOST: i32 = 255;

/// The built-in runtime. Clones are one runtime.
#[derive(Clone)]
pub struct Runtime(Arc<Inner>);

pub struct Inner {
    pub(crate) config: Config,
    pub(crate) paths: Paths,
    /// The program to be executed as a shim, read-only.
    pub(crate) program: PathBuf,
    pub(crate) hierarchies: Hierarchies,
    pub(crate) sandboxes: RwLock<HashMap<String, Arc<Sandbox>>>,
    pub(crate) containers: RwLock<HashMap<String, Arc<Container>>>,
    pub(crate) events: broadcast::Sender<ContainerEventResponse>,
}

impl Deref for Runtime {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl From<CgroupError> for CriError {
    fn from(error: CgroupError) -> CriError {
        CriError::internal(error.to_string())
    }
}

impl Runtime {
    /// Opens the directories, and adopts every sandbox and container that runs. What a crash left half made is removed.
    pub async fn open(config: Config) -> Result<Runtime> {
        let paths = config.paths();
        let program = prepare(&config, &paths)?;
        let runtime = Runtime(Arc::new(Inner {
            hierarchies: Hierarchies::detect()?,
            paths,
            program,
            config,
            sandboxes: RwLock::default(),
            containers: RwLock::default(),
            events: broadcast::Sender::new(EVENTS),
        }));
        runtime.adopt().await?;
        Ok(runtime)
    }

    async fn adopt(&self) -> Result<()> {
        let mut unmade = Vec::new();
        for entry in fs::read_dir(self.paths.containers())?.flatten() {
            let id = entry.file_name().to_string_lossy().into_owned();
            let record = load::<ContainerRecord>(&entry.path().join("container.json"));
            let info = load::<ContainerInfo>(&entry.path().join("state.json"));
            match record {
                Some(record) if record.made => {
                    let info = info.unwrap_or_else(|| ContainerInfo { id: id.clone(), ..ContainerInfo::default() });
                    self.containers.write().insert(id, Arc::new(Container::new(record, info)));
                }
                record => unmade.push((id, record.unwrap_or_default())),
            }
        }
        // Before their pods, whose groups theirs are in.
        for (id, record) in unmade {
            self.discard_container(&id, &record).await;
        }
        for entry in fs::read_dir(self.paths.sandboxes())?.flatten() {
            let path = entry.path();
            if is_unfinished(&path) {
                let _ = fs::remove_file(path);
                continue;
            }
            // What cannot be read, as after a power cut, goes as what was never made whole.
            let unreadable = || {
                let id = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                SandboxRecord { id, ..SandboxRecord::default() }
            };
            let record = load::<SandboxRecord>(&path).unwrap_or_else(unreadable);
            let (id, stopped, ready) = (record.id.clone(), record.stopped, record.ready);
            let sandbox = Arc::new(Sandbox::new(record));
            let reached = if stopped { None } else { reach(&self.paths.sandbox_run(&id)).ok() };
            if let Some(socket) = reached {
                self.connect_shim(&sandbox, &id, socket).await?;
            }
            if !ready {
                self.tear_down(&sandbox, &id).await;
                self.discard(&id).await;
                continue;
            }
            let lost = sandbox.shim.lock().is_none();
            self.sandboxes.write().insert(id.clone(), sandbox.clone());
            if lost {
                self.shim_lost(&sandbox, &id).await;
            }
        }
        let orphans: Vec<_> =
            self.containers.read().values().filter(|c| self.sandbox(&c.record.sandbox_id).is_err()).cloned().collect();
        for container in orphans {
            self.containers.write().remove(container.id());
            self.discard_container(container.id(), &container.record).await;
        }
        let sandboxes: Vec<_> = self.sandboxes.read().values().cloned().collect();
        let kept: Vec<_> = sandboxes.iter().map(|sandbox| self.pod_cgroup(&sandbox.record.lock().config)).collect();
        self.hierarchies.remove_stray_pods(&self.config.cgroup_parent, &kept);
        let trash = self.paths.trash();
        let empty = move || {
            for entry in fs::read_dir(trash).into_iter().flatten().flatten() {
                let _ = fs::remove_dir_all(entry.path());
            }
        };
        std::thread::Builder::new().name("trash".into()).spawn(empty)?;
        let users: HashSet<String> = self.containers.read().keys().cloned().collect();
        self.config.images.retain_users(&users)?;
        Ok(())
    }

    /// Takes over a connection: hears how things stand, then follows the news.
    pub(crate) async fn connect_shim(
        &self,
        sandbox: &Arc<Sandbox>,
        id: &str,
        socket: std::os::fd::OwnedFd,
    ) -> Result<()> {
        let mut news = self.greet(sandbox, id, socket).await?;
        let (runtime, sandbox, id) = (self.clone(), Arc::downgrade(sandbox), id.to_owned());
        tokio::spawn(async move {
            loop {
                while let Some(News::Container(info)) = news.recv().await {
                    runtime.container_changed(info);
                }
                let Some(sandbox) = sandbox.upgrade() else { return };
                // A shim lets go of who does not keep up with it, and lives on.
                let wanted = sandbox.shim.lock().is_none();
                let again = if wanted { None } else { reach(&runtime.paths.sandbox_run(&id)).ok() };
                news = match again {
                    Some(socket) => match runtime.greet(&sandbox, &id, socket).await {
                        Ok(news) => news,
                        Err(_) => return runtime.shim_lost(&sandbox, &id).await,
                    },
                    None => return runtime.shim_lost(&sandbox, &id).await,
                };
            }
        });
        Ok(())
    }

    /// Hears how things stand.
    async fn greet(
        &self,
        sandbox: &Arc<Sandbox>,
        id: &str,
        socket: std::os::fd::OwnedFd,
    ) -> Result<mpsc::UnboundedReceiver<News>> {
        let (sender, mut news) = mpsc::unbounded_channel();
        let client = ShimClient::new(socket, sender)?;
        client.hello().await?;
        let mut known = HashSet::new();
        while let Ok(message) = news.try_recv() {
            if let News::Container(info) = message {
                known.insert(info.id.clone());
                self.container_changed(info);
            }
        }
        // Whatever is not exited and not known to the shim ended with an earlier one.
        for container in self.containers_of(id).iter().filter(|container| !known.contains(container.id())) {
            self.container_lost(container);
        }
        *sandbox.shim.lock() = Some(client);
        Ok(news)
    }

    fn container_changed(&self, info: ContainerInfo) {
        let Ok(container) = self.container(&info.id) else { return };
        let kind = match info.phase {
            Phase::Running => ContainerEventType::Started,
            Phase::Exited => ContainerEventType::Stopped,
            Phase::Creating | Phase::Created => {
                container.update(info);
                return;
            }
        };
        if container.update(info) {
            self.announce(&container, kind);
        }
    }

    /// Without its shim a sandbox is over: what still runs is killed, as nobody would see it end.
    async fn shim_lost(&self, sandbox: &Arc<Sandbox>, id: &str) {
        let wanted = sandbox.shim.lock().take().is_none();
        let (runtime, owned) = (self.clone(), id.to_owned());
        let containers = self.containers_of(id);
        let _ = unblock(move || {
            for container in containers.iter().filter(|container| !container.is_exited()) {
                if let Ok(cgroup) = runtime.hierarchies.at(&container.record.cgroup) {
                    cgroup.kill();
                }
                runtime.container_lost(container);
            }
            Ok(())
        })
        .await;
        if !wanted {
            tracing::warn!(sandbox = owned, "the shim of a sandbox ended");
            self.announce_sandbox(&owned, ContainerEventType::Stopped);
        }
    }

    fn container_lost(&self, container: &Arc<Container>) {
        if container.is_exited() {
            return;
        }
        // The shim may have recorded the end before it went.
        let path = self.paths.container(container.id()).join("state.json");
        let mut info = load::<ContainerInfo>(&path).unwrap_or_else(|| container.info.borrow().clone());
        if info.phase != Phase::Exited {
            let started = info.started_at;
            info.phase = Phase::Exited;
            info.exit_code = LOST;
            info.lost = true;
            info.pid = 0;
            info.started_at = started;
            info.finished_at = now();
            if let Err(error) = save(&path, &info) {
                tracing::warn!(container = container.id(), %error, "cannot record a container's end");
            }
        }
        if container.update(info) {
            self.announce(container, ContainerEventType::Stopped);
        }
    }

    pub(crate) fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>> {
        let found = self.sandboxes.read().get(id).cloned();
        found.ok_or_else(|| CriError::not_found(format!("sandbox {id:?} not found")))
    }

    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>> {
        let found = self.containers.read().get(id).cloned();
        found.ok_or_else(|| CriError::not_found(format!("container {id:?} not found")))
    }

    pub(crate) fn containers_of(&self, sandbox: &str) -> Vec<Arc<Container>> {
        let all = self.containers.read();
        let mut found: Vec<_> =
            all.values().filter(|container| container.record.sandbox_id == sandbox).cloned().collect();
        found.sort_by_key(|container| container.record.created_at);
        found
    }

    pub(crate) fn shim(&self, sandbox: &str) -> Result<Arc<ShimClient>> {
        let shim = self.sandbox(sandbox)?.shim.lock().clone();
        shim.ok_or_else(|| CriError::precondition(format!("sandbox {sandbox:?} is not running")))
    }

    /// The pod's cgroup, always below the runtime's own.
    pub(crate) fn pod_cgroup(&self, config: &PodSandboxConfig) -> String {
        crate::cgroup::pods::path(&self.config.cgroup_parent, config)
    }

    /// Takes a shim out of the server's cgroups, so that what ends or limits the server does not hit it. On its own time:
    /// the kernel may take its time over it.
    pub(crate) fn place_shim(&self, pid: u32) {
        let Ok(cgroup) = self.hierarchies.at(&format!("{}/shims", self.config.cgroup_parent)) else { return };
        let place = move || {
            if let Err(error) = cgroup.create().and_then(|()| cgroup.add(pid)) {
                tracing::debug!(%error, "a shim stays in the server's cgroup");
            }
        };
        let _ = std::thread::Builder::new().name("cgroup".into()).stack_size(128 << 10).spawn(place);
    }

    pub(crate) fn announce(&self, container: &Arc<Container>, kind: ContainerEventType) {
        self.send_event(container.id(), &container.record.sandbox_id, kind);
    }

    pub(crate) fn announce_sandbox(&self, id: &str, kind: ContainerEventType) {
        self.send_event(id, id, kind);
    }

    fn send_event(&self, container_id: &str, sandbox: &str, kind: ContainerEventType) {
        if self.events.receiver_count() == 0 {
            return;
        }
        // Nobody listening is no failure.
        let _ = self.events.send(ContainerEventResponse {
            container_id: container_id.to_owned(),
            container_event_type: kind,
            created_at: now(),
            pod_sandbox_status: self.sandbox(sandbox).ok().map(|sandbox| sandbox.status()),
            containers_statuses: self.containers_of(sandbox).iter().map(|container| container.status()).collect(),
        });
    }
}

/// Makes the directories and mounts, and gives the program for shims.
fn prepare(config: &Config, paths: &Paths) -> Result<PathBuf> {
    for directory in [paths.sandboxes(), paths.containers(), paths.trash(), paths.run.clone()] {
        fs::create_dir_all(&directory)
            .map_err(|error| CriError::internal(format!("{}: {error}", directory.display())))?;
    }
    // A mount of its own that is private: what is mounted below stays here, whatever the propagation above is.
    if !is_mount_point(&paths.run)? {
        bind(&paths.run, &paths.run, MsFlags::empty())?;
        let none = None::<&str>;
        mount(none, &paths.run, none, MsFlags::MS_PRIVATE, none)
            .map_err(|error| CriError::internal(format!("make {} private: {error}", paths.run.display())))?;
    }
    for directory in ["s", "c", "l", "bin", "rootfs", "empty"] {
        fs::create_dir_all(paths.run.join(directory))?;
    }
    let metadata = fs::metadata(&config.binary)?;
    let name = format!("regatta-{:x}-{:x}-{:x}", metadata.dev(), metadata.ino(), metadata.mtime());
    let program = paths.programs().join(name);
    for old in fs::read_dir(paths.programs())?.flatten().filter(|old| old.path() != program) {
        // Shims that run it keep it; nobody starts it any more.
        unmount(&old.path());
        let _ = fs::remove_file(old.path());
    }
    // Read-only, so that a container that reaches a shim's program through /proc cannot write to it.
    fs::File::options()
        .create(true)
        .append(true)
        .open(&program)
        .map(drop)
        .or_else(|error| if is_mount_point(&program).unwrap_or(false) { Ok(()) } else { Err(error) })?;
    if !is_mount_point(&program)? {
        bind(&fs::canonicalize(&config.binary)?, &program, MsFlags::empty())?;
        bind(&program, &program, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV)?;
    }
    Ok(program)
}

fn bind(source: &Path, target: &Path, flags: MsFlags) -> Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | flags, None::<&str>)
        .map_err(|error| CriError::internal(format!("bind mount {}: {error}", target.display())))
}

pub(crate) fn is_mount_point(path: &Path) -> Result<bool> {
    let path = fs::canonicalize(path)?;
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(text.lines().any(|line| line.split(' ').nth(4).is_some_and(|at| Path::new(at) == path)))
}

/// 64 hexadecimal digits that nobody guesses.
pub(crate) fn new_id() -> String {
    let mut bytes = [0; 32];
    let read = fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.expect("the kernel always gives random bytes");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Nanoseconds since the epoch.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Runs what may block away from the threads that must not.
pub(crate) async fn unblock<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| CriError::internal(error.to_string()))?
}
