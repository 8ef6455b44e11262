//! The node: its kubelet's port, what pods may take of it, and what happens when it runs short.

use std::path::Path;

use crate::cluster::{BUSYBOX, Cluster, Machine, possible, text};

fn configuration(path: &Path, fields: &str) -> String {
    let text = format!("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n{fields}");
    std::fs::write(path, text).expect("configuration");
    path.display().to_string()
}

/// What the kubelet's port answers, its status first.
fn ask(cluster: &Cluster, path: &str, options: &[&str]) -> String {
    let url = format!("https://{}:10250{path}", cluster.machine.address);
    let authority = cluster.data.join("pki/ca.crt");
    let mut command = cluster.machine.command("curl");
    command
        .args(["-sS", "--max-time", "10", "-w", "\\n%{http_code}", "--cacert"])
        .arg(authority)
        .args(options)
        .arg(url);
    let output = command.output().expect("curl runs");
    let said = text(&output.stdout);
    let (body, status) = said.rsplit_once('\n').unwrap_or(("", "none"));
    format!("{status} {body}{}", text(&output.stderr))
}

#[test]
fn the_kubelets_port_asks_who_calls_and_what_for_and_the_api_reaches_it() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let directory = tempfile::tempdir().expect("directory");
    let file = configuration(
        &directory.path().join("kubelet.yaml"),
        "maxPods: 42\nsystemReserved: {cpu: 100m, memory: 64Mi}\npodPidsLimit: 64\nevictionHard: {memory.available: 36Mi}\n",
    );
    let cluster = Cluster::start(&machine, &["--kubelet-config", &file]);
    cluster.import_images();
    cluster.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{terminationGracePeriodSeconds: 0, containers: [{{name: main, \
         image: '{BUSYBOX}', command: [sh, -c, 'echo x > /tmp/x; exec sleep 1000'], volumeMounts: [{{name: v, mountPath: /v}}], \
         readinessProbe: {{exec: {{command: ['true']}}}}}}], volumes: [{{name: v, emptyDir: {{}}}}]}}}}"
    ));
    cluster.kubectl(&["wait", "pod/p", "--for=condition=Ready", "--timeout=60s"]);

    // Who calls: nobody, somebody without rights, the administrator.
    assert!(ask(&cluster, "/stats/summary", &[]).starts_with("401 Unauthorized"));
    assert!(ask(&cluster, "/pods", &["-H", "Authorization: Bearer x"]).starts_with("401"));
    let token = format!("Authorization: Bearer {}", cluster.kubectl(&["create", "token", "default"]).trim());
    let refused = ask(&cluster, "/stats/summary", &["-H", &token]);
    let expected =
        "403 Forbidden (user=system:serviceaccount:default:default, verb=get, resource=nodes, subresource(s)=[stats])";
    assert!(refused.starts_with(expected), "{refused}");
    let keys = cluster.data.join("pki");
    let (certificate, key) = (keys.join("admin.crt"), keys.join("admin.key"));
    let admin = ["--cert", certificate.to_str().expect("path"), "--key", key.to_str().expect("path")];
    assert_eq!(ask(&cluster, "/healthz", &admin), "200 ok");
    let run = [&admin[..], &["-X", "POST"]].concat();
    assert_eq!(ask(&cluster, "/run/default/p/main?cmd=cat%20/tmp/x", &run), "200 x\n");
    assert!(ask(&cluster, "/nothing", &admin).starts_with("404"));

    // The same through the API, by either name.
    for node in ["node", "node:10250"] {
        let get = |path: &str| cluster.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy{path}")]);
        let summary = get("/stats/summary");
        for part in [
            "\"podRef\"",
            "\"ephemeral-storage\"",
            "\"usageNanoCores\"",
            "\"workingSetBytes\"",
            "\"rlimit\"",
            "\"imageFs\"",
        ] {
            assert!(summary.contains(part), "{part} is not in {summary}");
        }
        let resource = get("/metrics/resource");
        let line = "container_memory_working_set_bytes{container=\"main\",namespace=\"default\",pod=\"p\"} ";
        assert!(resource.contains(line), "{resource}");
        let line = "container_cpu_usage_seconds_total{container=\"main\",id=\"/kubepods/besteffort/pod";
        assert!(get("/metrics/cadvisor").contains(line));
        assert!(get("/metrics/probes").contains("probe_type=\"Readiness\",result=\"successful\""));
        assert!(get("/metrics").contains("kubelet_running_pods 1\n"));
        assert!(get("/logs/").contains("<pre>"));
        assert!(get("/pods").contains("\"name\":\"p\"") && get("/runningpods/").contains("\"name\":\"p\""));
        assert!(get("/configz").contains("\"maxPods\":42"));
    }

    // What is kept back is not for pods, and the pod may have only so many processes.
    let amount = |which: &str| -> i64 {
        let shown = cluster.kubectl(&["get", "node", "node", "-o", &format!("jsonpath={{.status.{which}.memory}}")]);
        shown.trim_end_matches("Ki").parse().expect("kibibytes")
    };
    assert_eq!(amount("capacity") - amount("allocatable"), 100 * 1024);
    let port = [
        "get",
        "node",
        "node",
        "-o",
        "jsonpath={.status.allocatable.pods} {.status.daemonEndpoints.kubeletEndpoint.Port}",
    ];
    assert_eq!(cluster.kubectl(&port), "42 10250");
    let bomb = "for i in $(seq 200); do sleep 5 & done 2>/dev/null; ls /proc | grep -c '^[0-9]'";
    let output =
        cluster.kubectl_command(&["exec", "p", "--", "timeout", "20", "sh", "-c", bomb]).output().expect("kubectl");
    let count = text(&output.stdout).trim().parse::<u32>().unwrap_or(0);
    assert!(count <= 64, "{count} processes: {}", text(&output.stderr));

    // A resource that somebody says the node has becomes one that pods may ask for.
    let patch = r#"{"status": {"capacity": {"example.com/foo": "5"}}}"#;
    cluster.kubectl(&["patch", "node", "node", "--subresource=status", "-p", patch]);
    cluster.wait_for("the resource", || {
        let shown = cluster.kubectl(&["get", "node", "node", "-o", r"jsonpath={.status.allocatable.example\.com/foo}"]);
        if shown == "5" { Ok(()) } else { Err(shown) }
    });
}

#[test]
fn pods_beyond_their_limits_are_evicted_and_when_the_node_runs_short_the_rest_by_rank() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("kubelet.yaml");
    let file = configuration(&path, "");
    let mut cluster = Cluster::start(&machine, &["--kubelet-config", &file]);
    cluster.import_images();
    let pod = |name: &str, more: &str, container: &str, command: &str| {
        cluster.apply(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 0, nodeName: node, \
             tolerations: [{{operator: Exists}}], {more} containers: [{{name: main, image: '{BUSYBOX}', {container} \
             command: [sh, -c, '{command}; exec sleep 1000']}}]}}}}"
        ));
    };
    let mount = "volumeMounts: [{name: v, mountPath: /v}],";
    let fill = "dd if=/dev/zero of=/v/x bs=1M count=3";
    pod("volume", "volumes: [{name: v, emptyDir: {sizeLimit: 1Mi}}],", mount, fill);
    let limits = "resources: {limits: {ephemeral-storage: 2Mi}},";
    pod("layer", "", limits, "dd if=/dev/zero of=/tmp/x bs=1M count=3");
    pod("critical", "priorityClassName: system-node-critical,", "", "true");
    pod("quiet", "volumes: [{name: v, emptyDir: {sizeLimit: 9Mi}}],", mount, fill);
    let evicted = |name: &str, part: &str| {
        let told = "jsonpath={.status.phase} {.status.reason}: {.status.message}";
        cluster.wait_for(name, || {
            let shown = cluster.kubectl(&["get", "pod", name, "-o", told]);
            if shown.starts_with("Failed Evicted: ") && shown.contains(part) { Ok(()) } else { Err(shown) }
        });
    };
    evicted("volume", "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ");
    evicted("layer", "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. ");
    let events = cluster.kubectl(&["get", "events", "--field-selector=reason=Evicted", "-o", "name"]);
    assert_eq!(events.lines().count(), 2, "{events}");
    cluster.kubectl(&["wait", "pod/quiet", "pod/critical", "--for=condition=Ready", "--timeout=30s"]);

    // More than there is must be left: the node is short of memory from now on.
    configuration(&path, "evictionHard: {memory.available: 500Ti}\n");
    cluster.interrupt();
    cluster.up();
    let condition = "--for=condition=MemoryPressure";
    cluster.kubectl(&["wait", "node/node", condition, "--timeout=60s"]);
    let told = "jsonpath={.status.phase} {.status.reason}: {.status.message}{.status.conditions[?(@.type==\"DisruptionTarget\")].reason}";
    cluster.wait_for("eviction", || {
        let shown = cluster.kubectl(&["get", "pod", "quiet", "-o", told]);
        let low = "Failed Evicted: The node was low on resource: memory. Threshold quantity: 500Ti, available: ";
        if shown.starts_with(low) && shown.ends_with("TerminationByKubelet") { Ok(()) } else { Err(shown) }
    });
    assert_eq!(cluster.kubectl(&["get", "pod", "critical", "-o", "jsonpath={.status.phase}"]), "Running");
    cluster.wait_for("taint", || {
        let taints = cluster.kubectl(&["get", "node", "node", "-o", "jsonpath={.spec.taints[*].key}"]);
        if taints.contains("node.kubernetes.io/memory-pressure") { Ok(()) } else { Err(taints) }
    });
    let described = cluster.kubectl(&["describe", "node", "node"]);
    for part in ["KubeletHasInsufficientMemory", "EvictionThresholdMet", "Attempting to reclaim memory"] {
        assert!(described.contains(part), "{part} is not in\n{described}");
    }
}

#[test]
fn a_start_that_fails_tells_why_whether_or_not_it_is_in_the_background() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let directory = tempfile::tempdir().expect("directory");
    let file = configuration(&directory.path().join("kubelet.yaml"), "maxPodz: 1\n");
    for options in [&["--detach"][..], &[]] {
        let mut command = machine.command(env!("CARGO_BIN_EXE_regatta"));
        command.args(["up", "--kubelet-config", &file, "--data-dir"]).arg(directory.path().join("data")).args(options);
        let output = command.output().expect("regatta runs");
        let said = text(&output.stderr);
        assert!(!output.status.success() && said.contains("the field \"maxPodz\" is unknown"), "{options:?}: {said}");
    }
}
