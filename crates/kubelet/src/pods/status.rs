//! A pod's status as a function of its spec, what the runtime has, and what was tried. Reasons are in upstream's words.

use jiff::Timestamp;
use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use runtime::cri::LinuxContainerUser;

use super::conditions;
use super::decide;
use super::ending;
use super::memory::Memory;
use super::observed::{Container, Observed, State};
use super::pod::{Member, Pod, Role};
use super::resize;
use crate::resources::Qos;

/// What a status says of the node.
#[derive(Clone, Debug, Default)]
pub struct Host {
    pub ips: Vec<String>,
    /// The runtime's name, the scheme of container ids.
    pub runtime: String,
    /// Whether it can mount volumes read-only with all that is mounted below them.
    pub recursive_read_only: bool,
}

impl Host {
    fn full_id(&self, id: &str) -> Option<String> {
        Some(format!("{}://{id}", self.runtime))
    }
}

/// Computes the status; times of transition are taken over from `last` where nothing changed.
pub fn compute(
    pod: &Pod,
    seen: &Observed,
    memory: &Memory,
    host: &Host,
    last: &v1::PodStatus,
    now: Timestamp,
) -> v1::PodStatus {
    let statuses = |roles: &[Role]| {
        let members = pod.members.iter().filter(|m| roles.contains(&m.role));
        let list: Vec<_> = members.map(|m| container(pod, m, seen, memory, host, last)).collect();
        (!list.is_empty() && !memory.rejected).then_some(list)
    };
    let init_container_statuses = statuses(&[Role::Init, Role::Sidecar]);
    let container_statuses = statuses(&[Role::Main]);
    let phase = phase(pod, seen, memory, container_statuses.as_deref().unwrap_or_default(), last);
    let pod_ips: Vec<String> = match seen.sandbox() {
        _ if pod.host_network() && seen.sandbox().is_some() => host.ips.clone(),
        Some(sandbox) if !sandbox.ips.is_empty() => sandbox.ips.clone(),
        _ => last.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect(),
    };
    let mut status = v1::PodStatus {
        phase: Some(phase.to_owned()),
        reason: memory.failure.as_ref().map(|f| f.reason.clone()).or_else(|| last.reason.clone()),
        message: memory.failure.as_ref().map(|f| f.message.clone()).or_else(|| last.message.clone()),
        qos_class: Some(Qos::of(pod).as_str().to_owned()),
        start_time: memory.start_time.map(|at| Time(whole_seconds(at))),
        host_ip: host.ips.first().cloned(),
        host_ips: Some(host.ips.iter().map(|ip| v1::HostIP { ip: ip.clone() }).collect()),
        pod_ip: pod_ips.first().cloned(),
        pod_ips: (!pod_ips.is_empty()).then(|| pod_ips.into_iter().map(|ip| v1::PodIP { ip }).collect()),
        observed_generation: pod.object.metadata.generation,
        init_container_statuses,
        container_statuses,
        ephemeral_container_statuses: statuses(&[Role::Ephemeral]),
        ..last.clone()
    };
    if memory.torn_down && decide::stops(pod, seen, memory) && !memory.rejected {
        ending::end(pod, &mut status);
    }
    ending::shorten_messages(&mut status);
    status.conditions = Some(conditions::compute(pod, seen, memory, &status, last, now));
    status
}

/// Times go over the wire in whole seconds; comparing needs them so here too.
pub fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn phase<'a>(
    pod: &Pod,
    seen: &Observed,
    memory: &Memory,
    main: &[v1::ContainerStatus],
    last: &'a v1::PodStatus,
) -> &'a str {
    if let Some(ended @ ("Succeeded" | "Failed")) = last.phase.as_deref() {
        return ended;
    }
    let stops = decide::stops(pod, seen, memory);
    let quiet = stops && !seen.containers.iter().any(|c| c.state != State::Exited) && !memory.starting();
    if memory.failure.is_some() {
        return if quiet { "Failed" } else { running_or_pending(main) };
    }
    if quiet {
        // Nothing runs and nothing will: what the containers ended with decides.
        let ended = |m: &Member| seen.latest(&m.spec.name).and_then(Container::ended_with);
        let failed_init = pod.with_role(Role::Init).any(|m| ended(m).is_some_and(|code| code != 0));
        let codes: Vec<_> = pod.with_role(Role::Main).map(ended).collect();
        let deleted_unstarted = codes.iter().all(Option::is_none) && !failed_init;
        return match () {
            () if deleted_unstarted => running_or_pending(main),
            () if !failed_init && codes.iter().all(|code| *code == Some(0)) => "Succeeded",
            () => "Failed",
        };
    }
    running_or_pending(main)
}

fn running_or_pending(main: &[v1::ContainerStatus]) -> &'static str {
    let begun = |s: &v1::ContainerStatus| {
        let state = s.state.as_ref();
        let ran =
            |state: Option<&v1::ContainerState>| state.is_some_and(|s| s.running.is_some() || s.terminated.is_some());
        ran(state) || ran(s.last_state.as_ref())
    };
    if !main.is_empty() && main.iter().all(begun) { "Running" } else { "Pending" }
}

/// One container's status.
fn container(
    pod: &Pod,
    member: &Member,
    seen: &Observed,
    memory: &Memory,
    host: &Host,
    last: &v1::PodStatus,
) -> v1::ContainerStatus {
    let name = &member.spec.name;
    let lists = [&last.init_container_statuses, &last.container_statuses, &last.ephemeral_container_statuses];
    let told = lists.into_iter().flatten().flatten().find(|s| s.name == *name);
    let starts = memory.of(name);
    // A run counts, and shows, from when its process and its postStart hook have begun.
    let begins = |c: &&Container| c.state == State::Created || (c.state == State::Running && starts.starting);
    let mut mine = seen.containers.iter().filter(|c| c.name == *name).filter(|c| !begins(c));
    let newest = mine.next();
    let spec_image = member.spec.image.clone().unwrap_or_default();
    let mut status = v1::ContainerStatus {
        name: name.clone(),
        image: spec_image,
        started: Some(false),
        volume_mounts: volume_mounts(member, newest, host),
        ..Default::default()
    };
    let Some(c) = newest else {
        return match told.filter(|t| t.container_id.is_some() && !is_running(t)) {
            // The runtime has forgotten it, the API has not.
            Some(told) if starts.waiting.is_none() => told.clone(),
            _ => {
                status.restart_count = told.map_or(0, |t| t.restart_count);
                status.last_state = Some(told.map(lost).unwrap_or_default());
                status.state = Some(waiting(starts.waiting.as_ref(), default_reason(pod, member, seen, memory)));
                status
            }
        };
    };
    status.container_id = host.full_id(&c.id);
    status.image_id = c.image_id.clone();
    status.restart_count = c.attempt as i32;
    status.last_state = Some(mine.find(|c| c.state == State::Exited).map(|c| terminated(c, host)).unwrap_or_default());
    status.user = c.user.as_ref().map(user);
    status.stop_signal = Some(c.stop_signal.clone()).filter(|signal| !signal.is_empty());
    let ends = decide::stops(pod, seen, memory);
    match c.state {
        State::Running => {
            let found = memory.findings(name, &c.id);
            let started = found.map_or(member.spec.startup_probe.is_none(), |f| f.started);
            status.started = Some(started);
            status.ready = started
                && !matches!(member.role, Role::Ephemeral | Role::Init)
                && found.map_or(member.spec.readiness_probe.is_none(), |f| f.ready);
            status.state = Some(v1::ContainerState {
                running: Some(v1::ContainerStateRunning { started_at: c.started_at.map(|t| Time(whole_seconds(t))) }),
                ..Default::default()
            });
            status.allocated_resources = member.spec.resources.as_ref().and_then(|r| r.requests.clone());
            status.resources = Some(resources(member, c, told, memory));
        }
        // Only the kubelet's own work lies between its end and its next run.
        State::Exited if !ends && (starts.waiting.is_some() || restarts(pod, member, c, memory)) => {
            status.last_state = Some(terminated(c, host));
            status.state = Some(waiting(starts.waiting.as_ref(), "ContainerCreating"));
        }
        State::Exited => {
            status.ready = member.role == Role::Init && c.exit_code == 0;
            status.state = Some(terminated(c, host));
        }
        State::Created | State::Unknown => {
            status.state = Some(waiting(starts.waiting.as_ref(), default_reason(pod, member, seen, memory)));
        }
    }
    status
}

/// Whether the container was stopped in order to be started again.
fn restarts(pod: &Pod, member: &Member, container: &Container, memory: &Memory) -> bool {
    memory.replaced.contains(&container.id) && pod.restarts(member, Some(container.exit_code))
}

/// What holds in the runtime, as the spec would say it: what is allocated, or what was before as long as it is on its way.
fn resources(
    member: &Member,
    seen: &Container,
    told: Option<&v1::ContainerStatus>,
    memory: &Memory,
) -> v1::ResourceRequirements {
    let behind = match (&seen.resources, memory.wanted.get(&member.spec.name)) {
        (Some(now), Some(wanted)) => resize::differences(now, wanted) != (false, false),
        _ => false,
    };
    let before = told.and_then(|t| t.resources.clone()).filter(|_| behind);
    let resources = before.or_else(|| member.spec.resources.clone()).unwrap_or_default();
    v1::ResourceRequirements { claims: None, ..resources }
}

fn user(user: &LinuxContainerUser) -> v1::ContainerUser {
    v1::ContainerUser {
        linux: Some(v1::LinuxContainerUser {
            uid: user.uid,
            gid: user.gid,
            supplemental_groups: Some(user.supplemental_groups.clone()).filter(|groups| !groups.is_empty()),
        }),
    }
}

fn is_running(status: &v1::ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|s| s.running.is_some())
}

/// The last state of a container that vanished from the runtime while the API showed it running.
fn lost(told: &v1::ContainerStatus) -> v1::ContainerState {
    if !is_running(told) {
        return told.last_state.clone().unwrap_or_default();
    }
    v1::ContainerState {
        terminated: Some(v1::ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".into()),
            message: Some(
                "The container could not be located when the pod was deleted.  The container used to be Running".into(),
            ),
            container_id: told.container_id.clone(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn default_reason(pod: &Pod, member: &Member, seen: &Observed, memory: &Memory) -> &'static str {
    let before = |m: &&Member| match m.role {
        Role::Init => seen.latest(&m.spec.name).is_none_or(|c| c.ended_with() != Some(0)),
        Role::Sidecar => {
            !seen.latest(&m.spec.name).is_some_and(|c| memory.findings(&c.name, &c.id).is_some_and(|f| f.started))
        }
        _ => false,
    };
    let has_init = pod.members.iter().any(|m| matches!(m.role, Role::Init | Role::Sidecar));
    match member.role {
        Role::Init | Role::Sidecar => "PodInitializing",
        _ if has_init && pod.members.iter().any(|m| before(&m)) => "PodInitializing",
        _ => "ContainerCreating",
    }
}

fn waiting(why: Option<&super::memory::Reason>, default: &str) -> v1::ContainerState {
    let (reason, message) = match why {
        Some(why) => (why.reason.clone(), (!why.message.is_empty()).then(|| why.message.clone())),
        None => (default.to_owned(), None),
    };
    let waiting = v1::ContainerStateWaiting { reason: Some(reason), message };
    v1::ContainerState { waiting: Some(waiting), ..Default::default() }
}

fn terminated(c: &Container, host: &Host) -> v1::ContainerState {
    let reason = match (c.reason.as_str(), c.exit_code) {
        ("", 0) => "Completed",
        ("", _) => "Error",
        (reason, _) => reason,
    };
    let terminated = v1::ContainerStateTerminated {
        exit_code: c.exit_code,
        reason: Some(reason.to_owned()),
        message: (!c.message.is_empty()).then(|| c.message.clone()),
        started_at: c.started_at.map(|t| Time(whole_seconds(t))),
        finished_at: c.finished_at.map(|t| Time(whole_seconds(t))),
        container_id: host.full_id(&c.id),
        signal: None,
    };
    v1::ContainerState { terminated: Some(terminated), ..Default::default() }
}

fn volume_mounts(member: &Member, run: Option<&Container>, host: &Host) -> Option<Vec<v1::VolumeMountStatus>> {
    let mounts = member.spec.volume_mounts.as_ref()?.iter().map(|m| v1::VolumeMountStatus {
        name: m.name.clone(),
        mount_path: m.mount_path.clone(),
        read_only: m.read_only,
        recursive_read_only: m.read_only.filter(|ro| *ro).map(|_| match m.recursive_read_only.as_deref() {
            Some("Enabled") => "Enabled".to_owned(),
            Some("IfPossible") if host.recursive_read_only && private(m) => "Enabled".to_owned(),
            _ => "Disabled".to_owned(),
        }),
        volume_status: run
            .and_then(|run| run.mounted_images.get(&m.mount_path))
            .map(|image| v1::VolumeStatus { image: Some(v1::ImageVolumeStatus { image_ref: image.clone() }) }),
    });
    Some(mounts.collect())
}

/// Whether what is mounted on the node later does not show in the mount.
pub fn private(mount: &v1::VolumeMount) -> bool {
    matches!(mount.mount_propagation.as_deref(), None | Some("" | "None"))
}
