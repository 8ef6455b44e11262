//! From CRI's configuration of a container to the bundle that its shim makes it from.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use nix::mount::MsFlags;
use serde_json::{Value, json};

use super::cdi::Edits;
use crate::cgroup::{Access, Rule, default_rules};
use crate::config::Paths;
use crate::cri::{
    ContainerConfig, CriError, LinuxContainerSecurityContext, Mount, MountPropagation, NamespaceMode, ProfileType,
    Result, SupplementalGroupsPolicy, UserNamespace, root_of,
};
use crate::images::Image;
use crate::record::SandboxRecord;
use crate::security::{capabilities, seccomp};
use crate::shim::{ImageMount, Launch, Process, Rootfs, User, Users};

/// All that a container is made from.
pub struct Input<'a> {
    pub id: &'a str,
    pub paths: &'a Paths,
    pub sandbox: &'a SandboxRecord,
    pub config: &'a ContainerConfig,
    pub image: &'a Image,
    /// Images that are mounted as volumes, in the order of their mounts.
    pub volumes: &'a [std::sync::Arc<Image>],
    pub cgroups: Vec<PathBuf>,
    pub cgroup_path: &'a str,
    pub cgroup_mounts: Vec<(PathBuf, PathBuf)>,
    pub v2: bool,
    /// What the container gets for devices that vendors describe.
    pub edits: Edits,
    /// The PID namespace to join, if it is not a new one or the node's.
    pub pid_namespace: Option<PathBuf>,
}

impl Input<'_> {
    /// The user namespace of the pod's own.
    pub fn users(&self) -> Option<&UserNamespace> {
        self.sandbox.config.linux.security_context.namespace_options.own_users()
    }
}

/// A bundle's two files, and what the container's cgroup must allow.
pub struct Bundle {
    pub spec: Value,
    pub launch: Launch,
    /// `None` for a privileged container, which may use every device.
    pub devices: Option<Vec<Rule>>,
}

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub fn build(input: &Input<'_>) -> Result<Bundle> {
    let security = &input.config.linux.security_context;
    let mut mounts = standard_mounts(input);
    let mut mapped = Vec::new();
    // Where a bind mount takes a file of the node from.
    let mut place = |source: PathBuf| match input.users() {
        None => source,
        Some(_) => {
            let at = input.paths.bundle(input.id).join("mapped").join(mapped.len().to_string());
            mapped.push((source, at.clone()));
            at
        }
    };
    mounts.extend(generated_files(input, &mut place));
    let (volumes, propagation, shared) = volume_mounts(input, &mut place)?;
    mounts.extend(volumes);
    mounts.extend(described_mounts(&input.edits, &mut place));
    let (mut devices, rules) = devices(input.config, &input.edits)?;
    if input.users().is_some() {
        mounts.extend(devices.drain(..).map(|device| mount(device.at, "bind", device.host, &["bind"])));
    }
    let devices: Vec<_> = devices.iter().map(Node::value).collect();
    let (masked, readonly) = if security.privileged {
        (&[][..], &[][..])
    } else {
        (&security.masked_paths[..], &security.readonly_paths[..])
    };
    let spec = json!({
        "ociVersion": "1.2.0",
        "root": {"path": input.paths.rootfs(), "readonly": security.readonly_rootfs},
        "process": {
            // Who it is, what it runs and may do are the launcher's part. HOME keeps libcontainer from looking it up.
            "terminal": input.config.tty,
            "user": {"uid": 0, "gid": 0},
            "args": ["-"],
            "env": ["HOME=/"],
            "cwd": "/",
            "noNewPrivileges": false,
        },
        "mounts": mounts,
        "linux": {
            "namespaces": namespaces(input),
            "cgroupsPath": format!("/{}", input.cgroup_path),
            "devices": devices,
            "maskedPaths": masked,
            "readonlyPaths": readonly,
            "rootfsPropagation": if shared { Some("shared") } else { None },
        },
    });
    let wanted = input.config.mounts.iter().filter(|mount| mount.image.is_some());
    let image_mounts = (0..).zip(input.volumes).zip(wanted).map(|((at, image), wanted)| {
        let sub_path = part_of(wanted)?.map(|sub_path| (sub_path, part_point(input, at)));
        Ok(ImageMount { mount_point: volume_point(input, at), layers: layers(input, image), part: sub_path })
    });
    let launch = Launch {
        version: 1,
        libcontainer: input.paths.libcontainer(),
        rootfs: Rootfs {
            mount_point: input.paths.rootfs(),
            layers: layers(input, input.image),
            upper: input.paths.container(input.id).join("upper"),
            work: input.paths.container(input.id).join("work"),
        },
        image_mounts: image_mounts.collect::<Result<_>>()?,
        users: input.users().map(|users| Users {
            namespace: input.paths.namespace(&input.sandbox.id, "user"),
            uid: root_of(&users.uids).unwrap_or_default(),
            gid: root_of(&users.gids).unwrap_or_default(),
        }),
        mapped,
        cgroups: input.cgroups.clone(),
        propagation,
        oom_score_adj: i32::try_from(input.config.linux.resources.oom_score_adj).ok(),
        process: process(input)?,
    };
    Ok(Bundle { spec, launch, devices: (!security.privileged).then_some(rules) })
}

fn process(input: &Input<'_>) -> Result<Process> {
    let config = input.config;
    let defaults = input.image.config.config();
    let security = &config.linux.security_context;
    let image_args = |get: fn(&oci_spec::image::Config) -> &Option<Vec<String>>| -> Vec<String> {
        defaults.as_ref().and_then(|defaults| get(defaults).clone()).unwrap_or_default()
    };
    let mut args = config.command.clone();
    if args.is_empty() {
        args = image_args(|defaults| defaults.entrypoint());
        args.extend(if config.args.is_empty() { image_args(|defaults| defaults.cmd()) } else { config.args.clone() });
    } else {
        args.extend(config.args.iter().cloned());
    }
    if args.is_empty() {
        return Err(CriError::invalid("no command specified"));
    }

    let image_user = defaults.as_ref().and_then(|defaults| defaults.user().clone()).unwrap_or_default();
    let mut user = user(security, image_user)?;
    user.supplemental_groups.extend(&input.edits.additional_gids);
    let capabilities = capabilities::of_container(&security.capabilities, security.privileged)?;
    let image_cwd = defaults.as_ref().and_then(|defaults| defaults.working_dir().clone()).unwrap_or_default();
    let confined = |profile: &Option<crate::cri::SecurityProfile>| {
        profile
            .as_ref()
            .filter(|profile| profile.profile_type == ProfileType::Localhost && !security.privileged)
            .cloned()
    };
    Ok(Process {
        args,
        env: environment(input, &image_args(|defaults| defaults.env())),
        cwd: if config.working_dir.is_empty() { image_cwd } else { config.working_dir.clone() },
        user,
        capabilities,
        no_new_privs: security.no_new_privs,
        seccomp: seccomp::filters(security.seccomp.as_ref(), capabilities.bounding, security.privileged)?,
        apparmor: confined(&security.apparmor).map(|profile| profile.localhost_ref),
        selinux: selinux_label(security),
        ..Process::default()
    })
}

/// The image's variables, the pod's name, the container's own, each name once and the last word counts.
fn environment(input: &Input<'_>, image: &[String]) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let mut set = |entry: &str| {
        let name = entry.split('=').next().unwrap_or_default().to_owned();
        if values.insert(name.clone(), entry.to_owned()).is_none() {
            order.push(name);
        }
    };
    set(PATH);
    if !input.sandbox.config.hostname.is_empty() {
        set(&format!("HOSTNAME={}", input.sandbox.config.hostname));
    }
    if input.config.tty {
        set("TERM=xterm");
    }
    image.iter().for_each(|entry| set(entry));
    input.config.envs.iter().for_each(|variable| set(&format!("{}={}", variable.key, variable.value)));
    input.edits.env.iter().for_each(|entry| set(entry));
    order.iter().filter_map(|name| values.get(name).cloned()).collect()
}

fn user(security: &LinuxContainerSecurityContext, image: String) -> Result<User> {
    let id = |id: i64| u32::try_from(id).map_err(|_| CriError::invalid(format!("invalid user or group id {id}")));
    let name = match (security.run_as_user, security.run_as_username.as_str()) {
        (Some(uid), _) => id(uid)?.to_string(),
        (None, "") => image,
        (None, name) => name.to_owned(),
    };
    Ok(User {
        name,
        gid: security.run_as_group.map(id).transpose()?,
        supplemental_groups: security.supplemental_groups.iter().map(|gid| id(*gid)).collect::<Result<_>>()?,
        merge_groups: security.supplemental_groups_policy == SupplementalGroupsPolicy::Merge,
    })
}

fn selinux_label(security: &LinuxContainerSecurityContext) -> Option<String> {
    let options = security.selinux_options.as_ref().filter(|options| !options.r#type.is_empty())?;
    Path::new("/sys/fs/selinux/enforce").exists().then(|| {
        let or = |value: &str, default: &str| if value.is_empty() { default.to_owned() } else { value.to_owned() };
        let (user, role) = (or(&options.user, "system_u"), or(&options.role, "system_r"));
        format!("{user}:{role}:{}:{}", options.r#type, or(&options.level, "s0"))
    })
}

fn namespaces(input: &Input<'_>) -> Vec<Value> {
    let options = &input.config.linux.security_context.namespace_options;
    let mut all = vec![json!({"type": "mount"})];
    if input.users().is_some() {
        all.push(json!({"type": "user", "path": input.paths.namespace(&input.sandbox.id, "user")}));
    }
    let mut shared = |mode: NamespaceMode, kind: &str, name: &str| {
        if mode != NamespaceMode::Node {
            all.push(json!({"type": kind, "path": input.paths.namespace(&input.sandbox.id, name)}));
        }
    };
    shared(options.network, "network", "net");
    shared(options.network, "uts", "uts");
    shared(options.ipc, "ipc", "ipc");
    match (&input.pid_namespace, options.pid) {
        (Some(path), _) => all.push(json!({"type": "pid", "path": path})),
        (None, NamespaceMode::Node) => {}
        (None, _) => all.push(json!({"type": "pid"})),
    }
    if input.v2 && !input.config.linux.security_context.privileged {
        all.push(json!({"type": "cgroup"}));
    }
    all
}

fn mount(destination: impl Into<PathBuf>, kind: &str, source: impl Into<PathBuf>, options: &[&str]) -> Value {
    json!({"destination": destination.into(), "type": kind, "source": source.into(), "options": options})
}

fn standard_mounts(input: &Input<'_>) -> Vec<Value> {
    let security = &input.config.linux.security_context;
    let access = if security.privileged { "rw" } else { "ro" };
    let safe = ["nosuid", "noexec", "nodev"];
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &safe),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &safe),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
    ];
    if input.v2 && security.privileged {
        // Mounted anew in the host's cgroup namespace, the hierarchy would lose the options that are not repeated here
        // (nsdelegate, memory_recursiveprot), on the host too.
        let options = ["bind", "nosuid", "noexec", "nodev", "relatime", access];
        mounts.push(mount("/sys/fs/cgroup", "bind", "/sys/fs/cgroup", &options));
    } else if input.v2 {
        mounts.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access]));
    } else {
        mounts.push(mount("/sys/fs/cgroup", "tmpfs", "tmpfs", &["nosuid", "noexec", "nodev", "mode=755"]));
        let options = ["bind", "nosuid", "noexec", "nodev", access];
        mounts.extend(input.cgroup_mounts.iter().map(|(source, at)| mount(at, "bind", source, &options)));
    }
    let shm = match security.namespace_options.ipc {
        NamespaceMode::Node => "/dev/shm".into(),
        _ => input.paths.shm(&input.sandbox.id),
    };
    mounts.push(mount("/dev/shm", "bind", shm, &["bind", "nosuid", "noexec", "nodev"]));
    mounts
}

/// Files that the sandbox gives where the kubelet mounts none.
fn generated_files(input: &Input<'_>, place: &mut Place<'_>) -> Vec<Value> {
    let security = &input.config.linux.security_context;
    let access = if security.readonly_rootfs { "ro" } else { "rw" };
    let run = input.paths.sandbox_run(&input.sandbox.id);
    ["hostname", "hosts", "resolv.conf"]
        .iter()
        .map(|name| (format!("/etc/{name}"), run.join(name)))
        .filter(|(at, source)| source.exists() && !input.config.mounts.iter().any(|m| m.container_path == *at))
        .map(|(at, source)| mount(at, "bind", place(source), &["bind", access]))
        .collect()
}

/// An image without layers is an empty directory.
fn layers(input: &Input<'_>, image: &Image) -> Vec<PathBuf> {
    if image.layers.is_empty() { vec![input.paths.run.join("empty")] } else { image.layers.clone() }
}

fn volume_point(input: &Input<'_>, at: usize) -> PathBuf {
    input.paths.bundle(input.id).join("volumes").join(at.to_string())
}

/// Where a part of an image is mounted once more, for a bind mount to take it from.
fn part_point(input: &Input<'_>, at: usize) -> PathBuf {
    input.paths.bundle(input.id).join("volumes").join(format!("{at}.part"))
}

type Propagation = Vec<(PathBuf, u64)>;

type Place<'a> = dyn FnMut(PathBuf) -> PathBuf + 'a;

/// The mounts of the configuration, outer ones first; their propagation; whether any is to be seen on the node.
fn volume_mounts(input: &Input<'_>, place: &mut Place<'_>) -> Result<(Vec<Value>, Propagation, bool)> {
    let mut wanted: Vec<&Mount> = input.config.mounts.iter().collect();
    wanted.sort_by_key(|mount| Path::new(&mount.container_path).components().count());
    let image_index = |wanted: &Mount| {
        let images = input.config.mounts.iter().filter(|mount| mount.image.is_some());
        images.take_while(|mount| mount.container_path != wanted.container_path).count()
    };
    let (mut mounts, mut propagation, mut shared) = (Vec::new(), Vec::new(), false);
    for volume in wanted {
        if !volume.container_path.starts_with('/') {
            return Err(CriError::invalid(format!("mount path {:?} is not absolute", volume.container_path)));
        }
        let source = match &volume.image {
            Some(_) if part_of(volume)?.is_some() => part_point(input, image_index(volume)),
            Some(_) => volume_point(input, image_index(volume)),
            None => {
                let path = PathBuf::from(&volume.host_path);
                fs::metadata(&path).map_err(|error| {
                    CriError::invalid(format!(
                        "failed to generate spec: failed to stat {:?}: {error}",
                        volume.host_path
                    ))
                })?;
                place(path)
            }
        };
        let flag = match volume.propagation {
            MountPropagation::Private => MsFlags::MS_PRIVATE,
            MountPropagation::HostToContainer => MsFlags::MS_SLAVE,
            MountPropagation::Bidirectional => MsFlags::MS_SHARED,
        };
        check_propagation(volume)?;
        shared |= volume.propagation == MountPropagation::Bidirectional;
        propagation.push((volume.container_path.clone().into(), (flag | MsFlags::MS_REC).bits()));
        let mut options = vec!["rbind"];
        if volume.readonly || volume.image.is_some() {
            options.push("ro");
        }
        if volume.recursive_read_only {
            if !volume.readonly || volume.propagation != MountPropagation::Private {
                return Err(CriError::invalid("recursive read-only mounts need to be read-only and private"));
            }
            options.push("rro");
        }
        mounts.push(mount(&volume.container_path, "bind", source, &options));
    }
    Ok((mounts, propagation, shared))
}

/// The part of an image that is mounted, if it is not all of it. Where its links lead is seen when the image is mounted.
fn part_of(volume: &Mount) -> Result<Option<PathBuf>> {
    let part = Path::new(&volume.image_sub_path);
    let plain = part.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !plain {
        return Err(CriError::invalid(format!("invalid subpath {:?}", volume.image_sub_path)));
    }
    let whole = part.components().all(|part| part == Component::CurDir);
    Ok((!whole).then(|| part.to_owned()))
}

/// The mounts that come with devices.
fn described_mounts(edits: &Edits, place: &mut Place<'_>) -> Vec<Value> {
    let one = |described: &super::cdi::Mount| {
        let mut options: Vec<&str> = described.options.iter().map(String::as_str).collect();
        let kind = if described.r#type.is_empty() { "bind" } else { &described.r#type };
        if kind == "bind" && !options.iter().any(|option| matches!(*option, "bind" | "rbind")) {
            options.push("rbind");
        }
        let source = described.host_path.clone();
        mount(&described.container_path, kind, if kind == "bind" { place(source) } else { source }, &options)
    };
    edits.mounts.iter().map(one).collect()
}

/// What the mount that holds a path must be, for the propagation that is asked for.
fn check_propagation(volume: &Mount) -> Result<()> {
    let needs: &[&str] = match volume.propagation {
        MountPropagation::Private => return Ok(()),
        MountPropagation::HostToContainer => &["shared:", "master:"],
        MountPropagation::Bidirectional => &["shared:"],
    };
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let path = fs::canonicalize(&volume.host_path)?;
    let holder = text
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .filter(|fields| fields.len() > 6 && path.starts_with(fields[4]))
        .max_by_key(|fields| fields[4].len());
    let Some(holder) = holder else { return Ok(()) };
    let tags = holder[6..].iter().take_while(|tag| **tag != "-");
    if tags.clone().any(|tag| needs.iter().any(|need| tag.starts_with(need))) {
        return Ok(());
    }
    let kind = if needs.len() == 1 { "shared" } else { "shared or slave" };
    Err(CriError::invalid(format!(
        "path {:?} is mounted on {:?} but it is not a {kind} mount",
        volume.host_path, holder[4]
    )))
}

/// A device of the node, and how the container has it.
struct Node {
    host: PathBuf,
    at: PathBuf,
    block: bool,
    major: u32,
    minor: u32,
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Node {
    fn of(host: &Path, at: &Path) -> Result<Node> {
        let metadata =
            fs::metadata(host).map_err(|error| CriError::invalid(format!("lstat {}: {error}", host.display())))?;
        let kind = metadata.file_type();
        if !kind.is_block_device() && !kind.is_char_device() {
            return Err(CriError::invalid(format!("{} is not a device node", host.display())));
        }
        Ok(Node {
            host: host.to_owned(),
            at: at.to_owned(),
            block: kind.is_block_device(),
            major: libc::major(metadata.rdev()),
            minor: libc::minor(metadata.rdev()),
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
        })
    }

    fn rule(&self, permissions: &str) -> Rule {
        let (major, minor) = (Some(self.major), Some(self.minor));
        Rule { block: self.block, major, minor, access: Access::parse(permissions) }
    }

    fn value(&self) -> Value {
        let (kind, mode) = (if self.block { "b" } else { "c" }, self.mode);
        json!({
            "path": self.at, "type": kind, "major": self.major, "minor": self.minor, "fileMode": mode,
            "uid": self.uid, "gid": self.gid,
        })
    }
}

/// Device nodes to make, and what the cgroup allows.
fn devices(config: &ContainerConfig, edits: &Edits) -> Result<(Vec<Node>, Vec<Rule>)> {
    let (mut nodes, mut rules) = (Vec::new(), default_rules());
    for described in &edits.device_nodes {
        let mut node = Node::of(described.host_path(), &described.path)?;
        node.mode = described.file_mode.map_or(node.mode, |mode| mode & 0o7777);
        (node.uid, node.gid) = (described.uid.unwrap_or(node.uid), described.gid.unwrap_or(node.gid));
        rules.push(node.rule(if described.permissions.is_empty() { "rwm" } else { &described.permissions }));
        nodes.push(node);
    }
    if config.linux.security_context.privileged {
        let all = host_devices(Path::new("/dev")).into_iter().filter(|host| !nodes.iter().any(|node| node.at == *host));
        let all: Vec<_> = all.filter_map(|host| Node::of(&host, &host).ok()).collect();
        nodes.extend(all);
        return Ok((nodes, rules));
    }
    for device in &config.devices {
        let host = Path::new(&device.host_path);
        let at = if device.container_path.is_empty() { &device.host_path } else { &device.container_path };
        // A directory stands for all devices in it.
        let all = if host.is_dir() { host_devices(host) } else { vec![host.to_owned()] };
        for path in all {
            let inside = path.strip_prefix(host).ok().filter(|rest| !rest.as_os_str().is_empty());
            let target = inside.map_or_else(|| PathBuf::from(at), |rest| Path::new(at).join(rest));
            let node = Node::of(&path, &target)?;
            rules.push(node.rule(&device.permissions));
            nodes.push(node);
        }
    }
    Ok((nodes, rules))
}

/// The host's devices, but those that a container has of its own.
fn host_devices(directory: &Path) -> Vec<PathBuf> {
    const OWN: [&str; 11] =
        ["pts", "shm", "fd", "mqueue", "console", "ptmx", ".lxc", ".lxd-mounts", ".udev", "stdin", "stdout"];
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut all = Vec::new();
    for entry in entries.flatten().filter(|entry| !OWN.iter().any(|own| entry.file_name() == *own)) {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => all.extend(host_devices(&entry.path())),
            Ok(kind) if kind.is_block_device() || kind.is_char_device() => all.push(entry.path()),
            _ => {}
        }
    }
    all
}
