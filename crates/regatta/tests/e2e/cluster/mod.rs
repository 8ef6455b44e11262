//! Real clusters for tests: each machine is a network namespace of its own without a default route, each cluster the
//! release binary started in one, driven by stock clients. With `REGATTA_TEST_RUNTIME=containerd` its containers are
//! Debian's containerd's, so that the same tests hold for both runtimes.

pub mod containerd;
pub mod objects;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use containerd::Containerd;

pub const PATIENCE: Duration = Duration::from_secs(60);
pub const BUSYBOX: &str = "regatta.test/busybox:1";

/// Whether the machine can run these tests; says so where it cannot, and fails where they are meant to run.
pub fn possible() -> bool {
    has("root", nix::unistd::geteuid().is_root())
}

/// Whether something that a test needs is there. A run that is meant to be whole passes over nothing.
pub fn has(what: &str, there: bool) -> bool {
    if !there {
        let whole = ["REGATTA_SPEC", "CI"].iter().any(|name| std::env::var_os(name).is_some());
        assert!(!whole, "needs {what}");
        eprintln!("skipped: needs {what}");
    }
    there
}

/// A network namespace with one interface and no way out.
pub struct Machine {
    name: String,
    pub address: String,
}

impl Machine {
    pub fn new() -> Machine {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("rgt{}x{number}", std::process::id());
        let address = "192.168.88.10".to_owned();
        for line in [
            format!("netns add {name}"),
            format!("-n {name} link set lo up"),
            format!("-n {name} link add eth0 type veth peer name eth0p"),
            format!("-n {name} addr add {address}/24 dev eth0"),
            format!("-n {name} link set eth0 up"),
        ] {
            succeed(Command::new("ip").args(line.split(' ')));
        }
        Machine { name, address }
    }

    /// A command inside. The mount namespace stays the host's, which keeps its cgroups.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).arg("--").arg(program);
        command
    }

    /// Takes the calling thread inside, and with it the sockets and threads that it makes from then on.
    pub fn enter(&self) {
        let namespace = std::fs::File::open(format!("/run/netns/{}", self.name)).expect("namespace");
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("enter");
    }

    /// What a web server answers, or why it does not.
    pub fn get(&self, url: &str) -> Result<String, String> {
        let output = self.command("curl").args(["-sS", "--fail", "--max-time", "5", url]).output().expect("curl runs");
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Everything that a cluster may make in the kernel, as text to compare.
    pub fn traces(&self) -> String {
        let mut found = String::new();
        let mut section = |title: &str, content: String| {
            let mut lines: Vec<_> = content.lines().filter(|l| !l.trim().is_empty()).collect();
            lines.sort_unstable();
            found += &format!("== {title}\n{}\n", lines.join("\n"));
        };
        let run = |program: &str, args: &[&str]| {
            let output = self.command(program).args(args).output().expect("runs");
            text(&output.stdout)
        };
        section("interfaces", run("ip", &["-o", "-br", "link"]));
        section("routes", run("ip", &["route", "show", "table", "all"]));
        section("rules", run("nft", &["list", "ruleset"]));
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let own = |line: &&str| line.contains("regatta") || line.contains("/.tmp");
        section(
            "mounts",
            mounts.lines().filter(own).map(|l| l.split(' ').nth(4).unwrap_or("").to_owned() + "\n").collect(),
        );
        let cgroups =
            Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-name", "regatta*"]).output().expect("find");
        section("cgroups", text(&cgroups.stdout));
        // Of what runs in pods the cgroups tell; the shims are in the machine's namespace.
        let pids = text(&Command::new("ip").args(["netns", "pids", &self.name]).output().expect("ip").stdout);
        let name = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        section("processes", pids.lines().map(name).collect());
        section(
            "sysctls",
            run(
                "grep",
                &[
                    "-r",
                    ".",
                    "/proc/sys/net/ipv4/ip_forward",
                    "/proc/sys/net/ipv4/conf/all",
                    "/proc/sys/net/ipv6/conf/all/forwarding",
                    "/proc/sys/vm/overcommit_memory",
                    "/proc/sys/kernel/panic",
                    "/proc/sys/kernel/panic_on_oops",
                ],
            ),
        );
        section("run", text(&Command::new("find").args(["/run/regatta"]).output().expect("find").stdout));
        found
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// A cluster from `regatta up`.
pub struct Cluster<'a> {
    pub machine: &'a Machine,
    pub data: PathBuf,
    options: Vec<String>,
    process: Option<Child>,
    directory: Option<tempfile::TempDir>,
    /// In place of the built-in runtime.
    pub containerd: Option<Containerd>,
}

impl<'a> Cluster<'a> {
    pub fn start(machine: &'a Machine, options: &[&str]) -> Cluster<'a> {
        let directory = tempfile::tempdir().expect("directory");
        let data = directory.path().join("data");
        let mut cluster = Cluster::start_at(machine, data, options);
        cluster.directory = Some(directory);
        cluster
    }

    /// A cluster in a directory that the test has made.
    pub fn start_at(machine: &'a Machine, data: PathBuf, options: &[&str]) -> Cluster<'a> {
        let on_containerd = std::env::var("REGATTA_TEST_RUNTIME").is_ok_and(|name| name == "containerd");
        Cluster::start_on(machine, data, options, on_containerd.then(|| Containerd::start(machine)))
    }

    /// A cluster whose containers containerd runs.
    pub fn on_containerd(machine: &'a Machine, options: &[&str]) -> Cluster<'a> {
        let directory = tempfile::tempdir().expect("directory");
        let data = directory.path().join("data");
        let mut cluster = Cluster::start_on(machine, data, options, Some(Containerd::start(machine)));
        cluster.directory = Some(directory);
        cluster
    }

    fn start_on(machine: &'a Machine, data: PathBuf, options: &[&str], containerd: Option<Containerd>) -> Cluster<'a> {
        let mut options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
        options.extend(containerd.iter().flat_map(Containerd::options));
        let mut cluster = Cluster { machine, data, options, process: None, directory: None, containerd };
        cluster.up();
        cluster
    }

    pub fn regatta(&self, args: &[&str]) -> Command {
        let mut command = self.machine.command(env!("CARGO_BIN_EXE_regatta"));
        command.args(args).arg("--data-dir").arg(&self.data);
        command
    }

    /// Starts the process and waits for its line.
    pub fn up(&mut self) -> String {
        let log =
            std::fs::File::options().create(true).append(true).open(self.data.with_extension("log")).expect("log");
        let mut process = self
            .regatta(&["up", "--node-name", "node"])
            .args(&self.options)
            .env("REGATTA_LOG", std::env::var("REGATTA_LOG").unwrap_or_else(|_| "info".to_owned()))
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("regatta runs");
        let output = process.stdout.take().expect("output");
        self.process = Some(process);
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).expect("line");
        assert!(line.contains("ready"), "no cluster: {line:?}\n{}", self.log());
        line
    }

    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.data.with_extension("log")).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(80)..].join("\n")
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("running").id()
    }

    /// Kills the server at once, as a crash would.
    pub fn crash(&mut self) {
        let mut process = self.process.take().expect("running");
        process.kill().expect("kill");
        process.wait().expect("wait");
    }

    /// Ends the server as Ctrl-C does.
    pub fn interrupt(&mut self) {
        let mut process = self.process.take().expect("running");
        let pid = nix::unistd::Pid::from_raw(process.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("signal");
        let deadline = Instant::now() + PATIENCE;
        while process.try_wait().expect("wait").is_none() {
            assert!(Instant::now() < deadline, "the server does not stop\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn purge(&mut self) {
        let output = self.regatta(&["down", "--purge"]).output().expect("regatta runs");
        assert!(output.status.success(), "{}\n{}", text(&output.stderr), self.log());
        let said = text(&output.stdout);
        assert!(said.starts_with("removed the cluster of /") && said.lines().count() == 1, "{said}");
        if let Some(mut process) = self.process.take() {
            process.wait().expect("wait");
        }
    }

    pub fn kubectl_command(&self, args: &[&str]) -> Command {
        let program = std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
        let mut command = self.machine.command(program);
        command.env("KUBECONFIG", self.data.join("kubeconfig.yaml")).env("HOME", self.data.parent().expect("parent"));
        command.args(args);
        command
    }

    /// kubectl's output; a failure ends the test with all that is known.
    pub fn kubectl(&self, args: &[&str]) -> String {
        self.try_kubectl(args).unwrap_or_else(|error| {
            let pods = self.try_kubectl(&["describe", "pods", "-A"]).unwrap_or_else(|e| e);
            panic!("kubectl {args:?}: {error}\n{pods}\n{}", self.log())
        })
    }

    pub fn try_kubectl(&self, args: &[&str]) -> Result<String, String> {
        let output = self.kubectl_command(args).output().expect("kubectl runs");
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stdout) + &text(&output.stderr))
        }
    }

    pub fn apply(&self, manifest: &str) -> String {
        let mut child = self
            .kubectl_command(&["apply", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl runs");
        child.stdin.take().expect("input").write_all(manifest.as_bytes()).expect("write");
        let output = child.wait_with_output().expect("output");
        assert!(output.status.success(), "{}\n{}", text(&output.stderr), self.log());
        text(&output.stdout)
    }

    /// Applies pods given as `name: spec`, all of them or those named; what every pod has is added.
    pub fn apply_pods(&self, pods: &str, only: &[&str]) {
        let specs: serde_json::Map<String, serde_json::Value> = serde_saphyr::from_str(pods).expect("pods");
        let mut documents = String::new();
        for (name, mut spec) in specs.into_iter().filter(|(name, _)| only.is_empty() || only.contains(&name.as_str())) {
            for list in ["containers", "initContainers"] {
                for container in spec[list].as_array_mut().into_iter().flatten() {
                    container.as_object_mut().expect("container").entry("image").or_insert(BUSYBOX.into());
                }
            }
            spec.as_object_mut().expect("spec").entry("terminationGracePeriodSeconds").or_insert(1.into());
            let metadata = serde_json::json!({"name": name, "labels": {"app": name}});
            let pod = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
            documents += &format!("---\n{pod}\n");
        }
        self.apply(&documents);
    }

    pub fn pod(&self, name: &str) -> serde_json::Value {
        serde_json::from_str(&self.kubectl(&["get", "pod", name, "-o", "json"])).expect("a pod")
    }

    /// Waits until what is found at a pointer of the pod is the value.
    pub fn until(&self, name: &str, pointer: &str, wanted: impl Into<serde_json::Value>) {
        let wanted = wanted.into();
        self.wait_for(&format!("{pointer} of {name} to be {wanted}"), || {
            let pod = self.pod(name);
            if pod.pointer(pointer) == Some(&wanted) { Ok(()) } else { Err(pod["status"].to_string()) }
        });
    }

    /// Waits for an event about the pod.
    pub fn told(&self, name: &str, reason: &str, message: &str) {
        self.wait_for(&format!("{reason} about {name}: {message}"), || {
            let field = format!("involvedObject.name={name},reason={reason}");
            let events =
                self.kubectl(&["get", "events", "--field-selector", &field, "-o", "jsonpath={.items[*].message}"]);
            if events.contains(message) { Ok(()) } else { Err(events) }
        });
    }

    /// Imports the sample's images and one with busybox.
    pub fn import_images(&self) {
        let sample = self.data.with_extension("tar");
        succeed(Command::new(env!("CARGO_BIN_EXE_regatta")).args(["sample", "image"]).arg(&sample));
        self.import_archive(&sample);
        self.import(BUSYBOX, &["sh"]);
    }

    /// Imports busybox under this name, with this command.
    pub fn import(&self, name: &str, command: &[&str]) {
        let file = self.data.with_extension("tar");
        archive(&file, name, command);
        self.import_archive(&file);
    }

    fn import_archive(&self, file: &Path) {
        match &self.containerd {
            Some(containerd) => containerd.import(file),
            None => drop(succeed(self.regatta(&["image", "import"]).arg(file))),
        }
        std::fs::remove_file(file).expect("remove");
    }

    /// Waits until `check` gives a value; fails with its last complaint.
    pub fn wait_for<T>(&self, what: &str, mut check: impl FnMut() -> Result<T, String>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match check() {
                Ok(value) => return value,
                Err(error) if Instant::now() > deadline => {
                    let state = self.try_kubectl(&["get", "all,events", "-A", "-o", "wide"]).unwrap_or_else(|e| e);
                    panic!("{what}: {error}\n{state}\n{}", self.log())
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        if self.data.exists() {
            let _ = self.regatta(&["down", "--purge"]).output();
        }
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    output
}

/// An image with Debian's static busybox and links for its applets, as `docker save` writes it.
pub fn busybox_archive(path: &Path) {
    archive(path, BUSYBOX, &["sh"]);
}

/// The same under another name, with another command.
pub fn archive(path: &Path, name: &str, command: &[&str]) {
    let program = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|p| Path::new(p).exists()).expect("busybox");
    let applets = text(&succeed(Command::new(program).arg("--list")).stdout);
    let binary = std::fs::read(program).expect("busybox");
    let header = |kind, size: usize, mode| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size as u64);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header
    };
    let mut layer = tar::Builder::new(Vec::new());
    for directory in ["bin/", "etc/", "home/", "tmp/"] {
        let mode = if directory == "tmp/" { 0o1777 } else { 0o755 };
        layer.append_data(&mut header(tar::EntryType::Directory, 0, mode), directory, std::io::empty()).expect("entry");
    }
    let plain = tar::EntryType::Regular;
    layer.append_data(&mut header(plain, binary.len(), 0o755), "bin/busybox", &binary[..]).expect("entry");
    for applet in applets.lines().filter(|a| *a != "busybox") {
        let mut link = header(tar::EntryType::Symlink, 0, 0o777);
        layer.append_link(&mut link, format!("bin/{applet}"), "busybox").expect("entry");
    }
    let users = b"root:x:0:0:root:/:/bin/sh\nuser:x:1000:1000:user:/home:/bin/sh\n";
    layer.append_data(&mut header(plain, users.len(), 0o644), "etc/passwd", &users[..]).expect("entry");
    let layer = layer.into_inner().expect("layer");
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" },
        "os": "linux",
        "config": {"Cmd": command, "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [runtime::images::digest_of(&layer)]},
    })
    .to_string();
    let manifest =
        serde_json::json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]).to_string();
    let mut archive = tar::Builder::new(std::fs::File::create(path).expect("archive"));
    let contents: [(&str, &[u8]); 3] =
        [("layer.tar", &layer), ("config.json", config.as_bytes()), ("manifest.json", manifest.as_bytes())];
    for (name, content) in contents {
        archive.append_data(&mut header(plain, content.len(), 0o644), name, content).expect("entry");
    }
    archive.finish().expect("archive");
}
