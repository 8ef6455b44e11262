//! Eviction: when the node runs short of memory, disk, inodes or processes, its conditions say so and pods are ended, one at a
//! time, until it is well again; and pods that keep more on disk than their limits allow are ended too.

mod decide;
mod rank;
mod signal;
mod thresholds;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use client::events::EventType;
use jiff::Timestamp;
use runtime::cri::{PodSandboxFilter, PodSandboxState, PodSandboxStatsFilter};
use tokio::sync::Notify;

pub use signal::Signal;
pub use thresholds::{Thresholds, reserved};

use crate::collect;
use crate::context::Context;
use crate::labels;
use crate::node::facts::Disk;
use crate::pods::manager::Pods;
use crate::pods::memory::Failure;
use crate::pods::pod::Pod;
use crate::stats::{self, PodUsage};
use rank::Candidate;
use signal::Observations;
use thresholds::Threshold;

const EVERY: Duration = Duration::from_secs(10);
/// Seconds that a pod gets where it must go at once.
const AT_ONCE: i64 = 1;
/// How long an evicted pod is waited for before the node is looked at again.
const CLEANUP: Duration = Duration::from_secs(30);
const CLEANUP_LOOK: Duration = Duration::from_secs(1);

/// What a pod's worker is told.
#[derive(Clone, Debug)]
pub struct Eviction {
    pub failure: Failure,
    /// Seconds that the pod gets at most to stop.
    pub grace: i64,
    /// The words of the condition `DisruptionTarget`, where the node's need and not the pod's own excess is the cause.
    pub disruption: Option<String>,
}

/// Looks after the node for ever.
pub struct Manager {
    context: Arc<Context>,
    pods: Pods,
    thresholds: Thresholds,
    state: decide::State,
    images: PathBuf,
    /// Pods that have been told to go.
    told: HashSet<String>,
    /// Woken when the node's conditions change.
    changed: Arc<Notify>,
}

impl Manager {
    pub fn new(context: Arc<Context>, pods: Pods, thresholds: Thresholds, changed: Arc<Notify>) -> Manager {
        let images = context.data.clone();
        Manager { context, pods, thresholds, state: decide::State::default(), images, told: HashSet::new(), changed }
    }

    pub async fn run(mut self) {
        let filesystems = self.context.images.image_fs_info().await.unwrap_or_default().image_filesystems;
        if let Some(path) = filesystems.first().map(|fs| PathBuf::from(&fs.mountpoint)).filter(|p| p.exists()) {
            self.images = path;
        }
        loop {
            let evicted = self.look().await;
            self.wait(evicted).await;
            tokio::time::sleep(EVERY).await;
        }
    }

    fn observe(&self) -> Observations {
        signal::observe(Disk::at(&self.context.data), Disk::at(&self.images))
    }

    /// Looks once; gives the pods that were told to go.
    async fn look(&mut self) -> Vec<String> {
        let seen = self.observe();
        let due = self.state.update(&self.thresholds, &seen, Timestamp::now());
        let conditions = self.state.conditions();
        let before = self.context.ledger.lock().set_pressures(conditions.clone());
        if before != conditions {
            tracing::info!(?conditions, "the node's pressures changed");
            self.changed.notify_one();
        }
        let active = self.active();
        self.told.retain(|uid| active.iter().any(|pod| pod.uid == *uid));
        let evicted = self.over_limits(&active).await;
        match due {
            Some(threshold) if evicted.is_empty() => self.reclaim(threshold, &active).await,
            _ => evicted,
        }
    }

    /// The pods that are not on their way out.
    fn active(&self) -> Vec<Arc<Pod>> {
        self.pods.all().into_iter().filter(|pod| !pod.ended()).collect()
    }

    async fn over_limits(&mut self, active: &[Arc<Pod>]) -> Vec<String> {
        let limited = active.iter().filter(|pod| rank::is_limited(pod) && !self.told.contains(&pod.uid)).cloned();
        let mut evicted = Vec::new();
        for candidate in self.candidates(limited.collect()).await {
            let why = candidate.usage.as_ref().and_then(|usage| rank::over_limit(&candidate.pod, usage));
            if let Some(message) = why
                && self.evict(&candidate.pod, message, AT_ONCE, false)
            {
                evicted.push(candidate.pod.uid.clone());
            }
        }
        evicted
    }

    async fn reclaim(&mut self, threshold: Threshold, active: &[Arc<Pod>]) -> Vec<String> {
        let resource = threshold.signal.resource();
        tracing::warn!(resource, signal = threshold.signal.name(), "the node runs short");
        let message = format!("Attempting to reclaim {resource}");
        self.context.tell_of_node(EventType::Warning, "EvictionThresholdMet", message);
        if threshold.signal.is_disk() {
            collect::remove_unused(&self.context).await;
            let seen = self.observe();
            if !self.thresholds.all.iter().any(|t| decide::is_met(t, &seen, true)) {
                return Vec::new();
            }
        }
        let seen = self.observe();
        let Some(observed) = seen.get(&threshold.signal) else { return Vec::new() };
        let mut candidates = self.candidates(active.to_vec()).await;
        candidates.retain(|candidate| !self.told.contains(&candidate.pod.uid));
        rank::rank(&mut candidates, threshold.signal);
        let grace = if threshold.is_hard() { AT_ONCE } else { self.thresholds.max_grace };
        for candidate in &candidates {
            let message = rank::message(candidate, &threshold, observed);
            if self.evict(&candidate.pod, message, grace, true) {
                self.context.count_eviction(threshold.signal.name());
                return vec![candidate.pod.uid.clone()];
            }
        }
        tracing::warn!(resource, "there is no pod that may be evicted");
        Vec::new()
    }

    async fn candidates(&self, pods: Vec<Arc<Pod>>) -> Vec<Candidate> {
        if pods.is_empty() {
            return Vec::new();
        }
        let all = self.context.runtime.list_pod_sandbox_stats(&PodSandboxStatsFilter::default()).await;
        let mut all = all.unwrap_or_default();
        let mut candidates = Vec::new();
        for pod in pods {
            let found = all.iter().position(|stats| stats.attributes.metadata.uid == pod.uid);
            let usage = match found.map(|index| all.swap_remove(index)) {
                Some(stats) => {
                    let (volumes, logs) = stats::on_disk(&self.context, &pod, true).await;
                    Some(PodUsage { stats, volumes, logs })
                }
                None => None,
            };
            candidates.push(Candidate { pod, usage });
        }
        candidates
    }

    /// Tells a pod to go, unless the node cannot do without it.
    fn evict(&mut self, pod: &Pod, message: String, grace: i64, need: bool) -> bool {
        if pod.is_critical() {
            tracing::warn!(pod = pod.display(), "a critical pod is not evicted");
            return false;
        }
        tracing::warn!(pod = pod.display(), message, "evicting a pod");
        self.context.warn(pod, None, "Evicted", message.clone());
        let failure = Failure { reason: "Evicted".to_owned(), message: message.clone() };
        self.pods.evict(&pod.uid, Eviction { failure, grace, disruption: need.then_some(message) });
        self.told.insert(pod.uid.clone());
        true
    }

    /// Waits until pods have gone, within bounds: what they leave must not be counted against others.
    async fn wait(&self, mut pods: Vec<String>) {
        let gone = async {
            while let Some(uid) = pods.last() {
                let selector = [(labels::POD_UID.to_owned(), uid.clone())].into();
                let filter = PodSandboxFilter {
                    state: Some(PodSandboxState::Ready),
                    label_selector: selector,
                    ..Default::default()
                };
                match self.context.runtime.list_pod_sandbox(&filter).await {
                    Ok(left) if left.is_empty() => drop(pods.pop()),
                    _ => tokio::time::sleep(CLEANUP_LOOK).await,
                }
            }
        };
        if tokio::time::timeout(CLEANUP, gone).await.is_err() {
            tracing::warn!("evicted pods are not gone yet");
        }
    }
}
