//! Pods that have users of their own.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use runtime::cri::*;

use crate::world::{World, possible, script};

const FIRST: u32 = 196_608;

fn own_users(options: &mut NamespaceOption) {
    let ids = vec![IDMapping { host_id: FIRST, container_id: 0, length: 65_536 }];
    let users = UserNamespace { mode: NamespaceMode::Pod, uids: ids.clone(), gids: ids };
    options.userns_options = Some(users);
}

/// A pod with users of its own, and a container of it that runs.
async fn run(world: &World, name: &str, pid: NamespaceMode, mut container: ContainerConfig) -> (String, String) {
    let mut pod = world.pod(name);
    for options in
        [&mut pod.linux.security_context.namespace_options, &mut container.linux.security_context.namespace_options]
    {
        own_users(options);
        options.pid = pid;
    }
    let sandbox = world.runtime.run_pod_sandbox(pod.clone(), "").await.unwrap();
    let id = world.start(&sandbox, &pod, container).await;
    (sandbox, id)
}

fn volume(world: &World, name: &str, at: &str) -> Mount {
    Mount { container_path: at.into(), host_path: world.path(name).display().to_string(), ..Mount::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn root_inside_is_nobody_outside_and_owns_what_is_the_pods() {
    if !possible() {
        return;
    }
    let world = World::new().await;
    world.import("layers:latest", 2).await;
    let path = world.path("volume");
    fs::create_dir(&path).unwrap();
    for (file, mode, group) in [("own", 0o600, 0), ("group", 0o640, 4000)] {
        fs::write(path.join(file), file).unwrap();
        fs::set_permissions(path.join(file), fs::Permissions::from_mode(mode)).unwrap();
        chown(path.join(file), None, Some(group)).unwrap();
    }
    let mut container = script("echo started > /dev/stdout; sleep 1000");
    let image = |at: &str, sub: &str| Mount {
        container_path: at.into(),
        image: Some(ImageSpec { image: "layers".into(), ..ImageSpec::default() }),
        image_sub_path: sub.into(),
        ..Mount::default()
    };
    container.mounts = vec![
        volume(&world, "volume", "/volume"),
        volume(&world, "volume/own", "/one"),
        image("/image", ""),
        image("/part", "etc"),
    ];
    container.devices =
        vec![Device { container_path: "/dev/void".into(), host_path: "/dev/null".into(), permissions: "rw".into() }];
    let (sandbox, id) = run(&world, "root", NamespaceMode::Container, container.clone()).await;
    let status = world.runtime.container_status(&id).await.unwrap();
    let outside = fs::read_to_string(format!("/proc/{}/status", status.pid)).unwrap();
    assert!(outside.contains(&format!("Uid:\t{FIRST}\t")), "{outside}");
    for (command, expected) in [
        ("id -u; id -G", "0\n0\n"),
        ("cut -c1- /proc/self/uid_map | tr -s ' '", " 0 196608 65536\n"),
        ("cat /volume/own /one /volume/group", "ownowngroup"),
        (
            "stat -c %u:%g / /bin/busybox /volume /volume/group /image/etc/passwd /part/passwd /image/layer-1 /etc/hosts",
            "0:0\n0:0\n0:0\n0:4000\n0:0\n0:0\n0:0\n0:0\n",
        ),
        ("touch /new && chown 33:34 /new && stat -c %u:%g /new", "33:34\n"),
        ("echo x > /volume/made && stat -c %u:%g /volume/made", "0:0\n"),
        ("touch /part/x 2>/dev/null || echo read-only", "read-only\n"),
        ("echo x > /dev/shm/x && stat -c %u:%g /dev/shm /dev/shm/x", "0:0\n0:0\n"),
        ("echo x > /dev/void && echo x > /dev/null && head -c1 /dev/zero | wc -c", "1\n"),
        ("mknod /disk b 1 1 2>/dev/null || echo refused", "refused\n"),
        ("echo x 2>/dev/null > /proc/sys/kernel/hostname || echo refused; hostname", "refused\nroot\n"),
        ("ls /sys/class/net", "lo\n"),
        ("echo told > /dev/stdout; echo told > /dev/stderr", "told\ntold\n"),
    ] {
        assert_eq!(world.exec(&id, command).await, (0, expected.to_owned()), "{command}");
    }
    assert_eq!(world.log(&status.log_path), "started\n");
    let made = fs::metadata(path.join("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (0, 0), "a volume keeps the ids that the pod knows");

    // Somebody else, by the pod's groups.
    container.linux.security_context.run_as_user = Some(1000);
    container.linux.security_context.supplemental_groups = vec![4000];
    let mut pod = world.pod("root");
    own_users(&mut pod.linux.security_context.namespace_options);
    own_users(&mut container.linux.security_context.namespace_options);
    container.metadata.name = "other".into();
    let other = world.start(&sandbox, &pod, container).await;
    let command =
        "id -u; id -G; cat /volume/group; cat /volume/own 2>/dev/null || echo; cat /dev/shm/x; echo ok > /dev/stdout";
    assert_eq!(world.exec(&other, command).await, (0, "1000\n0 4000\ngroup\nx\nok\n".to_owned()));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_are_shared_terminals_work_and_the_pod_survives_the_server() {
    if !possible() {
        return;
    }
    let mut world = World::new().await;
    let mut container = script("echo $(tty); sleep 1000");
    container.tty = true;
    let (_, id) = run(&world, "shared", NamespaceMode::Pod, container).await;
    world.reopen().await;
    let (code, processes) = world.exec(&id, "ps -o pid,comm,user; id -u").await;
    assert_eq!(code, 0, "{processes}");
    let first = processes.lines().find(|line| line.split_whitespace().next() == Some("1")).unwrap();
    assert!(first.contains("pause"), "{processes}");
    let status = world.runtime.container_status(&id).await.unwrap();
    assert_eq!(status.state, ContainerState::Running);
    assert!(world.log(&status.log_path).starts_with("/dev/"), "{}", world.log(&status.log_path));
    let request = ExecRequest {
        container_id: id.clone(),
        cmd: ["sh", "-c", "tty; stat -c %u $(tty)"].map(String::from).to_vec(),
        tty: true,
        stdout: true,
        ..ExecRequest::default()
    };
    let mut session = world.runtime.exec(request).await.unwrap();
    let mut text = String::new();
    tokio::io::AsyncReadExt::read_to_string(session.stdout.as_mut().unwrap(), &mut text).await.unwrap();
    assert_eq!(text.lines().collect::<Vec<_>>(), ["/dev/pts/1", "0"]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_mapped_is_refused_and_so_are_the_nodes_namespaces() {
    if !possible() {
        return;
    }
    let world = World::new().await;
    let mut pod = world.pod("refused");
    let options = &mut pod.linux.security_context.namespace_options;
    own_users(options);
    options.network = NamespaceMode::Node;
    let error = world.runtime.run_pod_sandbox(pod.clone(), "").await.unwrap_err();
    assert!(error.message.contains("network namespace cannot be used with a user namespace"), "{error}");
    let options = &mut pod.linux.security_context.namespace_options;
    options.network = NamespaceMode::Pod;
    options.userns_options.as_mut().unwrap().gids.clear();
    assert_eq!(world.runtime.run_pod_sandbox(pod.clone(), "").await.unwrap_err().code, Code::InvalidArgument);
    own_users(&mut pod.linux.security_context.namespace_options);
    let sandbox = world.runtime.run_pod_sandbox(pod.clone(), "").await.unwrap();
    let mut container = script("true");
    own_users(&mut container.linux.security_context.namespace_options);
    container.mounts = vec![Mount { host_path: "/proc".into(), ..volume(&world, "", "/host") }];
    let error = world.runtime.create_container(&sandbox, container, &pod).await.unwrap_err();
    let expected = "failed to set MOUNT_ATTR_IDMAP on /proc: invalid argument (maybe the filesystem used doesn't support \
                    idmap mounts on this kernel?)";
    assert!(error.message.contains(expected), "{error}");
    assert!(world.runtime.status().await.unwrap().runtime_handlers.iter().all(|handler| handler.user_namespaces));
    world.end().await;
}
