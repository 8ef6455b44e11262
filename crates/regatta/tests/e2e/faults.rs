//! Everything that can be wrong with a pod ends in a reason and an event, and harms no other pod.

use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Machine, possible};

const PODS: &str = r#"
well:
  containers: [{name: main, command: [sleep, '1000000']}]
bad-command:
  containers: [{name: main, command: [/none]}]
bad-directory:
  containers: [{name: main, command: ['true'], workingDir: /bin/sh}]
bad-name:
  containers: [{name: main, image: 'Not/An:Image:Name'}]
no-image:
  containers: [{name: main, image: 'registry.invalid/none:1'}]
root:
  containers: [{name: main, command: ['true'], securityContext: {runAsNonRoot: true}}]
no-folder:
  containers: [{name: main, command: ['true'], volumeMounts: [{name: data, mountPath: /data}]}]
  volumes: [{name: data, hostPath: {path: /none/at/all, type: Directory}}]
bad-mount:
  containers: [{name: main, command: ['true'], volumeMounts: [{name: data, mountPath: /bin/sh/below}]}]
  volumes: [{name: data, emptyDir: {}}]
stubborn:
  terminationGracePeriodSeconds: 3
  containers: [{name: main, command: [sh, -c, 'trap "" TERM; while true; do sleep 1; done']}]
many-lines:
  restartPolicy: Never
  containers: [{name: main, command: [seq, '1000000']}]
lines:
  restartPolicy: Never
  containers: [{name: main, command: [seq, '150000']}]
silent-end:
  restartPolicy: Never
  containers: [{name: main, command: [sh, -c, 'printf "no end of line"; exit 3']}]
bad-probe:
  containers: [{name: main, command: [sleep, '1000000'], readinessProbe: {exec: {command: [/none]}, periodSeconds: 1}}]
slow-probe:
  containers: [{name: main, command: [sleep, '1000000'], readinessProbe: {exec: {command: [sleep, '100']}, periodSeconds: 1, timeoutSeconds: 1}}]
"#;

#[test]
fn what_is_wrong_with_a_pod_is_said_and_harms_no_other() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let cluster = Cluster::start(&machine, &[]);
    cluster.import_images();
    cluster.apply_pods(PODS, &[]);
    waiting(&cluster);
    for (pod, reason, message) in [
        ("no-folder", "FailedMount", "hostPath type check failed: /none/at/all is not a directory"),
        ("bad-name", "InspectFailed", "invalid reference format"),
        ("no-image", "Failed", "Failed to pull image \"registry.invalid/none:1\""),
        ("root", "Failed", "container has runAsNonRoot and image will run as root"),
        ("bad-command", "Failed", "/none"),
        ("bad-probe", "Unhealthy", "Readiness probe"),
        ("slow-probe", "Unhealthy", "Readiness probe failed: command timed out"),
    ] {
        cluster.told(pod, reason, message);
    }
    lines(&cluster);
    let began = Instant::now();
    cluster.kubectl(&["delete", "pod", "stubborn"]);
    let took = began.elapsed();
    assert!(took > Duration::from_secs(3) && took < Duration::from_secs(12), "{took:?}");
    let well = cluster.pod("well");
    let status = &well["status"]["containerStatuses"][0];
    assert_eq!((&status["ready"], &status["restartCount"]), (&true.into(), &0.into()), "{status}");
    let began = Instant::now();
    cluster.kubectl(&["delete", "pods", "--all"]);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

/// The reasons for which containers wait, or with which they end again and again.
fn waiting(cluster: &Cluster) {
    for (pod, reasons) in [
        ("bad-name", &["InvalidImageName"][..]),
        ("no-image", &["ImagePullBackOff"]),
        ("root", &["CreateContainerConfigError"]),
        ("no-folder", &["ContainerCreating"]),
        ("bad-command", &["CrashLoopBackOff", "RunContainerError"]),
        ("bad-directory", &["CrashLoopBackOff", "RunContainerError"]),
        ("bad-mount", &["CreateContainerError"]),
    ] {
        cluster.wait_for(&format!("{pod} to wait"), || {
            let pod = cluster.pod(pod);
            let reason =
                pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].as_str().map(str::to_owned);
            match reason {
                Some(reason) if reasons.contains(&reason.as_str()) => Ok(()),
                _ => Err(pod["status"].to_string()),
            }
        });
    }
    for pod in ["bad-command", "bad-directory"] {
        let bad = cluster.wait_for(&format!("how {pod} ends"), || {
            let status = cluster.pod(pod)["status"]["containerStatuses"][0].clone();
            if status["lastState"]["terminated"].is_null() { Err(status.to_string()) } else { Ok(status) }
        });
        let ended = &bad["lastState"]["terminated"];
        assert_eq!((&ended["reason"], &ended["exitCode"]), (&"StartError".into(), &128.into()), "{pod}: {ended}");
    }
}

fn lines(cluster: &Cluster) {
    cluster.until("many-lines", "/status/phase", "Succeeded");
    cluster.until("lines", "/status/phase", "Succeeded");
    let log = cluster.kubectl(&["logs", "lines"]);
    assert_eq!(log.lines().count(), 150_000);
    assert!(log.lines().zip(1..).all(|(line, number)| line.parse() == Ok(number)), "a line is not what was written");
    assert_eq!(cluster.kubectl(&["logs", "lines", "--tail=2"]), "149999\n150000\n");
    cluster.until("silent-end", "/status/phase", "Failed");
    assert_eq!(cluster.kubectl(&["logs", "silent-end"]), "no end of line");
}
