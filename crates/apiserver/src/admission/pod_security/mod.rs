//! PodSecurity: the labels of a namespace say which of the Pod Security Standards its pods must keep (`enforce`) and which their
//! makers are warned of (`warn`).

mod baseline;
mod pod;
mod policy;
mod restricted;

use std::collections::BTreeMap;

use api::status::Reason;
use api::{Status, Value};
use async_trait::async_trait;
use store::List;

use self::pod::{Pod, Violation};
use self::policy::{Level, Mode, Policy};
use super::{Attributes, Operation, Plugin};
use crate::rest::{parse, store_error};
use crate::server::Server;

/// How many pods of a namespace are looked at when its policy changes.
const MOST_PODS: usize = 3000;

/// Kinds with a pod's template, and where it is.
const TEMPLATES: &[(&str, &str, &str)] = &[
    ("", "podtemplates", "/template"),
    ("", "replicationcontrollers", "/spec/template"),
    ("apps", "daemonsets", "/spec/template"),
    ("apps", "deployments", "/spec/template"),
    ("apps", "replicasets", "/spec/template"),
    ("apps", "statefulsets", "/spec/template"),
    ("batch", "cronjobs", "/spec/jobTemplate/spec/template"),
    ("batch", "jobs", "/spec/template"),
];

/// The standards' rules that the pod breaks, in upstream's order.
fn violations(level: Level, pod: &Pod) -> Vec<Violation> {
    let (basic, strict): (bool, bool) = (level >= Level::Baseline, level >= Level::Restricted);
    let basic =
        baseline::CHECKS.iter().filter(|(_, overridden)| basic && !(strict && *overridden)).map(|(check, _)| check);
    basic.chain(restricted::CHECKS.iter().filter(|_| strict)).filter_map(|check| check(pod)).collect()
}

fn details(violations: &[Violation]) -> String {
    let texts = violations
        .iter()
        .map(|v| if v.detail.is_empty() { v.reason.clone() } else { format!("{} ({})", v.reason, v.detail) });
    texts.collect::<Vec<_>>().join(", ")
}

pub struct PodSecurity;

#[async_trait]
impl Plugin for PodSecurity {
    fn handles(&self, attributes: &Attributes) -> bool {
        let pod = attributes.call.kind.group.is_empty()
            && attributes.call.kind.plural == "pods"
            && matches!(attributes.subresource, "" | "ephemeralcontainers" | "resize");
        matches!(attributes.operation, Operation::Create | Operation::Update)
            && (pod || attributes.is("", "namespaces") || template(attributes).is_some())
    }

    async fn validate(&self, attributes: &Attributes<'_>, old: Option<&Value>, object: &Value) -> Result<(), Status> {
        if attributes.is("", "namespaces") {
            return namespace(attributes, old, object);
        }
        let name = &attributes.call.info.namespace;
        let entry = attributes.call.server.store.get(&format!("/registry/namespaces/{name}"));
        let labels =
            entry.map(|entry| parse(&entry.value)).transpose()?.unwrap_or_default()["metadata"]["labels"].take();
        let (policy, _) = Policy::read(&labels);
        if let Some(pointer) = template(attributes) {
            if let Some(template) = object.pointer(pointer) {
                warn(attributes, &policy, &Pod::new(&template["metadata"], &template["spec"]));
            }
            return Ok(());
        }
        if old.is_some_and(|old| !is_significant(old, object)) {
            return Ok(());
        }
        let pod = Pod::new(&object["metadata"], &object["spec"]);
        let found = violations(policy.enforce.level, &pod);
        if !found.is_empty() {
            let why = format!("violates PodSecurity {:?}: {}", policy.enforce.to_string(), details(&found));
            return Err(attributes.forbidden(object, why));
        }
        warn(attributes, &policy, &pod);
        Ok(())
    }
}

fn template(attributes: &Attributes) -> Option<&'static str> {
    TEMPLATES.iter().find(|(group, plural, _)| attributes.is(group, plural)).map(|(.., pointer)| *pointer)
}

fn warn(attributes: &Attributes, policy: &Policy, pod: &Pod) {
    let found = violations(policy.warn.level, pod);
    if !found.is_empty() {
        attributes.warn(format!("would violate PodSecurity {:?}: {}", policy.warn.to_string(), details(&found)));
    }
}

/// Whether an update touches what the standards are about.
fn is_significant(old: &Value, new: &Value) -> bool {
    let plain = |pod: &Value| {
        let mut spec = pod["spec"].clone();
        for field in ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates"] {
            spec.as_object_mut().and_then(|spec| spec.remove(field));
        }
        for list in ["containers", "initContainers"] {
            for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                container["image"] = Value::Null;
            }
        }
        (spec, pod["metadata"]["annotations"].clone())
    };
    plain(old) != plain(new)
}

/// Labels must make sense, and who tightens a namespace is told of the pods that would no longer be let in.
fn namespace(attributes: &Attributes, old: Option<&Value>, new: &Value) -> Result<(), Status> {
    let (policy, errors) = Policy::read(&new["metadata"]["labels"]);
    let before = old.map(|old| Policy::read(&old["metadata"]["labels"]));
    let complaint = errors.join(", ");
    if !complaint.is_empty() && before.as_ref().is_none_or(|(_, before)| before.join(", ") != complaint) {
        let list = if errors.len() > 1 { format!("[{complaint}]") } else { complaint };
        let name = new["metadata"]["name"].as_str().unwrap_or_default();
        return Err(Status::new(Reason::Invalid, format!("Namespace {name:?} is invalid: {list}")));
    }
    let Some((before, _)) = before else { return Ok(()) };
    let (was, is) = (before.enforce, policy.enforce);
    if was == is || is.level == Level::Privileged || (was.version == is.version && is.level <= was.level) {
        return Ok(());
    }
    existing(&attributes.call.server, attributes, &is)
}

fn existing(server: &Server, attributes: &Attributes, mode: &Mode) -> Result<(), Status> {
    let name = &attributes.call.info.name;
    let page = server
        .store
        .list(&format!("/registry/pods/{name}/"), List { limit: MOST_PODS, ..List::default() })
        .map_err(store_error)?;
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in page.entries {
        let pod = parse(&entry.value)?;
        let broken = violations(mode.level, &Pod::new(&pod["metadata"], &pod["spec"]));
        if !broken.is_empty() {
            let reasons: Vec<String> = broken.into_iter().map(|v| v.reason).collect();
            found
                .entry(reasons.join(", "))
                .or_default()
                .push(pod["metadata"]["name"].as_str().unwrap_or("").to_owned());
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    attributes.warn(format!(
        "existing pods in namespace {name:?} violate the new PodSecurity enforce level {:?}",
        mode.to_string()
    ));
    let mut lines: Vec<String> = found
        .into_iter()
        .map(|(reasons, pods)| match &pods[..] {
            [one] => format!("{one}: {reasons}"),
            [one, _] => format!("{one} (and 1 other pod): {reasons}"),
            all => format!("{} (and {} other pods): {reasons}", all[0], all.len() - 1),
        })
        .collect();
    lines.sort();
    lines.into_iter().for_each(|line| attributes.warn(line));
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(level: Level, spec: Value) -> String {
        details(&violations(level, &Pod::new(&Value::Null, &spec)))
    }

    #[test]
    fn an_ordinary_pod_is_baseline_and_breaks_four_rules_of_restricted() {
        let spec = json!({"containers": [{"name": "nginx", "image": "nginx"}]});
        assert_eq!(of(Level::Baseline, spec.clone()), "");
        assert_eq!(
            of(Level::Restricted, spec),
            "allowPrivilegeEscalation != false (container \"nginx\" must set securityContext.allowPrivilegeEscalation=false), \
             unrestricted capabilities (container \"nginx\" must set securityContext.capabilities.drop=[\"ALL\"]), \
             runAsNonRoot != true (pod or container \"nginx\" must set securityContext.runAsNonRoot=true), \
             seccompProfile (pod or container \"nginx\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        );
    }

    #[test]
    fn a_hardened_pod_is_restricted() {
        let context =
            json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}});
        let spec = json!({
            "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "a", "securityContext": context}],
            "volumes": [{"name": "v", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "x"}}],
        });
        assert_eq!(of(Level::Restricted, spec), "");
    }

    #[test]
    fn every_rule_of_baseline_is_told_with_who_breaks_it() {
        let spec = json!({
            "hostNetwork": true, "hostPID": true,
            "securityContext": {"seccompProfile": {"type": "Unconfined"}, "sysctls": [{"name": "kernel.msgmax"}], "seLinuxOptions": {"type": "x", "user": "u"}},
            "volumes": [{"name": "v", "hostPath": {"path": "/"}}],
            "containers": [
                {"name": "a", "securityContext": {"privileged": true, "procMount": "Unmasked", "capabilities": {"add": ["SYS_TIME", "CHOWN", "NET_ADMIN"]}},
                    "ports": [{"hostPort": 80}, {"hostPort": 443}], "livenessProbe": {"httpGet": {"host": "example.com"}}},
                {"name": "b", "securityContext": {"privileged": true, "appArmorProfile": {"type": "Unconfined"}}},
            ],
        });
        assert_eq!(
            of(Level::Baseline, spec.clone()),
            "forbidden AppArmor profile (container \"b\" must not set AppArmor profile type to \"Unconfined\"), \
             non-default capabilities (container \"a\" must not include \"NET_ADMIN\", \"SYS_TIME\" in securityContext.capabilities.add), \
             host namespaces (hostNetwork=true, hostPID=true), \
             hostPath volumes (volume \"v\"), \
             hostPort (container \"a\" uses hostPorts 443, 80), \
             probe or lifecycle host (container \"a\" uses probe or lifecycle host \"example.com\"), \
             privileged (containers \"a\", \"b\" must not set securityContext.privileged=true), \
             procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\"), \
             seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"x\"; user may not be set), \
             seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\"), \
             forbidden sysctls (kernel.msgmax)"
        );
        let strict = of(Level::Restricted, spec);
        assert!(
            strict.contains("restricted volume types (volume \"v\" uses restricted volume type \"hostPath\")"),
            "{strict}"
        );
        assert!(!strict.contains("hostPath volumes"), "a stricter rule says it already: {strict}");
    }
}
