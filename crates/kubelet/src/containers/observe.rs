//! What the runtime tells of a pod, brought into the kubelet's own form.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use futures::future::try_join_all;
use jiff::Timestamp;
use runtime::cri::{
    self, ContainerFilter, ContainerState, ContainerStatus, PodSandboxFilter, PodSandboxState, RuntimeService,
};

use crate::labels;
use crate::pods::observed::{Container, Observed, Sandbox, State};

/// A termination message's longest, and that of one taken from the log.
const MESSAGE_MAX: usize = 4096;
const LOG_MESSAGE_MAX: u64 = 2048;
const LOG_MESSAGE_LINES: usize = 80;

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
            status => status.map(|status| Some(container(&status))),
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
        message: if state == State::Exited { last_words(status) } else { status.message.clone() },
        hash: annotation(labels::HASH).to_owned(),
        log_path: status.log_path.clone(),
        resources: status.resources.clone(),
        user: status.user.clone(),
        stop_signal: status.stop_signal.clone(),
    }
}

/// The termination message: the file that the container wrote, or the end of its log where its policy says so.
fn last_words(status: &ContainerStatus) -> String {
    let path = status.annotations.get(labels::MESSAGE_PATH);
    let mount = path.and_then(|path| status.mounts.iter().find(|m| m.container_path == *path));
    let mut written = Vec::new();
    if let Some(file) = mount.and_then(|m| std::fs::File::open(&m.host_path).ok()) {
        let _ = file.take(MESSAGE_MAX as u64).read_to_end(&mut written);
    }
    if !written.is_empty() {
        return String::from_utf8_lossy(&written).into_owned();
    }
    let policy = status.annotations.get(labels::MESSAGE_POLICY).map(String::as_str);
    if policy == Some("FallbackToLogsOnError") && status.exit_code != 0 {
        let tail = log_tail(Path::new(&status.log_path)).unwrap_or_default();
        if !tail.is_empty() {
            return tail;
        }
    }
    status.message.clone()
}

/// The last lines of a log in the CRI's format, without its prefixes.
fn log_tail(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    // Prefixes take room too, so more is read than is shown.
    file.seek(SeekFrom::Start(length.saturating_sub(8 * LOG_MESSAGE_MAX)))?;
    let mut raw = Vec::new();
    file.read_to_end(&mut raw)?;
    let text = String::from_utf8_lossy(&raw);
    let mut shown = String::new();
    let lines: Vec<_> = text.lines().collect();
    for line in &lines[lines.len().saturating_sub(LOG_MESSAGE_LINES)..] {
        let mut parts = line.splitn(4, ' ').skip(2);
        if let (Some(tag), Some(content)) = (parts.next(), parts.next()) {
            shown.push_str(content);
            if tag.starts_with('F') {
                shown.push('\n');
            }
        }
    }
    let over = shown.len().saturating_sub(LOG_MESSAGE_MAX as usize);
    let start = (over..=shown.len()).find(|at| shown.is_char_boundary(*at)).unwrap_or(0);
    Ok(shown[start..].to_owned())
}
