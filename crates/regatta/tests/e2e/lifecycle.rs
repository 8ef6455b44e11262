//! How pods live: probes, hooks, init containers and sidecars, ends and their reasons, restarts, jobs.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::cluster::{BUSYBOX, Cluster, Machine, possible};

/// Pods as `name: spec`, with IMAGE and DIRECTORY to be filled in; what every pod has is added.
const PROBED: &str = r"
live-exec:
  containers:
    - name: main
      command: [sh, -c, 'touch /tmp/ok; sleep 2; rm /tmp/ok; exec sleep 1000000']
      livenessProbe: {exec: {command: [cat, /tmp/ok]}, periodSeconds: 1, failureThreshold: 1}
live-http:
  containers:
    - name: main
      command: [httpd, -f, -p, '8080', -h, /home]
      livenessProbe: {httpGet: {path: /none, port: 8080}, periodSeconds: 1, failureThreshold: 2}
live-well:
  containers:
    - name: main
      command: [sh, -c, 'echo ok > /home/ok; exec httpd -f -p 8080 -h /home']
      ports: [{name: web, containerPort: 8080}]
      startupProbe: {tcpSocket: {port: web}, periodSeconds: 1}
      livenessProbe: {httpGet: {path: /ok, port: web}, periodSeconds: 1, failureThreshold: 1}
      readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
ready:
  containers:
    - name: main
      command: [sleep, '1000000']
      ports: [{containerPort: 80}]
      readinessProbe: {exec: {command: [cat, /tmp/ready]}, periodSeconds: 1, failureThreshold: 1}
starting:
  containers:
    - name: main
      command: [sleep, '1000000']
      startupProbe: {exec: {command: [cat, /tmp/started]}, periodSeconds: 1, failureThreshold: 1000}
      livenessProbe: {exec: {command: [cat, /tmp/started]}, periodSeconds: 1, failureThreshold: 1}
unstarted:
  containers:
    - name: main
      command: [sleep, '1000000']
      startupProbe: {exec: {command: ['false']}, periodSeconds: 1, failureThreshold: 2}
";

const HOOKED: &str = r"
web:
  containers:
    - {name: main, command: [sh, -c, 'touch /home/started /home/stopping; exec httpd -f -vv -p 8080 -h /home']}
hooks:
  terminationGracePeriodSeconds: 20
  containers:
    - name: exec
      command: [sh, -c, 'trap exit TERM; while true; do sleep 1; done']
      lifecycle:
        postStart: {exec: {command: [sh, -c, 'echo $HOSTNAME started > /node/started']}}
        preStop: {exec: {command: [sh, -c, 'echo stopping > /node/stopping']}}
      volumeMounts: [{name: node, mountPath: /node}]
    - name: http
      command: [sh, -c, 'trap exit TERM; while true; do sleep 1; done']
      lifecycle:
        postStart: {httpGet: {host: 10.43.200.1, port: 8080, path: /started}}
        preStop: {httpGet: {host: 10.43.200.1, port: 8080, path: /stopping, httpHeaders: [{name: X-A, value: b}]}}
    - name: sleep
      command: [sh, -c, 'trap exit TERM; while true; do usleep 100000; done']
      lifecycle: {preStop: {sleep: {seconds: 2}}}
  volumes: [{name: node, hostPath: {path: DIRECTORY}}]
failing-hook:
  containers:
    - name: main
      command: [sleep, '1000000']
      lifecycle: {postStart: {exec: {command: [sh, -c, 'echo reason >&2; exit 3']}}}
";

const ENDING: &str = r"
message:
  restartPolicy: Never
  containers:
    - {name: main, command: [sh, -c, 'printf DONE > /dev/termination-log']}
    - {name: path, command: [sh, -c, 'printf there > /tmp/words; exit 2'], terminationMessagePath: /tmp/words}
    - {name: log, command: [sh, -c, 'echo first; echo last; exit 4'], terminationMessagePolicy: FallbackToLogsOnError}
    - {name: success, command: [sh, -c, 'echo nothing'], terminationMessagePolicy: FallbackToLogsOnError}
complete:
  restartPolicy: Never
  initContainers:
    - {name: one, command: [sh, -c, 'echo one >> /data/order'], volumeMounts: [{name: data, mountPath: /data}]}
    - {name: two, command: [sh, -c, 'echo two >> /data/order'], volumeMounts: [{name: data, mountPath: /data}]}
  containers:
    - {name: main, command: [cat, /data/order], volumeMounts: [{name: data, mountPath: /data}]}
  volumes: [{name: data, emptyDir: {}}]
init-fails:
  restartPolicy: Never
  initContainers: [{name: one, command: [sh, -c, 'exit 5']}]
  containers: [{name: main, command: [sleep, '1000000']}]
init-again:
  initContainers: [{name: one, command: ['false']}]
  containers: [{name: main, command: [sleep, '1000000']}]
on-failure:
  restartPolicy: OnFailure
  containers:
    - name: main
      command: [sh, -c, 'echo run >> /data/runs; test $(wc -l < /data/runs) -ge 2']
      volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {}}]
crash:
  containers: [{name: main, command: [sh, -c, 'exit 9']}]
memory:
  restartPolicy: Never
  containers:
    - {name: main, command: [sh, -c, 'exec tail /dev/zero'], resources: {limits: {memory: 16Mi}}}
no-program:
  containers: [{name: main, command: [/none]}]
no-image:
  containers: [{name: main, image: regatta.test/none:1, imagePullPolicy: Never}]
deadline:
  activeDeadlineSeconds: 2
  containers: [{name: main, command: [sleep, '1000000']}]
sidecar:
  restartPolicy: Never
  initContainers:
    - name: server
      restartPolicy: Always
      command: [sh, -c, 'echo ok > /home/ok; exec httpd -f -p 8080 -h /home']
      startupProbe: {httpGet: {path: /ok, port: 8080}, periodSeconds: 1}
    - {name: uses, command: [wget, -qO-, 'http://127.0.0.1:8080/ok']}
  containers:
    - {name: main, command: [wget, -qO-, 'http://127.0.0.1:8080/ok']}
";

const JOBS: &str = r"
apiVersion: batch/v1
kind: Job
metadata: {name: works}
spec:
  completions: 3
  parallelism: 2
  template:
    spec:
      restartPolicy: Never
      initContainers: [{name: helper, image: IMAGE, restartPolicy: Always, command: [sleep, '1000000']}]
      containers: [{name: main, image: IMAGE, command: [sh, -c, 'echo done']}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: fails}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: IMAGE, command: [sh, -c, 'exit 1']}]
---
apiVersion: v1
kind: Service
metadata: {name: ready}
spec: {selector: {app: ready}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.43.200.1, selector: {app: web}, ports: [{port: 8080}]}
";

#[test]
fn containers_are_probed_hooked_ended_and_restarted_as_their_pod_says() {
    if !possible() {
        return;
    }
    let directory = tempfile::tempdir().expect("directory");
    let folder = directory.path().to_str().expect("path");
    let machine = Machine::new();
    let cluster = Cluster::start(&machine, &[]);
    cluster.import_images();
    cluster.apply(&JOBS.replace("IMAGE", BUSYBOX));
    cluster.apply_pods(&HOOKED.replace("DIRECTORY", folder), &["web"]);
    cluster.kubectl(&["wait", "pod/web", "--for=condition=Ready", "--timeout=60s"]);
    for pods in [PROBED, HOOKED, ENDING] {
        cluster.apply_pods(&pods.replace("DIRECTORY", folder), &[]);
    }
    ends(&cluster);
    probes(&cluster);
    jobs(&cluster);
    hooks(&cluster, directory.path());
}

fn ends(cluster: &Cluster) {
    cluster.until("message", "/status/phase", "Failed");
    let statuses = cluster.pod("message")["status"]["containerStatuses"].clone();
    for (name, code, reason, message) in [
        ("main", 0, "Completed", Some("DONE")),
        ("path", 2, "Error", Some("there")),
        ("log", 4, "Error", Some("first\nlast\n")),
        ("success", 0, "Completed", None),
    ] {
        let ended = statuses.as_array().expect("list").iter().find(|s| s["name"] == name).expect("container");
        let ended = &ended["state"]["terminated"];
        assert_eq!((ended["exitCode"].as_i64(), ended["reason"].as_str()), (Some(code), Some(reason)), "{name}");
        assert_eq!(ended["message"].as_str(), message, "{name}");
    }
    cluster.until("complete", "/status/phase", "Succeeded");
    assert_eq!(cluster.kubectl(&["logs", "complete"]), "one\ntwo\n");
    cluster.until("init-fails", "/status/phase", "Failed");
    let failed = cluster.pod("init-fails");
    assert_eq!(failed["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"], 5);
    assert_eq!(failed["status"]["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
    cluster.until("init-again", "/status/initContainerStatuses/0/state/waiting/reason", "CrashLoopBackOff");
    assert_eq!(cluster.pod("init-again")["status"]["phase"], "Pending");
    cluster.until("crash", "/status/containerStatuses/0/state/waiting/reason", "CrashLoopBackOff");
    let crash = &cluster.pod("crash")["status"];
    assert_eq!(crash["phase"], "Running");
    assert_eq!(crash["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 9);
    cluster.told("crash", "BackOff", "Back-off restarting failed container main in pod crash_default(");
    cluster.until("memory", "/status/containerStatuses/0/state/terminated/reason", "OOMKilled");
    assert_eq!(cluster.pod("memory")["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 137);
    cluster.told("no-program", "Failed", "Error: ");
    cluster.until("no-image", "/status/containerStatuses/0/state/waiting/reason", "ErrImageNeverPull");
    cluster.until("deadline", "/status/reason", "DeadlineExceeded");
    cluster.until("deadline", "/status/phase", "Failed");
    cluster.until("sidecar", "/status/phase", "Succeeded");
    assert_eq!(cluster.kubectl(&["logs", "sidecar", "-c", "uses"]), "ok\n");
    assert_eq!(cluster.kubectl(&["logs", "sidecar", "-c", "main"]), "ok\n");
    cluster.until("on-failure", "/status/phase", "Succeeded");
    assert_eq!(cluster.pod("on-failure")["status"]["containerStatuses"][0]["restartCount"], 1);
}

fn probes(cluster: &Cluster) {
    for (name, kind, words) in [
        ("live-exec", "Liveness", "can't open '/tmp/ok': No such file or directory"),
        ("live-http", "Liveness", "HTTP probe failed with statuscode: 404"),
        ("unstarted", "Startup", ""),
    ] {
        cluster.told(name, "Unhealthy", &format!("{kind} probe failed: "));
        cluster.told(name, "Unhealthy", words);
        let killed = format!("Container main failed {} probe, will be restarted", kind.to_lowercase());
        cluster.told(name, "Killing", &killed);
        cluster.wait_for("a restart", || {
            let count = cluster.pod(name)["status"]["containerStatuses"][0]["restartCount"].as_u64();
            if count > Some(0) { Ok(()) } else { Err(format!("{name} {count:?}")) }
        });
    }
    cluster.until("live-well", "/status/containerStatuses/0/ready", true);
    let endpoint = |field: &str| {
        let path = format!("jsonpath={{.items[*].endpoints[*].{field}}}");
        cluster.kubectl(&["get", "endpointslices", "-l", "kubernetes.io/service-name=ready", "-o", &path])
    };
    let ready = |wanted: &str| {
        cluster.wait_for(&format!("readiness to be {wanted}"), || {
            let (pod, slice) = (cluster.pod("ready"), endpoint("conditions.ready"));
            let seen = pod["status"]["containerStatuses"][0]["ready"].to_string();
            if seen == wanted && slice == wanted { Ok(()) } else { Err(format!("{seen} {slice}")) }
        });
    };
    ready("false");
    let condition = "jsonpath={.status.conditions[?(@.type==\"Ready\")]}";
    let unready = cluster.kubectl(&["get", "pod", "ready", "-o", condition]);
    assert!(unready.contains("ContainersNotReady") && unready.contains("unready status: [main]"), "{unready}");
    cluster.kubectl(&["exec", "ready", "--", "touch", "/tmp/ready"]);
    ready("true");
    cluster.kubectl(&["exec", "ready", "--", "rm", "/tmp/ready"]);
    ready("false");
    let starting = &cluster.pod("starting")["status"]["containerStatuses"][0];
    assert_eq!((&starting["started"], &starting["ready"]), (&false.into(), &false.into()), "{starting}");
    cluster.kubectl(&["exec", "starting", "--", "touch", "/tmp/started"]);
    cluster.until("starting", "/status/containerStatuses/0/ready", true);
    for name in ["starting", "live-well", "ready"] {
        assert_eq!(cluster.pod(name)["status"]["containerStatuses"][0]["restartCount"], 0, "{name}");
    }
}

fn jobs(cluster: &Cluster) {
    cluster.kubectl(&["wait", "job/works", "--for=condition=Complete", "--timeout=60s"]);
    assert_eq!(cluster.kubectl(&["get", "job", "works", "-o", "jsonpath={.status.succeeded}"]), "3");
    cluster.kubectl(&["wait", "job/fails", "--for=condition=Failed", "--timeout=60s"]);
    let reason = cluster.kubectl(&["get", "job", "fails", "-o", "jsonpath={.status.conditions[*].reason}"]);
    assert!(reason.contains("BackoffLimitExceeded"), "{reason}");
}

fn hooks(cluster: &Cluster, directory: &Path) {
    cluster.until("hooks", "/status/containerStatuses/2/ready", true);
    assert_eq!(std::fs::read_to_string(directory.join("started")).expect("postStart ran"), "hooks started\n");
    assert!(!directory.join("stopping").exists());
    cluster.told("failing-hook", "FailedPostStartHook", "PostStartHook failed");
    cluster.told("failing-hook", "Killing", "failed postStart hook");
    let began = Instant::now();
    cluster.kubectl(&["delete", "pod", "hooks"]);
    let took = began.elapsed();
    assert!(took > Duration::from_secs(2) && took < Duration::from_secs(15), "stopped after {took:?}");
    assert_eq!(std::fs::read_to_string(directory.join("stopping")).expect("preStop ran"), "stopping\n");
    let log = cluster.kubectl(&["logs", "web"]);
    for part in ["/started", "/stopping"] {
        assert!(log.contains(part), "{part} is not in {log}");
    }
}
