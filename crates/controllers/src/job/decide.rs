//! What a Job does next, given its pods. A function of values.
//!
//! Finished pods are counted exactly once: their uids are first written to `uncountedTerminatedPods`, then their finalizers
//! are removed, and only when that is seen they move to the counters. A crash between any two steps loses nothing.

use std::{collections::HashSet, sync::Arc, time::Duration};

use client::{Item, events::EventType};
use k8s_openapi::{
    api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};

use super::{
    indexes::Indexes,
    pod::{JobPod, State},
    policy::{self, Verdict},
};
use crate::{
    condition::{self, Condition, condition},
    frame::{between, sooner, whole_seconds},
};

const COMPLETE: &str = "Complete";
const FAILED: &str = "Failed";
const SUSPENDED: &str = "Suspended";
const FAILURE_TARGET: &str = "FailureTarget";
const SUCCESS_MET: &str = "SuccessCriteriaMet";
/// The delay after a first failure; it doubles with each up to the longest.
const FIRST_DELAY: Duration = Duration::from_secs(10);
const LONGEST_DELAY: Duration = Duration::from_secs(600);
/// The most pods made in one sync.
const BURST: usize = 500;

/// The most pods that wait in the status for their finalizers to go. Beyond that a pod is counted by a later sync, so that
/// the status stays small and a large Job does not hold up small ones.
const MOST_UNCOUNTED: usize = 500;

/// A pod to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Creation {
    pub index: Option<i32>,
    /// How often this index has failed so far, where that is limited: what counts, and what is ignored.
    pub index_failures: Option<(i32, i32)>,
}

#[derive(Debug, Default)]
pub(super) struct Decision {
    pub status: JobStatus,
    /// Pods whose finalizers go, once the status is written.
    pub untrack: Vec<Arc<Item>>,
    /// Pods to be deleted.
    pub delete: Vec<Arc<Item>>,
    pub create: Vec<Creation>,
    pub events: Vec<(EventType, String, String)>,
    pub again: Option<Duration>,
}

/// Whether the Job has ended, one way or the other.
pub(crate) fn is_finished(job: &Job) -> bool {
    let conditions = job.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
    [COMPLETE, FAILED].iter().any(|kind| condition::is_true(&conditions, kind))
}

/// A Job in the middle of a decision.
struct Progress<'a> {
    spec: &'a JobSpec,
    pods: &'a [JobPod],
    now: Timestamp,
    completed: Indexes,
    failed_indexes: Indexes,
    succeeded: i32,
    failed: i32,
    /// Whether every finished pod is in the counters.
    settled: bool,
    /// The first failed pod whose policy fails the Job.
    fatal: Option<String>,
    out: Decision,
}

pub(super) fn decide(job: &Job, pods: &[JobPod], now: Timestamp) -> Decision {
    let spec = job.spec.clone().unwrap_or_default();
    let limit = spec.completions.unwrap_or(0);
    let status = job.status.clone().unwrap_or_default();
    let indexes = |text: &Option<String>| Indexes::parse(text.as_deref().unwrap_or_default(), limit);
    let mut progress = Progress {
        completed: indexes(&status.completed_indexes),
        failed_indexes: indexes(&status.failed_indexes),
        succeeded: 0,
        failed: 0,
        settled: true,
        fatal: None,
        spec: &spec,
        pods,
        now,
        out: Decision { status, ..Decision::default() },
    };
    progress.count();
    progress.begin();
    if let Some((reason, message)) = progress.failure() {
        progress.finish(FAILURE_TARGET, FAILED, &reason, &message);
    } else if let Some((reason, message)) = progress.success() {
        progress.finish(SUCCESS_MET, COMPLETE, &reason, &message);
    } else if spec.suspend == Some(true) {
        progress.stop_active();
    } else if job.metadata.deletion_timestamp.is_none() {
        progress.scale();
    }
    progress.out
}

impl Progress<'_> {
    fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    /// Whether a pod is replaced only once it has failed, not as soon as it is being deleted.
    fn replaces_failed_only(&self) -> bool {
        match self.spec.pod_replacement_policy.as_deref() {
            Some(policy) => policy == "Failed",
            None => self.spec.pod_failure_policy.is_some(),
        }
    }

    fn in_state(&self, state: State) -> impl Iterator<Item = &JobPod> {
        self.pods.iter().filter(move |pod| pod.state == state)
    }

    /// Brings the counters up to date.
    fn count(&mut self) {
        let tracked: HashSet<&str> = self.pods.iter().filter(|pod| pod.tracked).map(|pod| &*pod.item.uid).collect();
        let uncounted = self.out.status.uncounted_terminated_pods.take().unwrap_or_default();
        let split = |uids: Option<Vec<String>>| {
            uids.unwrap_or_default().into_iter().partition::<Vec<String>, _>(|uid| tracked.contains(uid.as_str()))
        };
        let (mut succeeding, succeeded) = split(uncounted.succeeded);
        let (mut failing, failed) = split(uncounted.failed);
        let count = |uids: &[String]| i32::try_from(uids.len()).unwrap_or(i32::MAX);
        let status = &self.out.status;
        let counted_succeeded = status.succeeded.unwrap_or(0) + count(&succeeded);
        let counted_failed = status.failed.unwrap_or(0) + count(&failed);

        let replaces_failed_only = self.replaces_failed_only();
        let succeeds = self.decided(SUCCESS_MET).is_some();
        let mut room = MOST_UNCOUNTED.saturating_sub(succeeding.len() + failing.len());
        let mut has_room = || {
            let has = room > 0;
            room = room.saturating_sub(1);
            has
        };
        let (mut succeeded_later, mut failed_later) = (0, 0);
        for pod in self.pods.iter().filter(|pod| pod.tracked) {
            let uid = pod.item.uid.to_string();
            match pod.state {
                State::Succeeded if self.is_indexed() => {
                    let valid = |index: &i32| *index < self.spec.completions.unwrap_or(0);
                    if let Some(index) = pod.index.filter(valid) {
                        self.completed.insert(index);
                    }
                    if !has_room() {
                        self.settled = false;
                        continue;
                    }
                }
                State::Succeeded => {
                    if !succeeding.contains(&uid) {
                        if !has_room() {
                            self.settled = false;
                            succeeded_later += 1;
                            continue;
                        }
                        succeeding.push(uid);
                    }
                }
                // What is stopped because enough has succeeded is nobody's failure.
                State::Terminating if succeeds => {}
                State::Failed => {
                    let verdict = policy::judge(self.spec.pod_failure_policy.as_ref(), pod);
                    if let Verdict::FailJob(message) = &verdict {
                        self.fatal.get_or_insert(message.clone());
                    }
                    if verdict != Verdict::Ignore {
                        self.fail_index(pod, &verdict);
                    }
                    if self.is_remembered_by(pod) {
                        self.settled = false;
                        continue;
                    }
                    if verdict != Verdict::Ignore && !failing.contains(&uid) {
                        if !has_room() {
                            self.settled = false;
                            failed_later += 1;
                            continue;
                        }
                        failing.push(uid);
                    }
                }
                State::Terminating if !replaces_failed_only => {
                    self.fail_index(pod, &Verdict::Count);
                    if self.is_remembered_by(pod) {
                        self.settled = false;
                        continue;
                    }
                    if !failing.contains(&uid) {
                        if !has_room() {
                            self.settled = false;
                            failed_later += 1;
                            continue;
                        }
                        failing.push(uid);
                    }
                }
                State::Active | State::Terminating => continue,
            }
            self.settled = false;
            self.out.untrack.push(pod.item.clone());
        }
        self.settled &= succeeding.is_empty() && failing.is_empty();
        self.failed = counted_failed + count(&failing) + failed_later;
        let all_succeeded = counted_succeeded + count(&succeeding) + succeeded_later;
        self.succeeded = if self.is_indexed() { self.completed.len() } else { all_succeeded };

        let active = self.in_state(State::Active).count();
        let ready = self.in_state(State::Active).filter(|pod| pod.ready).count();
        let terminating = self.in_state(State::Terminating).count();
        let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let nonzero = |count: i32| (count != 0).then_some(count);
        let some = |uids: Vec<String>| (!uids.is_empty()).then_some(uids);
        let indexed = self.is_indexed();
        let limits_indexes = self.spec.backoff_limit_per_index.is_some();
        let status = &mut self.out.status;
        status.active = nonzero(number(active));
        status.ready = Some(number(ready));
        status.terminating = Some(number(terminating));
        status.succeeded = nonzero(if indexed { self.completed.len() } else { counted_succeeded });
        status.failed = nonzero(counted_failed);
        status.uncounted_terminated_pods =
            Some(UncountedTerminatedPods { succeeded: some(succeeding), failed: some(failing) });
        if indexed {
            // Those beyond the end of a Job that was made smaller are forgotten.
            status.completed_indexes = (!self.completed.is_empty()).then(|| self.completed.to_string());
        }
        if limits_indexes {
            status.failed_indexes = Some(self.failed_indexes.to_string());
        }
    }

    /// Notes that a pod's index has failed for good, if it has.
    fn fail_index(&mut self, pod: &JobPod, verdict: &Verdict) {
        if let (Some(limit), Some(index)) = (self.spec.backoff_limit_per_index, pod.index)
            && (*verdict == Verdict::FailIndex || pod.index_failures >= limit)
        {
            self.failed_indexes.insert(index);
        }
    }

    /// Whether this pod is the only one to tell how often its index has failed, and has to stay until the next one does.
    fn is_remembered_by(&self, pod: &JobPod) -> bool {
        let Some(index) = pod.index.filter(|_| self.spec.backoff_limit_per_index.is_some()) else { return false };
        let over = self.completed.contains(index) || self.failed_indexes.contains(index);
        let in_range = index < self.spec.completions.unwrap_or(0);
        let is_last = !self.pods.iter().any(|other| other.index == Some(index) && other.turn() > pod.turn());
        in_range && !over && is_last && !self.is_finishing()
    }

    /// Sets the start time, and tells of suspension and resumption.
    fn begin(&mut self) {
        let suspend = self.spec.suspend == Some(true);
        let was_suspended = condition::is_true(&self.out.status.conditions, SUSPENDED);
        let now = Time(whole_seconds(self.now));
        if suspend && !was_suspended && !self.is_finishing() {
            self.set(SUSPENDED, "True", "JobSuspended", "Job suspended");
            self.out.status.start_time = None;
            self.out.events.push((EventType::Normal, "Suspended".to_owned(), "Job suspended".to_owned()));
        } else if !suspend && was_suspended {
            self.set(SUSPENDED, "False", "JobResumed", "Job resumed");
            self.out.status.start_time = Some(now);
            self.out.events.push((EventType::Normal, "Resumed".to_owned(), "Job resumed".to_owned()));
        } else if !suspend && self.out.status.start_time.is_none() {
            self.out.status.start_time = Some(now);
        }
    }

    fn is_finishing(&self) -> bool {
        [FAILURE_TARGET, SUCCESS_MET].iter().any(|kind| condition::is_true(&self.out.status.conditions, kind))
    }

    fn set(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        condition::set(&mut self.out.status.conditions, condition::<JobCondition>(kind, status, reason, message));
    }

    /// What was decided earlier, if it was.
    fn decided(&self, kind: &str) -> Option<(String, String)> {
        let found = condition::find(&self.out.status.conditions, kind).filter(|found| found.status() == "True")?;
        Some((found.reason().to_owned(), found.message.clone().unwrap_or_default()))
    }

    /// Why the Job fails, if it does.
    fn failure(&mut self) -> Option<(String, String)> {
        if let Some(decided) = self.decided(FAILURE_TARGET) {
            return Some(decided);
        }
        if self.decided(SUCCESS_MET).is_some() {
            return None;
        }
        let because = |reason: &str, message: &str| Some((reason.to_owned(), message.to_owned()));
        if let Some(message) = &self.fatal {
            return because("PodFailurePolicy", message);
        }
        let limit = self.spec.backoff_limit.unwrap_or(6);
        let restarts: i32 = self.in_state(State::Active).map(|pod| pod.restarts).sum();
        let pod_spec = self.spec.template.spec.as_ref();
        let restarts_in_place = pod_spec.and_then(|spec| spec.restart_policy.as_deref()) == Some("OnFailure");
        let out_of_restarts = restarts_in_place && if limit == 0 { restarts > 0 } else { restarts >= limit };
        if self.failed > limit || out_of_restarts {
            return because("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        }
        if let (Some(seconds), Some(start)) = (self.spec.active_deadline_seconds, &self.out.status.start_time) {
            let deadline = start.0.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
            if self.now >= deadline {
                return because("DeadlineExceeded", "Job was active longer than specified deadline");
            }
            self.out.again = sooner(self.out.again, Some(between(self.now, deadline)));
        }
        if self.spec.max_failed_indexes.is_some_and(|most| self.failed_indexes.len() > most) {
            return because(
                "MaxFailedIndexesExceeded",
                "Job has exceeded the specified maximal number of failed indexes",
            );
        }
        let all_done = self.spec.completions.is_some_and(|all| self.completed.len() + self.failed_indexes.len() >= all);
        if !self.failed_indexes.is_empty() && all_done {
            return because("FailedIndexes", "Job has failed indexes");
        }
        None
    }

    /// Why the Job is done, if it is.
    fn success(&self) -> Option<(String, String)> {
        if let Some(decided) = self.decided(SUCCESS_MET) {
            return Some(decided);
        }
        if let Some(message) =
            policy::success(self.spec.success_policy.as_ref(), self.spec.completions.unwrap_or(0), &self.completed)
        {
            return Some(("SuccessPolicy".to_owned(), message));
        }
        let idle = self.in_state(State::Active).next().is_none();
        let reached = match self.spec.completions {
            // A queue of work is empty when one pod says so and the others have come to their end.
            None => self.succeeded > 0 && idle,
            Some(all) => self.succeeded >= all && idle && self.spec.suspend != Some(true),
        };
        let message = "Reached expected number of succeeded pods";
        reached.then(|| ("CompletionsReached".to_owned(), message.to_owned()))
    }

    /// Ends what still runs, and when all of it is over and counted, says so.
    fn finish(&mut self, target: &str, end: &'static str, reason: &str, message: &str) {
        self.set(target, "True", reason, message);
        self.out.delete = self.in_state(State::Active).map(|pod| pod.item.clone()).collect();
        let over = self.out.delete.is_empty() && self.in_state(State::Terminating).next().is_none();
        if !over || !self.settled {
            return;
        }
        self.set(end, "True", reason, message);
        self.out.again = None;
        if end == COMPLETE {
            self.out.status.completion_time = Some(Time(whole_seconds(self.now)));
            self.out.events.push((EventType::Normal, "Completed".to_owned(), "Job completed".to_owned()));
        } else {
            self.out.events.push((EventType::Warning, reason.to_owned(), message.to_owned()));
        }
    }

    /// Stops pods that are not wanted at the moment; they are nobody's failure, so they are not counted.
    fn stop(&mut self, pods: Vec<Arc<Item>>) {
        self.out.untrack.extend(pods.iter().cloned());
        self.out.delete.extend(pods);
    }

    fn stop_active(&mut self) {
        self.stop(self.in_state(State::Active).map(|pod| pod.item.clone()).collect());
    }

    /// Makes or stops pods until as many run as should.
    fn scale(&mut self) {
        let mut active: Vec<&JobPod> = self.in_state(State::Active).collect();
        let mut doomed: Vec<Arc<Item>> = Vec::new();
        if self.is_indexed() {
            let mut seen = HashSet::new();
            let completions = self.spec.completions.unwrap_or(0);
            active.sort_by_key(|pod| (!pod.ready, pod.created));
            active.retain(|pod| {
                let index = pod.index.filter(|index| *index < completions && !self.completed.contains(*index));
                let keep = index.is_some_and(|index| seen.insert(index));
                if !keep {
                    doomed.push(pod.item.clone());
                }
                keep
            });
        }
        let running = i32::try_from(active.len()).unwrap_or(i32::MAX);
        let parallelism = self.spec.parallelism.unwrap_or(1);
        let wanted = match self.spec.completions {
            None if self.succeeded > 0 => running.min(parallelism),
            None => parallelism,
            Some(all) => (all - self.succeeded - self.failed_indexes.len()).min(parallelism).max(0),
        };
        if running > wanted {
            // Those that are not ready go first, then the youngest.
            active.sort_by_key(|pod| (pod.ready, std::cmp::Reverse(pod.created)));
            doomed.extend(active.iter().take(running.abs_diff(wanted) as usize).map(|pod| pod.item.clone()));
        }
        if !doomed.is_empty() {
            return self.stop(doomed);
        }
        let waiting = if self.replaces_failed_only() { self.in_state(State::Terminating).count() } else { 0 };
        let missing = usize::try_from(wanted - running).unwrap_or(0).saturating_sub(waiting).min(BURST);
        if missing == 0 {
            return;
        }
        let wait = if self.spec.backoff_limit_per_index.is_some() { Duration::ZERO } else { self.delay(self.pods) };
        if !wait.is_zero() {
            self.out.again = sooner(self.out.again, Some(wait));
            return;
        }
        self.out.create = if self.is_indexed() {
            let taken: HashSet<i32> = active.iter().filter_map(|pod| pod.index).collect();
            self.pending_indexes(&taken, missing)
        } else {
            vec![Creation { index: None, index_failures: None }; missing]
        };
    }

    /// The first indexes that have neither ended nor a pod, as far as their own delays allow.
    fn pending_indexes(&mut self, taken: &HashSet<i32>, missing: usize) -> Vec<Creation> {
        let mut create = Vec::new();
        for index in 0..self.spec.completions.unwrap_or(0) {
            if create.len() >= missing {
                break;
            }
            let ended = self.completed.contains(index) || self.failed_indexes.contains(index);
            if ended || taken.contains(&index) {
                continue;
            }
            let mut index_failures = None;
            if self.spec.backoff_limit_per_index.is_some() {
                let past: Vec<JobPod> = self.pods.iter().filter(|pod| pod.index == Some(index)).cloned().collect();
                let wait = self.index_delay(&past);
                if !wait.is_zero() {
                    self.out.again = sooner(self.out.again, Some(wait));
                    continue;
                }
                let policy = self.spec.pod_failure_policy.as_ref();
                let failed = past.iter().filter(|pod| matches!(pod.state, State::Failed | State::Terminating));
                let last = failed.max_by_key(|pod| pod.turn());
                index_failures = Some(last.map_or((0, 0), |pod| match policy::judge(policy, pod) {
                    Verdict::Ignore => (pod.index_failures, pod.ignored_failures + 1),
                    _ => (pod.index_failures + 1, pod.ignored_failures),
                }));
            }
            create.push(Creation { index: Some(index), index_failures });
        }
        create
    }

    /// How long to wait before the next pod, by the failures since the last success.
    fn delay(&self, pods: &[JobPod]) -> Duration {
        let times = |state: State| pods.iter().filter(move |pod| pod.state == state).filter_map(|pod| pod.finished);
        let last_success = times(State::Succeeded).max();
        let failures: Vec<Timestamp> =
            times(State::Failed).filter(|at| last_success.is_none_or(|last| *at > last)).collect();
        let (Some(last), Ok(count)) = (failures.iter().max(), u32::try_from(failures.len())) else {
            return Duration::ZERO;
        };
        self.rest(*last, count)
    }

    /// The same for one index, whose pods say how many came before.
    fn index_delay(&self, past: &[JobPod]) -> Duration {
        let failed = past.iter().filter(|pod| pod.state == State::Failed);
        let last = failed.max_by_key(|pod| pod.turn()).and_then(|pod| Some((pod.finished?, pod.turn())));
        last.map_or(Duration::ZERO, |(at, turn)| self.rest(at, u32::try_from(turn).unwrap_or(0) + 1))
    }

    /// What is left of the delay after so many failures, the last of them at that time.
    fn rest(&self, last: Timestamp, failures: u32) -> Duration {
        let delay = FIRST_DELAY.saturating_mul(1 << (failures - 1).min(10)).min(LONGEST_DELAY);
        let until = SignedDuration::try_from(delay).ok().and_then(|delay| last.checked_add(delay).ok());
        until.map_or(Duration::ZERO, |until| between(self.now, until))
    }
}

#[cfg(test)]
mod tests;
