//! What a cluster finds on a machine that is not its alone: others' files, ports, firewalls, and what is not configured yet.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};

use crate::cluster::{BUSYBOX, Cluster, Machine, possible, succeed, text};

fn tool() -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: tool}}\nspec: {{terminationGracePeriodSeconds: 0, containers: [{{name: main, \
         image: '{BUSYBOX}', command: [sleep, '10000']}}]}}\n"
    )
}

const FOREIGN: &str = "apiVersion: v1\nkind: Config\ncurrent-context: work\nclusters:\n- {name: work, cluster: {server: 'https://192.0.2.1:6443'}}\nusers:\n\
                       - {name: me, user: {token: abc}}\ncontexts:\n- {name: work, context: {cluster: work, user: me}}\n";

#[test]
fn a_users_kubeconfig_gets_the_cluster_and_keeps_the_others() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let directory = tempfile::tempdir().expect("directory");
    let config = directory.path().join("config");
    std::fs::write(&config, FOREIGN).expect("file");
    let path = config.to_str().expect("path").to_owned();
    let mut cluster = Cluster::start(&machine, &["--kubeconfig", &path]);
    let kubectl = |args: &[&str]| {
        let mut command = cluster.kubectl_command(args);
        text(&succeed(command.env("KUBECONFIG", &config)).stdout)
    };
    assert_eq!(kubectl(&["config", "current-context"]).trim(), "regatta");
    assert!(kubectl(&["config", "get-contexts", "-o", "name"]).contains("work"));
    assert!(kubectl(&["get", "nodes"]).contains(" Ready "));
    // The user works elsewhere; the cluster's own commands still find it.
    kubectl(&["config", "use-context", "work"]);
    let status = text(&succeed(&mut cluster.regatta(&["status"])).stdout);
    assert!(status.contains("node Ready"), "{status}");
    cluster.interrupt();
    // A bare start takes what the last one was told.
    let line = text(&succeed(&mut cluster.regatta(&["up", "--detach"])).stdout);
    assert!(line.contains(&path), "{line}");
    let kubectl = |args: &[&str]| {
        let mut command = cluster.kubectl_command(args);
        text(&succeed(command.env("KUBECONFIG", &config)).stdout)
    };
    assert_eq!(kubectl(&["config", "current-context"]).trim(), "work");
    assert_eq!(kubectl(&["config", "get-contexts", "-o", "name"]).lines().count(), 2);
    cluster.purge();
    let left = std::fs::read_to_string(&config).expect("the user's file");
    assert!(left.contains("work") && !left.contains("regatta"), "{left}");
}

/// Ends a program with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Something that has port 53 of every address, as some resolvers do.
fn resolver(machine: &Machine) -> Program {
    let program = "import socket, time\nu = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nu.bind(('0.0.0.0', 53))\nt = socket.socket()\n\
                   t.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\nt.bind(('0.0.0.0', 53))\nt.listen()\nprint('bound', flush=True)\ntime.sleep(1000)\n";
    let mut command = machine.command("python3");
    let mut process = command.args(["-c", program]).stdout(Stdio::piped()).spawn().expect("python3");
    let mut line = String::new();
    let output = process.stdout.take().expect("output");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).expect("line");
    assert_eq!(line, "bound\n");
    Program(process)
}

#[test]
fn names_are_resolved_where_a_resolver_of_the_machine_has_the_port() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let _resolver = resolver(&machine);
    let mut cluster = Cluster::start(&machine, &[]);
    cluster.import_images();
    cluster.apply(&tool());
    cluster.kubectl(&["wait", "pod/tool", "--for=condition=Ready", "--timeout=60s"]);
    let answer = cluster.kubectl(&["exec", "tool", "--", "nslookup", "kubernetes.default.svc.cluster.local"]);
    assert!(answer.contains("10.43.0.1"), "{answer}");
    cluster.crash();
    cluster.up();
    let answer = cluster.kubectl(&["exec", "tool", "--", "nslookup", "kubernetes.default.svc.cluster.local"]);
    assert!(answer.contains("10.43.0.1"), "{answer}");
    cluster.purge();
}

#[test]
fn a_firewall_that_drops_what_is_forwarded_is_warned_of_and_left_alone() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let nft = |line: &str| succeed(machine.command("nft").arg(line));
    nft("add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }");
    let mut cluster = Cluster::start(&machine, &[]);
    let log = cluster.log();
    for part in ["ip filter FORWARD", "iptables -I FORWARD -i rg", "ufw", "firewall-cmd"] {
        assert!(log.contains(part), "{part} is not in\n{log}");
    }
    cluster.purge();
    let rules = text(&nft("list ruleset").stdout);
    assert!(rules.contains("policy drop") && !rules.contains("regatta"), "{rules}");
}

#[test]
fn a_node_that_does_not_become_ready_is_told_with_its_reason_and_the_api_is_served() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let directory = tempfile::tempdir().expect("directory");
    let (data, empty) = (directory.path().join("data"), directory.path().join("empty"));
    std::fs::create_dir(&empty).expect("directory");
    let mut command = machine.command(env!("CARGO_BIN_EXE_regatta"));
    command.args(["up", "--node-name", "node", "--cni", "--data-dir"]).arg(&data).arg("--cni-conf-dir").arg(&empty);
    let log = directory.path().join("log");
    let process =
        command.stdout(Stdio::null()).stderr(std::fs::File::create(&log).expect("log")).spawn().expect("regatta");
    let process = Program(process);
    let deadline = std::time::Instant::now() + crate::cluster::PATIENCE;
    loop {
        let said = std::fs::read_to_string(&log).expect("log");
        if said.contains("the node is not Ready after") {
            assert!(said.contains("KubeletNotReady") && said.contains("no CNI network is configured in"), "{said}");
            break;
        }
        assert!(std::time::Instant::now() < deadline, "nothing is said: {said}");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let mut status = machine.command(env!("CARGO_BIN_EXE_regatta"));
    let output = status.args(["status", "--data-dir"]).arg(&data).output().expect("regatta");
    assert!(!output.status.success() && text(&output.stdout).contains("node NotReady"), "{output:?}");
    let mut down = machine.command(env!("CARGO_BIN_EXE_regatta"));
    succeed(down.args(["down", "--purge", "--data-dir"]).arg(&data));
    drop(process);
    assert!(!data.exists());
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("file").permissions().mode() & 0o777
}

#[test]
fn what_is_secret_is_closed_and_what_was_there_before_the_first_start_stays() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let directory = tempfile::tempdir().expect("directory");
    let data = directory.path().join("data");
    std::fs::create_dir_all(data.join("lost+found")).expect("directory");
    std::fs::create_dir_all(data.join("manifests")).expect("directory");
    std::fs::write(data.join("manifests/own.yaml"), tool().replace("name: tool", "name: own")).expect("manifest");
    let mut cluster = Cluster::start_at(&machine, data.clone(), &[]);
    cluster.import_images();
    cluster.kubectl(&["wait", "pod/own-node", "--for=create", "--timeout=60s"]);
    cluster.kubectl(&["wait", "pod/own-node", "--for=condition=Ready", "--timeout=60s"]);
    let closed = ["store", "pki", "kubelet", "runtime"];
    assert!(closed.iter().all(|name| mode(&data.join(name)) == 0o700));
    cluster.interrupt();
    for name in closed {
        std::fs::set_permissions(data.join(name), PermissionsExt::from_mode(0o755)).expect("mode");
    }
    cluster.up();
    assert!(closed.iter().all(|name| mode(&data.join(name)) == 0o700));
    assert_eq!(mode(&data.join("kubeconfig.yaml")), 0o600);
    cluster.purge();
}

#[test]
fn a_directory_named_by_way_of_a_link_is_the_same_cluster_before_and_after_its_first_start() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let before = machine.traces();
    let directory = tempfile::tempdir().expect("directory");
    std::fs::create_dir_all(directory.path().join("real/deep")).expect("directory");
    std::os::unix::fs::symlink(directory.path().join("real/deep"), directory.path().join("link")).expect("link");
    let mut cluster = Cluster::start_at(&machine, directory.path().join("link/../data"), &[]);
    cluster.import_images();
    cluster.apply(&tool());
    cluster.kubectl(&["wait", "pod/tool", "--for=condition=Ready", "--timeout=60s"]);
    let clusters = || std::fs::read_dir("/run/regatta").map_or(0, |found| found.count());
    let known = clusters();
    cluster.crash();
    cluster.up();
    assert_eq!(clusters(), known, "the restart took itself for another cluster");
    assert_eq!(
        cluster.kubectl(&["get", "pod", "tool", "-o", "jsonpath={.status.containerStatuses[0].restartCount}"]),
        "0"
    );
    cluster.purge();
    assert_eq!(machine.traces(), before);
}

/// What the cluster shows to those who connect to `address`.
fn shown(cluster: &Cluster, address: &str) -> Result<String, String> {
    let mut curl = cluster.machine.command("curl");
    curl.args(["-sS", "--max-time", "5", "-o", "/dev/null", "-w", "%{certs}", "--cacert"]);
    let output = curl.arg(cluster.data.join("pki/ca.crt")).arg(format!("https://{address}/healthz")).output();
    let output = output.expect("curl runs");
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[test]
fn certificates_follow_the_machines_addresses_and_are_renewed_before_their_end() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let mut cluster = Cluster::start(&machine, &[]);
    assert!(shown(&cluster, "192.168.88.77:6443").is_err(), "nobody has that address yet");
    succeed(machine.command("ip").args(["address", "add", "192.168.88.77/24", "dev", "eth0"]));
    cluster.wait_for("the new address in the certificate", || shown(&cluster, "192.168.88.77:6443"));
    let made = |name: &str| std::fs::read_to_string(cluster.data.join("pki").join(name)).expect("file");
    let kubeconfig = || std::fs::read_to_string(cluster.data.join("kubeconfig.yaml")).expect("kubeconfig");
    let before = [made("apiserver.crt"), made("kubelet.crt"), kubeconfig()];
    // As if a year had almost passed.
    let soon =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("time").as_secs() + 29 * 86_400;
    for name in ["apiserver.json", "kubelet.json", "admin.json"] {
        let mut about: serde_json::Value = serde_json::from_str(&made(name)).expect("json");
        about["ends"] = soon.into();
        std::fs::write(cluster.data.join("pki").join(name), about.to_string()).expect("file");
    }
    cluster.wait_for("the certificates to be renewed", || {
        let after = [made("apiserver.crt"), made("kubelet.crt"), kubeconfig()];
        match after.iter().zip(&before).all(|(new, old)| new != old) {
            true => Ok(()),
            false => Err("they are the old ones".to_owned()),
        }
    });
    cluster.wait_for("the API to show the new one", || {
        shown(&cluster, "192.168.88.10:6443").and_then(|shown| match shown.contains(made("apiserver.crt").trim()) {
            true => Ok(()),
            false => Err("it shows another".to_owned()),
        })
    });
    assert!(shown(&cluster, "192.168.88.10:10250").expect("kubelet").contains(made("kubelet.crt").trim()));
    cluster.kubectl(&["get", "--raw", "/api/v1/nodes/node/proxy/healthz"]);
    cluster.purge();
}

#[test]
fn a_cluster_without_its_marker_is_purged_and_what_others_put_into_its_directory_stays() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let before = machine.traces();
    for damage in ["", "{"] {
        let directory = tempfile::tempdir().expect("directory");
        let mut cluster = Cluster::start_at(&machine, directory.path().join("data"), &[]);
        cluster.import_images();
        cluster.apply(&tool());
        cluster.kubectl(&["wait", "pod/tool", "--for=condition=Ready", "--timeout=60s"]);
        cluster.interrupt();
        match damage {
            "" => std::fs::remove_file(cluster.data.join("regatta.json")).expect("remove"),
            damage => std::fs::write(cluster.data.join("regatta.json"), damage).expect("write"),
        }
        std::fs::write(cluster.data.join("mine"), "x").expect("write");
        succeed(&mut cluster.regatta(&["down", "--purge"]));
        assert_eq!(machine.traces(), before, "{damage}");
        let left: Vec<_> =
            std::fs::read_dir(&cluster.data).expect("directory").flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["mine"]);
    }
}
