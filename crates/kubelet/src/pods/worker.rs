//! One pod's worker: it holds what is wanted, what is seen and what was tried, asks for a decision after every event, and lets
//! the actions run side by side. It sleeps until something happens.

mod mirror;
mod news;
mod patience;
mod probing;
mod report;
mod resize;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backoff::MAXIMUM;
use super::decide::{Action, crashed, decide, stops};
use super::jobs::{self, Failed, Start};
use super::memory::{Failure, ImageStep, Memory, Present, Reason, Step};
use super::observed::Observed;
use super::pod::Pod;
use super::resize as allocations;
use crate::admission;
use crate::containers::observe;
use crate::context::Context;
use crate::eviction::Eviction;
use crate::fields::Addresses;
use crate::images;
use crate::probes::{Finding, Probing};
use crate::volumes::Prepared;
use mirror::Mirror;

/// After a failure that nothing but time is likely to cure.
const RETRY: SignedDuration = SignedDuration::from_secs(10);
/// Volumes wait for objects that may appear any moment; a change of those wakes the worker sooner.
const RETRY_VOLUMES: SignedDuration = SignedDuration::from_secs(5);
/// How long `ErrImagePull` is shown before it becomes `ImagePullBackOff`.
const SHOW_PULL_ERROR: SignedDuration = SignedDuration::from_secs(3);

/// What a pod is told that gave way to a critical one.
const PREEMPTED: &str = "Preempted in order to admit critical pod";

/// News for a worker.
pub enum Input {
    /// The pod's object changed.
    Desired(Arc<Pod>),
    /// It is gone from the API.
    Vanished,
    /// Something happened in the runtime.
    Runtime,
    /// An object that the pod shows has changed.
    Objects,
    Probe(Finding),
    /// The node cannot keep the pod.
    Evict(Eviction),
    /// How the API shows a static pod; `None` if it does not any more.
    Mirror(Option<Box<v1::Pod>>),
}

/// What a finished job brings.
enum Done {
    Volumes(Result<Prepared, String>),
    Sandbox(Result<(), String>),
    /// Of the image that was asked for; none where the pod is to stop.
    Image {
        container: String,
        image: Option<String>,
        outcome: Option<Result<Present, Reason>>,
    },
    Started {
        container: String,
        outcome: Result<(), Failed>,
    },
    Stopped(String),
    Hooked(String),
    Resized(Result<(), String>),
    Mirrored(bool),
    SandboxStopped,
    TornDown(bool),
    Finished(bool),
    Patched {
        told: Value,
        outcome: Result<u64, bool>,
    },
    Pruned,
}

pub struct Worker {
    context: Arc<Context>,
    /// The pod as it was asked for, and as it runs here: with the resources that are allocated.
    desired: Arc<Pod>,
    pod: Arc<Pod>,
    seen: Observed,
    memory: Memory,
    volumes: Prepared,
    refreshing: bool,
    /// Something changed while the volumes were being made.
    stale: bool,
    jobs: JoinSet<Done>,
    probing: HashMap<String, Probing>,
    /// Ends what is waited for when the pod is to stop.
    waits: CancellationToken,
    /// When containers that are being stopped are killed, by id.
    deadlines: HashMap<String, watch::Sender<Instant>>,
    /// Since when a change of the status waits for others to go with it, and until when.
    held: Option<(Timestamp, Timestamp)>,
    /// Ends the postStart hooks of containers that are stopped meanwhile.
    starting: HashMap<String, CancellationToken>,
    /// Changes when room becomes free on the node.
    room: watch::Receiver<()>,
    /// The API's object of a static pod.
    mirror: Mirror,
    inbox: mpsc::UnboundedReceiver<Input>,
    sender: mpsc::WeakUnboundedSender<Input>,
    /// The last status computed.
    status: v1::PodStatus,
    /// What the API has of it.
    told: Value,
    /// The resource version of the last write of it.
    told_at: u64,
    patching: bool,
    pruning: bool,
    finished: bool,
}

impl Worker {
    /// A worker for a pod, whatever the runtime has of it already; one that vanished from the API is only ended.
    pub fn new(
        context: Arc<Context>,
        pod: Arc<Pod>,
        vanished: bool,
        sender: &mpsc::UnboundedSender<Input>,
        inbox: mpsc::UnboundedReceiver<Input>,
    ) -> Worker {
        let status = pod.status().cloned().unwrap_or_default();
        let mut worker = Worker {
            room: context.room.subscribe(),
            waits: CancellationToken::new(),
            deadlines: HashMap::new(),
            held: None,
            starting: HashMap::new(),
            mirror: Mirror::default(),
            desired: pod.clone(),
            told: as_value(&status),
            memory: Memory { start_time: status.start_time.as_ref().map(|t| t.0), vanished, ..Default::default() },
            status,
            context,
            pod,
            seen: Observed::default(),
            volumes: Prepared::default(),
            refreshing: false,
            stale: false,
            jobs: JoinSet::new(),
            probing: HashMap::new(),
            inbox,
            sender: sender.downgrade(),
            told_at: 0,
            patching: false,
            pruning: false,
            finished: false,
        };
        worker.allocate(allocations::adopted(&worker.desired));
        worker
    }

    /// Runs until the pod is gone from the API and from the node.
    pub async fn run(mut self) {
        self.observe().await;
        if !self.memory.vanished {
            self.admit().await;
        }
        self.consider_resize();
        loop {
            let wake = self.step();
            if self.memory.vanished && self.finished {
                return;
            }
            let look = self.wait(wake).await;
            if look {
                self.observe().await;
            }
        }
    }

    /// Waits for news, takes all that there are, and says whether to look at the runtime again.
    async fn wait(&mut self, wake: Option<Timestamp>) -> bool {
        let sleep = async {
            match wake {
                Some(at) => {
                    let left = at.duration_since(Timestamp::now());
                    tokio::time::sleep(left.try_into().unwrap_or_default()).await;
                }
                None => std::future::pending().await,
            }
        };
        let mut look = false;
        let defers = self.defers();
        let mut room = false;
        tokio::select! {
            Ok(()) = self.room.changed(), if defers => room = true,
            input = self.inbox.recv() => if let Some(input) = input { look |= self.take(input) },
            Some(done) = self.jobs.join_next() => look |= self.finish_job(done),
            () = sleep => {}
        }
        if room {
            self.consider_resize();
        }
        while let Ok(input) = self.inbox.try_recv() {
            look |= self.take(input);
        }
        while let Some(done) = self.jobs.try_join_next() {
            look |= self.finish_job(done);
        }
        look
    }

    async fn observe(&mut self) {
        match observe::pod(&*self.context.runtime, &self.pod.uid, &self.seen).await {
            Ok(mut seen) => {
                seen.since = self.pod.began_again(&seen);
                self.seen = seen;
            }
            Err(error) => tracing::warn!(pod = self.pod.display(), %error, "reading the runtime's state failed"),
        }
        self.track();
    }

    /// Asks whether the pod may run here. What a critical pod needs is taken from others.
    async fn admit(&mut self) {
        let runs = self.pod.ended() || self.pod.deletion().is_some() || self.seen.sandbox().is_some();
        match admission::admit(&self.context, &self.pod, runs).await {
            Ok(victims) => {
                for uid in victims {
                    let eviction = Eviction {
                        failure: Failure::new("Preempting", PREEMPTED),
                        grace: i64::MAX,
                        disruption: Some(PREEMPTED.to_owned()),
                    };
                    let _ = self.context.evicting.send((uid, eviction));
                }
            }
            Err(failure) => {
                let message = failure.message.trim_start_matches("Pod was rejected: ").to_owned();
                self.context.warn(&self.pod, None, &failure.reason, message);
                self.memory.failure = Some(failure);
                self.memory.rejected = true;
            }
        }
        if self.memory.start_time.is_none() {
            self.memory.start_time = Some(Timestamp::now());
        }
    }

    /// Decides, begins what is to be done, and reports. Gives when to do so again at the latest.
    fn step(&mut self) -> Option<Timestamp> {
        let now = Timestamp::now();
        if self.memory.stop_began.is_none() && stops(&self.pod, &self.seen, &self.memory) {
            self.memory.stop_began = Some(now);
            self.waits.cancel();
        }
        self.track_resize();
        self.report(now);
        let decision = decide(&self.pod, &self.seen, &self.memory, now);
        let changes = decision.actions.iter().any(|a| matches!(a, Action::Wait { .. } | Action::Fail { .. }));
        for action in decision.actions {
            self.begin(action, now);
        }
        if changes {
            self.report(now);
        }
        if self.refresh_at().is_some_and(|at| at <= now) {
            self.refresh();
        }
        let again = changes.then_some(now);
        let held = self.held.map(|(_, until)| until);
        [decision.wake, self.refresh_at(), again, held].into_iter().flatten().min()
    }

    /// When the volumes are to be brought up to date next, unless that is under way.
    fn refresh_at(&self) -> Option<Timestamp> {
        self.volumes.refresh_at.filter(|_| !self.refreshing && self.memory.refreshes())
    }

    fn addresses(&self) -> Addresses {
        let host_ips = self.context.host.ips.clone();
        let pod_ips = match self.seen.ready_sandbox() {
            Some(_) if self.pod.host_network() => host_ips.clone(),
            Some(sandbox) => sandbox.ips.clone(),
            None => Vec::new(),
        };
        Addresses { pod_ips, host_ips }
    }

    fn begin(&mut self, action: Action, now: Timestamp) {
        let (context, pod) = (self.context.clone(), self.pod.clone());
        match action {
            Action::PrepareVolumes => {
                self.memory.volumes = Step::Busy;
                self.prepare_volumes();
            }
            Action::CreateSandbox { attempt } => {
                self.memory.sandbox = Step::Busy;
                if attempt > 0 {
                    let message = "Pod sandbox changed, it will be killed and re-created.".to_owned();
                    context.tell(&pod, None, "SandboxChanged", message);
                }
                let old: Vec<_> = self.seen.sandboxes.iter().map(|s| s.id.clone()).collect();
                self.jobs.spawn(async move {
                    for id in old {
                        jobs::call("stopping a sandbox", &pod, context.runtime.stop_pod_sandbox(&id)).await;
                    }
                    Done::Sandbox(jobs::create_sandbox(context, pod, attempt).await)
                });
            }
            Action::EnsureImage { container } => {
                self.memory.starts(&container).image = ImageStep::Busy;
                let waits = self.waits.clone();
                self.jobs.spawn(async move {
                    let member = pod.member(&container);
                    let outcome = match member {
                        Some(member) => waits.run_until_cancelled(images::ensure(&context, &pod, member)).await,
                        None => Some(Ok(Present::default())),
                    };
                    let image = member.and_then(|m| m.spec.image.clone());
                    Done::Image { container, image, outcome }
                });
            }
            Action::Start { container, attempt, sandbox } => self.start(container, attempt, sandbox, now),
            Action::Stop { id, container, why, grace } => {
                self.memory.stopping.insert(id.clone(), now + SignedDuration::from_secs(grace));
                if let Some(probing) = self.probing.get(&container) {
                    probing.calm();
                }
                if let Some(start) = self.starting.remove(&container) {
                    start.cancel();
                }
                if !stops(&self.pod, &self.seen, &self.memory) {
                    self.memory.replaced.insert(id.clone());
                }
                let end = Instant::now() + Duration::from_secs(grace.max(0) as u64);
                if let Some(deadline) = self.deadlines.get(&id) {
                    deadline.send_replace(end);
                    return;
                }
                let (sender, deadline) = watch::channel(end);
                self.deadlines.insert(id.clone(), sender);
                let hooked = !self.memory.hooked.insert(id.clone());
                let stop = jobs::Stop { id, container, why, hooked, deadline };
                self.jobs.spawn(async move { Done::Stopped(jobs::stop(context, pod, stop).await) });
            }
            Action::PreStop { id, container, grace } => {
                self.memory.hooked.insert(id.clone());
                self.memory.hooking.insert(id.clone());
                self.jobs.spawn(async move {
                    jobs::pre_stop(&context, &pod, &id, &container, grace).await;
                    Done::Hooked(id)
                });
            }
            Action::Resize => self.bring_resources(),
            Action::RemoveContainer { id } => {
                self.memory.stopping.insert(id.clone(), now);
                self.jobs.spawn(async move {
                    jobs::call("removing a container", &pod, context.runtime.remove_container(&id)).await;
                    Done::Stopped(id)
                });
            }
            Action::RemoveSandbox { id } => {
                if std::mem::replace(&mut self.pruning, true) {
                    return;
                }
                self.jobs.spawn(async move {
                    jobs::call("removing a sandbox", &pod, context.runtime.remove_pod_sandbox(&id)).await;
                    Done::Pruned
                });
            }
            Action::StopSandbox { id } => {
                self.memory.sandbox_stopping = true;
                self.jobs.spawn(async move {
                    jobs::call("stopping a sandbox", &pod, context.runtime.stop_pod_sandbox(&id)).await;
                    Done::SandboxStopped
                });
            }
            Action::TearDown => {
                self.memory.tearing_down = true;
                context.release(&pod.uid);
                context.forget_probes(&pod.uid);
                context.devices.release(&pod.uid);
                context.placement.release(&pod.uid);
                self.jobs.spawn(async move { Done::TornDown(jobs::tear_down(context, pod).await) });
            }
            Action::Finish => {
                self.memory.removing = true;
                let sandboxes = self.seen.sandboxes.iter().map(|s| s.id.clone()).collect();
                let object = match (self.pod.is_static(), self.memory.vanished) {
                    (true, _) => self.mirror.uid.clone(),
                    (false, true) => None,
                    (false, false) => Some(self.pod.uid.clone()),
                };
                self.jobs.spawn(async move { Done::Finished(jobs::finish(context, pod, sandboxes, object).await) });
            }
            Action::Fail { reason, message } => {
                context.tell(&pod, None, reason, message.to_owned());
                self.memory.failure = Some(Failure::new(reason, message));
            }
            Action::Wait { container, why, about } => self.show_waiting(&container, why, about),
        }
    }

    fn start(&mut self, container: String, attempt: u32, sandbox: String, now: Timestamp) {
        let (addresses, volumes) = (self.addresses(), self.volumes.clone());
        let target = self.pod.targets.get(&container).and_then(|name| self.seen.current(name)).map(|c| c.id.clone());
        let again = self.pod.member(&container).is_some_and(|m| crashed(&self.pod, m, &self.seen));
        let starts = self.memory.starts(&container);
        let ImageStep::Present(image) = starts.image.clone() else { return };
        if again {
            let longest = self.context.configuration.crash_loop_back_off.max_container_restart_period;
            starts.crash.next(now, longest.map_or(MAXIMUM, |longest| longest.0));
        }
        starts.starting = true;
        let cancelled = CancellationToken::new();
        self.starting.insert(container.clone(), cancelled.clone());
        let (context, pod) = (self.context.clone(), self.pod.clone());
        self.jobs.spawn(async move {
            let name = container.clone();
            let start = Start { container: name, attempt, sandbox, addresses, volumes, image, target, cancelled };
            Done::Started { container, outcome: jobs::start(context, pod, start).await }
        });
    }

    fn show_waiting(&mut self, container: &str, why: Reason, about: String) {
        let pod = &self.pod;
        if why.reason == "CrashLoopBackOff" {
            let told = &mut self.memory.starts(container).told;
            if *told != about {
                *told = about;
                let message = format!("Back-off restarting failed container {container} in pod {}", pod.display());
                self.context.warn(pod, Some(container), "BackOff", message);
            }
        } else if why.reason == "ImagePullBackOff" {
            let image = pod.member(container).and_then(|m| m.spec.image.clone()).unwrap_or_default();
            self.context.tell(pod, Some(container), "BackOff", format!("Back-off pulling image {image:?}"));
            self.context.warn(pod, Some(container), "Failed", "Error: ImagePullBackOff".to_owned());
        }
        self.memory.starts(container).waiting = Some(why);
    }

    fn prepare_volumes(&mut self) {
        let (context, pod, addresses) = (self.context.clone(), self.pod.clone(), self.addresses());
        let waits = self.waits.clone();
        self.jobs.spawn(async move { Done::Volumes(context.volumes.prepare(&pod, &addresses, &waits).await) });
    }

    /// Brings the volumes of a running pod up to date.
    fn refresh(&mut self) {
        match &self.memory.volumes {
            _ if self.memory.stop_began.is_some() => {}
            Step::Done if !self.refreshing && !self.volumes.sources.is_empty() => {
                self.refreshing = true;
                self.prepare_volumes();
            }
            Step::Failed { .. } => self.memory.volumes = Step::Todo,
            Step::Busy => self.stale = true,
            _ => self.stale = self.refreshing,
        }
    }
}

fn as_value(status: &v1::PodStatus) -> Value {
    serde_json::to_value(status).unwrap_or_default()
}
