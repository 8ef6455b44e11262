//! The conditions of a pod that its kubelet keeps.

use jiff::Timestamp;
use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::memory::Memory;
use super::observed::Observed;
use super::pod::{Pod, Role};
use super::status::whole_seconds;

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
    let own = [
        ("PodReadyToStartContainers", Verdict { status: sandboxed, ..Verdict::default() }),
        ("Initialized", initialized(pod, status, phase)),
        ("Ready", ready),
        ("ContainersReady", containers),
        ("PodScheduled", Verdict { status: true, ..Verdict::default() }),
    ];
    let before: Vec<_> = last.conditions.iter().flatten().collect();
    let names: Vec<_> = own.iter().map(|(name, _)| *name).collect();
    let foreign = before.iter().filter(|c| !names.contains(&c.type_.as_str())).map(|c| (*c).clone());
    let mut all: Vec<_> = foreign.collect();
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
            observed_generation: pod.object.metadata.generation,
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

fn initialized(pod: &Pod, status: &v1::PodStatus, phase: &str) -> Verdict {
    if phase == "Succeeded" {
        return Verdict { status: true, reason: Some("PodCompleted"), message: None };
    }
    let main_ran = status.container_statuses.iter().flatten().any(|s| s.container_id.is_some());
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
