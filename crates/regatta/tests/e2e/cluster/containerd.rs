//! Debian's containerd, so that clusters of tests can run on it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Machine, succeed};

const PAUSE: &str = "regatta.test/pause:1";

/// containerd of its own, in a machine's network.
pub struct Containerd {
    process: Child,
    directory: tempfile::TempDir,
}

impl Containerd {
    /// Whether the machine has what it takes; says so where it has not.
    pub fn installed() -> bool {
        let has = |name: &str| ["/usr/bin", "/usr/sbin"].iter().any(|place| Path::new(place).join(name).exists());
        let both = has("containerd") && has("runc");
        if !both {
            eprintln!("skipped: needs containerd and runc");
        }
        both
    }

    pub fn start(machine: &Machine) -> Containerd {
        let directory = tempfile::tempdir().expect("directory");
        let path = |name: &str| directory.path().join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\n\
             [grpc]\naddress = {socket:?}\n[ttrpc]\naddress = {ttrpc:?}\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = {PAUSE:?}\nrestrict_oom_score_adj = true\n\
             stream_server_address = \"127.0.0.1\"\nstream_server_port = \"0\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = {bin:?}\nconf_dir = {conf:?}\n",
            root = path("root"),
            state = path("state"),
            socket = path("containerd.sock"),
            ttrpc = path("containerd.sock.ttrpc"),
            bin = path("bin"),
            conf = path("conf"),
        );
        std::fs::write(directory.path().join("config.toml"), config).expect("config");
        let log = std::fs::File::create(directory.path().join("log")).expect("log");
        let process = machine
            .command("containerd")
            .arg("-c")
            .arg(directory.path().join("config.toml"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("containerd runs");
        let containerd = Containerd { process, directory };
        let start = Instant::now();
        while !containerd.ctr(&["version"]).output().expect("ctr").status.success() {
            assert!(start.elapsed() < Duration::from_secs(60), "containerd does not answer");
            std::thread::sleep(Duration::from_millis(100));
        }
        let pause = containerd.path("pause.tar");
        super::archive(&pause, PAUSE, &["sleep", "2147483647"]);
        containerd.import(&pause);
        containerd
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn ctr(&self, args: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.arg("-a").arg(self.path("containerd.sock")).args(["-n", "k8s.io"]).args(args);
        command
    }

    /// Imports what `docker save` has written.
    pub fn import(&self, archive: &Path) {
        succeed(self.ctr(&["images", "import"]).arg(archive));
    }

    /// How a cluster is started that uses it.
    pub fn options(&self) -> Vec<String> {
        let endpoint = format!("unix://{}", self.path("containerd.sock").display());
        let (bin, conf) = (self.path("bin").display().to_string(), self.path("conf").display().to_string());
        let options = ["--container-runtime-endpoint", &endpoint, "--cni-bin-dir", &bin, "--cni-conf-dir", &conf];
        options.map(str::to_owned).to_vec()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        // What a failed test has left runs on without containerd.
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let here = self.directory.path().display().to_string();
        for at in mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(|at| at.starts_with(&here)) {
            let _ = nix::mount::umount2(at, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}
