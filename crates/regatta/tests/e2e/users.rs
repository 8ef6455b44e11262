//! Pods with users of their own (`hostUsers: false`): root inside is nobody on the node, and all that belongs to the pod is
//! the pod's to use.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::cluster::{BUSYBOX, Cluster, Machine, possible};

const OBJECTS: &str = r"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {plain: one}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {password: hidden}
";

const PODS: &str = r"
apart:
  hostUsers: false
  securityContext: {fsGroup: 4000}
  containers:
    - {name: root, command: [sh, -c, 'echo told > /dev/stdout; exec sleep 1000000'], volumeMounts: &mounts [
        {name: map, mountPath: /map}, {name: secret, mountPath: /secret}, {name: disk, mountPath: /disk},
        {name: memory, mountPath: /memory}, {name: node, mountPath: /node}, {name: image, mountPath: /image},
        {name: disk, mountPath: /part, subPath: part}]}
    - {name: user, command: [sleep, '1000000'], securityContext: {runAsUser: 1000, runAsGroup: 1000}, volumeMounts: *mounts}
  volumes:
    - {name: map, configMap: {name: settings}}
    - {name: secret, secret: {secretName: keys, defaultMode: 0400}}
    - {name: disk, emptyDir: {}}
    - {name: memory, emptyDir: {medium: Memory}}
    - {name: node, hostPath: {path: HOST}}
    - {name: image, image: {reference: 'IMAGE', pullPolicy: IfNotPresent}}
shared:
  hostUsers: false
  shareProcessNamespace: true
  containers: [{name: main, command: [sleep, '1000000']}]
later:
  hostUsers: false
  containers: [{name: main, command: [sleep, '1000000']}]
kernel:
  hostUsers: false
  containers: [{name: main, command: [sleep, '1'], volumeMounts: [{name: v, mountPath: /v}]}]
  volumes: [{name: v, hostPath: {path: /proc}}]
";

#[test]
fn a_pod_with_users_of_its_own_has_its_volumes_and_no_rights_on_the_node() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let mut cluster = Cluster::start(&machine, &[]);
    cluster.import_images();
    let host = cluster.data.with_extension("host");
    fs::create_dir(&host).expect("a directory");
    fs::write(host.join("own"), "own").expect("a file");
    fs::set_permissions(host.join("own"), fs::Permissions::from_mode(0o600)).expect("its mode");
    let features = "jsonpath={.items[0].status.runtimeHandlers[*].features.userNamespaces}";
    assert_eq!(cluster.kubectl(&["get", "nodes", "-o", features]), "true true");
    cluster.apply(OBJECTS);
    let pods = PODS.replace("HOST", &host.display().to_string()).replace("IMAGE", BUSYBOX);
    cluster.apply_pods(&pods, &["apart", "shared"]);
    cluster.kubectl(&["wait", "pod/apart", "pod/shared", "--for=condition=Ready", "--timeout=60s"]);
    let exec = |cluster: &Cluster<'_>, pod: &str, container: &str, command: &str| {
        cluster.kubectl(&["exec", pod, "-c", container, "--", "sh", "-c", command])
    };
    let map = |cluster: &Cluster<'_>, pod: &str, container: &str| {
        let text = exec(cluster, pod, container, "cat /proc/self/uid_map /proc/self/gid_map");
        let numbers: Vec<u32> = text.split_whitespace().map(|number| number.parse().expect("a number")).collect();
        assert_eq!((numbers[0], numbers[2], numbers[..3] == numbers[3..]), (0, 65_536, true), "{text}");
        numbers[1]
    };
    let (apart, shared) = (map(&cluster, "apart", "root"), map(&cluster, "shared", "main"));
    assert!(apart >= 65_536 && shared >= 65_536 && apart.abs_diff(shared) >= 65_536, "{apart} {shared}");
    assert_eq!(map(&cluster, "apart", "user"), apart, "the containers of a pod have the same users");

    for (container, command, expected) in [
        ("root", "id -u; id -G; cat /map/plain /secret/password /node/own", "0\n0 4000\nonehiddenown"),
        (
            "root",
            "stat -c %u:%g /map/..data/plain /secret/..data/password /disk /node/own /image/bin/busybox",
            "0:4000\n0:4000\n0:4000\n0:0\n0:0\n",
        ),
        (
            "root",
            "echo x > /node/made; echo x > /disk/root; echo x > /part/x; cat /disk/part/x; stat -c %u /etc/hosts",
            "x\n0\n",
        ),
        ("root", "test -s /var/run/secrets/kubernetes.io/serviceaccount/token && echo token", "token\n"),
        (
            "root",
            "mknod /disk/sda b 8 0 2>/dev/null || echo refused; mount -t tmpfs x /tmp 2>/dev/null || echo refused",
            "refused\nrefused\n",
        ),
        (
            "user",
            "id -u; id -G; cat /map/plain /secret/password; cat /node/own 2>/dev/null || echo refused",
            "1000\n1000 4000\nonehiddenrefused\n",
        ),
        (
            "user",
            "echo x > /disk/user; echo x > /memory/user; stat -c %u:%g /disk/user /memory/user",
            "1000:4000\n1000:4000\n",
        ),
        ("user", "nc -w 5 kubernetes.default 443 </dev/null && echo reached", "reached\n"),
    ] {
        assert_eq!(exec(&cluster, "apart", container, command), expected, "{command}");
    }
    assert_eq!(cluster.kubectl(&["logs", "apart", "-c", "root"]), "told\n");
    let made = fs::metadata(host.join("made")).expect("the pod's file");
    assert_eq!(made.uid(), 0, "what is written to a volume has the ids that the pod knows");
    let outside: Vec<u32> = fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .filter_map(|process| fs::read_to_string(process.path().join("status")).ok())
        .filter_map(|status| {
            status.lines().find_map(|line| line.strip_prefix("Uid:\t")?.split('\t').next()?.parse().ok())
        })
        .collect();
    for uid in [apart, apart + 1000, shared] {
        assert!(outside.contains(&uid), "{uid} is nobody's among {outside:?}");
    }
    assert!(exec(&cluster, "shared", "main", "ps -o pid,comm").contains("pause"));

    // A server that was killed goes on with the same, and gives nobody what somebody has.
    cluster.crash();
    cluster.up();
    assert_eq!(map(&cluster, "apart", "root"), apart);
    cluster.apply_pods(&pods, &["later", "kernel"]);
    cluster.kubectl(&["wait", "pod/later", "--for=condition=Ready", "--timeout=60s"]);
    let later = map(&cluster, "later", "main");
    assert!(later.abs_diff(apart) >= 65_536 && later.abs_diff(shared) >= 65_536, "{later} {apart} {shared}");
    // What cannot be mapped is refused in known words.
    cluster.until("kernel", "/status/containerStatuses/0/state/waiting/reason", "CreateContainerError");
    let told = cluster.pod("kernel")["status"]["containerStatuses"][0]["state"]["waiting"]["message"].to_string();
    assert!(told.contains("failed to set MOUNT_ATTR_IDMAP on /proc: invalid argument"), "{told}");
    let both = r#"{"spec":{"hostNetwork":true,"hostUsers":false,"containers":[{"name":"a","image":"x"}]}}"#;
    let refused = cluster.try_kubectl(&["run", "both", "--image=x", &format!("--overrides={both}")]);
    assert!(refused.is_err_and(|error| error.contains("when `pod.Spec.HostUsers` is false")));
}
