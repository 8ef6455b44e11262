//! What a pod asks of the node's kernel and of its runtime, and this node cannot give or does not allow.

use k8s_openapi::api::core::v1;

use super::{refusal, sysctls};
use crate::context::Context;
use crate::pods::memory::Failure;
use crate::pods::pod::Pod;

const APPARMOR: &str = "/sys/module/apparmor/parameters/enabled";

/// Whether the kernel, its rules and the runtime allow what the pod asks for.
pub async fn fits(context: &Context, pod: &Pod) -> Result<(), Failure> {
    let labels = pod.object.metadata.labels.as_ref();
    if labels.and_then(|l| l.get("kubernetes.io/os")).is_some_and(|os| os != "linux") {
        let message = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
        return Err(refusal("PodOSSelectorNodeLabelDoesNotMatch", message));
    }
    if pod.spec().os.as_ref().is_some_and(|os| os.name != "linux") {
        return Err(refusal("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"));
    }
    sysctls::check(pod, &context.configuration.allowed_unsafe_sysctls)
        .map_err(|why| refusal("SysctlForbidden", &format!("forbidden sysctl: {why}")))?;
    if confined_by_apparmor(pod) && !std::fs::read_to_string(APPARMOR).is_ok_and(|text| text.starts_with('Y')) {
        return Err(refusal("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host"));
    }
    if strict_groups(pod) && !context.runtime.status().await.is_ok_and(|status| status.supplemental_groups_policy) {
        let message = "SupplementalGroupsPolicy=Strict is not supported in this node";
        return Err(refusal("SupplementalGroupsPolicyNotSupported", message));
    }
    Ok(())
}

/// Whether any container is to run under a profile of AppArmor.
fn confined_by_apparmor(pod: &Pod) -> bool {
    let confines = |profile: Option<&v1::AppArmorProfile>| profile.is_some_and(|p| p.type_ != "Unconfined");
    let whole = pod.spec().security_context.as_ref().and_then(|s| s.app_armor_profile.as_ref());
    let own =
        |m: &'_ crate::pods::pod::Member| m.spec.security_context.as_ref().and_then(|s| s.app_armor_profile.clone());
    pod.members.iter().any(|m| confines(own(m).as_ref().or(whole)))
}

fn strict_groups(pod: &Pod) -> bool {
    let context = pod.spec().security_context.as_ref();
    context.and_then(|c| c.supplemental_groups_policy.as_deref()) == Some("Strict")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_profile_of_the_pod_counts_unless_every_container_has_another() {
        let profile = |kind: &str| json!({"appArmorProfile": {"type": kind}});
        for (whole, own, expected) in [
            (json!({}), json!({}), false),
            (profile("RuntimeDefault"), json!({}), true),
            (profile("RuntimeDefault"), profile("Unconfined"), false),
            (profile("Unconfined"), profile("Localhost"), true),
        ] {
            let spec = json!({"securityContext": whole, "containers": [{"name": "c", "securityContext": own}]});
            let pod = Pod::new(serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap());
            assert_eq!(confined_by_apparmor(&pod), expected, "{spec}");
        }
    }
}
