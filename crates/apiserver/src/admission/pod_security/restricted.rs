//! What the restricted standard asks beyond the baseline.

use api::Value;

use super::baseline;
use super::pod::{Check, Pod, Violation, containers, name, plural, quoted};

/// In the order of upstream's names for them.
pub const CHECKS: &[Check] = &[privilege_escalation, capabilities, volumes, non_root, root_user, seccomp];

fn privilege_escalation(pod: &Pod) -> Option<Violation> {
    let names = pod.which(|container| container["securityContext"]["allowPrivilegeEscalation"] != false);
    if names.is_empty() || pod.is_windows() {
        return None;
    }
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&names));
    Violation::new("allowPrivilegeEscalation != false", detail)
}

fn capabilities(pod: &Pod) -> Option<Violation> {
    if pod.is_windows() {
        return None;
    }
    let drops_all = |container: &Value| {
        container["securityContext"]["capabilities"]["drop"]
            .as_array()
            .is_some_and(|all| all.iter().any(|c| c == "ALL"))
    };
    let mut details = Vec::new();
    let names = pod.which(|container| !drops_all(container));
    if !names.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&names)));
    }
    details.extend(baseline::added(pod, &["NET_BIND_SERVICE"]));
    if details.is_empty() { None } else { Violation::new("unrestricted capabilities", details.join("; ")) }
}

fn volumes(pod: &Pod) -> Option<Violation> {
    const ALLOWED: &[&str] =
        &["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];
    fn kind(volume: &Value) -> Option<&str> {
        let mut fields = volume.as_object()?.iter().filter(|(key, source)| *key != "name" && !source.is_null());
        fields.next().map(|(key, _)| key.as_str()).filter(|key| !ALLOWED.contains(key))
    }
    let all = pod.spec["volumes"].as_array().into_iter().flatten();
    let bad: Vec<(&str, &str)> = all.filter_map(|volume| Some((name(volume), kind(volume)?))).collect();
    if bad.is_empty() {
        return None;
    }
    let names: Vec<&str> = bad.iter().map(|(name, _)| *name).collect();
    let mut kinds: Vec<&str> = bad.iter().map(|(_, kind)| *kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let detail = format!(
        "{} {} {} restricted volume {} {}",
        plural("volume", "volumes", names.len()),
        quoted(&names),
        plural("uses", "use", names.len()),
        plural("type", "types", kinds.len()),
        quoted(&kinds)
    );
    Violation::new("restricted volume types", detail)
}

fn non_root(pod: &Pod) -> Option<Violation> {
    let (setters, _) = pod.setters(|context| (context["runAsNonRoot"] == false).then_some("false"));
    if !setters.is_empty() {
        let detail = format!("{} must not set securityContext.runAsNonRoot=false", setters.join(" and "));
        return Violation::new("runAsNonRoot != true", detail);
    }
    if pod.context()["runAsNonRoot"] == true {
        return None;
    }
    let names = pod.which(|container| container["securityContext"]["runAsNonRoot"] != true);
    if names.is_empty() {
        return None;
    }
    let detail = format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&names));
    Violation::new("runAsNonRoot != true", detail)
}

fn root_user(pod: &Pod) -> Option<Violation> {
    let (setters, _) = pod.setters(|context| (context["runAsUser"] == 0).then_some("0"));
    if setters.is_empty() {
        return None;
    }
    Violation::new("runAsUser=0", format!("{} must not set runAsUser=0", setters.join(" and ")))
}

fn seccomp(pod: &Pod) -> Option<Violation> {
    if pod.is_windows() {
        return None;
    }
    if let Some(violation) = baseline::seccomp(pod) {
        return Some(violation);
    }
    let set = |context: &Value| context["seccompProfile"]["type"].is_string();
    if set(pod.context()) {
        return None;
    }
    let names = pod.which(|container| !set(&container["securityContext"]));
    if names.is_empty() {
        return None;
    }
    let detail = format!(
        "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
        containers(&names)
    );
    Violation::new("seccompProfile", detail)
}
