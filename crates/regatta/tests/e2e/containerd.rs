//! The other side of the line between kubelet and runtime: the same kubelet on containerd, and the built-in runtime
//! served to others. containerd and runc are Debian's; without them the first test is skipped.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::cluster::containerd::Containerd;
use crate::cluster::{BUSYBOX, Cluster, Machine, busybox_archive, possible, succeed, text};
use runtime::cri::*;

const PODS: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: main
      image: IMAGE
      command: [sh, -c, 'echo started; hostname > /home/index.html; exec httpd -f -p 8080 -h /home']
      ports: [{containerPort: 8080, hostPort: 18080}]
      readinessProbe: {httpGet: {port: 8080, path: /}, periodSeconds: 1}
      resources: {limits: {memory: 64Mi, cpu: 500m}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, clusterIP: 10.43.0.80, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: again}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: main
      image: IMAGE
      command: [sh, -c, 'if [ -e /data/ran ]; then exec sleep 1000; fi; touch /data/ran; echo first; exit 3']
      volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {}}]
---
apiVersion: v1
kind: Pod
metadata: {name: job}
spec:
  restartPolicy: Never
  containers: [{name: main, image: IMAGE, command: [sh, -c, 'until wget -qO- http://web.default.svc.cluster.local 2>/dev/null; do usleep 100000; done; exit 4']}]
";

#[test]
fn the_same_kubelet_runs_pods_on_containerd_with_this_network() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    if !Containerd::installed() {
        return;
    }
    let before = machine.traces();
    let mut cluster = Cluster::on_containerd(&machine, &[]);
    cluster.import_images();
    let runtime = "jsonpath={.items[0].status.nodeInfo.containerRuntimeVersion}";
    assert!(cluster.kubectl(&["get", "nodes", "-o", runtime]).starts_with("containerd://"));

    cluster.apply(&PODS.replace("IMAGE", BUSYBOX));
    cluster.kubectl(&["wait", "pod/web", "--for=condition=Ready", "--timeout=60s"]);
    let field = |pod: &str, path: &str| cluster.kubectl(&["get", "pod", pod, "-o", &format!("jsonpath={{{path}}}")]);
    let pod = format!("http://{}:8080/", field("web", ".status.podIP"));
    for url in ["http://10.43.0.80/", &pod, "http://192.168.88.10:18080/"] {
        assert_eq!(cluster.wait_for(url, || machine.get(url)), "web\n", "{url}");
    }
    cluster.wait_for("the failed container to run again", || {
        match field("again", ".status.containerStatuses[0]['restartCount','ready']") {
            status if status == "1 true" => Ok(()),
            status => Err(status),
        }
    });
    cluster.wait_for("the job to fail", || match field("job", ".status.phase") {
        phase if phase == "Failed" => Ok(()),
        phase => Err(phase),
    });
    assert_eq!(field("job", ".status.containerStatuses[0].state.terminated.exitCode"), "4");
    assert_eq!(cluster.kubectl(&["logs", "job"]), "web\n");

    streams(&cluster);
    // The server is killed: the pods run on, and are known again.
    let id = field("web", ".status.containerStatuses[0].containerID");
    cluster.crash();
    let lost = cluster.data.join("net/lost.json");
    let record =
        r#"{"version": 1, "sandbox": "lost", "namespace": "default", "name": "lost", "addresses": ["10.42.0.99"]}"#;
    std::fs::write(&lost, record).expect("record");
    cluster.up();
    let field = |pod: &str, path: &str| cluster.kubectl(&["get", "pod", pod, "-o", &format!("jsonpath={{{path}}}")]);
    assert_eq!(field("web", ".status.containerStatuses[0].containerID"), id);
    cluster.wait_for("the address of a sandbox that is gone", || match lost.exists() {
        true => Err("is still taken".to_owned()),
        false => Ok(()),
    });
    assert_eq!(machine.get(&pod).as_deref(), Ok("web\n"), "and no other is taken away");
    cluster.kubectl(&["delete", "pod", "again", "job", "--timeout=30s"]);
    cluster.purge();
    let containerd = cluster.containerd.as_ref().expect("containerd");
    let left = succeed(&mut containerd.ctr(&["containers", "list", "-q"]));
    assert_eq!(text(&left.stdout), "", "containers are left");
    // containerd itself ends with the cluster of the test.
    drop(cluster);
    assert_eq!(machine.traces(), before);
}

fn streams(cluster: &Cluster) {
    let output = cluster.kubectl_command(&["exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]).output();
    let output = output.expect("kubectl runs");
    assert_eq!((text(&output.stdout).as_str(), output.status.code()), ("out\n", Some(7)));
    assert!(text(&output.stderr).contains("err\n"), "{}", text(&output.stderr));
    let mut cat = cluster
        .kubectl_command(&["exec", "-i", "web", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl runs");
    // The end of the input ends the command.
    cat.stdin.take().expect("input").write_all(b"through\n").expect("write");
    assert_eq!(text(&cat.wait_with_output().expect("output").stdout), "through\n");
    assert_eq!(cluster.kubectl(&["logs", "web"]), "started\n");
}

/// `regatta cri` and a client of it, as other kubelets would be.
#[test]
fn the_built_in_runtime_is_served_to_others_over_its_socket() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let before = machine.traces();
    let directory = tempfile::tempdir().expect("directory");
    let (data, socket) = (directory.path().join("data"), directory.path().join("cri.sock"));
    let regatta = |args: &[&str]| {
        let mut command = machine.command(env!("CARGO_BIN_EXE_regatta"));
        command.args(args).arg("--data-dir").arg(&data);
        command
    };
    let mut server =
        regatta(&["cri"]).arg("--listen").arg(&socket).stdout(Stdio::piped()).spawn().expect("regatta runs");
    let mut line = String::new();
    let output = server.stdout.take().expect("output");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).expect("line");
    assert!(line.contains("is served at unix://"), "{line:?}");
    let archive = directory.path().join("image.tar");
    busybox_archive(&archive);
    succeed(regatta(&["image", "import"]).arg(&archive));

    machine.enter();
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("tokio");
    tokio.block_on(async {
        let remote = cri::Remote::connect(&socket.display().to_string()).await.expect("connects");
        use_runtime(&remote, directory.path()).await;
    });
    let pid = nix::unistd::Pid::from_raw(server.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("signal");
    assert!(server.wait().expect("wait").success());
    succeed(&mut regatta(&["down", "--purge"]));
    assert_eq!(machine.traces(), before);
}

async fn use_runtime(remote: &cri::Remote, directory: &Path) {
    use futures::StreamExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    assert_eq!(RuntimeService::version(remote).await.expect("version").runtime_name, "regatta");
    assert!(remote.status().await.expect("status").conditions.iter().all(|condition| condition.status));
    let image = ImageSpec { image: BUSYBOX.into(), ..ImageSpec::default() };
    let known = remote.image_status(&image).await.expect("image").expect("is there");
    assert_eq!(known.repo_tags, [BUSYBOX]);
    let mut events = remote.get_container_events().await.expect("events");

    let pod = PodSandboxConfig {
        metadata: PodSandboxMetadata { name: "pod".into(), uid: "uid".into(), namespace: "ns".into(), attempt: 0 },
        hostname: "pod".into(),
        log_directory: directory.join("logs").display().to_string(),
        labels: [("app".to_owned(), "a".to_owned())].into(),
        ..PodSandboxConfig::default()
    };
    let sandbox = remote.run_pod_sandbox(pod.clone(), "").await.expect("sandbox");
    let status = remote.pod_sandbox_status(&sandbox).await.expect("status");
    assert_eq!((status.state, status.ips.len(), &status.labels), (PodSandboxState::Ready, 1, &pod.labels));
    let script = "echo started; httpd -p 8080 -h /home; trap 'exit 5' TERM; while true; do sleep 1000 & wait $!; done";
    let container = ContainerConfig {
        metadata: ContainerMetadata { name: "main".into(), attempt: 0 },
        image,
        command: ["sh", "-c", script].map(String::from).to_vec(),
        log_path: "main.log".into(),
        ..ContainerConfig::default()
    };
    let id = remote.create_container(&sandbox, container, &pod).await.expect("container");
    remote.start_container(&id).await.expect("starts");
    let started = async {
        while let Some(event) = events.next().await {
            let event = event.expect("event");
            if (&event.container_id, event.container_event_type) == (&id, ContainerEventType::Started) {
                return event;
            }
        }
        panic!("no event");
    };
    assert_eq!(started.await.containers_statuses[0].state, ContainerState::Running);
    assert!(remote.container_status(&id).await.expect("status").pid > 0);

    let hello = ["echo", "hello"].map(String::from).to_vec();
    let done = remote.exec_sync(&id, hello, Duration::from_secs(20)).await.expect("exec");
    assert_eq!((done.stdout.as_slice(), done.exit_code), (&b"hello\n"[..], 0));
    let request = ExecRequest {
        container_id: id.clone(),
        cmd: ["sh", "-c", "cat; echo end >&2; exit 3"].map(String::from).to_vec(),
        stdin: true,
        stdout: true,
        stderr: true,
        tty: false,
    };
    let mut session = remote.exec(request).await.expect("exec");
    session.stdin.take().expect("stdin").write_all(b"input").await.expect("write");
    let (mut out, mut err) = (String::new(), String::new());
    session.stdout.take().expect("stdout").read_to_string(&mut out).await.expect("read");
    session.stderr.take().expect("stderr").read_to_string(&mut err).await.expect("read");
    assert_eq!((out.as_str(), err.as_str(), session.exit.await.expect("exit")), ("input", "end\n", 3));

    let mut port = remote.port_forward(&sandbox, 8080).await.expect("port");
    port.write_all(b"GET /none HTTP/1.0\r\n\r\n").await.expect("write");
    let mut answer = String::new();
    port.read_to_string(&mut answer).await.expect("read");
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer:?}");
    let mut closed = remote.port_forward(&sandbox, 81).await.expect("a stream");
    let refused = closed.read_to_string(&mut answer).await.expect_err("nothing listens there");
    assert!(refused.to_string().contains("refused"), "{refused}");

    let update = LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..LinuxContainerResources::default() };
    remote.update_container_resources(&id, update).await.expect("update");
    let told = remote.container_status(&id).await.expect("status").resources.expect("resources");
    assert_eq!(told.memory_limit_in_bytes, 64 << 20);
    let stats = remote.container_stats(&id).await.expect("stats");
    assert!(stats.memory.usage_bytes.is_some() && stats.attributes.id == id);
    let checkpoint = remote.checkpoint_container(&id, "/none").await.expect_err("there is no CRIU");
    assert!(checkpoint.code == Code::Unimplemented && checkpoint.message.contains("CRIU"), "{checkpoint}");
    remote.stop_container(&id, Duration::from_secs(20)).await.expect("stops");
    assert_eq!(remote.container_status(&id).await.expect("status").exit_code, 5);
    let selector = [("app".to_owned(), "b".to_owned())].into();
    let others = PodSandboxFilter { label_selector: selector, ..PodSandboxFilter::default() };
    assert!(remote.list_pod_sandbox(&others).await.expect("list").is_empty());
    remote.remove_pod_sandbox(&sandbox).await.expect("removes");
    let gone = remote.container_status(&id).await.expect_err("gone");
    assert_eq!(gone.code, Code::NotFound);
}
