//! What holds between a pod and its node, seen through the API: devices, privileges, the host's binary; and that a pod
//! which misbehaves, or loses its shim, harms no other.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::cluster::{BUSYBOX, Cluster, Machine, possible};

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: devices}
spec:
  restartPolicy: Never
  containers:
    - name: main
      image: IMAGE
      command: [sh, -c, 'mknod /disk b MAJOR MINOR && echo made; (: < /disk) 2>/dev/null && echo reached;
        mknod /log c 1 11; (: < /log) 2>/dev/null && echo reached; head -c4 /dev/zero | wc -c; ls /dev | tr "\n" " "']
---
apiVersion: v1
kind: Pod
metadata: {name: rights}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - {name: root, image: IMAGE, command: [sleep, "1000"]}
    - {name: user, image: IMAGE, command: [sleep, "1000"], securityContext: {runAsUser: 1000}}
    - name: sealed
      image: IMAGE
      command: [sleep, "1000"]
      securityContext: {runAsUser: 1000, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
    - name: added
      image: IMAGE
      command: [sleep, "1000"]
      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}}
  securityContext: {seccompProfile: {type: RuntimeDefault}}
---
apiVersion: v1
kind: Pod
metadata: {name: exe}
spec:
  restartPolicy: Never
  containers:
    - {name: main, image: IMAGE, command: [/proc/self/exe, version]}
---
apiVersion: v1
kind: Pod
metadata: {name: watcher}
spec:
  hostPID: true
  terminationGracePeriodSeconds: 0
  containers:
    - {name: main, image: IMAGE, command: [sleep, "1000"]}
"#;

#[test]
fn a_pod_reaches_neither_devices_nor_privileges_nor_the_binary_of_its_node() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let cluster = Cluster::start(&machine, &[]);
    cluster.import_images();
    let disk = std::fs::metadata(&cluster.data).expect("data").dev();
    let number = |text: &str, number: u64| PODS.replace(text, &number.to_string());
    let pods = number("MAJOR", nix::sys::stat::major(disk)).replace("MINOR", &nix::sys::stat::minor(disk).to_string());
    cluster.apply(&pods.replace("IMAGE", BUSYBOX));

    cluster.kubectl(&["wait", "pod/devices", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s"]);
    let text = cluster.kubectl(&["logs", "devices"]);
    let (first, listed) = text.trim_end().rsplit_once('\n').expect("lines");
    assert_eq!(first, "made\n4");
    let has: Vec<&str> = listed.split_whitespace().filter(|name| !["core", "termination-log"].contains(name)).collect();
    let expected = [
        "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom",
        "zero",
    ];
    assert_eq!(has, expected);

    cluster.kubectl(&["wait", "pod/rights", "pod/watcher", "--for=condition=Ready", "--timeout=60s"]);
    let probe = "grep -E '^(CapBnd|CapEff|CapPrm|NoNewPrivs|Seccomp):' /proc/self/status | tr -s '\\t\\n' ' '; id -u; \
                 unshare -n true 2>/dev/null && echo escaped; (echo x > /proc/sys/kernel/hostname) 2>/dev/null && echo wrote; true";
    // The first process and what is executed beside it are bound alike.
    let first = "cat /proc/1/status | grep -E '^(CapBnd|CapEff|CapPrm|NoNewPrivs|Seccomp):' | tr -s '\\t\\n' ' '";
    let (default, none, bind) = ("00000000a80425fb", "0000000000000000", "0000000000000400");
    for (container, effective, bounding, sealed, user) in [
        ("root", default, default, 0, 0),
        ("user", none, default, 0, 1000),
        ("sealed", none, none, 1, 1000),
        ("added", bind, bind, 1, 0),
    ] {
        let expected =
            format!("CapPrm: {effective} CapEff: {effective} CapBnd: {bounding} NoNewPrivs: {sealed} Seccomp: 2 ");
        let exec = |script: &str| cluster.kubectl(&["exec", "rights", "-c", container, "--", "sh", "-c", script]);
        assert_eq!(exec(probe), format!("{expected}{user}\n"), "exec in {container}");
        assert_eq!(exec(first), expected, "first process of {container}");
    }

    let reason = "jsonpath={.status.containerStatuses[0].state.terminated.message}";
    cluster.wait_for("the host's binary to be refused", || {
        match cluster.kubectl(&["get", "pod", "exe", "-o", reason]) {
            text if text.contains("permission denied") => Ok(()),
            text => Err(text),
        }
    });
    let write = "for p in /proc/[0-9]*; do (echo x >> $p/exe) 2>/dev/null && echo wrote; \
                 cat $p/root/etc/shadow 2>/dev/null && echo read; done; true";
    assert_eq!(cluster.kubectl(&["exec", "watcher", "--", "sh", "-c", write]), "");
    let sees = "cat /proc/[0-9]*/comm";
    assert!(
        cluster.kubectl(&["exec", "watcher", "--", "sh", "-c", sees]).contains("regatta"),
        "the node's processes are there"
    );
}

const FAULTS: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: bystander}
spec:
  containers: [{name: main, image: IMAGE, command: [sleep, '1000']}]
---
apiVersion: v1
kind: Pod
metadata: {name: always}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: IMAGE, command: [sleep, '7654321']}]
---
apiVersion: v1
kind: Pod
metadata: {name: never}
spec:
  restartPolicy: Never
  containers: [{name: main, image: IMAGE, command: [sleep, '7654322']}]
---
apiVersion: v1
kind: Pod
metadata: {name: deaf}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: IMAGE, command: [sh, -c, 'trap : TERM INT; while true; do sleep 1000; done']}]
---
apiVersion: v1
kind: Pod
metadata: {name: hog}
spec:
  restartPolicy: Never
  containers:
    - {name: main, image: IMAGE, command: [tail, /dev/zero], resources: {limits: {memory: 24Mi}}}
";

/// The process that runs a command, by a word of its arguments.
fn process(word: &str) -> Option<i32> {
    std::fs::read_dir("/proc").expect("proc").flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let arguments = std::fs::read(entry.path().join("cmdline")).ok()?;
        (arguments == format!("sleep\0{word}\0").as_bytes()).then_some(pid)
    })
}

fn parent(pid: i32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    status.lines().find_map(|line| line.strip_prefix("PPid:\t")).expect("parent").parse().expect("pid")
}

#[test]
fn what_befalls_one_pod_ends_as_it_should_and_harms_no_other() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let cluster = Cluster::start(&machine, &[]);
    cluster.import_images();
    cluster.apply(&FAULTS.replace("IMAGE", BUSYBOX));
    cluster.kubectl(&["wait", "pod/always", "pod/never", "pod/deaf", "--for=condition=Ready", "--timeout=60s"]);

    for (pod, word) in [("always", "7654321"), ("never", "7654322")] {
        let pid = process(word).unwrap_or_else(|| panic!("{pod} runs"));
        let shim = nix::unistd::Pid::from_raw(parent(pid));
        nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL).expect("kill");
        cluster.wait_for("the shim's container to end", || {
            if Path::new(&format!("/proc/{pid}")).exists() { Err(format!("{pid} runs on")) } else { Ok(()) }
        });
    }
    let field = |pod: &str, path: &str| cluster.kubectl(&["get", "pod", pod, "-o", &format!("jsonpath={{{path}}}")]);
    cluster.wait_for("the pod that restarts to run again", || {
        let status = &field("always", ".status.containerStatuses[0]['restartCount','ready']");
        if status == "1 true" { Ok(()) } else { Err(status.clone()) }
    });
    assert_eq!(field("always", ".status.containerStatuses[0].lastState.terminated.exitCode"), "255");
    assert!(process("7654321").is_some());
    cluster.wait_for("the pod that does not to fail", || match field("never", ".status.phase") {
        phase if phase == "Failed" => Ok(()),
        phase => Err(phase),
    });

    cluster.wait_for("the memory hog to be killed", || {
        match field("hog", ".status.containerStatuses[0].state.terminated['reason','exitCode']") {
            outcome if outcome == "OOMKilled 137" => Ok(()),
            outcome => Err(outcome),
        }
    });
    let start = std::time::Instant::now();
    cluster.kubectl(&["delete", "pod", "deaf", "--timeout=30s"]);
    assert!(start.elapsed() < std::time::Duration::from_secs(15), "{:?}", start.elapsed());

    assert_eq!(field("bystander", ".status.containerStatuses[0]['restartCount','ready']"), "0 true");
    assert_eq!(cluster.kubectl(&["exec", "bystander", "--", "echo", "well"]), "well\n");
}
