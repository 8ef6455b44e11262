//! Containers: what they are made from, and their lives.

mod cdi;
pub(crate) mod lifecycle;
pub(crate) mod spec;

use tokio::sync::watch;

use crate::cri::{Container as Listed, ContainerState, ContainerStatus, LinuxContainerResources};
use crate::record::ContainerRecord;
use crate::shim::protocol::{ContainerInfo, Phase};

/// A container as the server knows it.
pub(crate) struct Container {
    pub record: ContainerRecord,
    /// How its shim says that it stands.
    pub info: watch::Sender<ContainerInfo>,
    /// Changed by updates.
    pub resources: parking_lot::Mutex<LinuxContainerResources>,
}

impl Container {
    pub fn new(record: ContainerRecord, info: ContainerInfo) -> Container {
        let resources = parking_lot::Mutex::new(record.config.linux.resources.clone());
        Container { record, info: watch::Sender::new(info), resources }
    }

    pub fn id(&self) -> &str {
        &self.record.id
    }

    pub fn state(&self) -> ContainerState {
        match self.info.borrow().phase {
            Phase::Creating | Phase::Created => ContainerState::Created,
            Phase::Running => ContainerState::Running,
            Phase::Exited => ContainerState::Exited,
        }
    }

    pub fn pid(&self) -> i32 {
        self.info.borrow().pid
    }

    pub fn is_running(&self) -> bool {
        self.state() == ContainerState::Running
    }

    pub fn is_exited(&self) -> bool {
        self.state() == ContainerState::Exited
    }

    /// Takes note of news from the shim. An end is final: what is told later of earlier times is not news.
    pub fn update(&self, info: ContainerInfo) -> bool {
        self.info.send_if_modified(|known| {
            let news = known.phase != Phase::Exited && known.phase != info.phase;
            if news || known.phase == info.phase && known.phase != Phase::Exited {
                *known = info;
            }
            news
        })
    }

    pub fn listed(&self) -> Listed {
        let record = &self.record;
        Listed {
            id: record.id.clone(),
            pod_sandbox_id: record.sandbox_id.clone(),
            metadata: record.config.metadata.clone(),
            image: record.config.image.clone(),
            image_ref: record.image_ref.clone(),
            image_id: record.image_id.clone(),
            state: self.state(),
            created_at: record.created_at,
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
        }
    }

    pub fn status(&self) -> ContainerStatus {
        let record = self.record.clone();
        let info = self.info.borrow().clone();
        let (reason, message) = outcome(&info);
        ContainerStatus {
            id: record.id,
            pod_sandbox_id: record.sandbox_id,
            metadata: record.config.metadata,
            state: self.state(),
            created_at: record.created_at,
            started_at: info.started_at,
            finished_at: info.finished_at,
            exit_code: info.exit_code,
            image: record.config.image,
            image_ref: record.image_ref,
            image_id: record.image_id,
            reason: reason.to_owned(),
            message,
            labels: record.config.labels,
            annotations: record.config.annotations,
            mounts: record.config.mounts,
            log_path: record.log_path,
            resources: Some(self.resources.lock().clone()),
            user: info.user,
            stop_signal: signal_name(record.stop_signal),
            pid: info.pid,
        }
    }
}

/// Why a container is not running, in the words that kubelets and users know.
fn outcome(info: &ContainerInfo) -> (&'static str, String) {
    if info.phase != Phase::Exited {
        return ("", String::new());
    }
    let reason = match info {
        ContainerInfo { lost: true, .. } => "Unknown",
        ContainerInfo { message, .. } if !message.is_empty() => "StartError",
        ContainerInfo { oom_killed: true, exit_code, .. } if *exit_code != 0 => "OOMKilled",
        ContainerInfo { exit_code: 0, .. } => "Completed",
        _ => "Error",
    };
    (reason, info.message.clone())
}

/// A signal by its name (`SIGTERM`, `TERM`) or number, also `SIGRTMIN+3`.
pub(crate) fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..65).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let plain = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |rest: &str, base: i32, sign: i32| -> Option<i32> {
        let offset = if rest.is_empty() { 0 } else { rest[1..].parse::<i32>().ok()? };
        let number = base + sign * offset;
        (34..65).contains(&number).then_some(number)
    };
    if let Some(rest) = plain.strip_prefix("RTMIN") {
        return real_time(rest, 34, 1);
    }
    if let Some(rest) = plain.strip_prefix("RTMAX") {
        return real_time(rest, 64, -1);
    }
    format!("SIG{plain}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}

fn signal_name(number: i32) -> String {
    match nix::sys::signal::Signal::try_from(number) {
        Ok(signal) => signal.as_str().to_owned(),
        Err(_) if (34..65).contains(&number) => format!("SIGRTMIN+{}", number - 34),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_name_and_number() {
        for (name, number) in [
            ("SIGTERM", Some(15)),
            ("quit", Some(3)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX", Some(64)),
            ("SIGNONE", None),
            ("70", None),
        ] {
            assert_eq!(signal_number(name), number, "{name}");
        }
        assert_eq!([15, 37].map(signal_name), ["SIGTERM", "SIGRTMIN+3"]);
    }
}
