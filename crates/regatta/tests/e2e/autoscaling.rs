//! Autoscaling under the real load of a real pod, and `kubectl top`.

use std::time::{Duration, Instant};

use crate::cluster::{BUSYBOX, Cluster, Machine, possible};

#[test]
fn a_deployment_grows_under_load_and_shrinks_without() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let cluster = Cluster::start(&machine, &[]);
    cluster.import_images();
    // Busy as long as there is the file, but never with more than a fifth of a core.
    let work = "trap exit TERM; while true; do if [ -e /tmp/load ]; then i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; \
                else sleep 0.2; fi; done";
    cluster.apply(&format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec: {{selector: {{matchLabels: {{app: web}}}}, template: \
         {{metadata: {{labels: {{app: web}}}}, spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: main, image: '{BUSYBOX}', \
         imagePullPolicy: IfNotPresent, command: [sh, -c, '{work}'], resources: {{requests: {{cpu: 50m}}, limits: {{cpu: 200m}}}}}}]}}}}}}\n---\n\
         apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {{name: web}}\nspec: {{maxReplicas: 3, scaleTargetRef: \
         {{apiVersion: apps/v1, kind: Deployment, name: web}}, metrics: [{{type: Resource, resource: {{name: cpu, target: {{type: \
         Utilization, averageUtilization: 60}}}}}}], behavior: {{scaleDown: {{stabilizationWindowSeconds: 0}}}}}}\n"
    ));
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);

    let nodes = cluster.kubectl(&["top", "nodes"]);
    assert!(nodes.contains("CPU(cores)") && nodes.contains("node ") && nodes.contains("Mi"), "{nodes}");
    let pods = cluster.kubectl(&["top", "pods", "--containers"]);
    assert!(pods.contains("web-") && pods.contains("main") && pods.contains("Mi"), "{pods}");
    let table = cluster.kubectl(&["get", "pods.metrics.k8s.io", "-l", "app=web"]);
    assert!(table.contains("CPU") && table.contains("web-"), "{table}");

    cluster.kubectl(&["exec", "deployment/web", "--", "touch", "/tmp/load"]);
    let replicas = || cluster.kubectl(&["get", "deployment", "web", "-o", "jsonpath={.spec.replicas}"]);
    wait(&cluster, "growth", || if replicas() == "3" { Ok(()) } else { Err(replicas()) });
    let described = cluster.kubectl(&["describe", "hpa", "web"]);
    for part in
        ["SuccessfulRescale", "ValidMetricFound", "cpu resource utilization (percentage of request) above target"]
    {
        assert!(described.contains(part), "{part} is not in\n{described}");
    }
    let names = cluster.kubectl(&["get", "pods", "-l", "app=web", "-o", "name"]);
    for pod in names.lines() {
        // Only the first has it, but whichever that is.
        let _ = cluster.try_kubectl(&["exec", pod, "--", "rm", "-f", "/tmp/load"]);
    }
    wait(&cluster, "shrinking", || if replicas() == "1" { Ok(()) } else { Err(replicas()) });
    let described = cluster.kubectl(&["describe", "hpa", "web"]);
    assert!(described.contains("All metrics below target"), "{described}");
}

/// Longer than other tests wait: metrics are looked at every fifteen seconds.
fn wait(cluster: &Cluster, what: &str, check: impl Fn() -> Result<(), String>) {
    let deadline = Instant::now() + Duration::from_secs(100);
    while let Err(found) = check() {
        let state = || cluster.kubectl(&["describe", "hpa,pods"]);
        assert!(Instant::now() < deadline, "{what}: {found}\n{}\n{}", state(), cluster.log());
        std::thread::sleep(Duration::from_millis(500));
    }
}
