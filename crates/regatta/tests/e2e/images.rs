//! Images from registries: mirrors, policies, secrets, what is missing, and the command line.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::cluster::{BUSYBOX, Cluster, Machine, PATIENCE, has, possible, succeed, text};
use runtime::images::digest_of;

const REGISTRY: &str = "/usr/bin/docker-registry";
/// The password is "secret".
const USERS: &str = "user:$2y$05$7Vnz4oBGkHBBp6MKX9pGyOqjdmmr4Wh9OhZtg7qBy3fpkudlQi7ii\n";

/// A registry on the machine's loopback.
struct Registry<'a> {
    machine: &'a Machine,
    process: Child,
    host: String,
    closed: bool,
    directory: tempfile::TempDir,
}

impl Drop for Registry<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl<'a> Registry<'a> {
    fn start(machine: &'a Machine, port: u16, closed: bool) -> Registry<'a> {
        let directory = tempfile::tempdir().expect("directory");
        let host = format!("127.0.0.1:{port}");
        let at = directory.path().display();
        let mut config =
            format!("version: 0.1\nstorage: {{filesystem: {{rootdirectory: {at}/data}}}}\nhttp: {{addr: '{host}'}}\n");
        if closed {
            std::fs::write(directory.path().join("users"), USERS).expect("users");
            config += &format!("auth: {{htpasswd: {{realm: test, path: {at}/users}}}}\n");
        }
        let file = directory.path().join("config.yml");
        std::fs::write(&file, config).expect("config");
        let process = machine
            .command(REGISTRY)
            .args(["serve".as_ref(), file.as_os_str()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("registry");
        let registry = Registry { machine, process, host, closed, directory };
        let deadline = std::time::Instant::now() + PATIENCE;
        while !registry.curl(&[]).arg(registry.url("")).output().expect("curl").status.success() {
            assert!(std::time::Instant::now() < deadline, "the registry does not answer");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        registry
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/v2/{path}", self.host)
    }

    fn curl(&self, args: &[&str]) -> Command {
        let mut command = self.machine.command("curl");
        command.args(["-sS", "--fail"]).args(args);
        if self.closed {
            command.args(["-u", "user:secret"]);
        }
        command
    }

    fn blob(&self, repository: &str, content: &[u8]) -> String {
        let digest = digest_of(content);
        let begin = self.url(&format!("{repository}/blobs/uploads/"));
        let headers = text(&succeed(self.curl(&["-X", "POST", "-D", "-", "-o", "/dev/null"]).arg(begin)).stdout);
        let location = headers.lines().find_map(|l| l.strip_prefix("Location: ")).expect("location").trim();
        let file = self.directory.path().join("blob");
        std::fs::write(&file, content).expect("blob");
        let body = format!("@{}", file.display());
        let kind = "Content-Type: application/octet-stream";
        succeed(
            self.curl(&["-X", "PUT", "-H", kind, "--data-binary", &body]).arg(format!("{location}&digest={digest}")),
        );
        digest
    }

    /// Pushes the images of a `docker save` archive's first entry; gives the manifest's digest. `mark` makes it another one.
    fn push(&self, archive: &Path, repository: &str, tag: &str, mark: &str) -> String {
        let mut files = std::collections::BTreeMap::new();
        let mut archive = tar::Archive::new(std::fs::File::open(archive).expect("archive"));
        for entry in archive.entries().expect("entries") {
            let mut entry = entry.expect("entry");
            let name = entry.path().expect("path").to_string_lossy().into_owned();
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut content).expect("content");
            files.insert(name, content);
        }
        let mut config: serde_json::Value = serde_json::from_slice(&files["config.json"]).expect("config");
        config["config"]["Labels"] = serde_json::json!({"mark": mark});
        config["config"]["Env"] = serde_json::json!(["PATH=/bin", format!("MARK={mark}")]);
        let config = config.to_string();
        let layer = &files["layer.tar"];
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "size": config.len(),
                       "digest": self.blob(repository, config.as_bytes())},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "size": layer.len(),
                        "digest": self.blob(repository, layer)}],
        })
        .to_string();
        let kind = "Content-Type: application/vnd.oci.image.manifest.v1+json";
        let url = self.url(&format!("{repository}/manifests/{tag}"));
        succeed(self.curl(&["-X", "PUT", "-H", kind, "--data-binary", &manifest]).arg(url));
        digest_of(manifest.as_bytes())
    }
}

fn pod(name: &str, image: &str, policy: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n{more}  containers: \
         [{{name: main, image: '{image}', imagePullPolicy: {policy}, command: [sh, -c, 'echo mark $MARK; exec sleep 1000']}}]\n"
    )
}

/// Starts a pod and waits until it has said which image it is of.
fn runs(cluster: &Cluster, name: &str, image: &str, policy: &str, mark: &str) {
    cluster.apply(&pod(name, image, policy, ""));
    said(cluster, name, mark);
}

fn said(cluster: &Cluster, name: &str, mark: &str) {
    cluster.wait_for(&format!("pod {name} to run"), || {
        let log = cluster.try_kubectl(&["logs", name])?;
        if log == format!("mark {mark}\n") { Ok(()) } else { Err(log) }
    });
}

/// Waits until the pod's container waits for one of the reasons.
fn waits(cluster: &Cluster, name: &str, reasons: &[&str]) {
    let path = "jsonpath={.status.containerStatuses[0].state.waiting.reason}";
    cluster.wait_for(&format!("pod {name} to wait"), || {
        let reason = cluster.try_kubectl(&["get", "pod", name, "-o", path])?;
        if reasons.contains(&reason.as_str()) { Ok(()) } else { Err(reason) }
    });
}

fn events(cluster: &Cluster, name: &str, parts: &[&str]) {
    let selector = format!("involvedObject.name={name}");
    cluster.wait_for(&format!("events of {name}"), || {
        let events = cluster.try_kubectl(&["get", "events", "--field-selector", &selector])?;
        if parts.iter().all(|p| events.contains(p)) { Ok(()) } else { Err(format!("{parts:?} not in\n{events}")) }
    });
}

#[test]
fn pods_pull_from_registries_by_policy_and_with_secrets_and_recover_when_an_image_appears() {
    if !possible() || !has("docker-registry", Path::new(REGISTRY).exists()) {
        return;
    }
    let machine = Machine::new();
    let (open, closed) = (Registry::start(&machine, 5000, false), Registry::start(&machine, 5001, true));
    let directory = tempfile::tempdir().expect("directory");
    let archive = directory.path().join("busybox.tar");
    crate::cluster::busybox_archive(&archive);
    let first = open.push(&archive, "library/tool", "1", "first");
    closed.push(&archive, "private/tool", "1", "private");
    let file = directory.path().join("registries.yaml");
    std::fs::write(&file, "mirrors: {docker.io: {endpoint: ['http://127.0.0.1:5000']}}\n").expect("registries");
    let mut cluster = Cluster::start(&machine, &["--registries", file.to_str().expect("path")]);

    waits_for_never(&cluster);
    runs(&cluster, "tagged", "tool:1", "IfNotPresent", "first");
    runs(&cluster, "digested", &format!("tool@{first}"), "IfNotPresent", "first");
    events(&cluster, "tagged", &["Successfully pulled image \"tool:1\"", "Pulling image"]);
    // The tag moves: only `Always` follows it.
    open.push(&archive, "library/tool", "1", "second");
    runs(&cluster, "present", "tool:1", "IfNotPresent", "first");
    events(&cluster, "present", &["already present on machine"]);
    runs(&cluster, "always", "tool:1", "Always", "second");
    runs(&cluster, "again", "tool:1", "Never", "second");
    secrets(&cluster);

    cluster.apply(&pod("missing", "tool:late", "IfNotPresent", ""));
    waits(&cluster, "missing", &["ErrImagePull", "ImagePullBackOff"]);
    events(
        &cluster,
        "missing",
        &[
            "Failed to pull image \"tool:late\": 127.0.0.1:5000: not found; registry-1.docker.io: ",
            "Error: ErrImagePull",
        ],
    );
    waits(&cluster, "missing", &["ImagePullBackOff"]);
    open.push(&archive, "library/tool", "late", "late");
    said(&cluster, "missing", "late");

    let list = |cluster: &Cluster| text(&succeed(&mut cluster.regatta(&["image", "list"])).stdout);
    for running in [true, false] {
        if !running {
            cluster.interrupt();
        }
        let name = format!("tool:cli-{running}");
        open.push(&archive, "library/tool", &format!("cli-{running}"), &name);
        assert!(!list(&cluster).contains(&name));
        let pulled = text(&succeed(&mut cluster.regatta(&["image", "pull", &name])).stdout);
        assert!(pulled.starts_with("sha256:"), "{pulled}");
        assert!(list(&cluster).contains(&name), "{}", list(&cluster));
        succeed(&mut cluster.regatta(&["image", "remove", &name]));
        assert!(!list(&cluster).contains(&name));
        let output = cluster.regatta(&["image", "pull", "tool:none"]).output().expect("regatta runs");
        let error = text(&output.stderr);
        assert!(!output.status.success() && error.lines().last().is_some_and(|l| l.contains("tool:none")), "{error}");
    }
    cluster.up();
    // What containers are made of stays while they use it, whatever becomes of its name.
    succeed(&mut cluster.regatta(&["image", "remove", "tool:late"]));
    assert_eq!(cluster.kubectl(&["exec", "missing", "--", "cat", "/etc/passwd"]).lines().count(), 2);
    cluster.crash();
    cluster.up();
    assert_eq!(cluster.kubectl(&["exec", "missing", "--", "cat", "/etc/passwd"]).lines().count(), 2);
    cluster.import_images();
    assert!(list(&cluster).contains(BUSYBOX));
}

fn waits_for_never(cluster: &Cluster) {
    cluster.apply(&pod("never", "tool:1", "Never", ""));
    waits(cluster, "never", &["ErrImageNeverPull"]);
    events(cluster, "never", &["is not present with pull policy of Never"]);
    cluster.kubectl(&["delete", "pod", "never"]);
}

fn secrets(cluster: &Cluster) {
    let image = "127.0.0.1:5001/private/tool:1";
    cluster.apply(&pod("refused", image, "IfNotPresent", ""));
    waits(cluster, "refused", &["ErrImagePull", "ImagePullBackOff"]);
    cluster.kubectl(&[
        "create",
        "secret",
        "docker-registry",
        "pull",
        "--docker-server=127.0.0.1:5001",
        "--docker-username=user",
        "--docker-password=secret",
    ]);
    cluster.apply(&pod("allowed", image, "Always", "  imagePullSecrets: [{name: pull}]\n"));
    said(cluster, "allowed", "private");
}

#[test]
fn a_registry_that_serves_something_else_is_told_and_nothing_of_it_runs() {
    if !possible() || !has("docker-registry", Path::new(REGISTRY).exists()) {
        return;
    }
    let machine = Machine::new();
    let registry = Registry::start(&machine, 5000, false);
    let directory = tempfile::tempdir().expect("directory");
    let archive = directory.path().join("busybox.tar");
    crate::cluster::busybox_archive(&archive);
    let manifest = registry.push(&archive, "tool", "1", "good");
    let blob = |digest: &str| {
        let hex = digest.strip_prefix("sha256:").expect("digest");
        let folder = format!("data/docker/registry/v2/blobs/sha256/{}/{hex}", &hex[..2]);
        registry.directory.path().join(folder).join("data")
    };
    let text_of = |digest: &str| std::fs::read_to_string(blob(digest)).expect("blob");
    let parsed: serde_json::Value = serde_json::from_str(&text_of(&manifest)).expect("manifest");
    let layer = parsed["layers"][0]["digest"].as_str().expect("digest").to_owned();
    let config = parsed["config"]["digest"].as_str().expect("digest").to_owned();
    let cluster = Cluster::start(&machine, &[]);
    for (number, digest) in [manifest.clone(), config, layer].iter().enumerate() {
        let good = std::fs::read(blob(digest)).expect("blob");
        let mut bad = good.clone();
        // Of the same length, and JSON still where it was JSON.
        match number {
            2 => bad[1000..1100].fill(b'x'),
            _ => {
                let at = bad.windows(8).position(|text| text == b"\"sha256:").expect("a digest inside") + 8;
                bad[at] = if bad[at] == b'0' { b'1' } else { b'0' };
            }
        }
        std::fs::write(blob(digest), &bad).expect("damage");
        let image = format!("127.0.0.1:5000/tool@{manifest}");
        let output = cluster.regatta(&["image", "pull", &image]).output().expect("regatta runs");
        let error = text(&output.stderr);
        assert!(
            !output.status.success() && error.contains("digest") && error.contains(digest.as_str()),
            "{number}: {error}"
        );
        let name = format!("bad-{number}");
        cluster.apply(&pod(&name, &image, "Always", ""));
        waits(&cluster, &name, &["ErrImagePull", "ImagePullBackOff"]);
        events(&cluster, &name, &["Failed to pull image", digest]);
        cluster.kubectl(&["delete", "pod", &name]);
        std::fs::write(blob(digest), &good).expect("repair");
    }
    runs(&cluster, "good", &format!("127.0.0.1:5000/tool@{manifest}"), "Always", "good");
    let output = cluster.regatta(&["image", "pull", "127.0.0.1:9/tool:1"]).output().expect("regatta runs");
    let error = text(&output.stderr);
    assert!(
        !output.status.success() && error.contains("\"127.0.0.1:9/tool:1\": 127.0.0.1:9: cannot connect: "),
        "{error}"
    );
}
