//! Containers' lives: starts, ends, logs, exec.

use std::time::Duration;

use runtime::cri::*;

use crate::world::{World, possible, script};

#[tokio::test(flavor = "multi_thread")]
async fn a_container_runs_logs_and_ends_with_its_exit_code_and_nothing_is_left() {
    if !possible() {
        return;
    }
    let world = World::new().await;
    let (status, log) = world.finish("plain", script("echo out; echo err >&2; exit 7")).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (7, "Error"));
    assert!(log.contains("out\n") && log.contains("err\n"), "{log}");
    assert!(status.started_at > 0 && status.finished_at >= status.started_at);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_in_a_running_container_and_gives_its_output_and_exit_code() {
    if !possible() {
        return;
    }
    let world = World::new().await;
    let (_, id) = world.run("exec", script("sleep 1000")).await;
    assert_eq!(world.exec(&id, "echo hello; exit 3").await, (3, "hello\n".into()));
    let (_, text) = world.exec(&id, "hostname; echo $FROM_IMAGE; readlink /proc/1/exe; id -u").await;
    assert_eq!(text, "exec\nyes\n/bin/busybox\n0\n");
    let stopped = std::time::Instant::now();
    // The shell's child ignores nothing, but the first process of a PID namespace has no default action.
    world.runtime.stop_container(&id, Duration::from_millis(300)).await.unwrap();
    assert!(stopped.elapsed() < Duration::from_secs(5));
    assert_eq!(world.exited(&id).await.exit_code, 137);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_does_not_exist_is_a_start_error_in_known_words() {
    if !possible() {
        return;
    }
    let world = World::new().await;
    let pod = world.pod("missing");
    let sandbox = world.runtime.run_pod_sandbox(pod.clone(), "").await.unwrap();
    let container = ContainerConfig { command: vec!["no-such-program".into()], ..script("") };
    let id = world.runtime.create_container(&sandbox, container, &pod).await.unwrap();
    let error = world.runtime.start_container(&id).await.unwrap_err();
    let expected = "unable to start container process: exec: \"no-such-program\": executable file not found in $PATH";
    assert_eq!(error.message, expected);
    let status = world.runtime.container_status(&id).await.unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    world.end().await;
}
