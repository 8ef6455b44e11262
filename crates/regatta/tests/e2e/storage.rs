//! Storage end to end with stock kubectl: claims of the default class, databases that keep their data, volumes that grow, are
//! reclaimed and belong to a group, and what may not be reached through them.

use std::path::Path;

use crate::cluster::{BUSYBOX, Cluster, Machine, possible};

const DATABASE: &str = r"
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 0
      securityContext: {runAsUser: 1000, fsGroup: 2000}
      containers:
        - name: main
          image: IMAGE
          command: [sh, -c, 'echo $(hostname) >> /data/starts; exec sleep 1000000']
          volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
    - metadata: {name: data}
      spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 16Mi}}}
";

fn claim(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {name}}}\nspec: {{accessModes: [ReadWriteOnce], \
         resources: {{requests: {{storage: 8Mi}}}}{more}}}\n"
    )
}

fn pod(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n{spec}")
        .replace("IMAGE", BUSYBOX)
}

/// What a JSON path of an object gives, once it is this.
fn until(cluster: &Cluster, object: &str, path: &str, wanted: &str) {
    cluster.wait_for(&format!("{object} {path} to be {wanted:?}"), || {
        let found = cluster.try_kubectl(&["get", object, "-o", &format!("jsonpath={{{path}}}")])?;
        if found == wanted { Ok(()) } else { Err(found) }
    });
}

/// An event of this reason and message about an object.
fn told(cluster: &Cluster, object: &str, reason: &str, part: &str) {
    cluster.wait_for(&format!("{object} to be told {reason} {part}"), || {
        let selector = format!("involvedObject.name={object},reason={reason}");
        let events =
            cluster.try_kubectl(&["get", "events", "--field-selector", &selector, "-o", "jsonpath={..message}"])?;
        if events.contains(part) { Ok(()) } else { Err(events) }
    });
}

fn exec(cluster: &Cluster, pod: &str, command: &str) -> String {
    cluster.kubectl(&["exec", pod, "--", "sh", "-c", command])
}

#[test]
fn claims_of_the_default_class_are_made_kept_grown_and_cleared_away() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let before = machine.traces();
    let mut cluster = Cluster::start(&machine, &[]);
    cluster.import_images();
    database(&cluster);
    waiting(&cluster);
    static_volumes(&cluster);
    let root = cluster.data.join("kubelet/local-path");
    cluster.kubectl(&["delete", "statefulset,pod,pvc", "--all", "--timeout=60s"]);
    cluster.wait_for("the data to be gone", || {
        let left: Vec<_> = std::fs::read_dir(&root).expect("root").flatten().map(|e| e.path()).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    until(&cluster, "pv", ".items[?(@.spec.storageClassName==\"local-path\")].metadata.name", "");
    cluster.purge();
    assert_eq!(machine.traces(), before, "the machine is not as it was");
}

/// A database's members get volumes of their own, which outlive their pods and the server, and grow.
fn database(cluster: &Cluster) {
    let classes = cluster.kubectl(&["get", "storageclass"]);
    assert!(classes.contains("local-path (default)") && classes.contains("regatta.dev/local-path"), "{classes}");
    cluster.apply(&DATABASE.replace("IMAGE", BUSYBOX));
    cluster.kubectl(&["rollout", "status", "statefulset/db", "--timeout=60s"]);
    cluster.kubectl(&["delete", "pod", "db-1"]);
    cluster.kubectl(&["rollout", "status", "statefulset/db", "--timeout=60s"]);
    cluster.wait_for("the data of the pod before", || {
        let starts = cluster.try_kubectl(&["exec", "db-1", "--", "cat", "/data/starts"])?;
        if starts == "db-1\ndb-1\n" { Ok(()) } else { Err(starts) }
    });
    assert_eq!(
        exec(cluster, "db-1", "id -G; stat -c '%g %a' /data /data/starts | head -1").trim(),
        "1000 2000\n2000 2777"
    );
    let volume = cluster.kubectl(&["get", "pvc", "data-db-1", "-o", "jsonpath={.spec.volumeName}"]);
    let described = cluster.kubectl(&["describe", "pv", &volume]);
    for part in ["local-path", "Bound", "default/data-db-1", "RWO", "16Mi", "kubernetes.io/hostname in [node]"] {
        assert!(described.contains(part), "{part} is not in\n{described}");
    }
    let grow = r#"{"spec":{"resources":{"requests":{"storage":"32Mi"}}}}"#;
    cluster.kubectl(&["patch", "pvc", "data-db-1", "-p", grow]);
    until(cluster, "pvc/data-db-1", ".status.capacity.storage", "32Mi");
    until(cluster, &format!("pv/{volume}"), ".spec.capacity.storage", "32Mi");
    let error =
        cluster.try_kubectl(&["patch", "pvc", "data-db-1", "-p", &grow.replace("32", "8")]).expect_err("shrinks");
    assert!(error.contains("field can not be less than status.capacity"), "{error}");
    // A claim that is used stays until its pod has gone.
    cluster.kubectl(&["delete", "pvc", "data-db-0", "--wait=false"]);
    until(cluster, "pvc/data-db-0", ".metadata.finalizers[0]", "kubernetes.io/pvc-protection");
    cluster.kubectl(&["scale", "statefulset/db", "--replicas=0"]);
    cluster.wait_for("the claim to go with its last user", || {
        let claims = cluster.kubectl(&["get", "pvc", "-o", "name"]);
        if claims == "persistentvolumeclaim/data-db-1\n" { Ok(()) } else { Err(claims) }
    });
}

/// A claim waits for its pod, a pod for its claim, and both say so.
fn waiting(cluster: &Cluster) {
    cluster.apply(&claim("late", ""));
    told(cluster, "late", "WaitForFirstConsumer", "waiting for first consumer to be created before binding");
    let user = |name: &str, claim: &str| {
        pod(
            name,
            &format!(
                "  containers: [{{name: main, image: IMAGE, command: [sleep, '1000000'], volumeMounts: [{{name: data, mountPath: \
                 /data}}]}}]\n  volumes: [{{name: data, persistentVolumeClaim: {{claimName: {claim}}}}}]\n"
            ),
        )
    };
    cluster.apply(&user("absent", "absent"));
    told(cluster, "absent", "FailedScheduling", "persistentvolumeclaim \"absent\" not found");
    cluster.apply(&user("late-user", "late"));
    cluster.kubectl(&["wait", "pod/late-user", "--for=condition=Ready", "--timeout=60s"]);
    until(cluster, "pvc/late", ".status.phase", "Bound");
    told(cluster, "late", "ProvisioningSucceeded", "Successfully provisioned volume pvc-");
    cluster.apply(&claim("none", ", storageClassName: nowhere"));
    told(cluster, "none", "ProvisioningFailed", "storageclass.storage.k8s.io \"nowhere\" not found");
    cluster.apply(&claim("absent", ""));
    cluster.kubectl(&["wait", "pod/absent", "--for=condition=Ready", "--timeout=60s"]);
    cluster.apply(&pod(
        "scratch",
        "  containers: [{name: main, image: IMAGE, command: [sleep, '1000000'], volumeMounts: [{name: own, mountPath: /own}]}]\n  \
         volumes: [{name: own, ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], resources: {requests: \
         {storage: 1Mi}}}}}}]\n",
    ));
    cluster.kubectl(&["wait", "pod/scratch", "--for=condition=Ready", "--timeout=60s"]);
    until(cluster, "pvc/scratch-own", ".metadata.ownerReferences[0].name", "scratch");
    cluster.kubectl(&["delete", "pod", "scratch"]);
    cluster.wait_for("the pod's own claim to go with it", || {
        let claims = cluster.kubectl(&["get", "pvc", "-o", "name"]);
        if claims.contains("scratch") { Err(claims) } else { Ok(()) }
    });
}

/// Volumes made by hand: chosen, kept after their claim, and shown as devices; links in them lead nowhere else.
fn static_volumes(cluster: &Cluster) {
    let space = tempfile::tempdir().expect("directory");
    let path = space.path().to_str().expect("text");
    let volume = |name: &str, more: &str| {
        cluster.apply(&format!(
            "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: {name}}}\nspec: {{capacity: {{storage: 8Mi}}, accessModes: \
             [ReadWriteOnce], storageClassName: manual, {more}}}\n"
        ));
    };
    volume("kept", &format!("hostPath: {{path: {path}}}"));
    until(cluster, "pv/kept", ".status.phase", "Available");
    cluster.apply(&claim("kept", ", storageClassName: manual"));
    until(cluster, "pv/kept", ".status.phase", "Bound");
    std::fs::create_dir(space.path().join("inner")).expect("directory");
    std::os::unix::fs::symlink("/etc", space.path().join("outside")).expect("link");
    std::os::unix::fs::symlink("inner", space.path().join("inside")).expect("link");
    let user = |name: &str, sub: &str| {
        pod(
            name,
            &format!(
                "  restartPolicy: Never\n  containers: [{{name: main, image: IMAGE, command: [sh, -c, 'echo {name} > /data/{name}'], \
                 volumeMounts: [{{name: data, mountPath: /data, subPath: {sub}}}]}}]\n  volumes: [{{name: data, \
                 persistentVolumeClaim: {{claimName: kept}}}}]\n"
            ),
        )
    };
    cluster.apply(&user("inside", "inside"));
    cluster.apply(&user("outside", "outside"));
    until(cluster, "pod/inside", ".status.phase", "Succeeded");
    assert_eq!(read(&space.path().join("inner/inside")), "inside\n");
    cluster.wait_for("the way out to be refused", || {
        let path = "jsonpath={.status.containerStatuses[0].state.waiting.message}";
        let why = cluster.kubectl(&["get", "pod", "outside", "-o", path]);
        if why.contains("failed to prepare subPath for volumeMount \"data\"") { Ok(()) } else { Err(why) }
    });
    assert!(!Path::new("/etc/outside").exists());
    cluster.kubectl(&["delete", "pod", "inside", "outside"]);
    cluster.kubectl(&["delete", "pvc", "kept"]);
    until(cluster, "pv/kept", ".status.phase", "Released");
    assert_eq!(read(&space.path().join("inner/inside")), "inside\n");
    let free = r#"{"spec":{"claimRef":null}}"#;
    cluster.kubectl(&["patch", "pv", "kept", "-p", free]);
    until(cluster, "pv/kept", ".status.phase", "Available");
    block(cluster, space.path());
    cluster.kubectl(&["delete", "pv", "--all", "--wait=false"]);
}

/// A file of the node as a device in a pod.
fn block(cluster: &Cluster, space: &Path) {
    if !Path::new("/dev/loop-control").exists() {
        eprintln!("skipped: no loop devices here");
        return;
    }
    let file = space.join("disk");
    std::fs::write(&file, vec![b'x'; 1 << 20]).expect("file");
    cluster.apply(&format!(
        "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: disk}}\nspec: {{capacity: {{storage: 1Mi}}, accessModes: \
         [ReadWriteOnce], volumeMode: Block, storageClassName: raw, local: {{path: {}}}, nodeAffinity: {{required: \
         {{nodeSelectorTerms: [{{matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [node]}}]}}]}}}}}}\n",
        file.display()
    ));
    cluster.apply(&claim("disk", ", storageClassName: raw, volumeMode: Block").replace("8Mi", "1Mi"));
    cluster.apply(&pod(
        "disk",
        "  restartPolicy: Never\n  containers: [{name: main, image: IMAGE, command: [sh, -c, 'head -c 3 /dev/data && echo new | dd \
         of=/dev/data conv=notrunc && sync'], volumeDevices: [{name: data, devicePath: /dev/data}]}]\n  volumes: [{name: data, \
         persistentVolumeClaim: {claimName: disk}}]\n",
    ));
    until(cluster, "pod/disk", ".status.phase", "Succeeded");
    assert!(cluster.kubectl(&["logs", "disk"]).contains("xxx"));
    cluster.kubectl(&["delete", "pod", "disk"]);
    cluster.wait_for("the file to have what was written", || {
        let text = std::fs::read(&file).expect("file");
        if text.starts_with(b"new\nxx") { Ok(()) } else { Err(format!("{:?}", &text[..8])) }
    });
    let loops = std::fs::read_dir("/sys/block").expect("devices").flatten();
    let held = loops.filter_map(|it| std::fs::read_to_string(it.path().join("loop/backing_file")).ok());
    let ours: Vec<String> = held.filter(|backing| backing.trim() == file.to_string_lossy()).collect();
    assert!(ours.is_empty(), "{ours:?}");
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("file")
}
