//! The machine starts anew: nothing of the cluster runs any more and nothing of it is in the kernel, but its directory is there.

use std::path::Path;
use std::process::Command;

use crate::cluster::{BUSYBOX, Cluster, Machine, possible, succeed, text};

/// The id that a cluster makes from its directory.
fn id(cluster: &Cluster) -> String {
    let path = std::fs::canonicalize(&cluster.data).expect("data");
    runtime::images::digest_of(path.as_os_str().as_encoded_bytes())["sha256:".len()..][..8].to_owned()
}

/// Takes away all that does not outlive a machine's run.
fn reboot(cluster: &mut Cluster, id: &str) {
    cluster.crash();
    let groups = text(
        &succeed(Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-path", &format!("*regatta-{id}*")]))
            .stdout,
    );
    let mut groups: Vec<_> = groups.lines().map(str::to_owned).collect();
    // The deepest first, which can be removed when nobody is in it.
    groups.sort_by_key(|group| std::cmp::Reverse(group.matches('/').count()));
    cluster.wait_for("the cluster's processes to be gone", || {
        for group in &groups {
            for pid in std::fs::read_to_string(format!("{group}/cgroup.procs")).unwrap_or_default().lines() {
                let pid = nix::unistd::Pid::from_raw(pid.parse().expect("pid"));
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
            let _ = std::fs::remove_dir(group);
        }
        let left: Vec<_> = groups.iter().filter(|group| Path::new(group).exists()).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let places = [format!("/run/regatta/{id}"), cluster.data.display().to_string()];
    for point in mounts.lines().rev().filter_map(|line| line.split(' ').nth(4)) {
        if places.iter().any(|place| point.starts_with(place.as_str())) {
            succeed(Command::new("umount").args(["-l", point]));
        }
    }
    std::fs::remove_dir_all(format!("/run/regatta/{id}")).expect("remove");
    let links = text(&succeed(cluster.machine.command("ip").args(["-o", "link"])).stdout);
    for name in links.lines().filter_map(|line| line.split(": ").nth(1)).filter(|name| name.starts_with("rg")) {
        let name = name.split('@').next().expect("name");
        let _ = cluster.machine.command("ip").args(["link", "del", name]).output();
    }
    succeed(cluster.machine.command("nft").arg("flush ruleset"));
}

#[test]
fn after_the_machine_has_started_anew_every_pod_runs_again_with_its_data() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let mut cluster = Cluster::start(&machine, &[]);
    if cluster.containerd.is_some() {
        return;
    }
    let before = id(&cluster);
    cluster.import_images();
    cluster.apply(&format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec: {{replicas: 2, selector: {{matchLabels: {{app: web}}}}, template: \
         {{metadata: {{labels: {{app: web}}}}, spec: {{terminationGracePeriodSeconds: 0, containers: [{{name: main, image: '{BUSYBOX}', \
         command: [httpd, -f, -p, '80', -h, /etc], readinessProbe: {{tcpSocket: {{port: 80}}, periodSeconds: 1}}}}]}}}}}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{type: NodePort, selector: {{app: web}}, ports: [{{port: 80, \
         nodePort: 30080}}]}}\n---\napiVersion: v1\nkind: Pod\nmetadata: {{name: keeper}}\nspec: {{terminationGracePeriodSeconds: 0, volumes: \
         [{{name: data, emptyDir: {{}}}}], containers: [{{name: main, image: '{BUSYBOX}', volumeMounts: [{{name: data, mountPath: /data}}], \
         command: [sh, -c, 'date >> /data/starts; exec sleep 10000']}}]}}\n"
    ));
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    cluster.kubectl(&["wait", "pod/keeper", "--for=condition=Ready", "--timeout=60s"]);
    let url = format!("http://{}:30080/passwd", machine.address);
    cluster.wait_for("the service to answer", || machine.get(&url));
    let uids = |cluster: &Cluster| cluster.kubectl(&["get", "pods", "-o", "jsonpath={.items[*].metadata.uid}"]);
    let pods = uids(&cluster);
    reboot(&mut cluster, &before);
    assert!(machine.get(&url).is_err());
    cluster.up();
    cluster.wait_for("the pods to be started again", || {
        let path = "jsonpath={range .items[*]}{.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready};{end}";
        let states = cluster.kubectl(&["get", "pods", "-o", path]);
        if states == "1 true;1 true;1 true;" { Ok(()) } else { Err(states) }
    });
    assert_eq!(uids(&cluster), pods, "the pods are the same, started again");
    cluster.wait_for("the service to answer again", || machine.get(&url));
    let starts = cluster.kubectl(&["exec", "keeper", "--", "cat", "/data/starts"]);
    assert_eq!(starts.lines().count(), 2, "the volume's content is kept: {starts}");
    cluster.purge();
}

#[test]
fn a_damaged_database_is_told_at_every_start_until_it_is_repaired() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let mut cluster = Cluster::start(&machine, &[]);
    for number in 0..20 {
        cluster.kubectl(&["create", "configmap", &format!("kept-{number}"), "--from-literal=a=b"]);
    }
    cluster.interrupt();
    let journals =
        text(&succeed(Command::new("find").arg(cluster.data.join("store/data")).args(["-name", "*.jnl"])).stdout);
    let journal = journals.lines().next().expect("a journal").to_owned();
    let good = std::fs::read(&journal).expect("journal");
    let backup = cluster.data.with_extension("backup");
    succeed(Command::new("cp").arg("-a").arg(cluster.data.join("store")).arg(&backup));
    let mut bad = good.clone();
    // In the middle of what was acknowledged.
    let end = bad.iter().rposition(|byte| *byte != 0).expect("content");
    let middle = end / 2;
    bad[middle..middle + 64].fill(0xa5);
    std::fs::write(&journal, bad).expect("damage");
    for _ in 0..2 {
        let output = cluster.regatta(&["up", "--node-name", "node"]).output().expect("regatta runs");
        let error = text(&output.stderr);
        let last = error.lines().last().unwrap_or("");
        assert!(!output.status.success() && last.contains("damaged") && last.contains("DAMAGED"), "{error}");
    }
    let store = cluster.data.join("store");
    assert!(store.join("DAMAGED").exists());
    std::fs::remove_dir_all(&store).expect("remove");
    succeed(Command::new("mv").arg(&backup).arg(&store));
    cluster.up();
    let kept = cluster.kubectl(&["get", "configmap", "-o", "name"]);
    assert_eq!(kept.lines().filter(|name| name.contains("kept-")).count(), 20, "{kept}");
}
