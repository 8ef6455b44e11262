//! The conditions of a pod that its kubelet keeps.

use jiff::Timestamp;
use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::memory::Memory;
use super::observed::Observed;
use super::pod::{Pod, Role};
use super::status::whole_seconds;

/// The conditions that the kubelet alone sets, and takes away where it does not compute them.
pub const OWN: [&str; 8] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "PodResizePending",
    "PodResizeInProgress",
    "AllContainersRestarting",
];

/// Those of `last` that others set, followed by the kubelet's own.
pub fn compute(
    pod: &Pod,
    seen: &Observed,
    memory: &Memory,
    status: &v1::PodStatus,
    last: &v1::PodStatus,
    now: Timestamp,
) -> Vec<v1::PodCondition> {
    let phase = status.phase.as_deref().unwrap_or_default();
    let sandboxed = seen.ready_sandbox().is_some_and(|s| pod.host_network() || !s.ips.is_empty());
    let containers = containers_ready(pod, status, phase);
    let ready = match &containers {
        Verdict { status: true, .. } => gates(pod, last),
        unready => unready.clone(),
    };
    let mut own = vec![
        ("PodReadyToStartContainers", Verdict { status: sandboxed, ..Verdict::default() }),
        ("Initialized", initialized(pod, seen, status, phase)),
        ("Ready", ready),
        ("ContainersReady", containers),
        ("PodScheduled", Verdict { status: true, ..Verdict::default() }),
    ];
    own.extend(resizes(memory));
    if seen.since.is_some() {
        let status = seen.containers.iter().any(|c| c.ended_with().is_none() && seen.is_stale(c));
        own.push(("AllContainersRestarting", Verdict { status, ..Verdict::default() }));
    }
    let before: Vec<_> = last.conditions.iter().flatten().collect();
    let mut all: Vec<_> = before.iter().filter(|c| !OWN.contains(&c.type_.as_str())).map(|c| (*c).clone()).collect();
    let told = |c: &v1::PodCondition| c.type_ == "DisruptionTarget" && c.status == "True";
    if let Some(why) = memory.disruption.as_ref().filter(|_| !all.iter().any(told)) {
        all.retain(|c| c.type_ != "DisruptionTarget");
        all.push(v1::PodCondition {
            type_: "DisruptionTarget".to_owned(),
            status: "True".to_owned(),
            reason: Some("TerminationByKubelet".to_owned()),
            message: Some(why.clone()),
            last_transition_time: Some(Time(whole_seconds(now))),
            observed_generation: pod.object.metadata.generation,
            ..Default::default()
        });
    }
    all.extend(own.into_iter().map(|(name, verdict)| {
        let value = if verdict.status { "True" } else { "False" };
        let old = before.iter().find(|c| c.type_ == name);
        let unchanged = old.filter(|c| c.status == value).and_then(|c| c.last_transition_time.clone());
        v1::PodCondition {
            type_: name.to_owned(),
            status: value.to_owned(),
            reason: verdict.reason.map(str::to_owned),
            message: verdict.message,
            last_transition_time: Some(unchanged.unwrap_or_else(|| Time(whole_seconds(now)))),
            observed_generation: match name {
                "PodResizePending" | "PodResizeInProgress" => memory.resize.generation,
                _ => pod.object.metadata.generation,
            },
            ..Default::default()
        }
    }));
    all
}

#[derive(Clone, Debug, Default)]
struct Verdict {
    status: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    fn no(reason: &'static str, message: Option<String>) -> Verdict {
        Verdict { status: false, reason: Some(reason), message }
    }
}

/// What is not yet given of what the pod asks for, and what is on its way.
fn resizes(memory: &Memory) -> impl Iterator<Item = (&'static str, Verdict)> {
    let resize = &memory.resize;
    let pending = resize.pending.as_ref().map(|why| {
        let reason = if why.reason == "Infeasible" { "Infeasible" } else { "Deferred" };
        ("PodResizePending", Verdict { status: true, reason: Some(reason), message: Some(why.message.clone()) })
    });
    let under_way = resize.in_progress.then(|| {
        let error = resize.error.as_ref().map(|(message, _)| message.clone());
        let reason = error.as_ref().map(|_| "Error");
        ("PodResizeInProgress", Verdict { status: true, reason, message: error })
    });
    pending.into_iter().chain(under_way)
}

fn initialized(pod: &Pod, seen: &Observed, status: &v1::PodStatus, phase: &str) -> Verdict {
    if phase == "Succeeded" {
        return Verdict { status: true, reason: Some("PodCompleted"), message: None };
    }
    let main_ran = match seen.since {
        Some(_) => pod.with_role(Role::Main).any(|m| seen.latest(&m.spec.name).is_some()),
        None => status.container_statuses.iter().flatten().any(|s| s.container_id.is_some()),
    };
    let incomplete = |s: &&v1::ContainerStatus| match pod.member(&s.name).map(|m| m.role) {
        Some(Role::Sidecar) => !s.started.unwrap_or(false),
        _ => !s.ready,
    };
    let names: Vec<_> =
        status.init_container_statuses.iter().flatten().filter(incomplete).map(|s| s.name.as_str()).collect();
    if names.is_empty() || main_ran {
        return Verdict { status: true, ..Verdict::default() };
    }
    Verdict::no("ContainersNotInitialized", Some(format!("containers with incomplete status: [{}]", names.join(" "))))
}

fn containers_ready(pod: &Pod, status: &v1::PodStatus, phase: &str) -> Verdict {
    match phase {
        "Succeeded" => return Verdict::no("PodCompleted", None),
        "Failed" => return Verdict::no("PodFailed", None),
        _ => {}
    }
    let sidecars = status.init_container_statuses.iter().flatten();
    let sidecars = sidecars.filter(|s| pod.member(&s.name).is_some_and(|m| m.role == Role::Sidecar));
    let unready: Vec<_> = sidecars
        .chain(status.container_statuses.iter().flatten())
        .filter(|s| !s.ready)
        .map(|s| s.name.as_str())
        .collect();
    if unready.is_empty() {
        return Verdict { status: true, ..Verdict::default() };
    }
    Verdict::no("ContainersNotReady", Some(format!("containers with unready status: [{}]", unready.join(" "))))
}

fn gates(pod: &Pod, last: &v1::PodStatus) -> Verdict {
    let conditions = || last.conditions.iter().flatten();
    let unmet: Vec<_> = pod
        .spec()
        .readiness_gates
        .iter()
        .flatten()
        .filter_map(|gate| {
            let gate = gate.condition_type.as_str();
            match conditions().find(|c| c.type_ == gate) {
                None => Some(format!("corresponding condition of pod readiness gate \"{gate}\" does not exist.")),
                Some(c) if c.status != "True" => {
                    Some(format!("the status of pod readiness gate \"{gate}\" is not \"True\", but {}", c.status))
                }
                Some(_) => None,
            }
        })
        .collect();
    if unmet.is_empty() {
        return Verdict { status: true, ..Verdict::default() };
    }
    Verdict::no("ReadinessGatesNotReady", Some(unmet.join(", ")))
}
