//! What the runtime tells of a pod, brought into the kubelet's own form.

use std::collections::BTreeMap;

use futures::future::try_join_all;
use jiff::Timestamp;
use runtime::cri::{
    self, ContainerFilter, ContainerState, ContainerStatus, PodSandboxFilter, PodSandboxState, RuntimeService,
};

use super::last_words;
use crate::labels;
use crate::pods::observed::{Container, Observed, Sandbox, State};

/// Reads one pod's sandboxes and containers. What ended before is taken over from `known`.
pub async fn pod(runtime: &dyn RuntimeService, uid: &str, known: &Observed) -> cri::Result<Observed> {
    let selector = BTreeMap::from([(labels::POD_UID.to_owned(), uid.to_owned())]);
    let of_pod = PodSandboxFilter { label_selector: selector.clone(), ..Default::default() };
    let in_pod = ContainerFilter { label_selector: selector, ..Default::default() };
    let (sandboxes, containers) =
        futures::future::try_join(runtime.list_pod_sandbox(&of_pod), runtime.list_containers(&in_pod)).await?;
    let sandboxes = try_join_all(sandboxes.into_iter().map(|s| async move {
        match runtime.pod_sandbox_status(&s.id).await {
            Err(error) if error.is_not_found() => Ok(None),
            status => status.map(|status| Some(sandbox(&status))),
        }
    }));
    let containers = try_join_all(containers.into_iter().map(|c| async move {
        let known = known.by_id(&c.id).filter(|k| k.state == State::Exited);
        if let Some(known) = known {
            return Ok(Some(known.clone()));
        }
        match runtime.container_status(&c.id).await {
            Err(error) if error.is_not_found() => Ok(None),
            Ok(status) => {
                let mut container = container(&status);
                if container.state == State::Exited {
                    container.message = last_words::of(status).await;
                }
                Ok(Some(container))
            }
            Err(error) => Err(error),
        }
    }));
    let (sandboxes, containers) = futures::future::try_join(sandboxes, containers).await?;
    Ok(Observed::new(sandboxes.into_iter().flatten().collect(), containers.into_iter().flatten().collect()))
}

fn time(nanoseconds: i64) -> Option<Timestamp> {
    (nanoseconds > 0).then(|| Timestamp::from_nanosecond(i128::from(nanoseconds)).ok()).flatten()
}

fn sandbox(status: &cri::PodSandboxStatus) -> Sandbox {
    Sandbox {
        id: status.id.clone(),
        attempt: status.metadata.attempt,
        ready: status.state == PodSandboxState::Ready,
        created_at: time(status.created_at).unwrap_or_default(),
        ips: status.ips.iter().map(ToString::to_string).collect(),
    }
}

fn container(status: &ContainerStatus) -> Container {
    let annotation = |key: &str| status.annotations.get(key).map(String::as_str).unwrap_or_default();
    let user_image = &status.image.user_specified_image;
    let state = match status.state {
        ContainerState::Created => State::Created,
        ContainerState::Running => State::Running,
        ContainerState::Exited => State::Exited,
        ContainerState::Unknown => State::Unknown,
    };
    Container {
        id: status.id.clone(),
        sandbox_id: status.pod_sandbox_id.clone(),
        name: status.metadata.name.clone(),
        image: if user_image.is_empty() { status.image.image.clone() } else { user_image.clone() },
        image_id: status.image_ref.clone(),
        attempt: annotation(labels::RESTART_COUNT).parse().unwrap_or(status.metadata.attempt),
        state,
        created_at: time(status.created_at).unwrap_or_default(),
        started_at: time(status.started_at),
        finished_at: time(status.finished_at),
        exit_code: status.exit_code,
        reason: status.reason.clone(),
        message: status.message.clone(),
        hash: annotation(labels::HASH).to_owned(),
        log_path: status.log_path.clone(),
        resources: status.resources.clone(),
        user: status.user.clone(),
        stop_signal: status.stop_signal.clone(),
        mounted_images: status
            .mounts
            .iter()
            .filter_map(|m| Some((m.container_path.clone(), m.image.as_ref()?.image.clone())))
            .collect(),
    }
}
