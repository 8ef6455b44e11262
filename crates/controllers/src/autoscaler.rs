//! HorizontalPodAutoscalers: as many replicas as the metrics call for, no faster than the rules allow.

mod behavior;
mod metrics;
mod proposal;
mod replicas;
mod target;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use api::selector::LabelSelector;
use client::{Cache, Key};
use k8s_openapi::api::{
    autoscaling::v2::{
        HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus, MetricStatus,
    },
    core::v1::Pod,
};
use parking_lot::Mutex;

use crate::{
    condition::{self, condition},
    discovery::Directory,
    frame::{Env, Error, Loop, Synced, now},
    owner::Named,
};
use behavior::{Bounds, History};
use target::Scale;

const WORKERS: usize = 5;
/// How often metrics are looked at.
const PERIOD: Duration = Duration::from_secs(15);
const ABLE: &str = "AbleToScale";
const ACTIVE: &str = "ScalingActive";
const LIMITED: &str = "ScalingLimited";

/// Runs the autoscaler.
pub(crate) async fn run(env: Env) {
    let controller = Controller {
        autoscalers: env.caches.get(),
        pods: env.caches.get(),
        directory: Directory::new(env.client.clone()),
        memories: Mutex::default(),
        env: env.clone(),
    };
    let autoscalers = controller.autoscalers.clone();
    let work = Loop::new().needs(&controller.pods).on(&controller.autoscalers, move |change, queue| {
        // What we write into the status is no reason to look again before the time.
        let generation = |item: &Option<Arc<client::Item>>| {
            item.as_ref().and_then(|item| autoscalers.parse(item)).map(|it| it.generation())
        };
        if change.old.is_none() || change.new.is_none() || generation(&change.old) != generation(&change.new) {
            queue.add(change.key.clone());
        }
    });
    work.run(&env, WORKERS, |key| controller.sync(key)).await;
}

/// What is remembered of one autoscaler between its periods.
#[derive(Default)]
struct Memory {
    history: History,
    /// The selector of its pods.
    selector: Option<LabelSelector>,
}

struct Controller {
    env: Env,
    autoscalers: Cache<HorizontalPodAutoscaler>,
    pods: Cache<Pod>,
    directory: Directory,
    memories: Mutex<HashMap<Key, Memory>>,
}

/// An autoscaler and its status in the making.
struct Pass {
    autoscaler: HorizontalPodAutoscaler,
    status: HorizontalPodAutoscalerStatus,
}

impl Pass {
    fn set(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let new: HorizontalPodAutoscalerCondition = condition(kind, status, reason, message);
        // The message is always brought up to date, other than elsewhere.
        if let Some(present) = self.status.conditions.iter_mut().flatten().find(|present| present.type_ == kind)
            && present.status == new.status
            && present.reason == new.reason
        {
            present.message = new.message;
            return;
        }
        condition::set(&mut self.status.conditions, new);
    }
}

impl Controller {
    async fn sync(&self, key: Key) -> Synced {
        let Some(autoscaler) = self.autoscalers.read(&key.namespace, &key.name) else {
            self.memories.lock().remove(&key);
            return Ok(None);
        };
        let mut status = autoscaler.status.clone().unwrap_or_default();
        status.observed_generation = Some(autoscaler.generation());
        let mut pass = Pass { autoscaler, status };
        if let Err(error) = self.reconcile(&key, &mut pass).await {
            tracing::debug!(autoscaler = %key, %error, "not scaled");
        }
        let Pass { mut autoscaler, status } = pass;
        if autoscaler.status.as_ref() != Some(&status) {
            autoscaler.status = Some(status);
            match self.env.replace_status(&autoscaler).await {
                Err(error) if error.is_conflict() || error.is_not_found() => {}
                Err(error) => {
                    self.env.recorder.warning(&autoscaler, "FailedUpdateStatus", error.message());
                }
                Ok(_) => {}
            }
        }
        Ok(Some(PERIOD))
    }

    async fn reconcile(&self, key: &Key, pass: &mut Pass) -> Result<(), Error> {
        let scale = match Scale::read(&self.env, &self.directory, &pass.autoscaler).await {
            Ok(scale) => scale,
            Err(error) => {
                self.env.recorder.warning(&pass.autoscaler, "FailedGetScale", error.message());
                let message =
                    format!("the HPA controller was unable to get the target's current scale: {}", error.message());
                pass.set(ABLE, "False", "FailedGetScale", &message);
                return Err(error);
            }
        };
        pass.set(ABLE, "True", "SucceededGetScale", "the HPA controller was able to get the target's current scale");
        let current = scale.replicas;
        self.remember(key, |memory| memory.history.begin(current, Instant::now()));
        let bounds =
            Bounds { least: pass.autoscaler.spec.min_replicas.unwrap_or(1), most: pass.autoscaler.spec.max_replicas };
        pass.status.current_replicas = Some(current);
        let (desired, reason, measured) = if current == 0 && bounds.least != 0 {
            let message = "scaling is disabled since the replica count of the target is zero";
            pass.set(ACTIVE, "False", "ScalingDisabled", message);
            (0, String::new(), Vec::new())
        } else if current > bounds.most {
            (bounds.most, "Current number of replicas above Spec.MaxReplicas".to_owned(), Vec::new())
        } else if current < bounds.least {
            (bounds.least, "Current number of replicas below Spec.MinReplicas".to_owned(), Vec::new())
        } else {
            self.by_metrics(key, pass, &scale, bounds).await?
        };
        pass.status.desired_replicas = desired;
        pass.status.current_metrics = (!measured.is_empty()).then_some(measured);
        if desired == current {
            return Ok(());
        }
        self.rescale(key, pass, &scale, desired, &reason).await
    }

    /// The number wanted, why, and what was measured.
    async fn by_metrics(
        &self,
        key: &Key,
        pass: &mut Pass,
        scale: &Scale,
        bounds: Bounds,
    ) -> Result<(i32, String, Vec<MetricStatus>), Error> {
        let current = scale.replicas;
        let fail = |pass: &mut Pass, reason: &str, message: &str, event: &str| {
            self.env.recorder.warning(&pass.autoscaler, event, message);
            pass.set(ACTIVE, "False", reason, message);
            pass.status.desired_replicas = current;
            Error::Message(message.to_owned())
        };
        if scale.selector.is_empty() {
            return Err(fail(
                pass,
                "InvalidSelector",
                "the HPA target's scale is missing a selector",
                "SelectorRequired",
            ));
        }
        let selector = match LabelSelector::parse(&scale.selector) {
            Ok(selector) => selector,
            Err(error) => {
                let message = format!(
                    "couldn't convert selector into a corresponding internal selector object: {}",
                    error.message
                );
                return Err(fail(pass, "InvalidSelector", &message, "InvalidSelector"));
            }
        };
        let selected = self.pods.list_ns(&key.namespace).into_iter();
        let selected: Vec<_> = selected.filter(|pod| selector.matches_with(|label| pod.labels.get(label))).collect();
        self.remember(key, |memory| memory.selector = Some(selector));
        if let Some(others) = self.others(key, &selected) {
            let message = format!("pods by selector {:?} are controlled by multiple HPAs: [{others}]", scale.selector);
            return Err(fail(pass, "AmbiguousSelector", &message, "AmbiguousSelector"));
        }
        let pods: Vec<Pod> = selected.iter().filter_map(|item| self.pods.parse(item)).collect();
        let asked = proposal::Asked { env: &self.env, directory: &self.directory, scale, pods: &pods };
        let verdict = asked.all(&pass.autoscaler).await;
        for (reason, message) in &verdict.events {
            self.env.recorder.warning(&pass.autoscaler, reason, message.clone());
        }
        let (proposed, metric) = match verdict.outcome {
            Ok(proposed) => proposed,
            Err((reason, first)) => {
                let message = format!("the HPA was unable to compute the replica count: {first}");
                pass.set(ACTIVE, "False", reason, &message);
                pass.status.desired_replicas = current;
                let message = format!(
                    "invalid metrics ({} invalid out of {}), first error is: {first}",
                    verdict.events.len(),
                    pass.autoscaler.spec.metrics.iter().flatten().count(),
                );
                self.env.recorder.warning(&pass.autoscaler, "FailedComputeMetricsReplicas", message.clone());
                return Err(Error::Message(message));
            }
        };
        let message = format!("the HPA was able to successfully calculate a replica count from {metric}");
        pass.set(ACTIVE, "True", "ValidMetricFound", &message);
        let behavior = pass.autoscaler.spec.behavior.clone();
        let normalized = self.remember(key, |memory| {
            memory.history.normalize(behavior.as_ref(), current, proposed, bounds, Instant::now())
        });
        pass.set(ABLE, "True", normalized.able.0, normalized.able.1);
        pass.set(LIMITED, if normalized.limited { "True" } else { "False" }, normalized.limit.0, normalized.limit.1);
        let reason =
            if proposed > current { format!("{metric} above target") } else { "All metrics below target".to_owned() };
        Ok((normalized.replicas, reason, verdict.measured))
    }

    async fn rescale(
        &self,
        key: &Key,
        pass: &mut Pass,
        scale: &Scale,
        desired: i32,
        reason: &str,
    ) -> Result<(), Error> {
        let size = format!("New size: {desired}; reason: {reason}");
        if let Err(error) = scale.write(&self.env, desired).await {
            let message = format!("{size}; error: {}", error.message());
            self.env.recorder.warning(&pass.autoscaler, "FailedRescale", message);
            let message = format!("the HPA controller was unable to update the target scale: {}", error.message());
            pass.set(ABLE, "False", "FailedUpdateScale", &message);
            pass.status.desired_replicas = scale.replicas;
            return Err(error);
        }
        let message = format!("the HPA controller was able to update the target scale to {desired}");
        pass.set(ABLE, "True", "SucceededRescale", &message);
        self.env.recorder.normal(&pass.autoscaler, "SuccessfulRescale", size);
        pass.status.last_scale_time = Some(now());
        let behavior = pass.autoscaler.spec.behavior.as_ref();
        self.remember(key, |memory| memory.history.changed(behavior, scale.replicas, desired, Instant::now()));
        Ok(())
    }

    fn remember<T>(&self, key: &Key, change: impl FnOnce(&mut Memory) -> T) -> T {
        change(self.memories.lock().entry(key.clone()).or_default())
    }

    /// The autoscalers that have one of these pods, if there are more than this one.
    fn others(&self, key: &Key, pods: &[Arc<client::Item>]) -> Option<String> {
        let memories = self.memories.lock();
        let selects = |memory: &Memory| {
            let selector = memory.selector.as_ref();
            selector.is_some_and(|selector| pods.iter().any(|pod| selector.matches_with(|label| pod.labels.get(label))))
        };
        let same = memories.iter().filter(|(other, memory)| other.namespace == key.namespace && selects(memory));
        let mut names: Vec<String> = same.map(|(other, _)| other.to_string()).collect();
        names.sort_unstable();
        (names.len() > 1).then(|| names.join(" "))
    }
}
