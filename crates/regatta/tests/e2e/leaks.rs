//! Nothing is left behind, however pods and the processes that keep them end. What is left is counted.
//!
//! `REGATTA_LEAK_PODS` and `REGATTA_LEAK_CRASHES` set how long it goes on; the goal is a thousand and a hundred.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::cluster::{BUSYBOX, Cluster, Machine, possible, succeed, text};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

type Counts = BTreeMap<&'static str, usize>;

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The id that a cluster makes from its directory.
fn id(cluster: &Cluster) -> String {
    let path = std::fs::canonicalize(&cluster.data).expect("data");
    runtime::images::digest_of(path.as_os_str().as_encoded_bytes())["sha256:".len()..][..8].to_owned()
}

/// All files, or all directories, below a directory.
fn below(top: &Path, directories: bool) -> Vec<std::path::PathBuf> {
    let (mut found, mut next) = (Vec::new(), vec![top.to_owned()]);
    while let Some(directory) = next.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_directory == directories {
                found.push(entry.path());
            }
            if is_directory {
                next.push(entry.path());
            }
        }
    }
    found
}

/// Everything that a pod has while it runs and that must go with it.
fn count(cluster: &Cluster, id: &str) -> Counts {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let places = [format!("/run/regatta/{id}"), cluster.data.display().to_string()];
    let ours: Vec<_> = mounts.lines().filter(|line| places.iter().any(|place| line.contains(place))).collect();
    let top = Path::new("/sys/fs/cgroup");
    let mut hierarchies: Vec<_> =
        std::fs::read_dir(top).expect("cgroups").flatten().map(|entry| entry.path()).collect();
    hierarchies.push(top.to_owned());
    let own: Vec<_> = hierarchies.iter().map(|hierarchy| hierarchy.join(format!("regatta-{id}"))).collect();
    let groups: Vec<_> = own.iter().flat_map(|top| below(top, true)).collect();
    let of_pod = |path: &&std::path::PathBuf| path.display().to_string().contains("/pod");
    // One hierarchy has them all: that of version 1 which counts processes, or the only one.
    let list =
        own.iter().find(|top| top.ends_with(format!("pids/regatta-{id}"))).filter(|top| top.exists()).or(own.last());
    let members = groups
        .iter()
        .filter(|group| list.is_some_and(|list| group.starts_with(list)))
        .map(|group| std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines().count());
    // The machine's own come and go as they please.
    let own_link = |line: &str| ["lo:", "eth0", "dev lo"].iter().any(|name| line.contains(name));
    let files = |name: &str| below(&cluster.data.join(name), false).len();
    let links = succeed(cluster.machine.command("ip").args(["-o", "link"]));
    let routes = succeed(cluster.machine.command("ip").args(["-4", "route", "show", "table", "all"]));
    let sockets = below(Path::new(&format!("/run/regatta/{id}/runtime/s")), true).len();
    BTreeMap::from([
        ("mounts", ours.len()),
        ("namespaces", ours.iter().filter(|line| line.contains(" - nsfs ")).count()),
        ("cgroups", groups.iter().filter(of_pod).count()),
        ("processes", members.sum()),
        ("interfaces", text(&links.stdout).lines().filter(|line| !own_link(line)).count()),
        ("routes", text(&routes.stdout).lines().filter(|line| !own_link(line)).count()),
        ("addresses", files("net")),
        ("sandboxes", files("runtime/sandboxes") + sockets),
        ("containers", files("runtime/containers")),
        ("images in use", files("images/use")),
        ("volumes", below(&cluster.data.join("kubelet/pods"), true).len()),
    ])
}

fn manifest(round: usize, pods: usize) -> String {
    let pod = |number: usize| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: p{round}-{number}, labels: {{round: r{round}}}}}, spec: {{\
             terminationGracePeriodSeconds: 0, shareProcessNamespace: {shared}, \
             containers: [{{name: main, image: {BUSYBOX:?}, command: [sleep, '1000000'], \
             volumeMounts: [{{name: data, mountPath: /data}}]}}], \
             volumes: [{{name: data, emptyDir: {{medium: {medium}}}}}]}}}}",
            shared = number.is_multiple_of(4),
            medium = if number.is_multiple_of(3) { "Memory" } else { "''" },
        )
    };
    (0..pods).map(pod).collect::<Vec<_>>().join("\n---\n")
}

/// Makes the pods; who asks a server that has just started asks again.
fn make(cluster: &Cluster, round: usize, pods: usize) {
    let file = cluster.data.with_extension("yaml");
    std::fs::write(&file, manifest(round, pods)).expect("manifest");
    let arguments = ["apply", "-f", file.to_str().expect("path")];
    cluster.wait_for("the pods to be made", || cluster.try_kubectl(&arguments));
}

fn running(cluster: &Cluster, round: usize) -> Result<usize, String> {
    let path = "jsonpath={range .items[*]}{.status.containerStatuses[0].ready}{\"\\n\"}{end}";
    let ready = cluster.try_kubectl(&["get", "pods", "-l", &format!("round=r{round}"), "-o", path])?;
    Ok(ready.lines().filter(|line| *line == "true").count())
}

/// A shim of this cluster, whichever comes first.
fn shim(id: &str) -> Option<Pid> {
    // Version 1 and the hybrid layout, then version 2.
    let lists = ["pids/", ""].map(|top| format!("/sys/fs/cgroup/{top}regatta-{id}/shims/cgroup.procs"));
    let text = lists.iter().find_map(|list| std::fs::read_to_string(list).ok())?;
    Some(Pid::from_raw(text.lines().next()?.parse().ok()?))
}

#[test]
fn nothing_is_left_of_pods_that_ended_and_of_processes_that_were_killed() {
    if !possible() {
        return;
    }
    let (pods, crashes) = (setting("REGATTA_LEAK_PODS", 80), setting("REGATTA_LEAK_CRASHES", 8));
    let share = pods.div_ceil(crashes).min(100);
    let machine = Machine::new();
    let mut cluster = Cluster::start(&machine, &[]);
    let id = id(&cluster);
    cluster.import_images();
    // What the first pod makes and every later one uses.
    make(&cluster, 0, 4);
    cluster.wait_for("the first pods", || {
        running(&cluster, 0).and_then(|n| if n == 4 { Ok(()) } else { Err(n.to_string()) })
    });
    cluster.kubectl(&["delete", "pods", "--all", "--timeout=60s"]);
    let settled = || {
        let counts = count(&cluster, &id);
        let busy = ["processes", "namespaces", "cgroups", "addresses", "containers"];
        if busy.iter().all(|name| counts[name] <= 2) { Ok(counts) } else { Err(format!("{counts:?}")) }
    };
    let base = cluster.wait_for("the first pods to be gone", settled);

    let (start, mut made, mut killed) = (Instant::now(), 0, [0; 2]);
    for round in 1..=crashes {
        make(&cluster, round, share);
        made += share;
        // At another moment each time: from before the first pod's start to after the last one's.
        std::thread::sleep(Duration::from_millis((round * 137 % 1000) as u64));
        if round % 3 == 0 {
            // Its pod goes on, as its policy says.
            if let Some(shim) = shim(&id) {
                let _ = kill(shim, Signal::SIGKILL);
                killed[1] += 1;
            }
        } else {
            cluster.crash();
            cluster.up();
            killed[0] += 1;
        }
        cluster.wait_for("the pods to run", || {
            running(&cluster, round).and_then(|n| if n == share { Ok(()) } else { Err(format!("{n} of {share} run")) })
        });
        cluster.kubectl(&["delete", "pods", "--all", "--wait=false"]);
        if round % 4 == 0 {
            std::thread::sleep(Duration::from_millis((round * 71 % 300) as u64));
            cluster.crash();
            cluster.up();
            killed[0] += 1;
        }
        cluster.wait_for("the pods to go", || match cluster.try_kubectl(&["get", "pods", "-o", "name"])?.trim() {
            "" => Ok(()),
            left => Err(left.to_owned()),
        });
    }
    let left = cluster.wait_for("everything of the pods to go", || {
        let counts = count(&cluster, &id);
        let sandboxes = || {
            let records = below(&cluster.data.join("runtime/sandboxes"), false);
            [records, below(Path::new(&format!("/run/regatta/{id}/runtime/s")), true)].concat()
        };
        if counts == base { Ok(counts) } else { Err(format!("{counts:?}\nin place of\n{base:?}\n{:?}", sandboxes())) }
    });
    let [servers, shims] = killed;
    assert!(crashes < 3 || shims > 0, "no shim was found to be killed");
    eprintln!("{made} pods, {servers} servers and {shims} shims killed in {:?}: {left:?}", start.elapsed());
    cluster.purge();
    let purged = count(&cluster, &id);
    assert!(purged.values().all(|number| *number == 0), "{purged:?}");
    assert!(!Path::new("/run/regatta").join(&id).exists());
}
