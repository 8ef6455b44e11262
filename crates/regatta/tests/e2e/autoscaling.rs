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
    cluster.apply(&deployment("web", work));
    cluster.apply(
        "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: web}\nspec: {maxReplicas: 3, scaleTargetRef: \
         {apiVersion: apps/v1, kind: Deployment, name: web}, metrics: [{type: Resource, resource: {name: cpu, target: {type: \
         Utilization, averageUtilization: 60}}}], behavior: {scaleDown: {stabilizationWindowSeconds: 0}}}\n"
    );
    held(&cluster, work);
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);

    let nodes = cluster.kubectl(&["top", "nodes"]);
    assert!(nodes.contains("CPU(cores)") && nodes.contains("node ") && nodes.contains("Mi"), "{nodes}");
    let pods = cluster.kubectl(&["top", "pods", "--containers"]);
    assert!(pods.contains("web-") && pods.contains("main") && pods.contains("Mi"), "{pods}");
    let table = cluster.kubectl(&["get", "pods.metrics.k8s.io", "-l", "app=web"]);
    assert!(table.contains("CPU") && table.contains("web-"), "{table}");

    for name in ["web", "held"] {
        cluster.kubectl(&["rollout", "status", &format!("deployment/{name}"), "--timeout=60s"]);
        cluster.kubectl(&["exec", &format!("deployment/{name}"), "--", "touch", "/tmp/load"]);
    }
    let replicas = || cluster.kubectl(&["get", "deployment", "web", "-o", "jsonpath={.spec.replicas}"]);
    wait(&cluster, "growth", || if replicas() == "3" { Ok(()) } else { Err(replicas()) });
    let described = cluster.kubectl(&["describe", "hpa", "web"]);
    for part in
        ["SuccessfulRescale", "ValidMetricFound", "cpu resource utilization (percentage of request) above target"]
    {
        assert!(described.contains(part), "{part} is not in\n{described}");
    }
    // Under the same load this one has grown by one, and may not grow again for two minutes.
    let held = || cluster.kubectl(&["get", "deployment", "held", "-o", "jsonpath={.spec.replicas}"]);
    wait(&cluster, "the first step", || if held() == "2" { Ok(()) } else { Err(held()) });
    wait(&cluster, "the policy to be told", || {
        let described = cluster.kubectl(&["describe", "hpa", "held"]);
        let told = described.contains("ScaleUpLimit")
            && described.contains("the desired replica count is increasing faster than the maximum scale rate");
        if told { Ok(()) } else { Err(described) }
    });
    assert_eq!(held(), "2");
    let names = cluster.kubectl(&["get", "pods", "-l", "load=on", "-o", "name"]);
    for pod in names.lines() {
        // Only the first has it, but whichever that is.
        let _ = cluster.try_kubectl(&["exec", pod, "--", "rm", "-f", "/tmp/load"]);
    }
    wait(&cluster, "shrinking", || if replicas() == "1" { Ok(()) } else { Err(replicas()) });
    let described = cluster.kubectl(&["describe", "hpa", "web"]);
    assert!(described.contains("All metrics below target"), "{described}");
    // This one may not shrink at all.
    wait(&cluster, "the idle one to be held", || {
        let hpa = cluster.kubectl(&[
            "get",
            "hpa",
            "held",
            "-o",
            "jsonpath={.status.currentMetrics[0].containerResource.current.averageUtilization}",
        ]);
        if hpa.parse::<u32>().is_ok_and(|used| used < 20) { Ok(()) } else { Err(hpa) }
    });
    assert_eq!(held(), "2");
}

/// A Deployment under load whose autoscaler may add one pod in two minutes, and take none away.
fn held(cluster: &Cluster, work: &str) {
    cluster.apply(&deployment("held", work));
    let policies = "[{type: Pods, value: 1, periodSeconds: 120}, {type: Percent, value: 300, periodSeconds: 120}]";
    cluster.apply(&format!(
        "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {{name: held}}\nspec: {{maxReplicas: 8, scaleTargetRef: \
         {{apiVersion: apps/v1, kind: Deployment, name: held}}, metrics: [{{type: ContainerResource, containerResource: {{name: cpu, \
         container: main, target: {{type: Utilization, averageUtilization: 30}}}}}}], behavior: {{scaleUp: {{selectPolicy: Min, \
         policies: {policies}}}, scaleDown: {{selectPolicy: Disabled}}}}}}\n"
    ));
}

fn deployment(name: &str, work: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec: {{selector: {{matchLabels: {{app: {name}}}}}, template: \
         {{metadata: {{labels: {{app: {name}, load: 'on'}}}}, spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: main, image: \
         '{BUSYBOX}', imagePullPolicy: IfNotPresent, command: [sh, -c, '{work}'], resources: {{requests: {{cpu: 50m}}, limits: {{cpu: \
         200m}}}}}}]}}}}}}\n"
    )
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
