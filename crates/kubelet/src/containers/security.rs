//! Security contexts as the runtime wants them: the container's settings over the pod's.

use std::path::Path;

use k8s_openapi::api::core::v1;
use runtime::cri::{
    Capability, LinuxContainerSecurityContext, NamespaceMode, NamespaceOption, ProfileType, SELinuxOption,
    SecurityProfile, SupplementalGroupsPolicy, UserNamespace,
};

use crate::pods::memory::Present;
use crate::pods::pod::Pod;

/// Paths that a container may not look into, unless `procMount` says so.
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Which namespaces the pod shares with the node, its users being its own where there are any.
pub fn namespaces(pod: &Pod, users: Option<UserNamespace>) -> NamespaceOption {
    let spec = pod.spec();
    let node = |host: Option<bool>, otherwise| if host.unwrap_or(false) { NamespaceMode::Node } else { otherwise };
    let shared = spec.share_process_namespace.unwrap_or(false);
    NamespaceOption {
        network: node(spec.host_network, NamespaceMode::Pod),
        ipc: node(spec.host_ipc, NamespaceMode::Pod),
        pid: node(spec.host_pid, if shared { NamespaceMode::Pod } else { NamespaceMode::Container }),
        userns_options: users,
        ..Default::default()
    }
}

pub fn privileged(container: &v1::Container) -> bool {
    container.security_context.as_ref().and_then(|s| s.privileged).unwrap_or(false)
}

pub fn groups_policy(pod: Option<&v1::PodSecurityContext>) -> SupplementalGroupsPolicy {
    match pod.and_then(|p| p.supplemental_groups_policy.as_deref()) {
        Some("Strict") => SupplementalGroupsPolicy::Strict,
        _ => SupplementalGroupsPolicy::Merge,
    }
}

/// The pod's supplemental groups, its fsGroup among them.
pub fn groups(pod: Option<&v1::PodSecurityContext>) -> Vec<i64> {
    let Some(pod) = pod else { return Vec::new() };
    pod.fs_group.into_iter().chain(pod.supplemental_groups.iter().flatten().copied()).collect()
}

pub fn selinux(options: Option<&v1::SELinuxOptions>) -> Option<SELinuxOption> {
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    options.map(|o| SELinuxOption {
        user: text(&o.user),
        role: text(&o.role),
        r#type: text(&o.type_),
        level: text(&o.level),
    })
}

/// Seccomp profiles of the node.
pub struct Seccomp<'a> {
    pub profiles: &'a Path,
    /// What has no profile has the runtime's, and is not unconfined.
    pub confines: bool,
}

/// The seccomp profile, or what stands for none.
pub fn seccomp(profile: Option<&v1::SeccompProfile>, node: &Seccomp<'_>) -> Option<SecurityProfile> {
    let Some(profile) = profile else {
        let default = SecurityProfile { profile_type: ProfileType::RuntimeDefault, localhost_ref: String::new() };
        return node.confines.then_some(default);
    };
    let (profile_type, localhost_ref) = match profile.type_.as_str() {
        "RuntimeDefault" => (ProfileType::RuntimeDefault, String::new()),
        "Localhost" => {
            let path = node.profiles.join(profile.localhost_profile.as_deref().unwrap_or_default());
            (ProfileType::Localhost, path.to_string_lossy().into_owned())
        }
        _ => (ProfileType::Unconfined, String::new()),
    };
    Some(SecurityProfile { profile_type, localhost_ref })
}

pub fn apparmor(profile: Option<&v1::AppArmorProfile>) -> Option<SecurityProfile> {
    let profile = profile?;
    let profile_type = match profile.type_.as_str() {
        "RuntimeDefault" => ProfileType::RuntimeDefault,
        "Localhost" => ProfileType::Localhost,
        _ => ProfileType::Unconfined,
    };
    Some(SecurityProfile { profile_type, localhost_ref: profile.localhost_profile.clone().unwrap_or_default() })
}

/// The container's context, or why `runAsNonRoot` forbids it. `target` is the container whose processes it shares.
pub fn container(
    pod: &Pod,
    container: &v1::Container,
    image: &Present,
    node: &Seccomp<'_>,
    target: Option<&str>,
    users: Option<UserNamespace>,
) -> Result<LinuxContainerSecurityContext, String> {
    let whole = pod.spec().security_context.as_ref();
    let own = container.security_context.as_ref();
    macro_rules! setting {
        ($field:ident) => {
            own.and_then(|o| o.$field.clone()).or_else(|| whole.and_then(|w| w.$field.clone()))
        };
    }
    let user = setting!(run_as_user);
    if setting!(run_as_non_root).unwrap_or(false) {
        non_root(pod, container, user, image)?;
    }
    let privileged = privileged(container);
    let capabilities = own.and_then(|o| o.capabilities.as_ref());
    let unmasked = privileged || own.and_then(|o| o.proc_mount.as_deref()) == Some("Unmasked");
    let paths = |list: &[&str]| if unmasked { Vec::new() } else { list.iter().map(ToString::to_string).collect() };
    let mut namespace_options = namespaces(pod, users);
    if let Some(id) = target {
        namespace_options.pid = NamespaceMode::Target;
        namespace_options.target_id = id.to_owned();
    }
    Ok(LinuxContainerSecurityContext {
        capabilities: Capability {
            add_capabilities: capabilities.and_then(|c| c.add.clone()).unwrap_or_default(),
            drop_capabilities: capabilities.and_then(|c| c.drop.clone()).unwrap_or_default(),
            add_ambient_capabilities: Vec::new(),
        },
        privileged,
        namespace_options,
        selinux_options: selinux(setting!(se_linux_options).as_ref()),
        run_as_user: user.or(image.uid),
        run_as_group: setting!(run_as_group),
        run_as_username: if user.is_none() && image.uid.is_none() { image.username.clone() } else { String::new() },
        readonly_rootfs: own.and_then(|o| o.read_only_root_filesystem).unwrap_or(false),
        supplemental_groups: groups(whole),
        supplemental_groups_policy: groups_policy(whole),
        no_new_privs: own.and_then(|o| o.allow_privilege_escalation) == Some(false),
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READONLY),
        seccomp: if privileged { None } else { seccomp(setting!(seccomp_profile).as_ref(), node) },
        apparmor: apparmor(setting!(app_armor_profile).as_ref()),
    })
}

fn non_root(pod: &Pod, container: &v1::Container, user: Option<i64>, image: &Present) -> Result<(), String> {
    let name = &container.name;
    let about = format!("(pod: \"{}\", container: {name})", pod.display());
    match (user, image.uid) {
        (Some(0), _) => Err(format!("container's runAsUser breaks non-root policy {about}")),
        (Some(_), _) => Ok(()),
        (None, Some(0)) => Err(format!("container has runAsNonRoot and image will run as root {about}")),
        (None, Some(_)) => Ok(()),
        (None, None) if !image.username.is_empty() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {about}",
            image.username
        )),
        (None, None) => Err(format!("container has runAsNonRoot and image will run as root {about}")),
    }
}
