//! The main job: a cluster from one command, an application deployed with stock kubectl, and requests that reach it.

use std::process::Stdio;

use crate::cluster::{BUSYBOX, Cluster, Machine, possible};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/webapp");

#[test]
fn an_application_is_deployed_reached_scaled_updated_rolled_back_and_deleted() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let before = machine.traces();
    let mut cluster = Cluster::start(&machine, &[]);
    cluster.import_images();
    deploy(&cluster);
    look(&cluster);
    change(&cluster);
    cluster.kubectl(&["delete", "-f", EXAMPLE]);
    cluster.wait_for("the pods to be gone", || {
        let pods = cluster.kubectl(&["get", "pods", "-o", "name"]);
        if pods.trim().is_empty() { Ok(()) } else { Err(pods) }
    });
    cluster.purge();
    assert_eq!(machine.traces(), before, "the machine is not as it was");
    assert!(!cluster.data.exists());
}

fn url(cluster: &Cluster) -> String {
    format!("http://{}:30100/", cluster.machine.address)
}

fn deploy(cluster: &Cluster) {
    cluster.kubectl(&["apply", "-f", EXAMPLE]);
    cluster.kubectl(&["rollout", "status", "deployment/database", "--timeout=60s"]);
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    let first = cluster.wait_for("the application to answer", || cluster.machine.get(&url(cluster)));
    assert!(first.contains("Hello from Regatta") && first.contains("version: v1"), "{first}");
    let visits = |text: &str| text.split("visits: ").nth(1).and_then(|n| n.trim().parse::<u64>().ok());
    let second = cluster.machine.get(&url(cluster)).expect("answer");
    assert_eq!(visits(&second), visits(&first).map(|n| n + 1), "{second}");
}

fn look(cluster: &Cluster) {
    let all = cluster.kubectl(&["get", "all", "-o", "wide"]);
    for part in
        ["pod/web-", "deployment.apps/web", "replicaset.apps/web-", "service/web", "2/2", "80:30100/TCP", "node"]
    {
        assert!(all.contains(part), "{part} is not in\n{all}");
    }
    let pod = cluster.kubectl(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].metadata.name}"]);
    let described = cluster.kubectl(&["describe", "pod", &pod]);
    for part in ["Controlled By:  ReplicaSet/web-", "Started ", "Successfully assigned default/", "Running"] {
        assert!(described.contains(part), "{part} is not in\n{described}");
    }
    shell(cluster, &pod);
    let logs = cluster.kubectl(&["logs", "-l", "app=web", "--tail=50"]);
    assert!(logs.contains("GET / 200"), "{logs}");
    let nodes = cluster.kubectl(&["get", "nodes", "-o", "wide"]);
    assert!(nodes.contains("Ready") && nodes.contains("regatta://"), "{nodes}");
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: tool}}\nspec: {{containers: [{{name: main, image: '{BUSYBOX}', command: \
         [sh, -c, 'trap exit TERM; echo begun; while true; do sleep 1 & wait; done']}}]}}\n"
    ));
    cluster.kubectl(&["wait", "pod/tool", "--for=condition=Ready", "--timeout=60s"]);
    assert_eq!(cluster.kubectl(&["exec", "tool", "--", "echo", "hello"]), "hello\n");
    let error = cluster.try_kubectl(&["exec", "tool", "--", "sh", "-c", "exit 7"]).expect_err("fails");
    assert!(error.contains("exit code 7"), "{error}");
    let answer = cluster.kubectl(&["exec", "tool", "--", "wget", "-qO-", "http://web.default.svc.cluster.local/"]);
    assert!(answer.contains("Hello from Regatta"), "{answer}");
    assert_eq!(cluster.kubectl(&["logs", "tool"]), "begun\n");
    cluster.kubectl(&["delete", "pod", "tool"]);
}

/// The application's own containers have a shell to look around with.
fn shell(cluster: &Cluster, pod: &str) {
    let output =
        cluster.kubectl(&["exec", pod, "--", "sh", "-c", "cd /tmp && pwd; echo $VERSION; ls /; cat /etc/passwd; ps"]);
    for part in ["/tmp\n", "v1\n", "regatta\n", "webapp:x:65532", "/regatta sample web"] {
        assert!(output.contains(part), "{part:?} is not in\n{output}");
    }
    let error = cluster.try_kubectl(&["exec", pod, "--", "sh", "-c", "exit 7"]).expect_err("fails");
    assert!(error.contains("exit code 7"), "{error}");
    // A terminal, as at a desk: `script` is one for kubectl.
    let kubectl = std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
    let mut typed = cluster.machine.command("script");
    typed.args(["-qec", &format!("{kubectl} exec -it {pod} -- sh"), "/dev/null"]);
    typed.env("KUBECONFIG", cluster.data.join("kubeconfig.yaml")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = typed.spawn().expect("script runs");
    let mut input = process.stdin.take().expect("input");
    std::io::Write::write_all(&mut input, b"cd /etc\nls\nexit\n").expect("typed");
    let output = process.wait_with_output().expect("output");
    let screen = crate::cluster::text(&output.stdout);
    assert!(
        output.status.success() && screen.contains("/ $ ") && screen.contains("/etc $ ") && screen.contains("passwd"),
        "{screen}"
    );
    drop(input);
}

fn change(cluster: &Cluster) {
    let version = |wanted: &str| {
        cluster.wait_for(wanted, || {
            let answer = cluster.machine.get(&url(cluster))?;
            if answer.contains(wanted) { Ok(()) } else { Err(answer) }
        });
    };
    cluster.kubectl(&["scale", "deployment/web", "--replicas=4"]);
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    let ready = cluster.kubectl(&["get", "deployment", "web", "-o", "jsonpath={.status.readyReplicas}"]);
    assert_eq!(ready, "4");
    cluster.kubectl(&["set", "image", "deployment/web", "web=regatta.local/webapp:v2"]);
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    version("version: v2");
    cluster.kubectl(&["rollout", "undo", "deployment/web"]);
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    version("version: v1");
    let mut edit = cluster.kubectl_command(&["edit", "deployment/web"]);
    edit.env("KUBE_EDITOR", "sed -i 's/replicas: 4/replicas: 1/'");
    crate::cluster::succeed(&mut edit);
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    cluster.wait_for("one replica", || {
        let pods = cluster.kubectl(&["get", "pods", "-l", "app=web", "-o", "name"]);
        if pods.lines().count() == 1 { Ok(()) } else { Err(pods) }
    });
}
