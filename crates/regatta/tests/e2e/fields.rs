//! Fields of pods, each with its effect as seen from inside: users and groups, names, name servers, mounts, profiles, resources of
//! the whole pod, and what `kubectl logs` can be asked for.

use crate::cluster::{Cluster, Machine, possible};

const PODS: &str = r##"
groups:
  restartPolicy: Never
  securityContext: {runAsUser: 1001, runAsGroup: 1002, fsGroup: 1003, supplementalGroups: [1004], fsGroupChangePolicy: OnRootMismatch}
  containers:
    - name: main
      command: [sh, -c, 'id -u; id -g; id -G; stat -c "%g %a" /v; touch /v/f; stat -c %g /v/f']
      volumeMounts: [{name: v, mountPath: /v}]
  volumes: [{name: v, emptyDir: {}}]
strict:
  restartPolicy: Never
  securityContext: {runAsUser: 1001, runAsGroup: 1002, supplementalGroups: [1004], supplementalGroupsPolicy: Strict}
  containers: [{name: main, command: [id, -G]}]
named:
  restartPolicy: Never
  hostname: short
  subdomain: sub
  setHostnameAsFQDN: true
  hostAliases: [{ip: 192.0.2.7, hostnames: [alias.example, other.example]}]
  containers: [{name: main, command: [sh, -c, 'hostname; cat /etc/hosts']}]
asking:
  restartPolicy: Never
  dnsPolicy: None
  dnsConfig: {nameservers: [192.0.2.1], searches: [one.example, two.example], options: [{name: ndots, value: "3"}, {name: edns0}]}
  containers: [{name: main, command: [cat, /etc/resolv.conf]}]
readonly:
  restartPolicy: Never
  containers:
    - name: main
      command: [sh, -c, 'touch /x 2>&1; touch /below/sub/x 2>&1; touch /shallow/x 2>&1; touch /tmp/ok && echo written']
      securityContext: {readOnlyRootFilesystem: true}
      volumeMounts:
        - {name: outer, mountPath: /below, readOnly: true, recursiveReadOnly: IfPossible}
        - {name: outer, mountPath: /shallow, readOnly: true}
        - {name: scratch, mountPath: /tmp}
  volumes: [{name: outer, hostPath: {path: DIRECTORY}}, {name: scratch, emptyDir: {medium: Memory, sizeLimit: 1Mi}}]
profile:
  restartPolicy: Never
  securityContext: {seccompProfile: {type: Localhost, localhostProfile: no-chmod.json}}
  containers: [{name: main, command: [sh, -c, 'touch /x; chmod 777 /x 2>&1; echo end']}]
masked:
  restartPolicy: Never
  containers: [{name: main, command: [sh, -c, 'wc -c < /proc/keys; echo 1 2>/dev/null > /proc/sys/kernel/domainname || echo closed']}]
whole:
  resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 200m, memory: 64Mi}}
  containers: [{name: one, command: [sleep, '1000000']}, {name: two, command: [sleep, '1000000']}]
image:
  restartPolicy: Never
  containers:
    - name: main
      command: [sh, -c, 'ls /image; ls /part; touch /image/x 2>&1; true']
      volumeMounts: [{name: image, mountPath: /image}, {name: image, mountPath: /part, subPath: bin}]
  volumes: [{name: image, image: {reference: 'regatta.test/busybox:1', pullPolicy: IfNotPresent}}]
missing:
  containers:
    - name: main
      command: [sleep, '1000000']
      volumeMounts: [{name: v, mountPath: /v}]
  volumes: [{name: v, configMap: {name: partial, items: [{key: absent, path: p}]}}]
optional:
  restartPolicy: Never
  containers:
    - name: main
      command: [sh, -c, 'ls /v; echo "[$A]"']
      env: [{name: A, valueFrom: {configMapKeyRef: {name: nowhere, key: a, optional: true}}}]
      volumeMounts: [{name: v, mountPath: /v}]
  volumes: [{name: v, configMap: {name: nowhere, optional: true}}]
stubborn:
  containers:
    - name: main
      command: [sleep, '1000000']
      lifecycle: {preStop: {exec: {command: [sh, -c, 'exit 7']}}}
unknown:
  securityContext: {runAsNonRoot: true}
  containers: [{name: main, command: [sleep, '1000000']}]
talks:
  containers:
    - name: main
      command: [sh, -c, 'for i in $(seq 9); do echo out $i; done; echo err >&2; sleep 3; echo late; exec sleep 1000000']
"##;

const PROFILE: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
    {"names": ["chmod", "fchmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]}"#;

#[test]
fn every_field_has_its_effect() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let directory = tempfile::tempdir().expect("directory");
    let below = directory.path().join("sub");
    std::fs::create_dir(&below).expect("directory");
    let _mounted = Mounted::tmpfs(below);
    let cluster = Cluster::start(&machine, &[]);
    cluster.import_images();
    let profiles = cluster.data.join("kubelet/seccomp");
    std::fs::create_dir_all(&profiles).expect("directory");
    std::fs::write(profiles.join("no-chmod.json"), PROFILE).expect("write");
    cluster.kubectl(&["create", "configmap", "partial", "--from-literal=there=1"]);
    cluster.apply_pods(&PODS.replace("DIRECTORY", directory.path().to_str().expect("path")), &[]);

    let said = |pod: &str| {
        cluster.until(pod, "/status/phase", "Succeeded");
        cluster.kubectl(&["logs", pod])
    };
    assert_eq!(said("groups"), "1001\n1002\n1002 1003 1004\n1003 2777\n1003\n");
    assert_eq!(said("strict"), "1002 1004\n");
    let status = &cluster.pod("strict")["status"]["containerStatuses"][0]["user"]["linux"];
    assert_eq!(*status, serde_json::json!({"uid": 1001, "gid": 1002, "supplementalGroups": [1002, 1004]}));
    let named = said("named");
    assert!(named.starts_with("short.sub.default.svc.cluster.local\n# Kubernetes-managed hosts file.\n"), "{named}");
    assert!(named.contains("\tshort.sub.default.svc.cluster.local\tshort\n"), "{named}");
    assert!(named.ends_with("# Entries added by HostAliases.\n192.0.2.7\talias.example\tother.example\n"), "{named}");
    let expected = "search one.example two.example\nnameserver 192.0.2.1\noptions ndots:3 edns0\n";
    assert_eq!(said("asking"), expected);
    let refused = said("readonly");
    let lines: Vec<_> = refused.lines().collect();
    assert!(lines[..3].iter().all(|line| line.contains("Read-only file system")) && lines[3] == "written", "{refused}");
    let profile = said("profile");
    assert!(profile.contains("Permission denied") && profile.ends_with("end\n"), "{profile}");
    assert_eq!(said("masked"), "0\nclosed\n");
    let image = said("image");
    assert!(
        image.starts_with("bin\n") && image.contains("busybox") && image.contains("Read-only file system"),
        "{image}"
    );
    assert_eq!(said("optional"), "[]\n");
    whole(&cluster);
    wrong(&cluster);
    logs(&cluster);
}

/// A file system of its own, as long as the test runs.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn tmpfs(at: std::path::PathBuf) -> Mounted {
        nix::mount::mount(Some("tmpfs"), &at, Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>)
            .expect("mount");
        Mounted(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = nix::mount::umount(&self.0);
    }
}

/// What the pod has as a whole, its containers share.
fn whole(cluster: &Cluster) {
    cluster.kubectl(&["wait", "pod/whole", "--for=condition=Ready", "--timeout=60s"]);
    let pod = cluster.pod("whole");
    assert_eq!(pod["status"]["qosClass"], "Burstable");
    let uid = pod["metadata"]["uid"].as_str().expect("a uid");
    let found = std::process::Command::new("find")
        .args(["/sys/fs/cgroup", "-type", "d", "-path", &format!("*{uid}")])
        .output()
        .expect("find");
    let groups = crate::cluster::text(&found.stdout);
    let read = |file: &str| groups.lines().find_map(|group| std::fs::read_to_string(format!("{group}/{file}")).ok());
    let memory = read("memory.limit_in_bytes").or_else(|| read("memory.max")).expect("a limit");
    assert_eq!(memory.trim(), (64 << 20).to_string());
    let cpu = read("cpu.cfs_quota_us").or_else(|| read("cpu.max")).expect("a limit");
    assert!(cpu.starts_with("20000"), "{cpu}");
}

/// What is wrong is told, and ends as upstream says.
fn wrong(cluster: &Cluster) {
    cluster.told("missing", "FailedMount", "configmap references non-existent config key: absent");
    cluster.until("missing", "/status/containerStatuses/0/state/waiting/reason", "ContainerCreating");
    cluster.until("unknown", "/status/containerStatuses/0/state/waiting/reason", "CreateContainerConfigError");
    cluster.told("unknown", "Failed", "Error: container has runAsNonRoot and image will run as root");
    cluster.kubectl(&["wait", "pod/stubborn", "--for=condition=Ready", "--timeout=60s"]);
    cluster.kubectl(&["delete", "pod", "stubborn", "--wait=false"]);
    cluster.told("stubborn", "FailedPreStopHook", "PreStopHook failed");
    cluster.wait_for("the pod to go", || match cluster.try_kubectl(&["get", "pod", "stubborn"]) {
        Err(error) if error.contains("NotFound") => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

fn logs(cluster: &Cluster) {
    cluster.wait_for("the last line", || {
        let log = cluster.try_kubectl(&["logs", "talks"])?;
        if log.ends_with("late\n") { Ok(()) } else { Err(log) }
    });
    let log = |more: &[&str]| cluster.kubectl(&[&["logs", "talks"], more].concat());
    assert_eq!(log(&["--tail=2"]), "err\nlate\n");
    assert_eq!(log(&["--limit-bytes=5"]), "out 1");
    let stamped = log(&["--timestamps"]);
    let times: Vec<&str> = stamped.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(times.len() == 11 && times.is_sorted(), "{stamped}");
    let last = times.last().expect("a time");
    assert_eq!(log(&[&format!("--since-time={last}")]), "late\n");
    let path = "/api/v1/namespaces/default/pods/talks/log?stream=Stderr";
    assert_eq!(cluster.kubectl(&["get", "--raw", path]), "err\n");
    let both = cluster.try_kubectl(&["logs", "talks", "--since=1s", "--since-time=2026-01-01T00:00:00Z"]);
    assert!(both.expect_err("one of them").contains("at most one of"), "only one may be given");
    let other = cluster.try_kubectl(&["logs", "talks", "-c", "none"]).expect_err("no such container");
    assert!(other.contains("container none is not valid for pod talks"), "{other}");
    let previous = cluster.try_kubectl(&["logs", "talks", "--previous"]).expect_err("it has not ended");
    assert!(previous.contains("previous terminated container \"main\" in pod \"talks\" not found"), "{previous}");
}
