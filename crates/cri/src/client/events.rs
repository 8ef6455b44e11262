//! Events of a runtime that tells none: its lists are compared, at once after each change that goes through us and
//! otherwise every second, as upstream's kubelet does.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use ::runtime::cri::{
    ContainerEventResponse, ContainerEventType, ContainerFilter, ContainerState, PodSandboxFilter, PodSandboxState,
    Result, RuntimeService,
};
use futures::Stream;
use futures::stream;

use super::Remote;

const PERIOD: Duration = Duration::from_secs(1);

/// What is known of a container or sandbox: the sandbox that it belongs to (a sandbox to itself), and its stage.
type Known = HashMap<String, (String, Stage)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Created,
    Running,
    Exited,
}

/// The events from now on. A failure of the runtime is told in place of events, and the stream goes on.
pub fn poll(remote: Remote) -> impl Stream<Item = Result<ContainerEventResponse>> + Send {
    struct State {
        remote: Remote,
        known: Option<Known>,
        ready: VecDeque<Result<ContainerEventResponse>>,
    }
    let state = State { remote, known: None, ready: VecDeque::new() };
    stream::unfold(state, |mut state| async move {
        loop {
            if let Some(event) = state.ready.pop_front() {
                return Some((event, state));
            }
            if state.known.is_some() {
                // Either way it is time to look.
                let _ = tokio::time::timeout(PERIOD, state.remote.changed.notified()).await;
            }
            match look(&state.remote).await {
                Ok(now) => {
                    if let Some(known) = &state.known {
                        for (id, sandbox, kind) in differences(known, &now) {
                            state.ready.push_back(Ok(event(&state.remote, id, &sandbox, kind).await));
                        }
                    }
                    state.known = Some(now);
                }
                Err(error) => {
                    tokio::time::sleep(PERIOD).await;
                    state.ready.push_back(Err(error));
                }
            }
        }
    })
}

async fn look(remote: &Remote) -> Result<Known> {
    let (sandboxes, containers) = (PodSandboxFilter::default(), ContainerFilter::default());
    let (sandboxes, containers) =
        futures::try_join!(remote.list_pod_sandbox(&sandboxes), remote.list_containers(&containers))?;
    let sandboxes = sandboxes.into_iter().map(|sandbox| {
        let stage = if sandbox.state == PodSandboxState::Ready { Stage::Running } else { Stage::Exited };
        (sandbox.id.clone(), (sandbox.id, stage))
    });
    let containers = containers.into_iter().map(|container| {
        let stage = match container.state {
            ContainerState::Created => Stage::Created,
            ContainerState::Running => Stage::Running,
            ContainerState::Exited | ContainerState::Unknown => Stage::Exited,
        };
        (container.id, (container.pod_sandbox_id, stage))
    });
    Ok(sandboxes.chain(containers).collect())
}

/// What must have happened between two looks.
fn differences(before: &Known, now: &Known) -> Vec<(String, String, ContainerEventType)> {
    let mut found = Vec::new();
    for (id, (sandbox, stage)) in now {
        let earlier = before.get(id).map(|(_, stage)| *stage);
        for (reached, kind) in [
            (Stage::Created, ContainerEventType::Created),
            (Stage::Running, ContainerEventType::Started),
            (Stage::Exited, ContainerEventType::Stopped),
        ] {
            if reached <= *stage && earlier.is_none_or(|earlier| earlier < reached) {
                found.push((id.clone(), sandbox.clone(), kind));
            }
        }
    }
    let gone = before.iter().filter(|(id, _)| !now.contains_key(*id));
    found.extend(gone.map(|(id, (sandbox, _))| (id.clone(), sandbox.clone(), ContainerEventType::Deleted)));
    found
}

/// An event with how its pod stands. What has gone since is left out.
async fn event(
    remote: &Remote,
    container_id: String,
    sandbox: &str,
    kind: ContainerEventType,
) -> ContainerEventResponse {
    let filter = ContainerFilter { pod_sandbox_id: Some(sandbox.to_owned()), ..ContainerFilter::default() };
    let mut containers_statuses = Vec::new();
    for container in remote.list_containers(&filter).await.unwrap_or_default() {
        containers_statuses.extend(remote.container_status(&container.id).await.ok());
    }
    ContainerEventResponse {
        container_id,
        container_event_type: kind,
        created_at: now(),
        pod_sandbox_status: remote.pod_sandbox_status(sandbox).await.ok(),
        containers_statuses,
    }
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_between_two_looks_is_told_in_order() {
        let known = |items: &[(&str, Stage)]| -> Known {
            items.iter().map(|(id, stage)| ((*id).to_owned(), ("pod".to_owned(), *stage))).collect()
        };
        use ContainerEventType::{Created, Deleted, Started, Stopped};
        for (before, now, expected) in [
            (&[][..], &[("a", Stage::Created)][..], &[Created][..]),
            (&[], &[("a", Stage::Exited)], &[Created, Started, Stopped]),
            (&[("a", Stage::Created)], &[("a", Stage::Running)], &[Started]),
            (&[("a", Stage::Running)], &[("a", Stage::Running)], &[]),
            (&[("a", Stage::Running)], &[], &[Deleted]),
        ] {
            let kinds: Vec<_> = differences(&known(before), &known(now)).into_iter().map(|found| found.2).collect();
            assert_eq!(kinds, expected, "{before:?} {now:?}");
        }
    }
}
