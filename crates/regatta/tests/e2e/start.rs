//! Starting and stopping in every way, and what happens where the disk, the store or the addresses give out.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::{BUSYBOX, Cluster, Machine, possible, succeed, text};

fn pod(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{terminationGracePeriodSeconds: 0, containers: [{{name: \
         main, image: '{BUSYBOX}', command: [sleep, '10000']}}]}}\n"
    )
}

#[test]
fn a_cluster_in_the_background_is_stopped_and_started_with_the_same_pods() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let directory = tempfile::tempdir().expect("directory");
    let kubeconfig = directory.path().join("elsewhere.yaml");
    let mut cluster = Cluster::start(&machine, &["--kubeconfig", kubeconfig.to_str().expect("path")]);
    assert!(!cluster.data.join("kubeconfig.yaml").exists());
    // The harness looks for it in the data directory.
    std::os::unix::fs::symlink(&kubeconfig, cluster.data.join("kubeconfig.yaml")).expect("link");
    cluster.import_images();
    cluster.apply(&pod("steady"));
    cluster.kubectl(&["wait", "pod/steady", "--for=condition=Ready", "--timeout=60s"]);
    let container = |cluster: &Cluster| {
        let path = "jsonpath={.status.containerStatuses[0].containerID} {.status.podIP}";
        cluster.kubectl(&["get", "pod", "steady", "-o", path])
    };
    let before = container(&cluster);
    cluster.interrupt();
    let output = cluster.regatta(&["status"]).output().expect("regatta runs");
    assert!(!output.status.success() && text(&output.stderr).contains("is not running"), "{output:?}");
    for _ in 0..2 {
        let line = text(
            &succeed(&mut cluster.regatta(&["up", "--detach", "--kubeconfig", kubeconfig.to_str().expect("path")]))
                .stdout,
        );
        assert!(line.contains("ready after") && line.contains(kubeconfig.to_str().expect("path")), "{line}");
        let status = text(&succeed(&mut cluster.regatta(&["status"])).stdout);
        for part in ["process ", "node Ready", "1 running of 1", "v1.36", kubeconfig.to_str().expect("path")] {
            assert!(status.contains(part), "{part:?} is not in\n{status}");
        }
        assert_eq!(container(&cluster), before, "the pod changed");
        let said = text(&succeed(&mut cluster.regatta(&["down"])).stdout);
        assert!(said.contains("pods keep running"), "{said}");
    }
    let version = text(&succeed(Command::new(env!("CARGO_BIN_EXE_regatta")).arg("version")).stdout);
    assert!(version.contains("Kubernetes v1.36"), "{version}");
    cluster.purge();
    assert!(!cluster.data.exists() && !kubeconfig.exists());
}

/// Every file below, with its length.
fn files(directory: &Path) -> Vec<(PathBuf, u64)> {
    let found = text(&succeed(Command::new("find").arg(directory).args(["-type", "f", "-size", "+0"])).stdout);
    let files = found.lines().map(PathBuf::from);
    files.map(|f| (f.clone(), std::fs::metadata(f).map_or(0, |m| m.len()))).collect()
}

#[test]
fn a_damaged_store_is_told_and_nothing_of_it_is_changed() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let mut cluster = Cluster::start(&machine, &[]);
    cluster.kubectl(&["create", "configmap", "kept", "--from-literal=a=b"]);
    cluster.interrupt();
    let store = cluster.data.join("store");
    let contents = || -> Vec<(PathBuf, Vec<u8>)> {
        let kept = files(&store).into_iter().filter(|(file, _)| !file.ends_with("lock"));
        kept.map(|(file, _)| (file.clone(), std::fs::read(file).expect("file"))).collect()
    };
    let good = contents();
    for (file, content) in &good {
        let mut bad = content.clone();
        let length = bad.len().min(4096);
        bad[..length].fill(0xa5);
        std::fs::write(file, bad).expect("damage");
    }
    let damaged = contents();
    assert_eq!(damaged.len(), good.len());
    let output = cluster.regatta(&["up", "--node-name", "node"]).output().expect("regatta runs");
    assert!(contents() == damaged, "the failed start changed the store");
    let error = text(&output.stderr);
    let last = error.lines().last().unwrap_or("");
    assert!(!output.status.success() && last.starts_with("regatta: "), "{error}");
    assert!(last.contains(store.to_str().expect("path")) && last.contains("damaged"), "{last}");
    for (file, content) in &good {
        std::fs::write(file, content).expect("repair");
    }
    cluster.up();
    assert_eq!(cluster.kubectl(&["get", "configmap", "kept", "-o", "jsonpath={.data.a}"]), "b");
}

/// A small disk, unmounted at its end.
struct Disk(tempfile::TempDir);

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_told_and_the_cluster_recovers_when_there_is_room() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let disk = Disk(tempfile::tempdir().expect("directory"));
    succeed(Command::new("mount").args(["-t", "tmpfs", "-o", "size=192m", "tmpfs"]).arg(disk.0.path()));
    // What the server says must not need the room that it complains about.
    let outside = tempfile::NamedTempFile::new().expect("log");
    std::os::unix::fs::symlink(outside.path(), disk.0.path().join("data.log")).expect("link");
    let mut cluster = Cluster::start_at(&machine, disk.0.path().join("data"), &[]);
    cluster.kubectl(&["create", "configmap", "before", "--from-literal=a=b"]);
    let filler = disk.0.path().join("filler");
    let fill = || {
        let mut file = std::fs::File::create(&filler).expect("file");
        while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    };
    fill();
    let content = disk.0.path().parent().expect("parent").join(format!("regatta-content-{}", std::process::id()));
    std::fs::write(&content, vec![b'x'; 500_000]).expect("content");
    let from = format!("--from-file=a={}", content.display());
    let mut number = 0;
    let error = cluster.wait_for("a write to be refused", || {
        number += 1;
        match cluster.try_kubectl(&["create", "configmap", &format!("during-{number}"), &from]) {
            Err(error) => Ok(error),
            Ok(_) => Err("it was taken".to_owned()),
        }
    });
    std::fs::remove_file(&content).expect("remove");
    assert!(error.contains("No space left on device") || error.contains("disk is full"), "{error}\n{}", cluster.log());
    // Reads go on.
    assert_eq!(cluster.kubectl(&["get", "configmap", "before", "-o", "jsonpath={.data.a}"]), "b");
    std::fs::remove_file(&filler).expect("room");
    cluster.wait_for("writes to be taken again", || {
        let done = cluster.try_kubectl(&["create", "configmap", "after", "--from-literal=a=c"]);
        done.or_else(|e| if e.contains("AlreadyExists") { Ok(e) } else { Err(e) })
    });
    cluster.crash();
    cluster.up();
    for (name, value) in [("before", "b"), ("after", "c")] {
        assert_eq!(cluster.kubectl(&["get", "configmap", name, "-o", "jsonpath={.data.a}"]), value);
    }
    let kept = cluster.kubectl(&["get", "configmap", "-o", "name"]);
    assert!((1..number).all(|n| kept.contains(&format!("during-{n}\n"))), "what was acknowledged is lost: {kept}");
    fill();
    cluster.crash();
    let output = cluster.regatta(&["up", "--node-name", "node", "--detach"]).output().expect("regatta runs");
    if output.status.success() {
        succeed(&mut cluster.regatta(&["down"]));
    } else {
        let error = text(&output.stderr);
        let told = ["No space left on device", "disk is full", "regatta.log"].iter().any(|part| error.contains(part));
        assert!(told && output.status.code() == Some(1), "{error}");
    }
    std::fs::remove_file(&filler).expect("room");
    cluster.up();
    cluster.purge();
}

#[test]
fn an_exhausted_range_of_addresses_is_told_on_the_pod_and_recovers_when_a_pod_goes() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let cluster = Cluster::start(&machine, &["--cluster-cidr", "10.99.0.0/28"]);
    cluster.import_images();
    let names: Vec<String> = (0..16).map(|n| format!("p{n:02}")).collect();
    cluster.apply(&names.iter().map(|n| pod(n)).collect::<Vec<_>>().join("---\n"));
    let (there, missing) = cluster.wait_for("the range to be exhausted", || {
        let path = "{range .items[*]}{.metadata.name} {.status.podIP}{\"\\n\"}{end}";
        let list = cluster.kubectl(&["get", "pods", "-o", &format!("jsonpath={path}")]);
        let has = |l: &&str| l.split(' ').nth(1).is_some_and(|ip| !ip.is_empty());
        let name = |l: &str| l.split(' ').next().unwrap_or("").to_owned();
        let (with, without): (Vec<&str>, Vec<&str>) = list.lines().partition(has);
        if with.len() >= 12 { Ok((name(with[0]), name(without[0]))) } else { Err(list) }
    });
    cluster.wait_for("the event", || {
        let selector = format!("involvedObject.name={missing},reason=FailedCreatePodSandBox");
        let events = cluster.kubectl(&["get", "events", "--field-selector", &selector, "-o", "yaml"]);
        if events.contains("no IP addresses available") && events.contains("10.99.0.1-10.99.0.14") {
            Ok(())
        } else {
            Err(events)
        }
    });
    let path = "jsonpath={.status.conditions[?(@.type==\"PodReadyToStartContainers\")].status}";
    assert_eq!(cluster.kubectl(&["get", "pod", &missing, "-o", path]), "False");
    cluster.kubectl(&["delete", "pod", &there]);
    cluster.wait_for("one more pod to run", || {
        let pods = cluster.kubectl(&["get", "pods", "--field-selector", "status.phase=Running", "-o", "name"]);
        if pods.lines().count() >= 12 { Ok(()) } else { Err(pods) }
    });
}
