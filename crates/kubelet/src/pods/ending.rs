//! What a pod's status says once nothing of it is left on the node: it has ended, and so have its containers, whether or not
//! they ever ran.

use k8s_openapi::api::core::v1;

use super::pod::{Pod, Role};

/// Ends what has not ended. A static pod keeps its phase, since its file may still ask for it.
pub fn end(pod: &Pod, status: &mut v1::PodStatus) {
    let initialized = initialized(pod, status);
    if initialized {
        status.container_statuses.iter_mut().flatten().for_each(end_container);
    }
    let init = status.init_container_statuses.get_or_insert_default();
    // All up to the last that was ever tried; the first was, whatever is known of it.
    let tried = init.iter().rposition(|s| !waits(s) || ended(&s.last_state)).map_or(1, |last| last + 1);
    init.iter_mut().take(tried).for_each(end_container);
    if init.is_empty() {
        status.init_container_statuses = None;
    }
    if !pod.is_static() && !matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        status.phase = Some("Failed".to_owned());
    }
}

/// Whether there is any sign that main containers were to start.
fn initialized(pod: &Pod, status: &v1::PodStatus) -> bool {
    let succeeded = |state: &Option<v1::ContainerState>| {
        state.as_ref().and_then(|s| s.terminated.as_ref()).is_some_and(|t| t.exit_code == 0)
    };
    let last_init = status.init_container_statuses.iter().flatten().last();
    !pod.members.iter().any(|m| matches!(m.role, Role::Init | Role::Sidecar))
        || status.container_statuses.iter().flatten().any(|s| ended(&s.last_state) || !waits(s))
        || last_init.is_some_and(|s| succeeded(&s.state) || succeeded(&s.last_state))
}

fn waits(status: &v1::ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|s| s.waiting.is_some())
}

fn ended(state: &Option<v1::ContainerState>) -> bool {
    state.as_ref().is_some_and(|s| s.terminated.is_some())
}

fn end_container(status: &mut v1::ContainerStatus) {
    if ended(&status.state) {
        return;
    }
    let terminated = v1::ContainerStateTerminated {
        exit_code: 137,
        reason: Some("ContainerStatusUnknown".to_owned()),
        message: Some("The container could not be located when the pod was terminated".to_owned()),
        ..Default::default()
    };
    status.state = Some(v1::ContainerState { terminated: Some(terminated), ..Default::default() });
}

/// What the termination messages of one pod may measure together, in bytes.
const MESSAGES_MAX: usize = 12 * 1024;

/// Shortens termination messages so that all containers' fit into one status.
pub fn shorten_messages(status: &mut v1::PodStatus) {
    let lists =
        [&mut status.init_container_statuses, &mut status.container_statuses, &mut status.ephemeral_container_statuses];
    let mut all: Vec<_> = lists.into_iter().flatten().flatten().collect();
    let most = MESSAGES_MAX / all.len().max(1);
    let states = all.iter_mut().flat_map(|s| [&mut s.state, &mut s.last_state]);
    for message in states.flatten().filter_map(|s| s.terminated.as_mut()?.message.as_mut()) {
        message.truncate(message.floor_char_boundary(most));
    }
}
