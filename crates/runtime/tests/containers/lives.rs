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
    assert!(stopped.elapsed() < Duration::from_secs(15));
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

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_obeys_its_signal_is_gone_at_once() {
    if !possible() {
        return;
    }
    let world = World::new().await;
    let text = "trap 'echo bye; exit 5' TERM; echo ready; while true; do sleep 1000 & wait $!; done";
    let (_, id) = world.run("obeys", script(text)).await;
    let path = world.runtime.container_status(&id).await.unwrap().log_path;
    world.until(|| world.log(&path).contains("ready")).await;
    world.runtime.stop_container(&id, Duration::from_secs(20)).await.unwrap();
    let status = world.runtime.container_status(&id).await.unwrap();
    assert_eq!((status.exit_code, world.log(&path).as_str()), (5, "ready\nbye\n"));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_line_is_lost_when_a_log_is_rotated_under_load() {
    if !possible() {
        return;
    }
    let world = World::new().await;
    let (_, id) = world.run("rotate", script("seq 1 300000")).await;
    let path = world.runtime.container_status(&id).await.unwrap().log_path;
    let mut files = Vec::new();
    for turn in 0..5 {
        let rotated = format!("{path}.{turn}");
        std::fs::rename(&path, &rotated).unwrap();
        files.push(rotated);
        if world.runtime.reopen_container_log(&id).await.is_err() {
            // It ended before; nothing writes any more.
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.exited(&id).await;
    files.extend(std::path::Path::new(&path).exists().then(|| path.clone()));
    let text: String = files.iter().map(|file| world.log(file)).collect();
    let expected: String = (1..=300_000).map(|number| format!("{number}\n")).collect();
    assert!(text == expected, "{} of {} bytes in {} files", text.len(), expected.len(), files.len());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_leaves_its_containers_running_and_the_next_one_adopts_them() {
    if !possible() {
        return;
    }
    let mut world = World::new().await;
    let (sandbox, container) = world.hold();
    let (sandbox, container) = (sandbox.as_str(), container.as_str());

    world.reopen().await;
    let status = world.runtime.container_status(container).await.unwrap();
    assert_eq!(status.state, ContainerState::Running);
    assert_eq!(world.runtime.pod_sandbox_status(sandbox).await.unwrap().state, PodSandboxState::Ready);
    let before = world.log(&status.log_path).len();
    world.until(|| world.log(&status.log_path).len() > before).await;
    assert_eq!(world.exec(container, "echo adopted").await, (0, "adopted\n".into()));
    // Counted without a gap over the server's death.
    let text = world.log(&status.log_path);
    let expected: String = (0..text.lines().count()).map(|number| format!("{number}\n")).collect();
    assert_eq!(text, expected);
    world.runtime.stop_container(container, Duration::ZERO).await.unwrap();
    assert_eq!(world.exited(container).await.exit_code, 137);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_while_no_server_ran_is_known_to_the_next() {
    if !possible() {
        return;
    }
    let mut world = World::new().await;
    let (_, container) = world.hold();
    let record = world.path("root/containers").join(&container).join("state.json");
    let state: serde_json::Value = serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
    let pid = state["pid"].as_i64().unwrap() as i32;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    world.until(|| !std::path::Path::new(&format!("/proc/{pid}")).exists()).await;
    world.reopen().await;
    let status = world.runtime.container_status(&container).await.unwrap();
    assert_eq!((status.state, status.exit_code), (ContainerState::Exited, 137));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_containers_of_a_killed_shim_end_and_their_sandbox_is_not_ready() {
    if !possible() {
        return;
    }
    let world = World::new().await;
    let (sandbox, id) = world.run("shimless", script("sleep 1000")).await;
    let pid = world.runtime.container_status(&id).await.unwrap().pid;
    let shim = nix::unistd::Pid::from_raw(world.parent(pid));
    nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL).unwrap();
    let status = world.exited(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (255, "Unknown"));
    assert_eq!(world.runtime.pod_sandbox_status(&sandbox).await.unwrap().state, PodSandboxState::NotReady);
    world.until(|| !std::path::Path::new(&format!("/proc/{pid}")).exists()).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_the_size_that_it_is_given_and_one_stream() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    if !possible() {
        return;
    }
    let world = World::new().await;
    let (_, id) = world.run("tty", script("sleep 1000")).await;
    let request =
        ExecRequest { container_id: id, cmd: vec!["sh".into()], tty: true, stdin: true, stdout: true, stderr: false };
    let session = world.runtime.exec(request).await.unwrap();
    assert!(session.stderr.is_none());
    session.resize.send(TerminalSize { width: 101, height: 37 }).await.unwrap();
    let (mut stdin, mut stdout) = (session.stdin.unwrap(), session.stdout.unwrap());
    stdin
        .write_all(b"until [ \"$(stty size)\" = '37 101' ]; do sleep 0.01; done; tty; test -t 2 && exit 6\n")
        .await
        .unwrap();
    let mut text = String::new();
    stdout.read_to_string(&mut text).await.unwrap();
    assert!(text.contains("/dev/pts/"), "{text}");
    assert_eq!(session.exit.await.unwrap(), 6);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_attaches_writes_to_stdin_and_reads_what_is_also_logged() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    if !possible() {
        return;
    }
    let world = World::new().await;
    let container = ContainerConfig {
        stdin: true,
        stdin_once: true,
        command: ["sh", "-c", "cat; echo end >&2"].map(String::from).to_vec(),
        ..script("attach")
    };
    let (_, id) = world.run("attach", container).await;
    let request = AttachRequest { container_id: id.clone(), stdin: true, tty: false, stdout: true, stderr: true };
    let session = world.runtime.attach(request).await.unwrap();
    let mut stdin = session.stdin.unwrap();
    stdin.write_all(b"hello\n").await.unwrap();
    drop(stdin);
    let (mut out, mut err) = (String::new(), String::new());
    session.stdout.unwrap().read_to_string(&mut out).await.unwrap();
    session.stderr.unwrap().read_to_string(&mut err).await.unwrap();
    assert_eq!((out.as_str(), err.as_str()), ("hello\n", "end\n"));
    let status = world.exited(&id).await;
    assert_eq!(world.log(&status.log_path), "hello\nend\n");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_with_a_terminal_logs_it_and_can_be_attached_to() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    if !possible() {
        return;
    }
    let world = World::new().await;
    let container = ContainerConfig { stdin: true, tty: true, ..script("read line; echo got $line; tty") };
    let (_, id) = world.run("console", container).await;
    let request = AttachRequest { container_id: id.clone(), stdin: true, tty: true, stdout: true, stderr: false };
    let session = world.runtime.attach(request).await.unwrap();
    session.stdin.unwrap().write_all(b"word\n").await.unwrap();
    let mut text = String::new();
    session.stdout.unwrap().read_to_string(&mut text).await.unwrap();
    assert!(text.contains("got word") && text.contains("/dev/"), "{text}");
    let status = world.exited(&id).await;
    assert_eq!(status.exit_code, 0);
    assert!(world.log(&status.log_path).contains("got word"));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_takes_too_long_is_killed_and_says_so() {
    if !possible() {
        return;
    }
    let world = World::new().await;
    let (_, id) = world.run("slow", script("sleep 1000")).await;
    let command = ["sleep", "77"].map(String::from).to_vec();
    let error = world.runtime.exec_sync(&id, command, Duration::from_millis(200)).await.unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (Code::DeadlineExceeded, "command \"sleep 77\" timed out"));
    assert!(!world.exec(&id, "ps").await.1.contains("sleep 77"));
    let missing = world.runtime.exec_sync(&id, vec!["nothing".into()], Duration::ZERO).await.unwrap_err();
    assert!(missing.message.contains("executable file not found in $PATH"), "{missing}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_starts_within_its_time() {
    if !possible() {
        return;
    }
    let world = World::new().await;
    let mut times = Vec::new();
    for turn in 0..10 {
        let pod = world.pod(&format!("quick-{turn}"));
        let start = std::time::Instant::now();
        let sandbox = world.runtime.run_pod_sandbox(pod.clone(), "").await.unwrap();
        let made = start.elapsed();
        let id = world.runtime.create_container(&sandbox, script("sleep 1000"), &pod).await.unwrap();
        let created = start.elapsed();
        world.runtime.start_container(&id).await.unwrap();
        times.push((start.elapsed(), made, created));
        let exec = std::time::Instant::now();
        world.exec(&id, "true").await;
        let executed = exec.elapsed();
        let stop = std::time::Instant::now();
        world.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
        eprintln!(
            "sandbox {made:?} created {created:?} started {:?} exec {executed:?} removed {:?}",
            times[turn].0,
            stop.elapsed()
        );
    }
    times.sort();
    // A debug build on a busy machine; the benchmark measures the goal.
    assert!(times[times.len() / 2].0 < Duration::from_secs(1), "{times:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_takes_little_memory_also_after_much_work() {
    if !possible() {
        return;
    }
    let world = World::new().await;
    let (sandbox, id) = world.run("small", script("sleep 1000")).await;
    let pid = world.runtime.container_status(&id).await.unwrap().pid;
    let shim = world.parent(pid);
    let rollup = || {
        let text = std::fs::read_to_string(format!("/proc/{shim}/smaps_rollup")).unwrap();
        let kilobytes = |name: &str| -> u64 {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        (kilobytes("Pss:"), kilobytes("Pss_Anon:"), kilobytes("Private_Dirty:"))
    };
    let fresh = rollup();
    let start = std::time::Instant::now();
    let pod = world.pod("small");
    let lines =
        world.start(&sandbox, &pod, script("yes 0123456789012345678901234567890123456789 | head -n 1000000")).await;
    let status = world.exited(&lines).await;
    let (size, elapsed) = (std::fs::metadata(&status.log_path).unwrap().len(), start.elapsed());
    for _ in 0..20 {
        world.exec(&id, "true").await;
    }
    let used = rollup();
    eprintln!("PSS, anonymous, dirty in KiB: {fresh:?}, then {used:?}; {size} bytes logged in {elapsed:?}");
    // What is its own; the program's pages are shared with the server and all other shims.
    assert!(used.1 <= 1536, "{used:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_that_a_crash_has_left_are_removed_by_the_next_start_and_those_in_use_are_not() {
    if !possible() {
        return;
    }
    let mut world = World::new().await;
    let (sandbox, container) = world.hold();
    let top = std::path::Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(top).unwrap().flatten().map(|entry| entry.path()).chain([top.to_owned()]);
    let groups: Vec<_> = hierarchies
        .map(|hierarchy| hierarchy.join(format!("regatta-{}/kubepods", world.id)))
        .filter(|pods| pods.exists())
        .map(|pods| pods.join("poduid-stray"))
        .collect();
    assert!(!groups.is_empty());
    groups.iter().for_each(|group| std::fs::create_dir_all(group.join("half-made")).unwrap());
    world.reopen().await;
    assert!(!groups.iter().any(|group| group.exists()), "{groups:?}");
    let status = world.runtime.container_status(&container).await.unwrap();
    assert_eq!(status.state, ContainerState::Running);
    assert_eq!(world.runtime.pod_sandbox_status(&sandbox).await.unwrap().state, PodSandboxState::Ready);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_a_crash_has_cut_short_are_removed_by_the_next_start_and_whole_ones_stand() {
    if !possible() {
        return;
    }
    let mut world = World::new().await;
    let (sandbox, _) = world.hold();
    let records = world.path("root/sandboxes");
    let whole = std::fs::read(records.join(format!("{sandbox}.json"))).unwrap();
    // A write that had not taken the old record's place yet, one of a sandbox that never was, and what a power cut leaves.
    let left = [format!("{sandbox}.new"), "never.new".to_owned(), "cut.json".to_owned()].map(|name| records.join(name));
    for (path, bytes) in left.iter().zip([&whole[..], &whole[..], &whole[..20]]) {
        std::fs::write(path, bytes).unwrap();
    }
    world.reopen().await;
    assert!(!left.iter().any(|path| path.exists()), "{:?}", std::fs::read_dir(&records).unwrap().collect::<Vec<_>>());
    assert_eq!(world.runtime.pod_sandbox_status(&sandbox).await.unwrap().state, PodSandboxState::Ready);
    world.end().await;
}
