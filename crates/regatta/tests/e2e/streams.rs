//! Streams to and from containers, by stock kubectl: exec, attach, logs, cp, port-forward, debug.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::pty::{Winsize, openpty};
use nix::unistd::ttyname;

use crate::cluster::{BUSYBOX, Cluster, Machine, possible, succeed, text};

const PODS: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: tool}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - {name: main, image: IMAGE, command: [sh, -c, 'echo page > /home/index.html; httpd -f -p 8080 -h /home']}
    - {name: reader, image: IMAGE, stdin: true, command: [sh, -c, 'while read line; do echo got $line; done']}
---
apiVersion: v1
kind: Pod
metadata: {name: counter}
spec:
  restartPolicy: Never
  containers:
    - name: main
      image: IMAGE
      command: [sh, -c, 'for i in $(seq 1 30); do echo line $i; echo error $i >&2; usleep 50000; done']
---
apiVersion: v1
kind: Pod
metadata: {name: again}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: main
      image: IMAGE
      command: [sh, -c, 'if [ -e /data/ran ]; then echo second; exec sleep 1000; fi; touch /data/ran; echo first; exit 3']
      volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {}}]
";

#[test]
fn kubectl_executes_attaches_follows_copies_forwards_and_debugs() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let cluster = Cluster::start(&machine, &[]);
    cluster.import_images();
    cluster.apply(&PODS.replace("IMAGE", BUSYBOX));
    logs(&cluster);
    cluster.kubectl(&["wait", "pod/tool", "pod/again", "--for=condition=Ready", "--timeout=60s"]);
    exec(&cluster);
    terminal(&cluster);
    attach(&cluster);
    copy(&cluster);
    forward(&cluster);
    debug(&cluster);
}

/// A command with input; its output and exit code.
fn fed(command: &mut Command, input: &[u8]) -> (Vec<u8>, String, Option<i32>) {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kubectl runs");
    let mut stdin = child.stdin.take().expect("input");
    std::thread::scope(|scope| {
        // The reader of the input may end before it.
        scope.spawn(move || drop(stdin.write_all(input)));
        let output = child.wait_with_output().expect("output");
        (output.stdout, text(&output.stderr), output.status.code())
    })
}

fn logs(cluster: &Cluster) {
    cluster.wait_for("the counter to run", || cluster.try_kubectl(&["logs", "counter"]));
    let followed = cluster.kubectl(&["logs", "-f", "counter"]);
    for kind in ["line", "error"] {
        let lines: Vec<_> = followed.lines().filter(|l| l.starts_with(kind)).map(str::to_owned).collect();
        let all: Vec<_> = (1..=30).map(|i| format!("{kind} {i}")).collect();
        assert_eq!(lines, all, "a followed log is whole and ends with its container");
    }
    let tail = cluster.kubectl(&["logs", "counter", "--tail=2", "--timestamps"]);
    assert!(tail.lines().count() == 2 && tail.starts_with("20") && tail.contains("Z "), "{tail}");
    cluster.wait_for("the second run", || {
        let now = cluster.try_kubectl(&["logs", "again"])?;
        if now == "second\n" { Ok(()) } else { Err(now) }
    });
    assert_eq!(cluster.kubectl(&["logs", "again", "--previous"]), "first\n");
    let error = cluster.try_kubectl(&["logs", "tool", "-c", "main", "--previous"]).expect_err("never restarted");
    assert!(error.contains("previous terminated container \"main\" in pod \"tool\" not found"), "{error}");
}

fn exec(cluster: &Cluster) {
    let input: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
    let (output, error, code) =
        fed(&mut cluster.kubectl_command(&["exec", "-i", "tool", "-c", "main", "--", "cat"]), &input);
    assert_eq!(code, Some(0), "{error}");
    assert!(output == input, "{} bytes came back of {}", output.len(), input.len());
    let script = "read a; echo out $a; echo err >&2; exit 5";
    let mut command = cluster.kubectl_command(&["exec", "-i", "tool", "-c", "main", "--", "sh", "-c", script]);
    let (output, error, code) = fed(&mut command, b"in\n");
    assert_eq!((text(&output).as_str(), code), ("out in\n", Some(5)));
    assert!(error.starts_with("err\n") && error.contains("exit code 5"), "{error}");
    let error = cluster.try_kubectl(&["exec", "tool", "-c", "main", "--", "/none"]).expect_err("no such program");
    assert!(error.contains("no such file") || error.contains("not found"), "{error}");
}

/// kubectl with a terminal of its own, which this end types into, reads and resizes.
struct Terminal {
    kubectl: Child,
    master: File,
    path: PathBuf,
    output: String,
}

impl Terminal {
    fn start(cluster: &Cluster, [rows, columns]: [u16; 2], args: &[&str]) -> Terminal {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let ends = openpty(Some(&size), None).expect("terminal");
        let path = ttyname(&ends.slave).expect("name");
        let end = || ends.slave.try_clone().expect("descriptor");
        let program = std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
        let kubectl = cluster
            .machine
            .command("setsid")
            .args(["--ctty", "timeout", "--foreground", "60", &program])
            .args(args)
            .env("KUBECONFIG", cluster.data.join("kubeconfig.yaml"))
            .env("TERM", "xterm")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("kubectl runs");
        Terminal { kubectl, master: ends.master.into(), path, output: String::new() }
    }

    /// Reads until `part` was shown.
    fn shows(&mut self, part: &str) {
        let mut buffer = [0; 4096];
        while !self.output.contains(part) {
            let read = self.master.read(&mut buffer).unwrap_or_default();
            assert!(read > 0, "{part:?} is not in {:?}", self.output);
            self.output += &text(&buffer[..read]);
        }
    }

    fn resize(&self, [rows, columns]: [u16; 2]) {
        let size = ["rows".to_owned(), rows.to_string(), "cols".to_owned(), columns.to_string()];
        succeed(Command::new("stty").arg("-F").arg(&self.path).args(size));
    }
}

/// A terminal's size reaches the container, also when it changes during the session.
fn terminal(cluster: &Cluster) {
    let script = "tty; size() { while [ \"$(stty size)\" != \"$1\" ]; do usleep 20000; done; echo is $1; }; \
                  size \"30 90\"; size \"40 100\"; read x; echo read $x";
    let args = ["exec", "-it", "tool", "-c", "main", "--", "timeout", "30", "sh", "-c", script];
    let mut terminal = Terminal::start(cluster, [30, 90], &args);
    terminal.shows("/dev/pts/");
    terminal.shows("is 30 90");
    terminal.resize([40, 100]);
    terminal.shows("is 40 100");
    terminal.master.write_all(b"word\n").expect("typed");
    terminal.shows("read word");
    assert!(terminal.kubectl.wait().expect("end").success());
}

fn attach(cluster: &Cluster) {
    let mut child: Child = cluster
        .kubectl_command(&["attach", "-i", "tool", "-c", "reader"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("kubectl runs");
    let mut input = child.stdin.take().expect("input");
    let mut output = BufReader::new(child.stdout.take().expect("output"));
    for word in ["one", "two"] {
        writeln!(input, "{word}").expect("write");
        let mut line = String::new();
        output.read_line(&mut line).expect("line");
        assert_eq!(line, format!("got {word}\n"));
    }
    drop(input);
    child.kill().expect("kill");
    child.wait().expect("wait");
    cluster.wait_for("what was attached to in the log", || {
        let log = cluster.kubectl(&["logs", "tool", "-c", "reader"]);
        if log == "got one\ngot two\n" { Ok(()) } else { Err(log) }
    });
}

fn copy(cluster: &Cluster) {
    let directory = tempfile::tempdir().expect("directory");
    let there = directory.path().join("there");
    std::fs::create_dir(&there).expect("directory");
    let content: Vec<u8> = (0..300_000u32).map(|i| (i % 241) as u8).collect();
    std::fs::write(there.join("a"), &content).expect("file");
    std::fs::write(there.join("b c"), "x").expect("file");
    cluster.kubectl(&["cp", there.to_str().expect("path"), "tool:/tmp/copied", "-c", "main"]);
    let back = directory.path().join("back");
    cluster.kubectl(&["cp", "tool:/tmp/copied", back.to_str().expect("path"), "-c", "main"]);
    assert!(std::fs::read(back.join("a")).expect("file") == content);
    assert_eq!(std::fs::read_to_string(back.join("b c")).expect("file"), "x");
}

fn forward(cluster: &Cluster) {
    let mut child = cluster
        .kubectl_command(&["port-forward", "pod/tool", ":8080"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("kubectl runs");
    let mut output = BufReader::new(child.stdout.take().expect("output"));
    let mut line = String::new();
    output.read_line(&mut line).expect("line");
    let port = line.strip_prefix("Forwarding from 127.0.0.1:").and_then(|l| l.split(' ').next()).expect("port");
    for _ in 0..3 {
        assert_eq!(cluster.machine.get(&format!("http://127.0.0.1:{port}/")).expect("answer"), "page\n");
    }
    child.kill().expect("kill");
    child.wait().expect("wait");
    drop(output.read_to_string(&mut line));
}

fn debug(cluster: &Cluster) {
    let image = format!("--image={BUSYBOX}");
    let args = ["debug", "tool", &image, "--target=main", "-c", "helper", "--", "sh", "-c"];
    cluster.kubectl(&[&args[..], &["ps; wget -qO- http://127.0.0.1:8080/; sleep 1000"]].concat());
    let log = cluster.wait_for("the ephemeral container", || {
        let log = cluster.try_kubectl(&["logs", "tool", "-c", "helper"])?;
        if log.contains("page") { Ok(log) } else { Err(log) }
    });
    assert!(log.contains("httpd -f -p 8080"), "the target's processes are not seen: {log}");
    let state =
        cluster.kubectl(&["get", "pod", "tool", "-o", "jsonpath={.status.ephemeralContainerStatuses[0].state}"]);
    assert!(state.contains("running"), "{state}");
    succeed(&mut cluster.kubectl_command(&["exec", "tool", "-c", "helper", "--", "true"]));
}
