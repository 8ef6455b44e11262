//! What becomes of nodes that fall silent, and of their pods. The nodes are made with kubectl and have no kubelet.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::cluster::{BUSYBOX, Cluster, Machine, possible};

/// Makes a node that says that it is ready.
pub fn make(cluster: &Cluster, name: &str, labels: &str) {
    cluster.apply(&format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n"));
    let size = json!({"cpu": "2", "memory": "4Gi", "pods": "110"});
    patch_status(cluster, &format!("node/{name}"), &json!({"capacity": size, "allocatable": size}));
    report(cluster, name);
}

/// Says in a node's name that it is well, now.
fn report(cluster: &Cluster, name: &str) {
    let now = jiff::Timestamp::now().strftime("%FT%TZ").to_string();
    let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now,
        "lastTransitionTime": now});
    patch_status(cluster, &format!("node/{name}"), &json!({"conditions": [ready]}));
}

pub fn patch_status(cluster: &Cluster, what: &str, status: &serde_json::Value) {
    let patch = json!({"status": status}).to_string();
    cluster.kubectl(&["patch", what, "--subresource=status", "-p", &patch]);
}

/// A pod on a node without a kubelet, which runs as far as anybody is told.
pub fn run(cluster: &Cluster, name: &str, node: &str, more: &str, address: &str) {
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {app}}}}}\nspec: {{nodeName: {node}, {more} containers: \
         [{{name: main, image: '{BUSYBOX}'}}]}}\n",
        app = name.split('-').next().unwrap_or(name),
    ));
    let now = jiff::Timestamp::now().strftime("%FT%TZ").to_string();
    let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": now});
    let status = json!({"phase": "Running", "startTime": now, "podIP": address, "podIPs": [{"ip": address}], "conditions": [ready]});
    patch_status(cluster, &format!("pod/{name}"), &status);
}

fn taints(cluster: &Cluster, node: &str) -> String {
    let listed = cluster.field(&format!("node/{node}"), ".spec.taints[*]");
    let keys = ["node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready"]
        .into_iter()
        .filter(|key| listed.contains(key));
    keys.collect::<Vec<_>>().join(" ")
}

fn condition(cluster: &Cluster, what: &str, kind: &str, field: &str) -> String {
    cluster.field(what, &format!(".status.conditions[?(@.type==\"{kind}\")].{field}"))
}

#[test]
fn a_silent_node_is_tainted_emptied_and_welcomed_back() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let cluster = Cluster::start(&machine, &[]);
    for name in ["silent", "renewing", "gone"] {
        make(&cluster, name, "");
    }
    let since = Instant::now();
    cluster.told("silent", "RegisteredNode", "Node silent event: Registered Node silent in Controller");
    let unreachable = |seconds: &str| {
        format!("tolerations: [{{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute{seconds}}}],")
    };
    run(&cluster, "brief", "silent", &unreachable(", tolerationSeconds: 2"), "10.0.9.1");
    run(&cluster, "usual", "silent", "", "10.0.9.2");
    run(&cluster, "steady", "silent", &unreachable(""), "10.0.9.3");
    run(&cluster, "lost", "gone", "", "10.0.9.4");
    // By the admission of default tolerations.
    let tolerated =
        cluster.field("pod/usual", ".spec.tolerations[?(@.key==\"node.kubernetes.io/unreachable\")].tolerationSeconds");
    assert_eq!(tolerated, "300");
    cluster.kubectl(&["delete", "node", "gone"]);

    // A node's Lease alone keeps it alive.
    let lease = |seconds: u64| {
        cluster.apply(&format!(
            "apiVersion: coordination.k8s.io/v1\nkind: Lease\nmetadata: {{name: renewing, namespace: kube-node-lease}}\nspec: \
             {{holderIdentity: renewing, leaseDurationSeconds: 40, renewTime: '{}'}}\n",
            jiff::Timestamp::now().strftime("%FT%T.000000Z"),
        ));
        std::thread::sleep(Duration::from_secs(seconds));
    };
    while condition(&cluster, "node/silent", "Ready", "status") == "True" {
        assert!(since.elapsed() < Duration::from_secs(80), "nobody notices");
        lease(2);
    }
    assert!(since.elapsed() >= Duration::from_secs(45), "noticed after {:?}", since.elapsed());
    assert_eq!(condition(&cluster, "node/renewing", "Ready", "status"), "True");
    assert_eq!(condition(&cluster, "node/silent", "Ready", "status"), "Unknown");
    assert_eq!(condition(&cluster, "node/silent", "Ready", "reason"), "NodeStatusUnknown");
    assert_eq!(condition(&cluster, "node/silent", "Ready", "message"), "Kubelet stopped posting node status.");
    assert!(cluster.kubectl(&["get", "nodes"]).contains("NotReady"));
    cluster.told("silent", "NodeNotReady", "Node silent status is now: NodeNotReady");
    let effects = ".spec.taints[?(@.key==\"node.kubernetes.io/unreachable\")].effect";
    cluster.until_field("node/silent", effects, "NoSchedule NoExecute");

    // Its pods are not ready, and leave as their tolerations say. Nobody ends them there.
    for pod in ["usual", "steady"] {
        cluster.wait_for(&format!("{pod} not to be ready"), || {
            let ready = condition(&cluster, &format!("pod/{pod}"), "Ready", "status");
            if ready == "False" { Ok(()) } else { Err(ready) }
        });
        cluster.told(pod, "NodeNotReady", "Node is not ready");
    }
    cluster.wait_for("the impatient pod to be told to go", || {
        let going = cluster.field("pod/brief", ".metadata.deletionTimestamp");
        if going.is_empty() { Err("it stays".to_owned()) } else { Ok(()) }
    });
    assert_eq!(condition(&cluster, "pod/brief", "DisruptionTarget", "reason"), "DeletionByTaintManager");
    cluster.told("brief", "TaintManagerEviction", "Marking for deletion Pod default/brief");
    assert!(cluster.kubectl(&["get", "pod", "brief"]).contains("Terminating"));
    for pod in ["usual", "steady"] {
        assert_eq!(cluster.field(&format!("pod/{pod}"), ".metadata.deletionTimestamp"), "");
    }

    // It is back.
    report(&cluster, "silent");
    cluster.wait_for("the taints to go", || {
        let taints = taints(&cluster, "silent");
        if taints.is_empty() { Ok(()) } else { Err(taints) }
    });
    assert_eq!(cluster.field("pod/steady", ".metadata.deletionTimestamp"), "");

    // One that says itself that it is not ready has another taint.
    let not_ready = json!({"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": "by hand"});
    patch_status(&cluster, "node/silent", &json!({"conditions": [not_ready]}));
    cluster.wait_for("the taint of a node that is not ready", || {
        let taints = taints(&cluster, "silent");
        if taints == "node.kubernetes.io/not-ready" { Ok(()) } else { Err(taints) }
    });
    // Who says that it is out of service drives all pods off it, and has them forgotten.
    cluster.kubectl(&["taint", "node", "silent", "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"]);
    for pod in ["brief", "usual", "steady"] {
        cluster.until_gone(&format!("pod/{pod}"));
    }

    // Other conditions have taints too.
    let pressure = json!({"type": "MemoryPressure", "status": "True"});
    patch_status(&cluster, "node/renewing", &json!({"conditions": [pressure]}));
    cluster.until_field("node/renewing", ".spec.taints[0].key", "node.kubernetes.io/memory-pressure");
    cluster.kubectl(&["cordon", "renewing"]);
    cluster.until_field("node/renewing", ".spec.taints[1].key", "node.kubernetes.io/unschedulable");

    // Pods of a node that is gone go too.
    cluster.until_gone("pod/lost");
}
