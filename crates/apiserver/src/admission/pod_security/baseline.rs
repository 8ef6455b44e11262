//! The rules of the baseline standard: no known way to more privileges.

use api::Value;

use super::pod::{Check, Pod, Violation, containers, name, plural, quoted};

/// In the order of upstream's names for them; with whether a rule of the restricted standard says it in another way.
pub const CHECKS: &[(Check, bool)] = &[
    (app_armor, false),
    (capabilities, true),
    (host_namespaces, false),
    (host_paths, true),
    (host_ports, false),
    (probe_hosts, false),
    (privileged, false),
    (proc_mount, false),
    (se_linux, false),
    (seccomp, true),
    (sysctls, false),
    (host_process, false),
];

fn app_armor(pod: &Pod) -> Option<Violation> {
    const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
    let bad = |context: &Value| {
        context["appArmorProfile"]["type"].as_str().is_some_and(|t| !matches!(t, "RuntimeDefault" | "Localhost"))
    };
    let kind = |context: &Value| context["appArmorProfile"]["type"].as_str().unwrap_or_default().to_owned();
    let mut values = Vec::new();
    let mut setters = Vec::new();
    if bad(pod.context()) {
        setters.push("pod".to_owned());
        values.push(kind(pod.context()));
    }
    let names = pod.which(|container| bad(&container["securityContext"]));
    if !names.is_empty() {
        setters.push(containers(&names));
        values.extend(pod.containers().map(|c| &c["securityContext"]).filter(|c| bad(c)).map(kind));
    }
    let mut details = Vec::new();
    values.sort();
    values.dedup();
    if !setters.is_empty() {
        let texts: Vec<&str> = values.iter().map(String::as_str).collect();
        details.push(format!("{} must not set AppArmor profile type to {}", setters.join(" and "), quoted(&texts)));
    }
    let mut annotations: Vec<String> = Vec::new();
    for (key, value) in pod.metadata["annotations"].as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        let fine = value.is_empty() || value == "runtime/default" || value.starts_with("localhost/");
        if key.starts_with(ANNOTATION) && !fine {
            annotations.push(format!("{key}={value}"));
        }
    }
    if !annotations.is_empty() {
        let texts: Vec<&str> = annotations.iter().map(String::as_str).collect();
        details.push(format!("{} {}", plural("annotation", "annotations", texts.len()), quoted(&texts)));
    }
    if details.is_empty() {
        return None;
    }
    let count = values.len() + annotations.len();
    Violation::new(plural("forbidden AppArmor profile", "forbidden AppArmor profiles", count), details.join(", "))
}

fn capabilities(pod: &Pod) -> Option<Violation> {
    const ALLOWED: &[&str] = &[
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    added(pod, ALLOWED).map(|detail| Violation { reason: "non-default capabilities".to_owned(), detail })
}

/// Who adds capabilities other than those.
pub fn added(pod: &Pod, allowed: &[&str]) -> Option<String> {
    let more = |container: &Value| -> Vec<String> {
        let all = container["securityContext"]["capabilities"]["add"].as_array().into_iter().flatten();
        all.filter_map(Value::as_str).filter(|name| !allowed.contains(name)).map(str::to_owned).collect()
    };
    let names = pod.which(|container| !more(container).is_empty());
    let mut found: Vec<String> = pod.containers().flat_map(more).collect();
    found.sort();
    found.dedup();
    let texts: Vec<&str> = found.iter().map(String::as_str).collect();
    let detail =
        || format!("{} must not include {} in securityContext.capabilities.add", containers(&names), quoted(&texts));
    (!names.is_empty()).then(detail)
}

fn host_namespaces(pod: &Pod) -> Option<Violation> {
    let set = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| pod.spec[field] == true);
    let set: Vec<String> = set.map(|field| format!("{field}=true")).collect();
    if set.is_empty() { None } else { Violation::new("host namespaces", set.join(", ")) }
}

fn host_paths(pod: &Pod) -> Option<Violation> {
    let volumes = pod.spec["volumes"].as_array().into_iter().flatten();
    let names: Vec<&str> = volumes.filter(|volume| volume["hostPath"].is_object()).map(name).collect();
    if names.is_empty() {
        return None;
    }
    Violation::new("hostPath volumes", format!("{} {}", plural("volume", "volumes", names.len()), quoted(&names)))
}

fn host_ports(pod: &Pod) -> Option<Violation> {
    let ports = |container: &Value| -> Vec<i64> {
        let all = container["ports"].as_array().into_iter().flatten();
        all.filter_map(|port| port["hostPort"].as_i64()).filter(|port| *port != 0).collect()
    };
    let names = pod.which(|container| !ports(container).is_empty());
    if names.is_empty() {
        return None;
    }
    let mut all: Vec<String> = pod.containers().flat_map(ports).map(|port| port.to_string()).collect();
    all.sort();
    all.dedup();
    let detail = format!(
        "{} {} {} {}",
        containers(&names),
        plural("uses", "use", names.len()),
        plural("hostPort", "hostPorts", all.len()),
        all.join(", ")
    );
    Violation::new(plural("hostPort", "hostPorts", names.len()), detail)
}

fn probe_hosts(pod: &Pod) -> Option<Violation> {
    const PLACES: &[&str] =
        &["/livenessProbe", "/readinessProbe", "/startupProbe", "/lifecycle/postStart", "/lifecycle/preStop"];
    fn hosts(container: &Value) -> Vec<&str> {
        let handlers = PLACES.iter().filter_map(|place| container.pointer(place));
        let found = handlers.flat_map(|handler| ["httpGet", "tcpSocket"].map(|kind| &handler[kind]["host"]));
        found.filter_map(Value::as_str).filter(|host| !host.is_empty()).collect()
    }
    let names = pod.which(|container| !hosts(container).is_empty());
    if names.is_empty() {
        return None;
    }
    let mut all: Vec<&str> = pod.containers().flat_map(hosts).collect();
    all.sort_unstable();
    all.dedup();
    let what = plural("probe or lifecycle host", "probe or lifecycle hosts", all.len());
    let detail = format!("{} {} {what} {}", containers(&names), plural("uses", "use", names.len()), quoted(&all));
    Violation::new(what, detail)
}

fn privileged(pod: &Pod) -> Option<Violation> {
    let names = pod.which(|container| container["securityContext"]["privileged"] == true);
    if names.is_empty() {
        return None;
    }
    Violation::new("privileged", format!("{} must not set securityContext.privileged=true", containers(&names)))
}

fn proc_mount(pod: &Pod) -> Option<Violation> {
    fn kind(container: &Value) -> Option<&str> {
        container["securityContext"]["procMount"].as_str().filter(|kind| *kind != "Default")
    }
    let names = pod.which(|container| kind(container).is_some());
    if names.is_empty() {
        return None;
    }
    let mut kinds: Vec<&str> = pod.containers().filter_map(kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let detail = format!("{} must not set securityContext.procMount to {}", containers(&names), quoted(&kinds));
    Violation::new("procMount", detail)
}

fn se_linux(pod: &Pod) -> Option<Violation> {
    const TYPES: &[&str] = &["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
    let options = |context: &Value| context["seLinuxOptions"].clone();
    let text = |options: &Value, field: &str| options[field].as_str().unwrap_or_default().to_owned();
    let bad = |context: &Value| {
        let options = options(context);
        !TYPES.contains(&text(&options, "type").as_str())
            || !text(&options, "user").is_empty()
            || !text(&options, "role").is_empty()
    };
    let mut setters = Vec::new();
    let mut found: Vec<Value> = Vec::new();
    if bad(pod.context()) {
        setters.push("pod".to_owned());
        found.push(options(pod.context()));
    }
    let names = pod.which(|container| bad(&container["securityContext"]));
    if !names.is_empty() {
        setters.push(containers(&names));
        found.extend(pod.containers().map(|c| &c["securityContext"]).filter(|c| bad(c)).map(options));
    }
    if setters.is_empty() {
        return None;
    }
    let mut types: Vec<String> =
        found.iter().map(|o| text(o, "type")).filter(|t| !TYPES.contains(&t.as_str())).collect();
    types.sort();
    types.dedup();
    let types: Vec<&str> = types.iter().map(String::as_str).collect();
    let mut data = Vec::new();
    if !types.is_empty() {
        data.push(format!("{} {}", plural("type", "types", types.len()), quoted(&types)));
    }
    for field in ["user", "role"] {
        if found.iter().any(|options| !text(options, field).is_empty()) {
            data.push(format!("{field} may not be set"));
        }
    }
    let detail = format!("{} set forbidden securityContext.seLinuxOptions: {}", setters.join(" and "), data.join("; "));
    Violation::new("seLinuxOptions", detail)
}

/// A seccomp profile that is set and confines nothing.
pub fn unconfined(context: &Value) -> Option<&str> {
    context["seccompProfile"]["type"].as_str().filter(|kind| !matches!(*kind, "RuntimeDefault" | "Localhost"))
}

/// Who sets such a profile.
pub fn seccomp(pod: &Pod) -> Option<Violation> {
    let (setters, values) = pod.setters(unconfined);
    if setters.is_empty() {
        return None;
    }
    let detail =
        format!("{} must not set securityContext.seccompProfile.type to {}", setters.join(" and "), quoted(&values));
    Violation::new("seccompProfile", detail)
}

fn sysctls(pod: &Pod) -> Option<Violation> {
    const ALLOWED: &[&str] = &[
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.tcp_wmem",
    ];
    let all = pod.context()["sysctls"].as_array().into_iter().flatten().map(name);
    let bad: Vec<&str> = all.filter(|name| !ALLOWED.contains(name)).collect();
    // Upstream's reason is in the plural whatever their number.
    if bad.is_empty() { None } else { Violation::new("forbidden sysctls", bad.join(", ")) }
}

fn host_process(pod: &Pod) -> Option<Violation> {
    let (setters, _) = pod.setters(|context| (context["windowsOptions"]["hostProcess"] == true).then_some("true"));
    if setters.is_empty() {
        return None;
    }
    let detail = format!("{} must not set securityContext.windowsOptions.hostProcess=true", setters.join(" and "));
    Violation::new("hostProcess", detail)
}
