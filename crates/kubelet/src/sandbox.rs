//! The configuration of a pod's sandbox.

use k8s_openapi::api::node::v1::RuntimeClass;
use kube::Api;
use runtime::cri::{
    DNSConfig, LinuxContainerResources, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, PodSandboxConfig,
    PodSandboxMetadata, PortMapping, Protocol,
};

use crate::containers::security;
use crate::context::Context;
use crate::labels;
use crate::pods::pod::{Pod, Role};
use crate::{dns, resources};

/// The sandbox of a pod; the same at every attempt but for the number.
pub fn config(context: &Context, pod: &Pod, attempt: u32) -> Result<PodSandboxConfig, String> {
    let whole = pod.spec().security_context.as_ref();
    let security_context = LinuxSandboxSecurityContext {
        namespace_options: security::namespaces(pod, context.users.of(pod)?),
        selinux_options: security::selinux(whole.and_then(|w| w.se_linux_options.as_ref())),
        run_as_user: whole.and_then(|w| w.run_as_user),
        run_as_group: whole.and_then(|w| w.run_as_group),
        readonly_rootfs: false,
        supplemental_groups: security::groups(whole),
        supplemental_groups_policy: security::groups_policy(whole),
        privileged: pod.members.iter().any(|m| security::privileged(&m.spec)),
        seccomp: security::seccomp(whole.and_then(|w| w.seccomp_profile.as_ref()), &context.seccomp()),
        apparmor: security::apparmor(whole.and_then(|w| w.app_armor_profile.as_ref())),
    };
    let sysctls = whole.and_then(|w| w.sysctls.as_ref()).into_iter().flatten();
    let hostname = if pod.host_network() { String::new() } else { dns::kernel_name(pod, &context.cluster_dns)? };
    Ok(PodSandboxConfig {
        metadata: PodSandboxMetadata {
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            namespace: pod.namespace.clone(),
            attempt,
        },
        hostname,
        log_directory: context.log_dir(pod).to_string_lossy().into_owned(),
        dns_config: Some(resolver(context, pod).0),
        port_mappings: ports(pod),
        labels: labels::sandbox(pod),
        annotations: pod.object.metadata.annotations.clone().unwrap_or_default(),
        linux: LinuxPodSandboxConfig {
            cgroup_parent: resources::pod_cgroup(pod),
            security_context,
            sysctls: sysctls.map(|s| (s.name.clone(), s.value.clone())).collect(),
            overhead: None,
            resources: Some(LinuxContainerResources {
                pids_limit: context.configuration.pod_pids_limit.max(0),
                ..resources::pod_resources(pod, &context.rules)
            }),
        },
    })
}

/// The pod's resolver settings, and what there is to say about them.
pub fn resolver(context: &Context, pod: &Pod) -> (DNSConfig, Vec<String>) {
    let node = dns::of_node(&context.resolv_conf).unwrap_or_default();
    let mut config = dns::resolver(pod, &context.cluster_dns, &node);
    let told = dns::fit(&mut config);
    (config, told)
}

/// The runtime's handler that the pod's class names; empty for the default one.
pub async fn handler(context: &Context, pod: &Pod) -> Result<String, String> {
    let Some(name) = pod.spec().runtime_class_name.as_deref().filter(|name| !name.is_empty()) else {
        return Ok(String::new());
    };
    let classes: Api<RuntimeClass> = Api::all(context.client.clone());
    match classes.get_opt(name).await {
        Ok(Some(class)) => Ok(class.handler),
        Ok(None) => Err(format!("failed to get runtime class: runtimeclass.node.k8s.io {name:?} not found")),
        Err(error) => Err(format!("failed to get runtime class {name:?}: {error}")),
    }
}

/// A pod that is to have users of its own runs so or not at all.
pub async fn check_user_namespace(context: &Context, pod: &Pod, handler: &str) -> Result<(), String> {
    if pod.spec().host_users.unwrap_or(true) {
        return Ok(());
    }
    let status = context.runtime.status().await.map_err(|error| error.message)?;
    let named = status.runtime_handlers.iter().find(|known| known.name == handler);
    if named.is_some_and(|known| known.user_namespaces) {
        return Ok(());
    }
    let who = if handler.is_empty() { "runtime".to_owned() } else { format!("RuntimeClass handler {handler:?}") };
    Err(format!("can't set `spec.hostUsers: false`, {who} does not support user namespaces"))
}

/// The ports that the pod's containers publish on the node; none on the node's own network.
fn ports(pod: &Pod) -> Vec<PortMapping> {
    if pod.host_network() {
        return Vec::new();
    }
    let members = pod.members.iter().filter(|m| m.role != Role::Ephemeral);
    let ports = members.flat_map(|m| m.spec.ports.iter().flatten());
    ports
        .map(|port| PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                _ => Protocol::Tcp,
            },
            container_port: u16::try_from(port.container_port).unwrap_or(0),
            host_port: port.host_port.and_then(|p| u16::try_from(p).ok()).unwrap_or(0),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
        .filter(|mapping| mapping.host_port != 0)
        .collect()
}
