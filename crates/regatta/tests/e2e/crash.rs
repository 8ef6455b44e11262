//! Containers outlive the server: after any end of it, `up` brings everything back and restarts nothing that is healthy.

use crate::cluster::{BUSYBOX, Cluster, Machine, possible};

const PODS: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: steady}
spec:
  replicas: 3
  selector: {matchLabels: {app: steady}}
  template:
    metadata: {labels: {app: steady}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: main
          image: IMAGE
          command: [sh, -c, 'i=0; while true; do echo line $i; i=$((i+1)); sleep 0.1; done']
";

#[test]
fn a_killed_server_comes_back_without_restarting_a_healthy_container() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let mut cluster = Cluster::start(&machine, &[]);
    cluster.import_images();
    cluster.apply(&PODS.replace("IMAGE", BUSYBOX));
    cluster.kubectl(&["rollout", "status", "deployment/steady", "--timeout=60s"]);
    let before = containers(&cluster);
    assert_eq!(before.lines().count(), 3, "{before}");
    for _ in 0..3 {
        cluster.crash();
        cluster.up();
        assert_eq!(containers(&cluster), before, "containers changed over a crash");
    }
    cluster.interrupt();
    cluster.up();
    assert_eq!(containers(&cluster), before, "containers changed over a stop");
    let pod = cluster.kubectl(&["get", "pods", "-o", "jsonpath={.items[0].metadata.name}"]);
    let numbers = cluster.wait_for("some output", || {
        let logs = cluster.kubectl(&["logs", &pod]);
        let numbers: Vec<u64> = logs.lines().map(|l| l["line ".len()..].parse().expect("number")).collect();
        if numbers.len() > 10 { Ok(numbers) } else { Err(logs) }
    });
    assert!(numbers.windows(2).all(|w| w[1] == w[0] + 1), "lines were lost: {numbers:?}");
    let seen = numbers.len();
    cluster.wait_for("output after the restarts", || {
        let count = cluster.kubectl(&["logs", &pod]).lines().count();
        if count > seen { Ok(()) } else { Err(format!("{count} lines")) }
    });
}

/// Name, container id, start and restart count of every pod.
fn containers(cluster: &Cluster) -> String {
    let path = "{range .items[*]}{.metadata.name} {.status.containerStatuses[0].containerID} \
                {.status.containerStatuses[0].state.running.startedAt} {.status.containerStatuses[0].restartCount}{'\\n'}{end}";
    cluster.kubectl(&["get", "pods", "-l", "app=steady", "-o", &format!("jsonpath={}", path.replace('\'', "\""))])
}
