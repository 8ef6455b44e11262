//! Clusters on one machine do not know of one another.

use crate::cluster::{BUSYBOX, Cluster, Machine, possible};

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
