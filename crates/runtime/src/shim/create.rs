//! Making a container: a short-lived child of the shim mounts the root file system and lets libcontainer make the first
//! process, as its sibling, so that it is the shim's child.
//!
//! libcontainer makes namespaces, mounts, devices, masked paths and the terminal. Who the process is and what it may do
//! is left to [`Process`](super::process::Process), since libcontainer without its C library ignores seccomp and its
//! executor runs after privileges are dropped: for libcontainer the process is root with all capabilities.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::notify_socket::NotifySocket;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use oci_spec::runtime::Spec;

use super::launch::{GO, Launch, STATUS_MAX, Status};
use super::sys::{self, Context, Error, Result};

/// What the child gets.
pub struct Creation {
    pub id: String,
    pub bundle: PathBuf,
    pub status: OwnedFd,
    /// stdin, stdout and stderr; `None` for a terminal.
    pub streams: Option<[OwnedFd; 3]>,
}

/// Makes the container and tells the shim, in a child that ends with this call.
pub fn run(creation: Creation) -> ! {
    let mut fds = vec![creation.status];
    let tty = creation.streams.is_none();
    fds.extend(creation.streams.into_iter().flatten());
    let Ok(mut fds) = sys::keep_only(fds) else { sys::exit(1) };
    let streams = fds.split_off(1);
    let status = Arc::new(fds.remove(0));
    let result = make(&creation.id, &creation.bundle, status.clone(), (!tty).then_some(streams));
    let (message, fd) = match result {
        Ok((pid, console)) => (Status::Pid(pid), console),
        Err(error) => (Status::Failed(error.0), None),
    };
    tell(&status, &message, fd.as_ref());
    sys::exit(0)
}

/// Tells the shim, which may be gone.
pub fn tell(status: &OwnedFd, message: &Status, fd: Option<&OwnedFd>) {
    let mut text = serde_json::to_vec(message).expect("a status is plain data");
    if let (Status::Failed(long), true) = (message, text.len() > STATUS_MAX) {
        let short = Status::Failed(long.chars().take(STATUS_MAX / 8).collect());
        text = serde_json::to_vec(&short).expect("a status is plain data");
    }
    let fds: Vec<_> = fd.map(AsFd::as_fd).into_iter().collect();
    let _ = sys::send(status.as_fd(), &text, &fds);
}

fn make(
    id: &str,
    bundle: &Path,
    status: Arc<OwnedFd>,
    streams: Option<Vec<OwnedFd>>,
) -> Result<(i32, Option<OwnedFd>)> {
    let launch = Launch::read(bundle)?;
    join_cgroups(&launch.cgroups)?;
    if let Some(score) = launch.oom_score_adj {
        set_oom_score(score);
    }
    mount_images(&launch, bundle)?;
    if let (Some(users), Some(streams)) = (&launch.users, &streams) {
        streams.iter().for_each(|stream| sys::give_away(stream.as_raw_fd(), users.uid, Some(users.gid)));
    }
    std::env::set_current_dir(bundle).context(bundle.display())?;
    let container_dir = launch.libcontainer.join(id);
    let launch = Arc::new(launch);
    let executor = Launcher { launch: launch.clone(), status };
    let mut builder = ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_root_path(&launch.libcontainer)
        .context("libcontainer")?
        .with_executor(executor);
    let console = match streams {
        None => {
            let listener = UnixListener::bind("console.sock").context("console socket")?;
            builder = builder.with_console_socket(Some(bundle.join("console.sock")));
            Some(listener)
        }
        Some(streams) => {
            let mut streams = streams.into_iter();
            let mut next = || streams.next().context("a standard stream is missing");
            builder = builder.with_stdin(next()?).with_stdout(next()?).with_stderr(next()?);
            None
        }
    };
    let container = builder
        .as_init(bundle)
        .with_systemd(false)
        .with_detach(true)
        .as_sibling(true)
        .build()
        .map_err(|error| Error(explain(&error)))?;
    let pid = container.pid().context("the container has no process")?.as_raw();
    let master = console.map(|listener| receive_console(&listener)).transpose()?;
    // Now the executor below waits in its place, and libcontainer's part is over.
    NotifySocket::new(container_dir.join("notify.sock")).notify_container_start().context("start")?;
    Ok((pid, master))
}

fn receive_console(listener: &UnixListener) -> Result<OwnedFd> {
    let (stream, _) = listener.accept().context("console")?;
    let (_, mut fds) = sys::receive(stream.as_fd(), &mut [0; 256]).context("console")?;
    fds.pop().context("the console's socket brought no terminal")
}

/// All that an error and its sources say, once each.
fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

/// Moves the calling process into a cgroup of each hierarchy.
pub fn join_cgroups(cgroups: &[PathBuf]) -> Result<()> {
    cgroups.iter().try_for_each(|directory| {
        let path = directory.join("cgroup.procs");
        let mut file = std::fs::OpenOptions::new().write(true).open(&path).context(path.display())?;
        file.write_all(b"0").context(path.display())
    })
}

/// Where the kernel refuses a lower score for want of a privilege, the container goes on with ours.
pub fn set_oom_score(score: i32) {
    let _ = std::fs::write("/proc/self/oom_score_adj", score.to_string());
}

/// Mounts the layers and the writable directory, and images that are volumes, in a mount namespace of the caller's own:
/// the mounts end with its last process, and the host never sees them.
fn mount_images(launch: &Launch, bundle: &Path) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("unshare mount namespace")?;
    let rootfs = &launch.rootfs;
    let users = launch.users.as_ref().map(|users| File::open(&users.namespace).context(users.namespace.display()));
    let users = users.transpose()?;
    let users = users.as_ref().map(AsFd::as_fd);
    let links = |at: usize| bundle.join("links").join(at.to_string());
    let layers = |layers: &[PathBuf], at: usize| match users {
        Some(users) => map_layers(layers, &bundle.join("layers").join(at.to_string()), users),
        None => Ok(layers.to_vec()),
    };
    let writable = format!(",upperdir={},workdir={}", escape(&rootfs.upper), escape(&rootfs.work));
    let lower = layers(&rootfs.layers, 0).context("mount root file system")?;
    // Nobody mounts this writable directory ever again, so that nothing needs to be synced at the end.
    mount_overlay(&rootfs.mount_point, &lower, &format!("{writable},volatile"), &links(0))
        .or_else(|_| mount_overlay(&rootfs.mount_point, &lower, &writable, &links(0)))
        .context("mount root file system")?;
    for (image, at) in launch.image_mounts.iter().zip(1..) {
        let result = match &layers(&image.layers, at).context("mount image volume")?[..] {
            [layer] => mount(Some(layer), &image.mount_point, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .context(image.mount_point.display()),
            layers => mount_overlay(&image.mount_point, layers, "", &links(at)),
        };
        result.context("mount image volume")?;
        if let Some((path, at)) = &image.part {
            mount_part(&image.mount_point, path, at).context(format_args!("subpath {:?} of an image volume", path))?;
        }
    }
    for (source, at) in users.iter().flat_map(|_| &launch.mapped) {
        let is_dir = std::fs::metadata(source).context(source.display())?.is_dir();
        make_mount_point(at, is_dir)?;
        users.map_or(Ok(()), |users| sys::mount_mapped(source, at, users))?;
    }
    Ok(())
}

/// Mounts the directory that the layers are in with its owners mapped, and gives the layers there.
fn map_layers(layers: &[PathBuf], at: &Path, users: BorrowedFd<'_>) -> Result<Vec<PathBuf>> {
    let base = base_of(layers);
    make_mount_point(at, true)?;
    sys::mount_mapped(base, at, users)?;
    layers.iter().map(|layer| layer.strip_prefix(base).map(|below| at.join(below)).context(layer.display())).collect()
}

fn make_mount_point(at: &Path, is_dir: bool) -> Result<()> {
    let parent = if is_dir { Some(at) } else { at.parent() };
    parent.map_or(Ok(()), std::fs::create_dir_all).context(at.display())?;
    if is_dir { Ok(()) } else { std::fs::write(at, "").context(at.display()) }
}

/// Mounts what is at `path` in a mounted image. Its links, made by whoever made the image, lead nowhere else: for them the
/// image is the root.
fn mount_part(image: &Path, path: &Path, at: &Path) -> Result<()> {
    let root = File::open(image).context(image.display())?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let found = openat2(&root, path, how).map_err(sys::describe).context("open")?;
    let found = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
    make_mount_point(at, std::fs::metadata(&found).context("stat")?.is_dir())?;
    mount(Some(&found), at, None::<&str>, MsFlags::MS_BIND, None::<&str>).context(at.display())
}

/// What `mount(2)` takes as options: a page, with the end's zero.
const OPTIONS_MAX: usize = 4095;

/// Mounts layers, the lowest first. Where their names are too many for a page, short links in `links` stand for them.
fn mount_overlay(at: &Path, layers: &[PathBuf], more: &str, links: &Path) -> Result<()> {
    // Short relative names, to begin with.
    let base = base_of(layers);
    let options = |lower: Vec<String>| format!("lowerdir={}{more}", lower.join(":"));
    let mut place = base;
    let mut text =
        options(layers.iter().rev().map(|layer| escape(layer.strip_prefix(base).unwrap_or(layer))).collect());
    if text.len() > OPTIONS_MAX {
        std::fs::create_dir_all(links).context(links.display())?;
        for (number, layer) in layers.iter().enumerate() {
            match std::os::unix::fs::symlink(layer, links.join(number.to_string())) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(error).context(links.display());
                }
                _ => {}
            }
        }
        place = links;
        text = options((0..layers.len()).rev().map(|number| number.to_string()).collect());
    }
    std::env::set_current_dir(place).context(place.display())?;
    mount(Some("overlay"), at, Some("overlay"), MsFlags::empty(), Some(text.as_str())).context(at.display())
}

/// The directory that all layers are in, each with one of its own in between.
fn base_of(layers: &[PathBuf]) -> &Path {
    layers.first().and_then(|layer| layer.ancestors().nth(2)).unwrap_or(Path::new("/"))
}

/// Overlayfs separates directories by colons and options by commas.
fn escape(path: &Path) -> String {
    let text = path.display().to_string();
    if text.contains([':', ',', '\\']) {
        text.replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,")
    } else {
        text
    }
}

/// Libcontainer calls it in the new process, when everything around it is made.
#[derive(Clone)]
struct Launcher {
    launch: Arc<Launch>,
    status: Arc<OwnedFd>,
}

impl Launcher {
    fn launch(&self) -> Result<Error> {
        for (path, flags) in &self.launch.propagation {
            let flags = MsFlags::from_bits_truncate(*flags as _);
            mount(None::<&str>, path, None::<&str>, flags, None::<&str>)
                .context(format_args!("set propagation of {}", path.display()))?;
        }
        let process = &self.launch.process;
        let (user, home) = process.resolve_user()?;
        tell(&self.status, &Status::Ready(user.clone()), None);
        let (length, _) = sys::receive(self.status.as_fd(), &mut [0; 8]).context("wait for the start")?;
        if length != GO.len() {
            // The shim is gone, or the container was removed before it was started.
            sys::exit(0);
        }
        Ok(process.exec(&user, &home))
    }
}

impl Executor for Launcher {
    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        let error = self.launch().unwrap_or_else(|error| error);
        tell(&self.status, &Status::Failed(error.0), None);
        sys::exit(128)
    }

    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        Ok(())
    }

    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }
}
