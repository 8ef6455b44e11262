//! Scheduling as upstream's end-to-end tests go through it, with stock kubectl: what a pod is told, gates, preemption, limits of a
//! namespace, ports, taints and a scheduler of another name.

use crate::cluster::{BUSYBOX, Cluster, Machine, possible};

/// A pod that sleeps, with more of its spec and its resources in YAML's flow style.
fn pod(name: &str, spec: &str, resources: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{terminationGracePeriodSeconds: 1, {spec} containers: \
         [{{name: main, image: '{BUSYBOX}', imagePullPolicy: IfNotPresent, command: [sleep, infinity], resources: \
         {{{resources}}}}}]}}\n"
    )
}

fn field(cluster: &Cluster, what: &str, path: &str) -> Result<String, String> {
    cluster.try_kubectl(&["get", what, "-o", &format!("jsonpath={{{path}}}")])
}

fn until(cluster: &Cluster, what: &str, path: &str, expected: &str) {
    cluster.wait_for(&format!("{path} of {what} to be {expected:?}"), || {
        let found = field(cluster, what, path)?;
        if found == expected { Ok(()) } else { Err(found) }
    });
}

const SCHEDULED: &str = ".status.conditions[?(@.type==\"PodScheduled\")]";

fn told(cluster: &Cluster, pod: &str) -> String {
    let what = format!("pod/{pod}");
    cluster.wait_for(&format!("{pod} to be told why it has no node"), || {
        let message = field(cluster, &what, &format!("{SCHEDULED}.message"))?;
        if message.is_empty() { Err("nothing".to_owned()) } else { Ok(message) }
    })
}

fn node(cluster: &Cluster) -> String {
    field(cluster, "nodes", ".items[0].metadata.name").expect("a node")
}

/// A resource that nobody has, of which the node says it has so many.
fn advertise(cluster: &Cluster, amount: &str) {
    let amounts = format!("{{\"example.com/foo\": \"{amount}\"}}");
    let patch = format!("{{\"status\": {{\"capacity\": {amounts}, \"allocatable\": {amounts}}}}}");
    cluster.kubectl(&["patch", "node", &node(cluster), "--subresource=status", "--type=merge", "-p", &patch]);
}

fn of_foo(amount: u32) -> String {
    format!("requests: {{example.com/foo: {amount}}}, limits: {{example.com/foo: {amount}}}")
}

#[test]
fn a_pod_that_fits_nowhere_is_told_why_and_one_with_gates_waits_for_them() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let cluster = Cluster::start(&machine, &[]);
    cluster.import_images();
    let helpless =
        "no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";

    cluster.apply(&pod("hungry", "", "requests: {cpu: '1000'}"));
    assert_eq!(told(&cluster, "hungry"), format!("0/1 nodes are available: 1 Insufficient cpu. {helpless}"));
    cluster.apply(&pod("picky", "nodeSelector: {disk: ssd},", ""));
    let picky = format!("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. {helpless}");
    assert_eq!(told(&cluster, "picky"), picky);
    cluster.wait_for("the event with the same words", || {
        let events = ["get", "events", "--field-selector=involvedObject.name=picky,reason=FailedScheduling", "-o"];
        let found = cluster.try_kubectl(&[&events[..], &["jsonpath={.items[0].message}"]].concat())?;
        if found == picky { Ok(()) } else { Err(found) }
    });
    cluster.kubectl(&["label", "node", &node(&cluster), "disk=ssd"]);
    until(&cluster, "pod/picky", ".status.phase", "Running");

    cluster.apply(&pod("gated", "schedulingGates: [{name: example.com/a}, {name: example.com/b}],", ""));
    until(&cluster, "pod/gated", &format!("{SCHEDULED}.reason"), "SchedulingGated");
    let gates = |gates: &str| {
        cluster.kubectl(&[
            "patch",
            "pod",
            "gated",
            "--type=merge",
            "-p",
            &format!("{{\"spec\": {{\"schedulingGates\": {gates}}}}}"),
        ])
    };
    gates("[{\"name\": \"example.com/a\"}]");
    let row = cluster.kubectl(&["get", "pod", "gated", "--no-headers"]);
    assert!(row.contains("SchedulingGated"), "{row}");
    gates("null");
    until(&cluster, "pod/gated", ".status.phase", "Running");

    cluster.kubectl(&["taint", "node", &node(&cluster), "key=value:NoSchedule"]);
    cluster.apply(&pod("repelled", "", ""));
    let repelled = format!("0/1 nodes are available: 1 node(s) had untolerated taint(s). {helpless}");
    assert_eq!(told(&cluster, "repelled"), repelled);
    let tolerant = "tolerations: [{key: key, operator: Equal, value: value, effect: NoSchedule}],";
    cluster.apply(&pod("tolerant", tolerant, ""));
    until(&cluster, "pod/tolerant", ".status.phase", "Running");
    cluster.kubectl(&["taint", "node", &node(&cluster), "key-"]);
    until(&cluster, "pod/repelled", ".status.phase", "Running");
}

#[test]
fn an_important_pod_takes_the_place_of_lesser_ones_unless_it_must_not() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let cluster = Cluster::start(&machine, &[]);
    cluster.import_images();
    for (name, value) in [("low", 1), ("medium", 100), ("high", 1000)] {
        cluster.kubectl(&["create", "priorityclass", name, &format!("--value={value}")]);
    }
    let polite = "apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {name: polite}\nvalue: 1000\npreemptionPolicy: Never\n";
    cluster.apply(polite);
    advertise(&cluster, "3");
    let of_class = |class: &str| format!("priorityClassName: {class},");
    cluster.apply(&pod("low", &of_class("low"), &of_foo(2)));
    until(&cluster, "pod/low", ".status.phase", "Running");
    cluster.apply(&pod("polite", &of_class("polite"), &of_foo(2)));
    let polite = "0/1 nodes are available: 1 Insufficient example.com/foo. no new claims to deallocate, preemption: not eligible \
                  due to preemptionPolicy=Never.";
    assert_eq!(told(&cluster, "polite"), polite);
    cluster.kubectl(&["delete", "pod", "polite"]);

    cluster.apply(&pod("high", &of_class("high"), &of_foo(2)));
    until(&cluster, "pod/high", ".status.phase", "Running");
    let gone = cluster.try_kubectl(&["get", "pod", "low"]).expect_err("it had to go");
    assert!(gone.contains("NotFound"), "{gone}");
    let uid = field(&cluster, "pod/high", ".metadata.uid").unwrap();
    let expected = format!("Preempted by pod {uid} on node {}", node(&cluster));
    cluster.wait_for("the event of the one that went", || {
        let events = ["get", "events", "--field-selector=involvedObject.name=low,reason=Preempted", "-o"];
        let found = cluster.try_kubectl(&[&events[..], &["jsonpath={.items[0].message}"]].concat())?;
        if found == expected { Ok(()) } else { Err(found) }
    });
    cluster.apply(&pod("medium", &of_class("medium"), &of_foo(2)));
    let victimless = "0/1 nodes are available: 1 Insufficient example.com/foo. no new claims to deallocate, preemption: 0/1 nodes are \
                      available: 1 No preemption victims found for incoming pod.";
    assert_eq!(told(&cluster, "medium"), victimless);
    let critical = pod("critical", &of_class("system-node-critical"), &of_foo(2));
    cluster.apply(&critical.replace("{name: critical}", "{name: critical, namespace: kube-system}"));
    cluster.wait_for("the critical pod to run", || {
        let phase =
            cluster.try_kubectl(&["get", "pod", "critical", "-n", "kube-system", "-o", "jsonpath={.status.phase}"])?;
        if phase == "Running" { Ok(()) } else { Err(phase) }
    });
}

#[test]
fn host_ports_and_scheduler_configurations_are_honoured() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let directory = tempfile::TempDir::new().expect("a directory");
    let file = directory.path().join("scheduler.yaml");
    let configuration = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nprofiles: [{schedulerName: \
                         default-scheduler}, {schedulerName: second, plugins: {filter: {disabled: [{name: NodePorts}]}}}]\n";
    std::fs::write(&file, configuration).expect("a file");
    let cluster = Cluster::start(&machine, &["--scheduler-config", file.to_str().expect("UTF-8")]);
    cluster.import_images();
    let at = |name: &str, ip: &str, protocol: &str| {
        let ports =
            format!("ports: [{{containerPort: 80, hostPort: 54321, hostIP: {ip}, protocol: {protocol}}}], image:");
        pod(name, "", "").replace("image:", &ports)
    };
    cluster.apply(&at("first", "127.0.0.1", "TCP"));
    cluster.apply(&at("second", "127.0.0.2", "TCP"));
    cluster.apply(&at("third", "127.0.0.2", "UDP"));
    for name in ["first", "second", "third"] {
        until(&cluster, &format!("pod/{name}"), &format!("{SCHEDULED}.status"), "True");
    }
    cluster.apply(&at("fourth", "0.0.0.0", "TCP"));
    let why = told(&cluster, "fourth");
    let expected = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.";
    assert!(why.starts_with(expected), "{why}");

    cluster.apply(&pod("other", "schedulerName: second,", ""));
    until(&cluster, "pod/other", ".status.phase", "Running");
    let source = ["get", "events", "--field-selector=involvedObject.name=other,reason=Scheduled", "-o"];
    cluster.wait_for("the event in the other scheduler's name", || {
        let found = cluster.try_kubectl(&[&source[..], &["jsonpath={.items[0].source.component}"]].concat())?;
        if found == "second" { Ok(()) } else { Err(found) }
    });

    std::fs::write(&file, format!("{configuration}podMaxBackoff: 3\n")).expect("a file");
    let data = directory.path().join("data");
    let refused = machine
        .command(env!("CARGO_BIN_EXE_regatta"))
        .args(["up", "--data-dir"])
        .arg(&data)
        .args(["--https-port", "7443", "--scheduler-config"])
        .arg(&file)
        .output()
        .expect("it runs");
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && error.contains("strict decoding error: unknown field \"podMaxBackoff\""),
        "{error}"
    );
}
