//! What goes wrong inside a container stays there.

use std::time::{Duration, Instant};

use runtime::cri::*;

use crate::world::{World, possible, script};

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_is_held_by_its_limit_and_ends_with_its_container() {
    if !possible() {
        return;
    }
    let world = World::new().await;
    let (_, bystander) = world.run("bystander", script("sleep 1000")).await;
    let mut bomb = script("echo lit; while true; do sh -c 'while true; do sleep 1000 & done' 2>/dev/null; done");
    bomb.linux.resources.pids_limit = 64;
    let (sandbox, id) = world.run("bomb", bomb).await;
    let count = || async {
        let stats = world.runtime.pod_sandbox_stats(&sandbox).await.unwrap();
        stats.process.process_count.unwrap()
    };
    let start = Instant::now();
    while count().await < 64 {
        assert!(start.elapsed() < Duration::from_secs(30), "the bomb does not go off");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(world.exec(&bystander, "echo well").await, (0, "well\n".into()));
    assert!(count().await <= 64);
    world.runtime.stop_container(&id, Duration::from_millis(100)).await.unwrap();
    assert_eq!(world.exited(&id).await.exit_code, 137);
    assert_eq!(count().await, 0);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_lines_are_logged_without_a_gap() {
    if !possible() {
        return;
    }
    let world = World::new().await;
    let (status, log) = world.finish("lines", script("seq 1 1000000")).await;
    assert_eq!(status.exit_code, 0);
    assert!(log.lines().map(|line| line.parse::<u32>().unwrap()).eq(1..=1_000_000), "lines are missing");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_terminal_ends_its_command_and_not_the_container() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    if !possible() {
        return;
    }
    let world = World::new().await;
    let (_, id) = world.run("terminal", script("sleep 1000")).await;
    let request = ExecRequest {
        container_id: id.clone(),
        cmd: vec!["sh".into()],
        tty: true,
        stdin: true,
        stdout: true,
        stderr: false,
    };
    let mut session = world.runtime.exec(request).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"echo up; exec sleep 4242\n").await.unwrap();
    let mut text = vec![0; 256];
    assert!(session.stdout.as_mut().unwrap().read(&mut text).await.unwrap() > 0);
    let running = || async { world.exec(&id, "ps").await.1.contains("sleep 4242") };
    let start = Instant::now();
    while !running().await {
        assert!(start.elapsed() < Duration::from_secs(30), "the command does not start");
    }
    drop(session);
    while running().await {
        assert!(start.elapsed() < Duration::from_secs(60), "the command outlives its terminal");
    }
    assert!(world.runtime.container_status(&id).await.unwrap().state == ContainerState::Running);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_attaches_and_reads_late_loses_nothing_and_cannot_keep_a_container_alive() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    if !possible() {
        return;
    }
    let world = World::new().await;
    for (name, reads) in [("late", true), ("never", false)] {
        let container = ContainerConfig { stdin: true, ..script(&format!("read go; seq 1 300000; : {name}")) };
        let (_, id) = world.run(name, container).await;
        let request = AttachRequest { container_id: id.clone(), stdin: true, tty: false, stdout: true, stderr: true };
        let mut session = world.runtime.attach(request).await.unwrap();
        session.stdin.take().unwrap().write_all(b"go\n").await.unwrap();
        let path = world.runtime.container_status(&id).await.unwrap().log_path;
        world.until(|| std::fs::metadata(&path).is_ok_and(|log| log.len() > 300_000)).await;
        if reads {
            let mut text = String::new();
            session.stdout.take().unwrap().read_to_string(&mut text).await.unwrap();
            assert_eq!(text.lines().count(), 300_000);
            world.exited(&id).await;
            assert_eq!(world.log(&path).lines().count(), 300_000);
        } else {
            world.runtime.stop_container(&id, Duration::from_secs(1)).await.unwrap();
            world.exited(&id).await;
        }
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_binary_is_not_run_in_a_container() {
    if !possible() {
        return;
    }
    let world = World::new().await;
    let (_, id) = world.run("self", script("sleep 1000")).await;
    let error = world.runtime.exec_sync(&id, vec!["/proc/self/exe".into()], Duration::ZERO).await.unwrap_err();
    assert_eq!(error.message, "exec: \"/proc/self/exe\": permission denied");
    // Neither by a link of the image's, nor by the name of another descriptor of the process.
    let (_, text) = world.exec(&id, "ln -s /proc/self/exe /entry; ls -l /proc/1/exe | sed 's/.*-> //'").await;
    assert_eq!(text, "/bin/busybox\n");
    let error = world.runtime.exec_sync(&id, vec!["/entry".into()], Duration::ZERO).await.unwrap_err();
    assert_eq!(error.message, "exec: \"/entry\": permission denied");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn updated_limits_are_still_told_after_a_restart() {
    if !possible() {
        return;
    }
    let mut world = World::new().await;
    let (sandbox, id) = world.hold();
    world.reopen().await;
    let update = LinuxContainerResources {
        cpu_quota: 50_000,
        cpu_period: 100_000,
        memory_limit_in_bytes: 96 << 20,
        ..LinuxContainerResources::default()
    };
    world.runtime.update_container_resources(&id, update.clone()).await.unwrap();
    world.runtime.update_pod_sandbox_resources(&sandbox, None, Some(update)).await.unwrap();
    world.reopen().await;
    let told = world.runtime.container_status(&id).await.unwrap().resources.unwrap();
    assert_eq!((told.cpu_quota, told.memory_limit_in_bytes), (50_000, 96 << 20));
    world.end().await;
}
