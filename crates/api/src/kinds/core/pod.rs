//! `v1 Pod`.

use serde_json::Value;

use crate::kind::{Context, Kind, Strategy, keep};
use crate::kinds::access::{at, has, list, number, text};
use crate::kinds::builder::Builder;
use crate::kinds::pods::spec::Within;
use crate::kinds::pods::{affinity, annotations, cells, defaults, spec, status, update, warnings};
use crate::print::{AGE, Cell, NAME};
use crate::validation::{Errors, Path, net};

pub fn kind() -> Kind {
    Builder::new("", "v1", "Pod", "pods")
        .namespaced()
        .short(&["po"])
        .category("all")
        .subresource("attach", ("", "", "PodAttachOptions"), &["create", "get"])
        .subresource("binding", ("", "", "Binding"), &["create"])
        .view("ephemeralcontainers")
        .subresource("eviction", ("policy", "v1", "Eviction"), &["create"])
        .subresource("exec", ("", "", "PodExecOptions"), &["create", "get"])
        .own("log", &["get"])
        .subresource("portforward", ("", "", "PodPortForwardOptions"), &["create", "get"])
        .subresource("proxy", ("", "", "PodProxyOptions"), &["create", "delete", "get", "patch", "update"])
        .view("resize")
        .status()
        .selectable(&[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork=false",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ])
        .columns(COLUMNS)
        .strategy(Pod)
        .build()
}

/// The cells are made together, by [`cells::pod`], since they share what is counted.
const COLUMNS: &[Cell] = &[
    NAME,
    Cell::text("Ready", ""),
    Cell::text("Status", ""),
    Cell::text("Restarts", ""),
    AGE,
    Cell::text("IP", "").wide(),
    Cell::text("Node", "").wide(),
    Cell::text("Nominated Node", "").wide(),
    Cell::text("Readiness Gates", "").wide(),
];

struct Pod;

impl Strategy for Pod {
    fn default(&self, object: &mut Value) {
        defaults::pod(object);
    }

    fn prepare_create(&self, object: &mut Value, _context: &Context) {
        status::initial(object);
        affinity::complete_label_keys(object);
    }

    fn prepare_update(&self, old: &Value, new: &mut Value, _context: &Context) {
        keep(old, new, "status");
    }

    fn prepare_subresource_update(&self, subresource: &str, old: &Value, new: &mut Value, _context: &Context) {
        match subresource {
            "ephemeralcontainers" => status::keep_all_but(old, new, |new, kept| {
                keep_list(new, kept, "ephemeralContainers");
            }),
            "resize" => status::keep_all_but(old, new, resources),
            _ => status::prepare_update(old, new),
        }
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        spec::validate(at(object, "spec"), &Path::new("spec"), Within::Pod, errors);
        annotations::validate(at(object, "metadata"), at(object, "spec"), &Path::new("metadata.annotations"), errors);
        if text(object, "spec.serviceAccountName").is_empty() {
            token_without_account(object, errors);
        }
    }

    fn validate_new(&self, object: &Value, errors: &mut Errors) {
        if !list(object, "spec.ephemeralContainers").is_empty() {
            errors.forbidden("spec.ephemeralContainers", "cannot be set on create");
        }
        if !list(object, "spec.schedulingGates").is_empty() && !text(object, "spec.nodeName").is_empty() {
            errors.forbidden("spec.nodeName", "cannot be set until all schedulingGates have been cleared");
        }
        annotations::agree_with_fields(object, errors);
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        annotations::validate_update(old, new, errors);
        update::validate(old, new, errors);
    }

    fn validate_subresource_update(&self, subresource: &str, old: &Value, new: &Value, errors: &mut Errors) {
        match subresource {
            "ephemeralcontainers" => {
                self.validate(new, errors);
                update::ephemeral_containers(old, new, errors);
            }
            "resize" => {
                self.validate(new, errors);
                update::resize(old, new, errors);
            }
            _ => status_update(old, new, errors),
        }
    }

    fn warnings(&self, old: Option<&Value>, new: &Value) -> Vec<String> {
        let mut all = warnings::label_name(old, new, "the Pod's hostname");
        all.extend(warnings::pod(new, &Path::new(""), false));
        all
    }

    fn has_generation(&self) -> bool {
        true
    }

    /// What was asked, or else the pod's own period; at once for a pod that no kubelet has, or that has ended.
    fn grace_period(&self, object: &Value, asked: Option<i64>) -> Option<i64> {
        let own = at(object, "spec.terminationGracePeriodSeconds").as_i64();
        let period = asked.or(own).unwrap_or(30);
        let ended = matches!(text(object, "status.phase"), "Failed" | "Succeeded");
        if text(object, "spec.nodeName").is_empty() || ended {
            return Some(0);
        }
        Some(if period < 0 { 1 } else { period })
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        cells::pod(object, now)
    }
}

fn keep_list(from: &Value, to: &mut Value, name: &str) {
    let value = at(from, "spec")[name].clone();
    if let Some(spec) = to.get_mut("spec").and_then(Value::as_object_mut) {
        match value {
            Value::Null => spec.remove(name),
            value => spec.insert(name.to_owned(), value),
        };
    }
}

/// Takes the containers' resources and resize policies. Containers that were added, removed, renamed or reordered stay so, and
/// validation refuses them.
fn resources(new: &Value, kept: &mut Value) {
    for name in ["containers", "initContainers"] {
        let asked = list(at(new, "spec"), name);
        if asked.len() != list(at(kept, "spec"), name).len() {
            keep_list(new, kept, name);
            continue;
        }
        let containers = kept["spec"].get_mut(name).and_then(Value::as_array_mut);
        for (container, asked) in containers.into_iter().flatten().zip(asked) {
            let Some(container) = container.as_object_mut() else { continue };
            for field in ["name", "resources", "resizePolicy"] {
                match asked.get(field) {
                    Some(value) => container.insert(field.to_owned(), value.clone()),
                    None => container.remove(field),
                };
            }
        }
    }
}

fn status_update(old: &Value, new: &Value, errors: &mut Errors) {
    if text(old, "spec.nodeName") != text(new, "spec.nodeName") {
        errors.invalid("spec.nodeName", at(new, "spec.nodeName"), "may not be changed directly");
    }
    let status = Path::new("status");
    for name in ["podIPs", "hostIPs"] {
        addresses(at(new, "status"), name, errors);
    }
    let specs = || list(new, "spec.initContainers").iter().chain(list(new, "spec.containers"));
    let restarts_all = |rule: &Value| text(rule, "action") == "RestartAllContainers";
    let all = specs().any(|c| list(c, "restartPolicyRules").iter().any(restarts_all));
    if all || text(new, "spec.restartPolicy") == "Always" {
        return;
    }
    // The first rule that fits its end goes before the container's own policy, and that before the pod's.
    let restarts = |name: &str, code: i64| {
        let spec = specs().find(|c| text(c, "name") == name).unwrap_or(&Value::Null);
        let fits = |rule: &Value| {
            let listed = list(rule, "exitCodes.values").iter().any(|value| value.as_i64() == Some(code));
            listed == (text(rule, "exitCodes.operator") == "In")
        };
        let own = Some(text(spec, "restartPolicy")).filter(|policy| !policy.is_empty());
        match own.unwrap_or(text(new, "spec.restartPolicy")) {
            _ if list(spec, "restartPolicyRules").iter().any(fits) => true,
            "Always" => true,
            "OnFailure" => code != 0,
            _ => false,
        }
    };
    for (name, pointer) in
        [("containerStatuses", "status.containerStatuses"), ("initContainerStatuses", "status.initContainerStatuses")]
    {
        for container in list(old, pointer) {
            let code = number(container, "state.terminated.exitCode");
            if !has(container, "state.terminated") || restarts(text(container, "name"), code) {
                continue;
            }
            let now = list(new, pointer).iter().find(|c| text(c, "name") == text(container, "name"));
            if now.is_some_and(|now| !has(now, "state.terminated")) {
                errors.forbidden(status.child(name).child("state"), "may not be transitioned to non-terminated state");
            }
        }
    }
}

/// The addresses of a pod or of its host: valid, of different families, each once.
fn addresses(status: &Value, name: &str, errors: &mut Errors) {
    let all = list(status, name);
    let path = Path::new("status");
    let path = path.child(name);
    let first = all.first().map(|address| text(address, "ip"));
    if name == "hostIPs" && first.is_some_and(|first| first != text(status, "hostIP")) {
        errors.invalid(path.index(0).child("ip"), first.unwrap_or_default(), "must be equal to `hostIP`");
    }
    for (index, address) in all.iter().enumerate() {
        net::ip(path.index(index), text(address, "ip"), errors);
        if all[..index].contains(address) {
            errors.duplicate(path.index(index), address);
        }
    }
    let sixes = all.iter().filter(|address| text(address, "ip").contains(':')).count();
    if all.len() > 2 || (all.len() == 2 && sixes != 1) {
        errors.invalid(path, at(status, name), "may specify no more than one IP for each IP family");
    }
}

/// A token is an account's.
fn token_without_account(pod: &Value, errors: &mut Errors) {
    let volumes = Path::new("spec.volumes");
    for (index, volume) in list(pod, "spec.volumes").iter().enumerate() {
        let volume_path = volumes.index(index);
        let sources = volume_path.child("projected.sources");
        for (index, source) in list(volume, "projected.sources").iter().enumerate() {
            if has(source, "serviceAccountToken") {
                let why = "must not be specified when serviceAccountName is not set";
                errors.forbidden(sources.index(index).child("serviceAccountToken"), why);
            }
        }
    }
}
