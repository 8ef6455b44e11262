//! Messages and enumerations that are alike on both sides.

use runtime::cri;

use super::Wire;
use crate::v1;

/// Structures by the fields that both sides have. On the wire an absent message is the default one.
macro_rules! messages {
    ($($own:ident = $wire:ident { $($field:ident),* $(,)? })*) => {
        $(impl Wire<v1::$wire> for cri::$own {
            #[allow(clippy::needless_update, reason = "some messages have more fields on the wire")]
            fn to_wire(self) -> v1::$wire {
                v1::$wire { $($field: self.$field.to_wire(),)* ..Default::default() }
            }

            #[allow(clippy::needless_update, reason = "some structures have more fields than the wire")]
            fn from_wire(wire: v1::$wire) -> cri::$own {
                cri::$own { $($field: Wire::from_wire(wire.$field),)* ..Default::default() }
            }
        }

        impl Wire<Option<v1::$wire>> for cri::$own {
            fn to_wire(self) -> Option<v1::$wire> {
                Some(Wire::<v1::$wire>::to_wire(self))
            }

            fn from_wire(wire: Option<v1::$wire>) -> cri::$own {
                wire.map(Wire::from_wire).unwrap_or_default()
            }
        })*
    };
}

/// Enumerations by the pairs of their variants; a number that is not among them is the first.
macro_rules! enumerations {
    ($($own:ident = $wire:path { $first:ident = $first_wire:ident $(, $variant:ident = $variant_wire:ident)* })*) => {
        $(impl Wire<i32> for cri::$own {
            fn to_wire(self) -> i32 {
                use $wire as W;
                match self {
                    cri::$own::$first => W::$first_wire as i32,
                    $(cri::$own::$variant => W::$variant_wire as i32,)*
                }
            }

            fn from_wire(wire: i32) -> cri::$own {
                use $wire as W;
                match W::try_from(wire) {
                    $(Ok(W::$variant_wire) => cri::$own::$variant,)*
                    _ => cri::$own::$first,
                }
            }
        })*
    };
}

enumerations! {
    Protocol = v1::Protocol { Tcp = Tcp, Udp = Udp, Sctp = Sctp }
    MountPropagation = v1::MountPropagation {
        Private = PropagationPrivate, HostToContainer = PropagationHostToContainer, Bidirectional = PropagationBidirectional
    }
    NamespaceMode = v1::NamespaceMode { Pod = Pod, Container = Container, Node = Node, Target = Target }
    SupplementalGroupsPolicy = v1::SupplementalGroupsPolicy { Merge = Merge, Strict = Strict }
    ProfileType = v1::security_profile::ProfileType {
        RuntimeDefault = RuntimeDefault, Unconfined = Unconfined, Localhost = Localhost
    }
    PodSandboxState = v1::PodSandboxState { NotReady = SandboxNotready, Ready = SandboxReady }
    ContainerState = v1::ContainerState {
        Unknown = ContainerUnknown, Created = ContainerCreated, Running = ContainerRunning, Exited = ContainerExited
    }
    ContainerEventType = v1::ContainerEventType {
        Created = ContainerCreatedEvent, Started = ContainerStartedEvent, Stopped = ContainerStoppedEvent,
        Deleted = ContainerDeletedEvent
    }
}

messages! {
    VersionResponse = VersionResponse { version, runtime_name, runtime_version, runtime_api_version }
    DNSConfig = DnsConfig { servers, searches, options }
    PortMapping = PortMapping { protocol, container_port, host_port, host_ip }
    IDMapping = IdMapping { host_id, container_id, length }
    UserNamespace = UserNamespace { mode, uids, gids }
    NamespaceOption = NamespaceOption { network, pid, ipc, target_id, userns_options }
    SELinuxOption = SeLinuxOption { user, role, r#type, level }
    SecurityProfile = SecurityProfile { profile_type, localhost_ref }
    HugepageLimit = HugepageLimit { page_size, limit }
    LinuxContainerResources = LinuxContainerResources {
        cpu_period, cpu_quota, cpu_shares, memory_limit_in_bytes, oom_score_adj, cpuset_cpus, cpuset_mems,
        hugepage_limits, unified, memory_swap_limit_in_bytes,
    }
    LinuxSandboxSecurityContext = LinuxSandboxSecurityContext {
        namespace_options, selinux_options, run_as_user, run_as_group, readonly_rootfs, supplemental_groups,
        supplemental_groups_policy, privileged, seccomp, apparmor,
    }
    LinuxPodSandboxConfig = LinuxPodSandboxConfig { cgroup_parent, security_context, sysctls, overhead, resources }
    PodSandboxMetadata = PodSandboxMetadata { name, uid, namespace, attempt }
    PodSandboxConfig = PodSandboxConfig {
        metadata, hostname, log_directory, dns_config, port_mappings, labels, annotations, linux,
    }
    PodSandbox = PodSandbox { id, metadata, state, created_at, labels, annotations, runtime_handler }
    ImageSpec = ImageSpec { image, annotations, user_specified_image, runtime_handler }
    Image = Image { id, repo_tags, repo_digests, size, uid, username, spec, pinned }
    ImageFilter = ImageFilter { image }
    AuthConfig = AuthConfig { username, password, auth, server_address, identity_token, registry_token }
    ImageFsInfoResponse = ImageFsInfoResponse { image_filesystems, container_filesystems }
    Mount = Mount {
        container_path, host_path, readonly, selinux_relabel, propagation, uid_mappings, gid_mappings,
        recursive_read_only, image, image_sub_path,
    }
    Device = Device { container_path, host_path, permissions }
    CDIDevice = CdiDevice { name }
    Capability = Capability { add_capabilities, drop_capabilities, add_ambient_capabilities }
    LinuxContainerSecurityContext = LinuxContainerSecurityContext {
        capabilities, privileged, namespace_options, selinux_options, run_as_user, run_as_group, run_as_username,
        readonly_rootfs, supplemental_groups, supplemental_groups_policy, no_new_privs, masked_paths, readonly_paths,
        seccomp, apparmor,
    }
    LinuxContainerConfig = LinuxContainerConfig { resources, security_context }
    KeyValue = KeyValue { key, value }
    ContainerMetadata = ContainerMetadata { name, attempt }
    Container = Container {
        id, pod_sandbox_id, metadata, image, image_ref, image_id, state, created_at, labels, annotations,
    }
    LinuxContainerUser = LinuxContainerUser { uid, gid, supplemental_groups }
    ExecSyncResponse = ExecSyncResponse { stdout, stderr, exit_code }
    ExecRequest = ExecRequest { container_id, cmd, tty, stdin, stdout, stderr }
    AttachRequest = AttachRequest { container_id, stdin, tty, stdout, stderr }
    RuntimeCondition = RuntimeCondition { r#type, status, reason, message }
    CpuUsage = CpuUsage { timestamp, usage_core_nano_seconds }
    MemoryUsage = MemoryUsage {
        timestamp, working_set_bytes, available_bytes, usage_bytes, rss_bytes, page_faults, major_page_faults,
    }
    SwapUsage = SwapUsage { timestamp, swap_available_bytes, swap_usage_bytes }
    ProcessUsage = ProcessUsage { timestamp, process_count }
    NetworkInterfaceUsage = NetworkInterfaceUsage { name, rx_bytes, rx_errors, tx_bytes, tx_errors }
    NetworkUsage = NetworkUsage { timestamp, default_interface, interfaces }
    ContainerAttributes = ContainerAttributes { id, metadata, labels, annotations }
    ContainerStats = ContainerStats { attributes, cpu, memory, swap, writable_layer }
    PodSandboxAttributes = PodSandboxAttributes { id, metadata, labels, annotations }
}
