//! Sysctls that a pod may set: those that are its own and harm nobody, and those that the node's administrator allows besides.

use crate::pods::pod::Pod;

/// Sysctls that a pod may always set.
const SAFE: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// The namespace that makes a sysctl a pod's own, if one does; of a pattern, that of all that it stands for.
fn namespace(name: &str) -> Option<&'static str> {
    let ipc = name == "kernel.sem" || ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|p| name.starts_with(p));
    match () {
        () if ipc => Some("ipc"),
        () if name.starts_with("net.") => Some("net"),
        () => None,
    }
}

/// Checks patterns: names, or beginnings of names followed by `*`.
pub fn patterns(allowed: &[String]) -> Result<(), String> {
    let unknown = |pattern: &&String| namespace(&pattern.replace('/', ".")).is_none();
    match allowed.iter().find(unknown) {
        Some(pattern) => Err(format!("the sysctls {pattern:?} are not known to be namespaced")),
        None => Ok(()),
    }
}

fn allows(pattern: &str, name: &str) -> bool {
    let pattern = pattern.replace('/', ".");
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    }
}

/// Why the pod may not set what it wants to.
pub fn check(pod: &Pod, allowed: &[String]) -> Result<(), String> {
    let spec = pod.spec();
    for sysctl in spec.security_context.iter().flat_map(|s| s.sysctls.iter().flatten()) {
        let name = sysctl.name.replace('/', ".");
        let may = SAFE.contains(&name.as_str()) || allowed.iter().any(|pattern| allows(pattern, &name));
        let Some(namespace) = namespace(&name).filter(|_| may) else {
            return Err(format!("{name:?} not allowlisted"));
        };
        let shared = if namespace == "ipc" { spec.host_ipc.unwrap_or(false) } else { pod.host_network() };
        if shared {
            return Err(format!("{name:?} not allowed with host {namespace} enabled"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn only_sysctls_of_the_pods_own_namespaces_may_be_set() {
        let with = |name: &str, more: Value, allowed: &[&str]| {
            let mut spec = json!({"securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
            spec.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
            let pod = Pod::new(serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap());
            let allowed: Vec<_> = allowed.iter().map(|pattern| (*pattern).to_owned()).collect();
            check(&pod, &allowed).err().unwrap_or_default()
        };
        for (name, more, allowed, expected) in [
            ("net.ipv4.tcp_syncookies", json!({}), &[][..], ""),
            ("kernel/shm_rmid_forced", json!({}), &[], ""),
            ("kernel.msgmax", json!({}), &[], "\"kernel.msgmax\" not allowlisted"),
            ("kernel.msgmax", json!({}), &["kernel.msg*"], ""),
            (
                "kernel.msgmax",
                json!({"hostIPC": true}),
                &["kernel.msg*"],
                "\"kernel.msgmax\" not allowed with host ipc enabled",
            ),
            ("kernel.sem", json!({}), &["kernel.msg*", "kernel/sem"], ""),
            ("vm.overcommit_memory", json!({}), &["*"], "\"vm.overcommit_memory\" not allowlisted"),
            (
                "net.ipv4.tcp_syncookies",
                json!({"hostNetwork": true}),
                &[],
                "\"net.ipv4.tcp_syncookies\" not allowed with host net enabled",
            ),
        ] {
            assert_eq!(with(name, more, allowed), expected, "{name} {allowed:?}");
        }
    }
}
