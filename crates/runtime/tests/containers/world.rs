//! A runtime of its own for each test, with an image made from busybox, and the proof that nothing of it is left.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use runtime::cri::*;
use runtime::images::{Images, Registries, digest_of};
use runtime::sandbox::{Network, NoNetwork};
use runtime::{Config, Runtime};
use serde_json::json;

pub struct World {
    pub runtime: Runtime,
    pub directory: tempfile::TempDir,
    pub id: String,
    config: Config,
}

/// A test that fails leaves nothing either.
impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = runtime::sweep(&self.config);
        }
    }
}

/// Programs of busybox that the image has by name.
const APPLETS: &str = "sh cat echo sleep id ls mknod dd mount umount hostname env true false kill head tail wc stty \
                       tty ps touch rm mkdir chown tr grep nc seq yes unshare chroot chmod ln readlink stat test cut sort trap sed";

/// Whether tests can run here. A run that is meant to be whole passes over nothing.
pub fn possible() -> bool {
    let possible = nix::unistd::geteuid().is_root() && Path::new("/usr/bin/busybox").exists();
    let whole = ["REGATTA_SPEC", "CI"].iter().any(|name| std::env::var_os(name).is_some());
    assert!(possible || !whole, "needs root and a static /usr/bin/busybox");
    if !possible {
        eprintln!("skipped: needs root and a static /usr/bin/busybox");
    }
    possible
}

/// The program next to the tests that is the shim and a server to be killed.
pub fn program() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let target = here.ancestors().nth(2).unwrap();
    let program = target.join("examples/server");
    assert!(program.exists(), "{} is built by `cargo test`", program.display());
    program
}

fn tar(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, kind, data) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        if *kind == tar::EntryType::Symlink {
            header.set_size(0);
            archive.append_link(&mut header, path, std::str::from_utf8(data).unwrap()).unwrap();
        } else {
            header.set_size(data.len() as u64);
            archive.append_data(&mut header, path, *data).unwrap();
        }
    }
    archive.into_inner().unwrap()
}

/// An archive as `docker save` makes it. Each further layer has a file that is named by its number.
pub fn image_archive(path: &Path, name: &str, further: usize) {
    use tar::EntryType::{Directory, Regular, Symlink};
    let busybox = fs::read("/usr/bin/busybox").unwrap();
    let links: Vec<String> = APPLETS.split_whitespace().map(|name| format!("bin/{name}")).collect();
    let mut entries: Vec<(&str, tar::EntryType, &[u8])> = vec![
        ("bin", Directory, b""),
        ("etc", Directory, b""),
        ("tmp", Directory, b""),
        ("bin/busybox", Regular, &busybox),
        ("etc/passwd", Regular, b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/var/www:/bin/sh\n"),
        ("etc/group", Regular, b"root:x:0:\nweb:x:34:\nlogs:x:50:web\n"),
    ];
    // Where they lead depends on what is taken for the root.
    entries.extend([("tmp/root", Symlink, &b"/"[..]), ("tmp/above", Symlink, &b"../../../../../etc/passwd"[..])]);
    entries.extend(links.iter().map(|link| (link.as_str(), Symlink, &b"busybox"[..])));
    let mut layers = vec![tar(&entries)];
    layers.extend((0..further).map(|number| tar(&[(&format!("layer-{number}"), Regular, b"x")])));
    let names: Vec<String> = (0..layers.len()).map(|number| format!("{number}.tar")).collect();
    let config = json!({
        "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }, "os": "linux",
        "config": {"Cmd": ["sh"], "Env": ["FROM_IMAGE=yes"]},
        "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|layer| digest_of(layer)).collect::<Vec<_>>()},
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": names}]).to_string();
    let config = config.to_string();
    let mut files: Vec<(&str, tar::EntryType, &[u8])> =
        names.iter().zip(&layers).map(|(name, layer)| (name.as_str(), Regular, &layer[..])).collect();
    files.extend([("config.json", Regular, config.as_bytes()), ("manifest.json", Regular, manifest.as_bytes())]);
    fs::write(path, tar(&files)).unwrap();
}

impl World {
    pub async fn new() -> World {
        World::with_network(Arc::new(NoNetwork)).await
    }

    pub async fn with_network(network: Arc<dyn Network>) -> World {
        let directory = tempfile::tempdir().unwrap();
        // As a runtime's directories are: for others to pass through.
        fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let archive = directory.path().join("busybox.tar");
        image_archive(&archive, "busybox:latest", 0);
        let name = directory.path().file_name().unwrap().to_string_lossy().trim_start_matches('.').to_lowercase();
        let images = Images::open(directory.path().join("root/images"), Registries::default()).unwrap();
        images.import(&archive).await.unwrap();
        let config = config(directory.path(), &name, images, network);
        let runtime = Runtime::open(config.clone()).await.unwrap();
        World { runtime, directory, id: name, config }
    }

    /// Imports one more image, of busybox and further layers.
    pub async fn import(&self, name: &str, further: usize) {
        let archive = self.path("more.tar");
        image_archive(&archive, name, further);
        self.config.images.import(&archive).await.unwrap();
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    /// The runtime opened once more, as a server does that starts again.
    pub async fn reopen(&mut self) {
        self.runtime = Runtime::open(self.config.clone()).await.unwrap();
    }

    /// A sandbox and a container that counts, of a server that has been killed since.
    pub fn hold(&self) -> (String, String) {
        let mut server = std::process::Command::new(program())
            .arg("hold")
            .args([self.path("root"), self.path("run")])
            .arg(&self.id)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = std::io::BufReader::new(server.stdout.as_mut().unwrap());
        std::io::BufRead::read_line(&mut output, &mut line).unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
        let (sandbox, container) = line.trim().split_once(' ').unwrap();
        (sandbox.to_owned(), container.to_owned())
    }

    pub fn pod(&self, name: &str) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: PodSandboxMetadata {
                name: name.into(),
                uid: format!("uid-{name}"),
                namespace: "default".into(),
                attempt: 0,
            },
            hostname: name.into(),
            log_directory: self.path("logs").display().to_string(),
            linux: LinuxPodSandboxConfig {
                cgroup_parent: format!("/kubepods/besteffort/poduid-{name}"),
                security_context: LinuxSandboxSecurityContext { namespace_options: own_pid(), ..Default::default() },
                ..Default::default()
            },
            ..Default::default()
        }
    }

    pub async fn start(&self, sandbox: &str, pod: &PodSandboxConfig, mut container: ContainerConfig) -> String {
        container.log_path = format!("{}-{}", &sandbox[..8], container.log_path);
        let id = self.runtime.create_container(sandbox, container, pod).await.unwrap();
        self.runtime.start_container(&id).await.unwrap();
        id
    }

    /// A pod with one container, which has been started.
    pub async fn run(&self, name: &str, container: ContainerConfig) -> (String, String) {
        let pod = self.pod(name);
        let sandbox = self.runtime.run_pod_sandbox(pod.clone(), "").await.unwrap();
        let container = self.start(&sandbox, &pod, container).await;
        (sandbox, container)
    }

    /// Runs a container to its end and gives how it ended and its log's texts.
    pub async fn finish(&self, name: &str, container: ContainerConfig) -> (ContainerStatus, String) {
        let (_, id) = self.run(name, container).await;
        let status = self.exited(&id).await;
        let text = self.log(&status.log_path);
        (status, text)
    }

    /// Waits, by its events, for a container's end.
    pub async fn exited(&self, id: &str) -> ContainerStatus {
        let mut events = self.runtime.get_container_events().await.unwrap();
        let ended = async {
            loop {
                let status = self.runtime.container_status(id).await.unwrap();
                if status.state == ContainerState::Exited {
                    return status;
                }
                events.next().await.unwrap().unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(60), ended).await.expect("the container ends")
    }

    /// The shim of a container's first process.
    pub fn parent(&self, pid: i32) -> i32 {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.lines().find_map(|line| line.strip_prefix("PPid:\t")).unwrap().parse().unwrap()
    }

    /// Waits for a condition that nothing announces.
    pub async fn until(&self, condition: impl Fn() -> bool) {
        let start = std::time::Instant::now();
        while !condition() {
            assert!(start.elapsed() < Duration::from_secs(60), "it never becomes true");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A log without its timestamps, streams and tags.
    pub fn log(&self, path: &str) -> String {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|line| format!("{}\n", line.splitn(4, ' ').nth(3).unwrap())).collect()
    }

    pub async fn exec(&self, id: &str, command: &str) -> (i32, String) {
        let command = ["sh", "-c", command].map(String::from).to_vec();
        let result = self.runtime.exec_sync(id, command, Duration::from_secs(60)).await.unwrap();
        (result.exit_code, String::from_utf8(result.stdout).unwrap() + &String::from_utf8(result.stderr).unwrap())
    }

    /// Removes everything, and proves it.
    pub async fn end(self) {
        self.runtime.clone().purge().await.unwrap();
        let place = self.directory.path().display().to_string();
        let left: Vec<_> = traces(&place, &self.id).into_iter().collect();
        assert!(left.is_empty(), "left behind: {left:#?}");
    }
}

/// Mounts, cgroups and processes that belong to a test.
pub fn traces(place: &str, id: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    found.extend(mounts.lines().filter(|line| line.contains(place)).map(String::from));
    let mut groups = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(group) = groups.pop() {
        for entry in fs::read_dir(group).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy().contains(&format!("regatta-{id}")) {
                    found.insert(entry.path().display().to_string());
                }
                groups.push(entry.path());
            }
        }
    }
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let program = fs::read_link(process.path().join("exe")).unwrap_or_default().display().to_string();
        let comm = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        if program.contains(place) || comm.trim() == "regatta-shim" && program.contains(id) {
            found.insert(format!("process {} {program}", process.path().display()));
        }
    }
    found
}

fn config(directory: &Path, id: &str, images: Arc<Images>, network: Arc<dyn Network>) -> Config {
    let mut config = Config::new(&directory.join("root"), &directory.join("run"), id, images, network);
    config.binary = program();
    config.cdi = vec![directory.join("cdi")];
    config
}

pub fn own_pid() -> NamespaceOption {
    NamespaceOption { pid: NamespaceMode::Container, ..NamespaceOption::default() }
}

/// A container that runs a script, as unprivileged as a kubelet makes it by default.
pub fn script(text: &str) -> ContainerConfig {
    ContainerConfig {
        metadata: ContainerMetadata { name: "main".into(), attempt: 0 },
        image: ImageSpec { image: "busybox".into(), ..ImageSpec::default() },
        command: ["sh", "-c", text].map(String::from).to_vec(),
        log_path: format!("{}.log", digest_of(text.as_bytes()).replace(':', "-")),
        linux: LinuxContainerConfig {
            security_context: LinuxContainerSecurityContext {
                namespace_options: own_pid(),
                seccomp: Some(SecurityProfile::default()),
                masked_paths: ["/proc/kcore", "/proc/keys", "/sys/firmware"].map(String::from).to_vec(),
                readonly_paths: ["/proc/sys", "/proc/sysrq-trigger"].map(String::from).to_vec(),
                ..LinuxContainerSecurityContext::default()
            },
            ..LinuxContainerConfig::default()
        },
        ..ContainerConfig::default()
    }
}
