//! What a container may not do, and what it is given.

use std::time::Duration;

use runtime::cri::*;

use crate::world::{World, own_pid, possible, script};

fn security(container: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    &mut container.linux.security_context
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_of_the_host_cannot_be_opened_though_its_node_can_be_made() {
    if !possible() {
        return;
    }
    let world = World::new().await;
    // The disk that holds this very test, and the kernel's log.
    let disk = std::os::unix::fs::MetadataExt::dev(&std::fs::metadata(world.directory.path()).unwrap());
    let (major, minor) = (nix::sys::stat::major(disk), nix::sys::stat::minor(disk));
    let text = format!(
        "mknod /disk b {major} {minor} && echo made; (: < /disk) 2>/dev/null && echo reached; \
         mknod /log c 1 11; (: < /log) 2>/dev/null && echo reached; \
         head -c4 /dev/zero | wc -c; echo x > /dev/null && head -c1 /dev/urandom >/dev/null && echo fine"
    );
    let (_, log) = world.finish("devices", script(&text)).await;
    assert_eq!(log, "made\n4\nfine\n");
    // The log, for a machine may keep its disk from everybody.
    let mut privileged = script("mknod /log c 1 11; (: < /log) && echo reached");
    security(&mut privileged).privileged = true;
    assert_eq!(world.finish("privileged", privileged).await.1, "reached\n");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn capabilities_and_seccomp_hold_for_any_user_and_for_exec() {
    if !possible() {
        return;
    }
    let world = World::new().await;
    let probe = "grep -E '^(CapBnd|CapEff|CapPrm|NoNewPrivs|Seccomp):' /proc/self/status; id -u; id -g; id -G; \
                 unshare -n true 2>/dev/null && echo escaped; \
                 echo x 2>/dev/null > /proc/sys/kernel/hostname && echo wrote; true";
    for (user, nnp, capabilities) in [(None, false, "a80425fb"), (Some(1000), false, "0"), (Some(1000), true, "0")] {
        let mut container = script("sleep 1000");
        security(&mut container).run_as_user = user;
        security(&mut container).run_as_group = user.map(|_| 2000);
        security(&mut container).supplemental_groups = vec![3000];
        security(&mut container).no_new_privs = nnp;
        let mut same = script(probe);
        same.linux = container.linux.clone();
        let name = format!("caps-{}-{nnp}", user.unwrap_or(0));
        let (_, log) = world.finish(&format!("{name}-first"), same).await;
        let (_, id) = world.run(&name, container).await;
        let (_, exec) = world.exec(&id, probe).await;
        let effective = format!("{:0>16}", capabilities);
        let expected = format!(
            "CapPrm:\t{effective}\nCapEff:\t{effective}\nCapBnd:\t00000000a80425fb\nNoNewPrivs:\t{}\nSeccomp:\t2\n{}\n{}\n{} 3000\n",
            i32::from(nnp),
            user.unwrap_or(0),
            if user.is_some() { 2000 } else { 0 },
            if user.is_some() { 2000 } else { 0 },
        );
        assert_eq!(log, expected, "first process as {user:?}");
        assert_eq!(exec, expected, "exec as {user:?}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_found_in_the_image_and_the_root_may_be_read_only() {
    if !possible() {
        return;
    }
    let world = World::new().await;
    let mut container =
        script("id -u; id -g; id -G; echo $HOME; touch /x 2>/dev/null || echo read-only; echo > /dev/stdout");
    security(&mut container).run_as_username = "web".into();
    security(&mut container).readonly_rootfs = true;
    assert_eq!(world.finish("named", container).await.1, "33\n34\n34 50\n/var/www\nread-only\n\n");
    let mut container = script("id");
    security(&mut container).run_as_username = "nobody-here".into();
    let pod = world.pod("unknown");
    let sandbox = world.runtime.run_pod_sandbox(pod.clone(), "").await.unwrap();
    let error = world.runtime.create_container(&sandbox, container, &pod).await.unwrap_err();
    assert!(error.message.contains("unable to find user nobody-here"), "{error}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_over_its_memory_is_oom_killed_and_says_so() {
    if !possible() {
        return;
    }
    let world = World::new().await;
    let mut container = script("exec tail /dev/zero");
    container.linux.resources.memory_limit_in_bytes = 24 << 20;
    container.linux.resources.memory_swap_limit_in_bytes = 24 << 20;
    let (status, _) = world.finish("hog", container).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_applied_updated_and_told_by_statistics() {
    if !possible() {
        return;
    }
    let world = World::new().await;
    let mut container = script("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo x > /file; sleep 1000");
    container.linux.resources.memory_limit_in_bytes = 64 << 20;
    container.linux.resources.cpu_shares = 512;
    container.linux.resources.cpu_quota = 50_000;
    container.linux.resources.cpu_period = 100_000;
    let (sandbox, id) = world.run("limits", container).await;
    let update = LinuxContainerResources { memory_limit_in_bytes: 96 << 20, ..LinuxContainerResources::default() };
    world.runtime.update_container_resources(&id, update).await.unwrap();
    let status = world.runtime.container_status(&id).await.unwrap().resources.unwrap();
    assert_eq!((status.memory_limit_in_bytes, status.cpu_shares), (96 << 20, 512));
    let stats = world.runtime.container_stats(&id).await.unwrap();
    assert!(stats.cpu.usage_core_nano_seconds.unwrap() > 0);
    assert!(stats.memory.available_bytes.unwrap() < 96 << 20);
    assert!(stats.memory.available_bytes.unwrap() > 64 << 20);
    let pod = world.runtime.pod_sandbox_stats(&sandbox).await.unwrap();
    assert_eq!(pod.containers.len(), 1);
    assert!(pod.process.process_count.unwrap() >= 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_containers_of_a_pod_share_what_they_should() {
    if !possible() {
        return;
    }
    let world = World::new().await;
    let mut pod = world.pod("shared");
    pod.linux.security_context.namespace_options.pid = NamespaceMode::Pod;
    pod.dns_config = Some(DNSConfig { servers: vec!["192.0.2.53".into()], ..DNSConfig::default() });
    pod.linux.sysctls = [("net.ipv4.ip_unprivileged_port_start".to_owned(), "80".to_owned())].into();
    let sandbox = world.runtime.run_pod_sandbox(pod.clone(), "").await.unwrap();
    let with = |text: &str| {
        let mut container = script(text);
        container.linux.security_context.namespace_options.pid = NamespaceMode::Pod;
        container
    };
    let first = world.start(&sandbox, &pod, with("echo shared > /dev/shm/file; sleep 4321")).await;
    let second = world.start(&sandbox, &pod, with("sleep 1000")).await;
    world.exec(&first, "true").await;
    let (_, text) = world
        .exec(&second, "ps; cat /dev/shm/file /etc/resolv.conf /proc/sys/net/ipv4/ip_unprivileged_port_start")
        .await;
    assert!(text.contains("sleep 4321"), "{text}");
    assert!(text.contains("shared\nnameserver 192.0.2.53\n80\n"), "{text}");
    assert_eq!(world.exec(&second, "ls /proc/1/root/ 2>&1 | grep -v denied").await.1, "");
    world.runtime.stop_container(&first, Duration::from_millis(100)).await.unwrap();
    assert!(!world.exec(&second, "ps").await.1.contains("sleep 4321"));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_namespaces_are_given_to_who_asks() {
    if !possible() {
        return;
    }
    let world = World::new().await;
    let mut pod = world.pod("node");
    let node = NamespaceOption {
        network: NamespaceMode::Node,
        pid: NamespaceMode::Node,
        ipc: NamespaceMode::Node,
        ..NamespaceOption::default()
    };
    pod.hostname = String::new();
    pod.linux.security_context.namespace_options = node.clone();
    let sandbox = world.runtime.run_pod_sandbox(pod.clone(), "").await.unwrap();
    let mut container = script("for n in net ipc pid; do readlink /proc/self/ns/$n; done");
    container.linux.security_context.namespace_options = node;
    let id = world.start(&sandbox, &pod, container).await;
    let status = world.exited(&id).await;
    let own = ["net", "ipc", "pid"].map(|name| std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap());
    let expected: String = own.iter().map(|link| format!("{}\n", link.display())).collect();
    assert_eq!(world.log(&status.log_path), expected);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_are_mounted_as_they_are_asked_for() {
    if !possible() {
        return;
    }
    let world = World::new().await;
    for name in ["data", "fixed"] {
        std::fs::create_dir_all(world.path(name)).unwrap();
        std::fs::write(world.path(name).join("file"), name).unwrap();
    }
    std::fs::write(world.path("hosts"), "127.0.0.1 from-the-kubelet\n").unwrap();
    let mount = |at: &str, host: &str, readonly| Mount {
        container_path: at.into(),
        host_path: world.path(host).display().to_string(),
        readonly,
        ..Mount::default()
    };
    let mut container = script(
        "cat /a/file /a/b/file; echo new > /a/made && echo wrote; echo new 2>/dev/null > /a/b/made || echo fixed; \
         cat /etc/hosts; ls /image/bin/busybox; touch /image/x 2>/dev/null || echo image; cat /etc/hostname",
    );
    container.mounts = vec![
        Mount { recursive_read_only: true, ..mount("/a/b", "fixed", true) },
        mount("/a", "data", false),
        mount("/etc/hosts", "hosts", false),
        Mount {
            container_path: "/image".into(),
            image: Some(ImageSpec { image: "busybox".into(), ..ImageSpec::default() }),
            ..Mount::default()
        },
    ];
    std::fs::create_dir_all(world.path("data/b")).unwrap();
    let (_, log) = world.finish("volumes", container).await;
    assert_eq!(log, "datafixedwrote\nfixed\n127.0.0.1 from-the-kubelet\n/image/bin/busybox\nimage\nvolumes\n");
    assert!(world.path("data/made").exists());
    let mut missing = script("true");
    missing.mounts = vec![mount("/x", "not-there", false)];
    let pod = world.pod("missing");
    let sandbox = world.runtime.run_pod_sandbox(pod.clone(), "").await.unwrap();
    let error = world.runtime.create_container(&sandbox, missing, &pod).await.unwrap_err();
    assert!(error.message.contains("failed to stat"), "{error}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_in_a_part_of_an_image_lead_nowhere_but_into_the_image() {
    if !possible() {
        return;
    }
    let world = World::new().await;
    std::fs::write(world.path("secret"), "the node's").unwrap();
    let outside = world.path("secret").display().to_string();
    let part = |at: &str, path: &str| Mount {
        container_path: at.into(),
        image: Some(ImageSpec { image: "busybox".into(), ..ImageSpec::default() }),
        image_sub_path: path.into(),
        ..Mount::default()
    };
    let text = format!(
        "ls /root/bin/busybox; cat /root{outside} 2>/dev/null; head -n1 /file; ls /tools/sh; \
         touch /root/x 2>/dev/null || echo fixed"
    );
    let mut container = script(&text);
    container.mounts = vec![part("/root", "tmp/root"), part("/file", "tmp/above"), part("/tools", "./bin")];
    let (_, log) = world.finish("parts", container).await;
    assert_eq!(log, "/root/bin/busybox\nroot:x:0:0:root:/root:/bin/sh\n/tools/sh\nfixed\n");
    let pod = world.pod("refused");
    let sandbox = world.runtime.run_pod_sandbox(pod.clone(), "").await.unwrap();
    for (path, why) in [("../x", "invalid subpath"), ("not/there", "no such file")] {
        let mut container = script("true");
        container.mounts = vec![part("/part", path)];
        let error = world.runtime.create_container(&sandbox, container, &pod).await.unwrap_err();
        assert!(error.message.to_lowercase().contains(why), "{path}: {error}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_made_in_a_container_is_seen_on_the_node_only_with_bidirectional_propagation() {
    if !possible() {
        return;
    }
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let world = World::new().await;
    let shared = world.path("shared");
    std::fs::create_dir_all(&shared).unwrap();
    let none = None::<&str>;
    mount(Some("tmpfs"), &shared, Some("tmpfs"), MsFlags::empty(), none).unwrap();
    mount(none, &shared, none, MsFlags::MS_SHARED, none).unwrap();
    for name in ["both", "in", "none"] {
        std::fs::create_dir_all(shared.join(name)).unwrap();
    }
    let mut container = script(
        "mount -t tmpfs both /both && echo x > /both/inside; mount -t tmpfs none /none && echo x > /none/inside; \
         echo ready; while ! test -e /in/host/seen; do sleep 0.01; done; umount /both",
    );
    security(&mut container).privileged = true;
    let volume = |name: &str, propagation| Mount {
        container_path: format!("/{name}"),
        host_path: shared.join(name).display().to_string(),
        propagation,
        ..Mount::default()
    };
    container.mounts = vec![
        volume("both", MountPropagation::Bidirectional),
        volume("in", MountPropagation::HostToContainer),
        volume("none", MountPropagation::Private),
    ];
    std::fs::create_dir_all(shared.join("in/host")).unwrap();
    let (_, id) = world.run("propagation", container).await;
    let path = world.runtime.container_status(&id).await.unwrap().log_path;
    world.until(|| world.log(&path).contains("ready")).await;
    assert!(shared.join("both/inside").exists());
    assert!(!shared.join("none/inside").exists());
    mount(Some("tmpfs"), &shared.join("in/host"), Some("tmpfs"), MsFlags::empty(), none).unwrap();
    std::fs::write(shared.join("in/host/seen"), "").unwrap();
    assert_eq!(world.exited(&id).await.exit_code, 0);
    umount2(&shared.join("in/host"), MntFlags::MNT_DETACH).unwrap();
    umount2(&shared, MntFlags::MNT_DETACH).unwrap();
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_of_a_pod_is_reached_through_its_network() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    if !possible() {
        return;
    }
    let world = World::new().await;
    let (sandbox, id) = world
        .run(
            "port",
            script(
                "nc -l -p 8080 -e cat & while ! grep -q :1F90 /proc/net/tcp*; do sleep 0.01; done; echo up; sleep 1000",
            ),
        )
        .await;
    let path = world.runtime.container_status(&id).await.unwrap().log_path;
    world.until(|| world.log(&path).contains("up")).await;
    let mut stream = world.runtime.port_forward(&sandbox, 8080).await.unwrap();
    stream.write_all(b"ping").await.unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"ping");
    let Err(error) = world.runtime.port_forward(&sandbox, 81).await else { panic!("nothing listens there") };
    assert!(error.message.contains("refused"), "{error}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shims_program_cannot_be_written_through_proc() {
    if !possible() {
        return;
    }
    let world = World::new().await;
    let mut container = script("sleep 1000");
    security(&mut container).privileged = true;
    security(&mut container).namespace_options = NamespaceOption { pid: NamespaceMode::Node, ..own_pid() };
    let mut pod = world.pod("proc");
    pod.linux.security_context.namespace_options.pid = NamespaceMode::Node;
    let sandbox = world.runtime.run_pod_sandbox(pod.clone(), "").await.unwrap();
    let id = world.start(&sandbox, &pod, container).await;
    let text = "for p in /proc/[0-9]*; do grep -q regatta-shim $p/comm 2>/dev/null && (echo x > $p/exe) 2>/dev/null && echo written; done; true";
    assert_eq!(world.exec(&id, text).await.1, "");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_many_layers_is_run_and_mounted() {
    if !possible() {
        return;
    }
    let world = World::new().await;
    world.import("deep:1", 126).await;
    let mut container = script("ls / | grep -c ^layer-; ls /image | grep -c ^layer-; touch /made && echo wrote");
    container.image.image = "deep:1".into();
    container.mounts = vec![Mount {
        container_path: "/image".into(),
        image: Some(ImageSpec { image: "deep:1".into(), ..ImageSpec::default() }),
        ..Mount::default()
    }];
    assert_eq!(world.finish("deep", container).await.1, "126\n126\nwrote\n");
    world.end().await;
}

/// A 32-bit program that ends with 0 if it may ask for its id and may not touch namespaces.
#[cfg(target_arch = "x86_64")]
fn small_program() -> Vec<u8> {
    const CODE: [u8; 46] = [
        0xb8, 0x14, 0, 0, 0, 0xcd, 0x80, // getpid
        0x85, 0xc0, 0x7e, 0x17, // none: fail
        0xb8, 0x36, 0x01, 0, 0, 0x31, 0xdb, 0xcd, 0x80, // unshare(0)
        0x83, 0xf8, 0xff, 0x75, 0x09, // not EPERM: fail
        0x31, 0xdb, 0xb8, 1, 0, 0, 0, 0xcd, 0x80, // exit(0)
        0xbb, 1, 0, 0, 0, 0xb8, 1, 0, 0, 0, 0xcd, 0x80, // exit(1)
    ];
    const BASE: u32 = 0x0804_8000;
    let size = 84 + CODE.len() as u32;
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0".to_vec();
    let mut words = |words: &[u32]| file.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    // Version, entry, headers' places, flags; sizes and counts in halves; then the one segment.
    words(&[1, BASE + 84, 52, 0, 0, 52 | 32 << 16, 1, 0, 1, 0, BASE, BASE, size, size, 5, 0x1000]);
    file.extend(CODE);
    file
}

#[cfg(target_arch = "x86_64")]
#[tokio::test(flavor = "multi_thread")]
async fn a_32_bit_program_runs_under_the_default_filter_and_is_bound_by_it() {
    use std::os::unix::fs::PermissionsExt;
    if !possible() {
        return;
    }
    let world = World::new().await;
    let tool = world.path("tool");
    std::fs::write(&tool, small_program()).unwrap();
    std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
    if !std::process::Command::new(&tool).status().is_ok_and(|status| status.code() == Some(1)) {
        eprintln!("skipped: the kernel runs no 32-bit programs");
        return;
    }
    let mount = Mount { container_path: "/tool".into(), host_path: tool.display().to_string(), ..Mount::default() };
    let container = ContainerConfig { command: vec!["/tool".into()], mounts: vec![mount], ..script("") };
    let (status, _) = world.finish("small", container).await;
    assert_eq!(status.exit_code, 0);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_are_masked_and_calls_forbidden_as_the_container_says() {
    if !possible() {
        return;
    }
    let world = World::new().await;
    let text = "for path in /proc/interrupts /proc/sys; do grep -c \" $path \" /proc/self/mountinfo; done; \
                head -c1 /proc/interrupts | wc -c; mkdir /made 2>&1 || true";
    let mut masked = script(text);
    security(&mut masked).masked_paths.push("/proc/interrupts".into());
    assert_eq!(world.finish("masked", masked).await.1, "1\n1\n0\n");
    let profile = world.path("profile.json");
    let no_directories = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}"#;
    std::fs::write(&profile, no_directories).unwrap();
    let localhost = |path: &std::path::Path| {
        Some(SecurityProfile { profile_type: ProfileType::Localhost, localhost_ref: path.display().to_string() })
    };
    let mut unmasked = script(text);
    security(&mut unmasked).masked_paths.clear();
    security(&mut unmasked).readonly_paths.clear();
    security(&mut unmasked).seccomp = localhost(&profile);
    let (_, log) = world.finish("unmasked", unmasked).await;
    assert!(log.starts_with("0\n0\n1\n"), "{log}");
    assert!(log.ends_with("mkdir: can't create directory '/made': Operation not permitted\n"), "{log}");

    let pod = world.pod("wrong");
    let sandbox = world.runtime.run_pod_sandbox(pod.clone(), "").await.unwrap();
    let mut missing = script("true");
    security(&mut missing).seccomp = localhost(&world.path("none.json"));
    let error = world.runtime.create_container(&sandbox, missing, &pod).await.unwrap_err();
    assert!(error.message.contains("cannot load seccomp profile"), "{error}");
    let mut whole_node = world.pod("sysctl");
    whole_node.linux.sysctls = [("kernel.pid_max".to_owned(), "100".to_owned())].into();
    let error = world.runtime.run_pod_sandbox(whole_node, "").await.unwrap_err();
    assert!(error.message.contains("not in a separate kernel namespace"), "{error}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_gets_what_a_vendor_describes_for_its_devices() {
    if !possible() {
        return;
    }
    let world = World::new().await;
    let (descriptions, library) = (world.path("cdi"), world.path("library"));
    std::fs::create_dir(&descriptions).unwrap();
    std::fs::create_dir(&library).unwrap();
    std::fs::write(library.join("driver"), "driver").unwrap();
    let spec = serde_json::json!({"cdiVersion": "0.8.0", "kind": "example.com/widget",
        "containerEdits": {"mounts": [{"hostPath": library, "containerPath": "/lib/widget", "options": ["ro", "nosuid"]}]},
        "devices": [{"name": "one", "containerEdits": {"env": ["WIDGET=one", "FROM_IMAGE=no"], "additionalGids": [4321],
            "deviceNodes": [{"path": "/dev/widget", "hostPath": "/dev/null", "fileMode": 0o640, "uid": 7, "permissions": "rw"}]}}]});
    std::fs::write(descriptions.join("widget.json"), spec.to_string()).unwrap();
    let mut container = script(
        "echo $WIDGET $FROM_IMAGE; id -G; cat /lib/widget/driver; touch /lib/widget/x 2>/dev/null || echo read-only; \
         stat -c '%u %a' /dev/widget; echo x > /dev/widget && echo written",
    );
    container.cdi_devices = vec![CDIDevice { name: "example.com/widget=one".into() }];
    let (_, log) = world.finish("described", container.clone()).await;
    assert_eq!(log, "one no\n0 4321\ndriverread-only\n7 640\nwritten\n");
    container.cdi_devices.push(CDIDevice { name: "example.com/widget=two".into() });
    let pod = world.pod("unknown");
    let sandbox = world.runtime.run_pod_sandbox(pod.clone(), "").await.unwrap();
    let error = world.runtime.create_container(&sandbox, container, &pod).await.unwrap_err();
    assert_eq!(error.message, "CDI device injection failed: unresolvable CDI devices example.com/widget=two");
    world.end().await;
}
