//! What pods see of objects and of the node: volumes of every simple kind, environments, and changes of both.

use std::path::Path;
use std::process::Command;

use crate::cluster::{BUSYBOX, Cluster, Machine, possible, succeed, text};

const OBJECTS: &str = r"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {plain: one, other: two, nested: three}
binaryData: {raw: AAEC}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {password: hidden, user: anna}
---
apiVersion: v1
kind: Pod
metadata:
  name: viewer
  labels: {role: test}
  annotations: {note: 'a b'}
spec:
  terminationGracePeriodSeconds: 0
  nodeSelector: {kubernetes.io/os: linux}
  containers:
    - name: main
      image: IMAGE
      command: [sleep, '1000000']
      resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 1500m, memory: 64Mi}}
      envFrom:
        - {prefix: MAP_, configMapRef: {name: settings}}
        - {secretRef: {name: keys}}
        - {configMapRef: {name: absent, optional: true}}
      env:
        - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: SPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
        - {name: LABEL, valueFrom: {fieldRef: {fieldPath: 'metadata.labels[''role'']'}}}
        - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
        - {name: ACCOUNT, valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}}
        - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: HOST_IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
        - {name: CPUS, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
        - {name: MILLIS, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1m}}}
        - {name: MEGABYTES, valueFrom: {resourceFieldRef: {resource: requests.memory, divisor: 1Mi}}}
        - {name: KEY, valueFrom: {configMapKeyRef: {name: settings, key: other}}}
        - {name: NOTHING, valueFrom: {configMapKeyRef: {name: settings, key: absent, optional: true}}}
        - {name: SECRET, valueFrom: {secretKeyRef: {name: keys, key: password}}}
        - {name: COMPOSED, value: '$(POD)-$(KEY)-$$(KEY)-$(UNKNOWN)'}
      volumeMounts:
        - {name: map, mountPath: /map}
        - {name: picked, mountPath: /picked}
        - {name: secret, mountPath: /secret, readOnly: true}
        - {name: downward, mountPath: /downward}
        - {name: all, mountPath: /all}
        - {name: memory, mountPath: /memory}
        - {name: disk, mountPath: /disk}
        - {name: node, mountPath: /node}
        - {name: kubectl, mountPath: /bin/kubectl, readOnly: true}
        - {name: map, mountPath: /etc/one.conf, subPath: plain}
        - {name: disk, mountPath: /mine, subPathExpr: '$(POD)/data'}
    - name: neighbour
      image: IMAGE
      command: [sleep, '1000000']
      volumeMounts: [{name: disk, mountPath: /disk}]
  volumes:
    - {name: map, configMap: {name: settings}}
    - {name: picked, configMap: {name: settings, defaultMode: 0440, items: [{key: nested, path: deep/er}, {key: raw, path: raw, mode: 0400}]}}
    - {name: secret, secret: {secretName: keys, defaultMode: 0400}}
    - name: downward
      downwardAPI:
        items:
          - {path: labels, fieldRef: {fieldPath: metadata.labels}}
          - {path: annotations, fieldRef: {fieldPath: metadata.annotations}}
          - {path: limit, resourceFieldRef: {containerName: main, resource: limits.memory}}
    - name: all
      projected:
        sources:
          - {configMap: {name: settings, items: [{key: plain, path: from/map}]}}
          - {secret: {name: keys, items: [{key: user, path: from/secret}]}}
          - {downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}
          - {serviceAccountToken: {path: token, audience: somebody, expirationSeconds: 600}}
    - {name: memory, emptyDir: {medium: Memory, sizeLimit: 8Mi}}
    - {name: disk, emptyDir: {}}
    - {name: node, hostPath: {path: DIRECTORY, type: Directory}}
    - {name: kubectl, hostPath: {path: KUBECTL, type: File}}
---
apiVersion: v1
kind: Pod
metadata: {name: waits}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: main
      image: IMAGE
      command: [sleep, '1000000']
      env: [{name: LATE, valueFrom: {configMapKeyRef: {name: late, key: word}}}]
      volumeMounts: [{name: late, mountPath: /late}]
  volumes:
    - {name: late, secret: {secretName: late}}
    - {name: of-no-container, secret: {secretName: never}}
";

/// What commands in the pod print.
const SEEN: &[(&str, &str)] = &[
    ("cat /map/plain /map/other", "onetwo"),
    ("od -An -tx1 /map/raw | tr -d ' \\n'", "000102"),
    ("readlink /map/plain", "..data/plain"),
    ("cat /picked/deep/er; ls /picked; stat -Lc %a /picked/deep/er /picked/raw", "threedeep\nraw\n440\n400"),
    (
        "cat /secret/password; stat -Lc %a /secret/password; awk '$2 == \"/secret\" {print $3}' /proc/mounts",
        "hidden400\ntmpfs",
    ),
    (
        "touch /secret/x 2>&1; touch /map/x 2>&1",
        "touch: /secret/x: Read-only file system\ntouch: /map/x: Read-only file system",
    ),
    ("cat /downward/labels; echo; cat /downward/limit", "role=\"test\"\n67108864"),
    ("grep ^note /downward/annotations", "note=\"a b\""),
    ("cat /all/from/map /all/from/secret /all/name", "oneannaviewer"),
    ("cut -d. -f2 /all/token | base64 -d 2>/dev/null | grep -o '\"aud\":\\[\"somebody\"\\]'", "\"aud\":[\"somebody\"]"),
    ("awk '$2 == \"/memory\" {print $3}' /proc/mounts", "tmpfs"),
    ("dd if=/dev/zero of=/memory/big bs=1M count=9 2>&1 | grep -o 'No space left'; rm /memory/big", "No space left"),
    ("stat -c %a /disk /memory", "777\n777"),
    ("cat /etc/one.conf", "one"),
    ("echo mine > /mine/file; cat /disk/viewer/data/file", "mine"),
    ("echo $POD $SPACE $LABEL $NODE $ACCOUNT", "viewer default test node default"),
    ("echo $CPUS $MILLIS $MEGABYTES", "2 1500 32"),
    ("echo $KEY,$SECRET,${NOTHING-unset},$COMPOSED", "two,hidden,unset,viewer-two-$(KEY)-$(UNKNOWN)"),
    ("echo $MAP_plain $MAP_other $password $user", "one two hidden anna"),
    ("echo $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT_HTTPS", "10.43.0.1 443"),
    ("hostname -i; grep viewer /etc/hosts | cut -f1", "$POD_IP\n$POD_IP"),
    ("cat /var/run/secrets/kubernetes.io/serviceaccount/namespace", "default"),
    ("head -1 /var/run/secrets/kubernetes.io/serviceaccount/ca.crt", "-----BEGIN CERTIFICATE-----"),
];

#[test]
fn pods_see_their_volumes_and_variables_and_the_changes_of_both() {
    if !possible() {
        return;
    }
    let directory = tempfile::tempdir().expect("directory");
    std::fs::write(directory.path().join("here"), "from the node").expect("file");
    let machine = Machine::new();
    let cluster = Cluster::start(&machine, &[]);
    cluster.import_images();
    let program = std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
    let kubectl = text(&succeed(Command::new("sh").args(["-c", "realpath $(command -v $0)", &program])).stdout);
    let objects = OBJECTS.replace("IMAGE", BUSYBOX).replace("KUBECTL", kubectl.trim());
    cluster.apply(&objects.replace("DIRECTORY", directory.path().to_str().expect("path")));
    cluster.kubectl(&["wait", "pod/viewer", "--for=condition=Ready", "--timeout=60s"]);
    seen(&cluster);
    node_directory(&cluster, directory.path());
    token(&cluster);
    changes(&cluster);
    waits(&cluster);
    cluster.kubectl(&["delete", "pod", "viewer"]);
    assert!(directory.path().join("there").exists(), "a hostPath outlives its pod");
}

/// What a shell in the pod prints, without the last line's end.
fn shell(cluster: &Cluster, script: &str) -> String {
    cluster
        .kubectl(&["exec", "viewer", "-c", "main", "--", "sh", "-c", &format!("{script}\ntrue")])
        .trim_end()
        .to_owned()
}

fn seen(cluster: &Cluster) {
    let ip = cluster.kubectl(&["get", "pod", "viewer", "-o", "jsonpath={.status.podIP}"]);
    assert_eq!(shell(cluster, "echo $POD_IP"), ip);
    assert_eq!(shell(cluster, "echo $HOST_IP"), cluster.machine.address);
    let wrong: Vec<_> = SEEN
        .iter()
        .filter_map(|(script, expected)| {
            let got = shell(cluster, script);
            (got != expected.replace("$POD_IP", &ip))
                .then(|| format!("{script}\n  gives {got:?}\n  not   {expected:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    cluster.kubectl(&["exec", "viewer", "-c", "neighbour", "--", "sh", "-c", "echo shared > /disk/word"]);
    assert_eq!(shell(cluster, "cat /disk/word"), "shared");
}

fn node_directory(cluster: &Cluster, directory: &Path) {
    assert_eq!(shell(cluster, "cat /node/here; echo back > /node/there"), "from the node");
    assert_eq!(std::fs::read_to_string(directory.join("there")).expect("file"), "back\n");
}

/// The pod's own token is taken by the API, reached by its Service's name and with its own authority; others are not.
fn token(cluster: &Cluster) {
    let answer = shell(cluster, "kubectl auth whoami -o json 2>&1");
    for part in ["system:serviceaccount:default:default", "authentication.kubernetes.io/pod-name", "viewer"] {
        assert!(answer.contains(part), "{part} is not in {answer}");
    }
    let account = "/var/run/secrets/kubernetes.io/serviceaccount";
    let by_name = format!("kubectl --server https://kubernetes.default.svc --certificate-authority {account}/ca.crt");
    let answer = shell(cluster, &format!("{by_name} --token $(cat {account}/token) auth whoami 2>&1"));
    assert!(answer.contains("system:serviceaccount:default:default"), "{answer}");
    let refused = shell(cluster, &format!("{by_name} --token $(cat /all/token) auth whoami 2>&1"));
    assert!(refused.contains("Unauthorized"), "a token for somebody else was taken: {refused}");
}

/// Changed objects reach the volumes of a running pod, whole and without a restart; what was copied stays.
fn changes(cluster: &Cluster) {
    cluster.kubectl(&[
        "patch",
        "configmap",
        "settings",
        "-p",
        r#"{"data":{"plain":"changed","new":"key","other":null}}"#,
    ]);
    cluster.kubectl(&["patch", "secret", "keys", "-p", r#"{"stringData":{"password":"changed too"}}"#]);
    cluster.kubectl(&["label", "pod", "viewer", "role=other", "more=yes", "--overwrite"]);
    let wanted = "changed key / changed too / more=\"yes\" role=\"other\" / changed";
    let script = "echo $(cat /map/plain) $(cat /map/new) / $(cat /secret/password) / $(sort /downward/labels) / $(cat /all/from/map)";
    cluster.wait_for("the changes in the pod", || {
        let got = shell(cluster, script);
        if got == wanted { Ok(()) } else { Err(got) }
    });
    assert_eq!(shell(cluster, "ls /map"), "nested\nnew\nplain\nraw", "a key that is gone leaves no file");
    assert_eq!(shell(cluster, "cat /etc/one.conf; echo $MAP_plain"), "oneone", "a sub-path and a variable stay");
    let restarts =
        cluster.kubectl(&["get", "pod", "viewer", "-o", "jsonpath={.status.containerStatuses[*].restartCount}"]);
    assert_eq!(restarts, "0 0");
}

/// A pod whose objects are missing says so and starts when they come.
fn waits(cluster: &Cluster) {
    cluster.wait_for("the event about the missing secret", || {
        let events = cluster.kubectl(&["get", "events", "--field-selector", "involvedObject.name=waits"]);
        let known = events.contains("MountVolume.SetUp failed for volume \"late\" : secret \"late\" not found");
        if known { Ok(()) } else { Err(events) }
    });
    cluster.kubectl(&["create", "secret", "generic", "late", "--from-literal=a=b"]);
    let state = "jsonpath={.status.containerStatuses[0].state.waiting}";
    cluster.wait_for("the reason of the missing variable", || {
        let state = cluster.kubectl(&["get", "pod", "waits", "-o", state]);
        let known = state.contains("CreateContainerConfigError") && state.contains("configmap \\\"late\\\" not found");
        if known { Ok(()) } else { Err(state) }
    });
    cluster.kubectl(&["create", "configmap", "late", "--from-literal=word=came"]);
    cluster.kubectl(&["wait", "pod/waits", "--for=condition=Ready", "--timeout=60s"]);
    assert_eq!(cluster.kubectl(&["exec", "waits", "--", "sh", "-c", "echo $LATE"]), "came\n");
}
