//! What a pod's worker remembers between decisions. None of it outlives the process: what must, the runtime or the API
//! keeps.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1;
use runtime::cri::LinuxContainerResources;

use super::backoff::Backoff;

/// A thing that is done once for a pod, such as mounting its volumes.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Step {
    #[default]
    Todo,
    Busy,
    Done,
    Failed {
        message: String,
        retry_at: Timestamp,
    },
}

impl Step {
    /// Whether it is to be done now; a failed one only when its time has come.
    pub fn due(&self, now: Timestamp) -> bool {
        match self {
            Step::Todo => true,
            Step::Failed { retry_at, .. } => *retry_at <= now,
            _ => false,
        }
    }

    pub fn retry_at(&self) -> Option<Timestamp> {
        match self {
            Step::Failed { retry_at, .. } => Some(*retry_at),
            _ => None,
        }
    }
}

/// A reason and a message as a status shows them.
#[derive(Clone, Debug, PartialEq)]
pub struct Reason {
    pub reason: String,
    pub message: String,
}

impl Reason {
    pub fn new(reason: &str, message: impl Into<String>) -> Reason {
        Reason { reason: reason.to_owned(), message: message.into() }
    }
}

/// An image that is present.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Present {
    pub id: String,
    pub uid: Option<i64>,
    pub username: String,
    /// The images of the container's image volumes, by the volumes' names.
    pub volumes: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub enum ImageStep {
    #[default]
    Todo,
    Busy,
    Present(Present),
    /// Waiting before another pull; the container's `waiting` says why.
    Failed {
        /// When the reason turns from `ErrImagePull` to `ImagePullBackOff`.
        turn_at: Timestamp,
        retry_at: Timestamp,
    },
}

/// What the probes found about one running container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Findings {
    /// The container that was probed; results of its predecessors mean nothing.
    pub id: String,
    pub started: bool,
    pub ready: bool,
    /// A failed startup or liveness probe: why it must be killed, and its own grace period.
    pub failed: Option<(String, Option<i64>)>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Starts {
    pub image: ImageStep,
    pub image_backoff: Backoff,
    /// From making the container to the end of its postStart hook.
    pub starting: bool,
    /// Why the last try to start it failed, and when it may be tried again.
    pub waiting: Option<Reason>,
    pub retry_at: Option<Timestamp>,
    pub crash: Backoff,
    /// The id of the ended container whose back-off has been told in an event.
    pub told: String,
    pub findings: Findings,
}

/// Why a pod ended before its containers did, or never began.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    pub reason: String,
    pub message: String,
}

impl Failure {
    pub fn new(reason: impl Into<String>, message: impl Into<String>) -> Failure {
        Failure { reason: reason.into(), message: message.into() }
    }
}

/// How far a changed request for CPU and memory has come.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resize {
    /// Why the node cannot give what is asked for: `Deferred` or `Infeasible`.
    pub pending: Option<Reason>,
    /// The generation that `pending` or the work under way is about.
    pub generation: Option<i64>,
    /// What was allocated is being brought to the containers.
    pub in_progress: bool,
    pub busy: bool,
    /// Why that failed last, and when it is tried again.
    pub error: Option<(String, Timestamp)>,
}

/// The memory of one pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// Admission's refusal, a passed deadline or an eviction.
    pub failure: Option<Failure>,
    /// The failure is admission's: no container was ever to run.
    pub rejected: bool,
    /// Why the node ends the pod, where the condition `DisruptionTarget` is to say so.
    pub disruption: Option<String>,
    /// Seconds that an evicted pod gets at most to stop.
    pub grace_max: Option<i64>,
    pub volumes: Step,
    pub sandbox: Step,
    pub containers: BTreeMap<String, Starts>,
    /// Containers that are being stopped, by id, and when they are killed at the latest.
    pub stopping: BTreeMap<String, Timestamp>,
    /// Containers that were stopped in order to be started again, by id.
    pub replaced: BTreeSet<String>,
    /// Containers whose preStop hook has been run or is running, by id; those in which it still runs.
    pub hooked: BTreeSet<String>,
    pub hooking: BTreeSet<String>,
    pub resize: Resize,
    /// What the node has allocated to the containers by name, where that can change, and what it means to the runtime.
    pub allocated: BTreeMap<String, v1::ResourceRequirements>,
    pub wanted: BTreeMap<String, LinuxContainerResources>,
    pub sandbox_stopping: bool,
    pub tearing_down: bool,
    /// Volumes are gone for good.
    pub torn_down: bool,
    /// When the whole pod began to stop.
    pub stop_began: Option<Timestamp>,
    /// The sandbox's removal and the API object's deletion are under way or done.
    pub removing: bool,
    /// The pod's object is gone from the API.
    pub vanished: bool,
    /// The API shows the status that a stopped pod has.
    pub status_settled: bool,
    pub start_time: Option<Timestamp>,
}

impl Memory {
    pub fn starts(&mut self, container: &str) -> &mut Starts {
        self.containers.entry(container.to_owned()).or_default()
    }

    pub fn of(&self, container: &str) -> &Starts {
        static NONE: std::sync::LazyLock<Starts> = std::sync::LazyLock::new(Starts::default);
        self.containers.get(container).unwrap_or(&NONE)
    }

    /// What the probes say about the container with this id.
    pub fn findings(&self, name: &str, id: &str) -> Option<&Findings> {
        self.containers.get(name).map(|c| &c.findings).filter(|f| f.id == id)
    }

    /// Whether the time at which the volumes are to be refreshed means anything: while they are made or wait to be made again,
    /// it is that of earlier ones and may have passed.
    pub fn refreshes(&self) -> bool {
        self.volumes == Step::Done && self.stop_began.is_none()
    }

    /// Whether anything that starts containers is still under way.
    pub fn starting(&self) -> bool {
        self.sandbox == Step::Busy
            || self.volumes == Step::Busy
            || self.containers.values().any(|c| c.starting || c.image == ImageStep::Busy)
    }
}
