//! What the runtime says about one pod: its sandboxes and containers, newest first.

use jiff::Timestamp;
use runtime::cri::{LinuxContainerResources, LinuxContainerUser};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Created,
    Running,
    Exited,
    Unknown,
}

/// A container that the runtime knows, alive or dead.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    pub id: String,
    pub sandbox_id: String,
    pub name: String,
    /// The image as the spec names it.
    pub image: String,
    /// The image's digest reference.
    pub image_id: String,
    /// How many containers of this name the pod had before: the restart count.
    pub attempt: u32,
    pub state: State,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub exit_code: i32,
    pub reason: String,
    /// The termination message, or the runtime's reason for not starting it.
    pub message: String,
    /// The hash of the spec that it was made from.
    pub hash: String,
    pub log_path: String,
    /// What the runtime gives it.
    pub resources: Option<LinuxContainerResources>,
    pub user: Option<LinuxContainerUser>,
    /// As `SIGTERM`; empty where the runtime does not tell.
    pub stop_signal: String,
    /// The images that are mounted as volumes, by their mount points.
    pub mounted_images: std::collections::BTreeMap<String, String>,
}

impl Container {
    pub fn running(&self) -> bool {
        self.state == State::Running
    }

    /// `None` while it has not ended, and when how it ended is unknown.
    pub fn ended_with(&self) -> Option<i32> {
        (self.state == State::Exited).then_some(self.exit_code)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Sandbox {
    pub id: String,
    pub attempt: u32,
    pub ready: bool,
    pub created_at: Timestamp,
    pub ips: Vec<String>,
}

/// All that the runtime has of one pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    pub sandboxes: Vec<Sandbox>,
    pub containers: Vec<Container>,
    /// Since when all containers begin again: those made before then are to end, and count as if they were not.
    pub since: Option<Timestamp>,
}

impl Observed {
    /// Brings both lists into order, newest first.
    pub fn new(mut sandboxes: Vec<Sandbox>, mut containers: Vec<Container>) -> Observed {
        sandboxes.sort_by_key(|s| std::cmp::Reverse((s.attempt, s.created_at)));
        containers.sort_by_key(|c| std::cmp::Reverse((c.attempt, c.created_at)));
        Observed { sandboxes, containers, since: None }
    }

    pub fn sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first()
    }

    pub fn ready_sandbox(&self) -> Option<&Sandbox> {
        self.sandbox().filter(|s| s.ready)
    }

    /// The newest container of that name in any sandbox.
    pub fn newest(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// The newest container of that name, unless all begin again since.
    pub fn latest(&self, name: &str) -> Option<&Container> {
        self.newest(name).filter(|c| !self.is_stale(c))
    }

    /// The newest container of that name in the present sandbox, unless all begin again since.
    pub fn current(&self, name: &str) -> Option<&Container> {
        let sandbox = self.sandbox()?;
        self.containers.iter().find(|c| c.name == name && c.sandbox_id == sandbox.id).filter(|c| !self.is_stale(c))
    }

    /// Whether it was made before all containers were to begin again.
    pub fn is_stale(&self, container: &Container) -> bool {
        self.since.is_some_and(|since| container.created_at <= since)
    }

    pub fn by_id(&self, id: &str) -> Option<&Container> {
        self.containers.iter().find(|c| c.id == id)
    }
}
