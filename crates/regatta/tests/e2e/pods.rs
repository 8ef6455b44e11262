//! What pods may ask of their node: namespaces, ports, names, rules of restart, in-place resize, files instead of an API.

use std::time::{Duration, Instant};

use crate::cluster::{BUSYBOX, Cluster, Machine, possible};

const OBJECTS: &str = r##"
rules:
  restartPolicy: Never
  containers:
    - name: main
      restartPolicy: Never
      restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [42]}}]
      command: [sh, -c, 'test -e /data/ran && exit 1; touch /data/ran; exit 42']
      volumeMounts: [{name: data, mountPath: /data}]
    - {name: always, restartPolicy: OnFailure, command: [sh, -c, 'test -e /data/once && exit 0; touch /data/once; exit 1'], volumeMounts: [{name: data, mountPath: /data}]}
  volumes: [{name: data, emptyDir: {}}]
all-again:
  restartPolicy: Never
  initContainers:
    - {name: first, command: [sh, -c, 'echo x >> /data/first'], volumeMounts: [{name: data, mountPath: /data}]}
    - {name: side, restartPolicy: Always, command: [sleep, '1000000']}
  containers:
    - name: cause
      restartPolicy: Never
      restartPolicyRules: [{action: RestartAllContainers, exitCodes: {operator: In, values: [42]}}]
      command: [sh, -c, 'if [ $(wc -l < /data/first) = 1 ]; then while [ ! -e /data/go ]; do usleep 50000; done; exit 42; fi; exec sleep 1000000']
      volumeMounts: [{name: data, mountPath: /data}]
    - {name: other, command: [sleep, '1000000']}
  volumes: [{name: data, emptyDir: {}}]
ordered:
  terminationGracePeriodSeconds: 20
  initContainers:
    - name: one
      restartPolicy: Always
      command: [sh, -c, 'trap ''echo one stops >> /data/order; exit'' TERM; echo one >> /data/order; while true; do usleep 50000; done']
      lifecycle: {preStop: {exec: {command: [sh, -c, 'echo hook of one >> /data/order']}}}
      startupProbe: {exec: {command: [grep, one, /data/order]}, periodSeconds: 1}
      volumeMounts: [{name: data, mountPath: /data}]
    - name: two
      restartPolicy: Always
      command: [sh, -c, 'trap ''echo two stops >> /data/order; exit'' TERM; echo two >> /data/order; while true; do usleep 50000; done']
      startupProbe: {exec: {command: [grep, two, /data/order]}, periodSeconds: 1}
      volumeMounts: [{name: data, mountPath: /data}]
  containers:
    - name: main
      command: [sh, -c, 'trap ''sleep 1; echo main stops >> /data/order; exit'' TERM; echo main >> /data/order; while true; do usleep 50000; done']
      volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, hostPath: {path: DIRECTORY}}]
gated:
  readinessGates: [{conditionType: example.com/open}]
  containers: [{name: main, command: [sleep, '1000000']}]
sysctl:
  securityContext: {sysctls: [{name: kernel.msgmax, value: '10000'}]}
  containers: [{name: main, command: [sleep, '1000000']}]
safe-sysctl:
  securityContext: {sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: '80'}]}
  containers: [{name: main, command: [sleep, '1000000']}]
class:
  runtimeClassName: odd
  containers: [{name: main, command: [sleep, '1000000']}]
file:
  restartPolicy: Never
  initContainers: [{name: writes, command: [sh, -c, 'printf "A=one\nB=''two words''\n" > /data/env'], volumeMounts: [{name: data, mountPath: /data}]}]
  containers:
    - name: main
      command: [sh, -c, 'echo $A,$B,${C-unset}']
      env:
        - {name: A, valueFrom: {fileKeyRef: {volumeName: data, path: env, key: A}}}
        - {name: B, valueFrom: {fileKeyRef: {volumeName: data, path: env, key: B}}}
        - {name: C, valueFrom: {fileKeyRef: {volumeName: data, path: env, key: C, optional: true}}}
  volumes: [{name: data, emptyDir: {}}]
host:
  hostNetwork: true
  hostPID: true
  hostIPC: true
  dnsPolicy: ClusterFirstWithHostNet
  containers: [{name: main, command: [sleep, '1000000']}]
shared:
  shareProcessNamespace: true
  containers:
    - {name: main, command: [sleep, '1000001']}
    - {name: other, command: [sleep, '1000002']}
port:
  containers:
    - name: main
      command: [sh, -c, 'echo page > /home/index.html; exec httpd -f -p 8080 -h /home']
      ports: [{containerPort: 8080, hostPort: 30999}]
redirects:
  containers:
    - name: main
      command: [sh, -c, 'mkdir /home/cgi-bin; printf "#!/bin/sh\necho Status: 302; echo Location: /ok; echo\n" > /home/cgi-bin/same; printf "#!/bin/sh\necho Status: 302; echo Location: http://192.0.2.1/; echo\n" > /home/cgi-bin/other; chmod +x /home/cgi-bin/*; exec httpd -f -p 8080 -h /home']
      livenessProbe: {httpGet: {path: /cgi-bin/other, port: 8080}, periodSeconds: 1, failureThreshold: 3}
    - name: broken
      command: [sleep, '1000000']
      livenessProbe: {httpGet: {path: /cgi-bin/same, port: 8080}, periodSeconds: 1, failureThreshold: 3}
grows:
  containers:
    - name: main
      command: [sleep, '1000000']
      resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 200m, memory: 64Mi}}
    - name: restarts
      command: [sleep, '1000000']
      resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}]
      resources: {requests: {memory: 32Mi}, limits: {memory: 64Mi}}
debugged:
  initContainers: [{name: waits, command: [sh, -c, 'while [ ! -e /tmp/go ]; do usleep 50000; done']}]
  containers: [{name: main, command: [sleep, '1000000']}]
"##;

#[test]
fn pods_get_what_they_ask_for_of_their_node() {
    if !possible() {
        return;
    }
    let directory = tempfile::tempdir().expect("directory");
    let machine = Machine::new();
    let cluster = Cluster::start(&machine, &[]);
    cluster.import_images();
    cluster.apply("apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: odd}\nhandler: odd-handler\n");
    cluster.apply_pods(&OBJECTS.replace("DIRECTORY", directory.path().to_str().expect("path")), &[]);
    static_pods(&cluster);
    refused(&cluster);
    rules(&cluster);
    again(&cluster);
    gates(&cluster);
    namespaces(&cluster);
    redirects(&cluster);
    resize(&cluster);
    debug(&cluster);
    critical(&cluster);
    ordered(&cluster, directory.path());
}

/// What a shell in the pod's container prints.
fn shell(cluster: &Cluster, pod: &str, container: &str, script: &str) -> String {
    let script = format!("{script}\ntrue");
    cluster.kubectl(&["exec", pod, "-c", container, "--", "sh", "-c", &script]).trim_end().to_owned()
}

fn ready(cluster: &Cluster, pod: &str) {
    cluster.kubectl(&["wait", &format!("pod/{pod}"), "--for=condition=Ready", "--timeout=60s"]);
}

/// A file in the node's folder is a pod; the API shows it, and whoever deletes that ends nothing.
fn static_pods(cluster: &Cluster) {
    let file = cluster.data.join("manifests/fixed.yaml");
    let manifest = |number: u32| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: fixed, labels: {{app: fixed}}}}\nspec:\n  \
             terminationGracePeriodSeconds: 1\n  containers: [{{name: main, image: '{BUSYBOX}', \
             command: [sh, -c, 'echo {number}; exec sleep 1000000']}}]\n"
        )
    };
    std::fs::write(&file, manifest(1)).expect("manifest");
    cluster.wait_for("the static pod", || {
        cluster.try_kubectl(&["wait", "pod/fixed-node", "--for=condition=Ready", "--timeout=5s"])
    });
    assert_eq!(cluster.kubectl(&["logs", "fixed-node"]), "1\n");
    let container = |cluster: &Cluster| {
        cluster.try_kubectl(&[
            "get",
            "pod",
            "fixed-node",
            "-o",
            "jsonpath={.metadata.uid} {.status.containerStatuses[0].containerID}",
        ])
    };
    let before = container(cluster).expect("pod");
    let owner = cluster.kubectl(&[
        "get",
        "pod",
        "fixed-node",
        "-o",
        "jsonpath={.metadata.ownerReferences[0].kind} {.metadata.annotations.kubernetes\\.io/config\\.source}",
    ]);
    assert_eq!(owner, "Node file");
    cluster.kubectl(&["delete", "pod", "fixed-node"]);
    cluster.wait_for("a new mirror of the same container", || {
        let (old, now) = (before.split_once(' ').expect("two"), container(cluster)?);
        let now = now.split_once(' ').map(|(uid, id)| (uid.to_owned(), id.to_owned())).unwrap_or_default();
        if now.0 != old.0 && now.1 == old.1 { Ok(()) } else { Err(format!("{before} {now:?}")) }
    });
    std::fs::write(&file, manifest(2)).expect("manifest");
    cluster.wait_for("the changed pod", || match cluster.try_kubectl(&["logs", "fixed-node"])?.as_str() {
        "2\n" => Ok(()),
        other => Err(other.to_owned()),
    });
    std::fs::remove_file(&file).expect("remove");
    cluster.wait_for("its end", || match cluster.try_kubectl(&["get", "pod", "fixed-node"]) {
        Ok(pod) => Err(pod),
        Err(_) => Ok(()),
    });
}

fn refused(cluster: &Cluster) {
    cluster.until("sysctl", "/status/reason", "SysctlForbidden");
    assert_eq!(cluster.pod("sysctl")["status"]["phase"], "Failed");
    assert!(cluster.pod("sysctl")["status"]["containerStatuses"].is_null());
    let message = cluster.pod("sysctl")["status"]["message"].to_string();
    assert!(message.contains("forbidden sysctl: \\\"kernel.msgmax\\\" not allowlisted"), "{message}");
    cluster.told("class", "FailedCreatePodSandBox", "odd-handler");
    ready(cluster, "safe-sysctl");
    assert_eq!(shell(cluster, "safe-sysctl", "main", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start"), "80");
}

fn rules(cluster: &Cluster) {
    cluster.until("rules", "/status/phase", "Failed");
    let status = &cluster.pod("rules")["status"]["containerStatuses"];
    let ends: Vec<_> = status
        .as_array()
        .expect("list")
        .iter()
        .map(|s| (s["restartCount"].as_u64(), s["state"]["terminated"]["exitCode"].as_i64()))
        .collect();
    assert_eq!(ends, [(Some(1), Some(1)), (Some(1), Some(0))]);
    cluster.until("file", "/status/phase", "Succeeded");
    assert_eq!(cluster.kubectl(&["logs", "file"]), "one,two words,unset\n");
}

/// One container's end begins all again, the init containers first, in the same sandbox.
fn again(cluster: &Cluster) {
    ready(cluster, "all-again");
    let before = cluster.pod("all-again")["status"]["podIP"].clone();
    shell(cluster, "all-again", "cause", "touch /data/go");
    cluster.wait_for("all containers to begin again", || {
        let pod = cluster.pod("all-again");
        let status = &pod["status"];
        let all: Vec<_> = [&status["initContainerStatuses"], &status["containerStatuses"]]
            .into_iter()
            .flat_map(|list| list.as_array().into_iter().flatten())
            .map(|s| s["restartCount"].as_u64())
            .collect();
        let ready = status["containerStatuses"].as_array().is_some_and(|l| l.iter().all(|s| s["ready"] == true));
        if all == [Some(1); 4] && ready { Ok(()) } else { Err(status.to_string()) }
    });
    assert_eq!(shell(cluster, "all-again", "cause", "wc -l < /data/first"), "2");
    let after = cluster.pod("all-again");
    assert_eq!(after["status"]["podIP"], before);
    let conditions = after["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let restarting = conditions.iter().find(|c| c["type"] == "AllContainersRestarting").expect("condition");
    assert_eq!(restarting["status"], "False");
}

fn gates(cluster: &Cluster) {
    cluster.until("gated", "/status/containerStatuses/0/ready", true);
    let condition = "jsonpath={.status.conditions[?(@.type==\"Ready\")].reason}";
    assert_eq!(cluster.kubectl(&["get", "pod", "gated", "-o", condition]), "ReadinessGatesNotReady");
    let open = r#"{"status":{"conditions":[{"type":"example.com/open","status":"True"}]}}"#;
    cluster.kubectl(&["patch", "pod", "gated", "--subresource=status", "-p", open]);
    ready(cluster, "gated");
}

fn namespaces(cluster: &Cluster) {
    ready(cluster, "host");
    assert_eq!(cluster.pod("host")["status"]["podIP"], cluster.machine.address.as_str());
    let seen =
        shell(cluster, "host", "main", "ls /sys/class/net; hostname; grep -c . /proc/1/cmdline; cat /etc/resolv.conf");
    for part in ["eth0", "cluster.local"] {
        assert!(seen.contains(part), "{part} is not in {seen}");
    }
    let own = std::fs::read_link("/proc/self/ns/pid").expect("namespace");
    assert_eq!(shell(cluster, "host", "main", "readlink /proc/self/ns/pid"), own.to_str().expect("text"));
    let own = std::fs::read_link("/proc/self/ns/ipc").expect("namespace");
    assert_eq!(shell(cluster, "host", "main", "readlink /proc/self/ns/ipc"), own.to_str().expect("text"));
    ready(cluster, "shared");
    let seen = shell(cluster, "shared", "main", "ps");
    assert!(seen.contains("sleep 1000001") && seen.contains("sleep 1000002"), "{seen}");
    ready(cluster, "port");
    let url = format!("http://{}:30999/", cluster.machine.address);
    cluster.wait_for("the page by the node's port", || cluster.machine.get(&url));
}

fn redirects(cluster: &Cluster) {
    cluster.told("redirects", "ProbeWarning", "Liveness probe warning: Probe terminated redirects");
    // `broken` asks the same server for a redirect to a page that is not there.
    cluster.told("redirects", "Unhealthy", "HTTP probe failed with statuscode: 404");
    assert_eq!(cluster.pod("redirects")["status"]["containerStatuses"][0]["restartCount"], 0);
}

/// CPU and memory of a running container change without a restart, or with one where it says so.
fn resize(cluster: &Cluster) {
    ready(cluster, "grows");
    let patch = |main: &str, restarts: &str| {
        let text = format!(
            r#"{{"spec":{{"containers":[{{"name":"main","resources":{main}}},{{"name":"restarts","resources":{restarts}}}]}}}}"#
        );
        cluster.kubectl(&["patch", "pod", "grows", "--subresource=resize", "-p", &text]);
    };
    patch(r#"{"requests":{"cpu":"150m"},"limits":{"cpu":"300m","memory":"96Mi"}}"#, "{}");
    let settled = |cpu: &str, memory: &str| {
        cluster.wait_for("the resize", || {
            let pod = cluster.pod("grows");
            let status = &pod["status"];
            let limits = &status["containerStatuses"][0]["resources"]["limits"];
            let open = status["conditions"].to_string().contains("PodResize");
            if limits["cpu"] == cpu && limits["memory"] == memory && !open { Ok(pod) } else { Err(status.to_string()) }
        })
    };
    let pod = settled("300m", "96Mi");
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    assert_eq!(pod["status"]["containerStatuses"][0]["allocatedResources"]["cpu"], "150m");
    let limit = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null";
    assert_eq!(shell(cluster, "grows", "main", limit), (96 << 20).to_string());
    patch("{}", r#"{"limits":{"memory":"80Mi"}}"#);
    cluster.until("grows", "/status/containerStatuses/1/restartCount", 1);
    cluster.until("grows", "/status/containerStatuses/1/resources/limits/memory", "80Mi");
    patch(r#"{"requests":{"cpu":"500"},"limits":{"cpu":"500"}}"#, "{}");
    let condition = "jsonpath={.status.conditions[?(@.type==\"PodResizePending\")].reason}";
    cluster.wait_for("the refusal", || match cluster.kubectl(&["get", "pod", "grows", "-o", condition]).as_str() {
        "Infeasible" => Ok(()),
        other => Err(other.to_owned()),
    });
    patch(r#"{"requests":{"cpu":"100m"},"limits":{"cpu":"200m","memory":"64Mi"}}"#, "{}");
    settled("200m", "64Mi");
    cluster.told("grows", "ResizeCompleted", "Pod resize completed");
}

/// An ephemeral container needs no end of the init containers.
fn debug(cluster: &Cluster) {
    cluster.until("debugged", "/status/initContainerStatuses/0/started", true);
    let image = format!("--image={BUSYBOX}");
    cluster.kubectl(&[
        "debug",
        "debugged",
        &image,
        "--target=waits",
        "-c",
        "helper",
        "--",
        "touch",
        "/proc/1/root/tmp/go",
    ]);
    ready(cluster, "debugged");
    cluster.until("debugged", "/status/ephemeralContainerStatuses/0/state/terminated/exitCode", 0);
}

/// A critical pod that does not fit takes the place of one that is not.
fn critical(cluster: &Cluster) {
    let cpus = cluster.kubectl(&["get", "node", "node", "-o", "jsonpath={.status.allocatable.cpu}"]);
    let milli: u64 = match cpus.strip_suffix('m') {
        Some(milli) => milli.parse().expect("cpu"),
        None => cpus.parse::<u64>().expect("cpu") * 1000,
    };
    let pod = |name: &str, milli: u64, more: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: kube-system}}\nspec:\n  nodeName: node\n  {more}\n  \
             terminationGracePeriodSeconds: 1\n  containers: [{{name: main, image: '{BUSYBOX}', command: [sleep, '1000000'], \
             resources: {{requests: {{cpu: {milli}m}}}}}}]\n"
        )
    };
    let wait = |name: &str| {
        cluster.kubectl(&[
            "-n",
            "kube-system",
            "wait",
            &format!("pod/{name}"),
            "--for=condition=Ready",
            "--timeout=60s",
        ]);
    };
    cluster.apply(&pod("fills", milli - 500, ""));
    wait("fills");
    cluster.apply(&pod("refused", milli - 500, ""));
    let state = |name: &str| {
        let path = "jsonpath={.status.phase} {.status.reason}";
        cluster.kubectl(&["-n", "kube-system", "get", "pod", name, "-o", path])
    };
    let becomes = |name: &str, wanted: &str| {
        cluster.wait_for(wanted, || if state(name) == wanted { Ok(()) } else { Err(state(name)) });
    };
    becomes("refused", "Failed OutOfcpu");
    cluster.apply(&pod("critical", milli - 500, "priorityClassName: system-node-critical"));
    wait("critical");
    becomes("fills", "Failed Preempting");
}

/// Sidecars start one after the other and before all else; they stop last and in reverse, but their hooks run at once.
fn ordered(cluster: &Cluster, directory: &std::path::Path) {
    ready(cluster, "ordered");
    let began = Instant::now();
    cluster.kubectl(&["delete", "pod", "ordered"]);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let order = std::fs::read_to_string(directory.join("order")).expect("order");
    let order: Vec<_> = order.lines().collect();
    assert_eq!(order, ["one", "two", "main", "hook of one", "main stops", "two stops", "one stops"]);
}
