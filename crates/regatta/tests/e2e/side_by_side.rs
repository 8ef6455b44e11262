//! Clusters on one machine do not know of one another.

use crate::cluster::{BUSYBOX, Cluster, Machine, possible, text};

#[test]
fn two_clusters_live_side_by_side_and_one_goes_without_the_other_noticing() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let before = machine.traces();
    let mut first = Cluster::start(&machine, &[]);
    let other = ["--https-port", "7443", "--cluster-cidr", "10.52.0.0/16", "--service-cidr", "10.53.0.0/16"];
    let mut second = Cluster::start(&machine, &other);
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, labels: {{app: web}}}}\nspec: {{terminationGracePeriodSeconds: 0, \
         containers: [{{name: main, image: '{BUSYBOX}', command: [httpd, -f, -p, '80', -h, /etc], readinessProbe: \
         {{tcpSocket: {{port: 80}}, periodSeconds: 1}}}}]}}\n"
    );
    for (cluster, port) in [(&first, 30081), (&second, 30082)] {
        cluster.import_images();
        cluster.apply(&pod);
        cluster.kubectl(&["wait", "pod/web", "--for=condition=Ready", "--timeout=60s"]);
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{type: NodePort, selector: {{app: web}}, ports: \
             [{{port: 80, nodePort: {port}}}]}}\n"
        ));
        answers(cluster, port);
    }
    first.purge();
    answers(&second, 30082);
    assert!(machine.get(&format!("http://{}:30081/passwd", machine.address)).is_err());
    second.purge();
    assert_eq!(machine.traces(), before, "the machine is not as it was");
}

fn answers(cluster: &Cluster, port: u16) {
    let page = cluster.wait_for("the service to answer", || {
        cluster.machine.get(&format!("http://{}:{port}/passwd", cluster.machine.address))
    });
    assert!(page.contains("root"), "{page}");
}

#[test]
fn a_second_cluster_with_the_same_ranges_is_refused_and_the_first_one_is_unharmed() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let first = Cluster::start(&machine, &[]);
    let before = machine.traces();
    let directory = tempfile::tempdir().expect("directory");
    let up = |more: &[&str]| {
        let mut command = machine.command(env!("CARGO_BIN_EXE_regatta"));
        command.args(["up", "--https-port", "7443", "--data-dir"]).arg(directory.path().join("data")).args(more);
        let output = command.output().expect("regatta runs");
        assert!(!output.status.success(), "{output:?}");
        text(&output.stderr)
    };
    for (more, parts) in [
        (vec![], ["--cluster-cidr 10.42.0.0/16 overlaps", "another cluster"]),
        (vec!["--cluster-cidr", "10.52.0.0/16"], ["--service-cidr 10.43.0.0/16 overlaps", "another cluster"]),
        (
            vec!["--cluster-cidr", "192.168.0.0/16", "--service-cidr", "10.53.0.0/16"],
            ["--cluster-cidr 192.168.0.0/16 overlaps", "interface eth0"],
        ),
    ] {
        let error = up(&more);
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
    assert_eq!(machine.traces(), before, "the machine was changed");
    first.kubectl(&["get", "--raw", "/readyz"]);
    assert!(first.kubectl(&["get", "nodes"]).contains(" Ready "));
    // What a refused start leaves can be cleared.
    let mut purge = machine.command(env!("CARGO_BIN_EXE_regatta"));
    purge.args(["down", "--purge", "--data-dir"]).arg(directory.path().join("data"));
    crate::cluster::succeed(&mut purge);
    assert!(!directory.path().join("data").exists());
}
