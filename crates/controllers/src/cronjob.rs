//! CronJobs: Jobs at the times of a schedule.

mod cron;
mod schedule;

use std::{sync::Arc, time::Duration};

use client::{Cache, Item, Key, events};
use k8s_openapi::{
    api::{
        batch::v1::{CronJob, Job},
        core::v1::ObjectReference,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::api::DeleteParams;

use crate::{
    condition,
    frame::{Env, Error, Loop, Synced, between},
    job::is_finished,
    owner::{Named, controller_reference},
};
use schedule::{Due, Schedule};

const WORKERS: usize = 5;
const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// Runs the CronJob controller.
pub(crate) async fn run(env: Env) {
    let controller = Controller { crons: env.caches.get(), jobs: env.caches.get(), env: env.clone() };
    let work = Loop::new().on_self(&controller.crons).on_owned(&controller.jobs, "CronJob");
    work.run(&env, WORKERS, |key| controller.sync(key)).await;
}

struct Controller {
    env: Env,
    crons: Cache<CronJob>,
    jobs: Cache<Job>,
}

impl Controller {
    async fn sync(&self, key: Key) -> Synced {
        let Some(mut cron) = self.crons.read(&key.namespace, &key.name) else { return Ok(None) };
        let mine = |item: &Arc<Item>| crate::owner::is_controlled_by(item, cron.uid());
        let jobs: Vec<Job> = self
            .jobs
            .owned_by(cron.uid())
            .iter()
            .filter(|item| mine(item))
            .filter_map(|item| self.jobs.parse(item))
            .collect();
        self.clean_up(&cron, &jobs).await?;
        let before = cron.status.clone();
        self.account(&mut cron, &jobs).await?;
        let started = if cron.is_deleting() { Ok(None) } else { self.start(&mut cron, &jobs).await };
        if cron.status != before {
            self.env.replace_status(&cron).await?;
        }
        started
    }

    /// Brings the list of active Jobs up to date.
    async fn account(&self, cron: &mut CronJob, jobs: &[Job]) -> Result<(), Error> {
        let mut status = cron.status.clone().unwrap_or_default();
        let mut active = status.active.take().unwrap_or_default();
        for job in jobs {
            let at = active.iter().position(|known| known.uid.as_deref() == Some(job.uid()));
            let ended = is_finished(job);
            match at {
                Some(at) if ended => {
                    active.remove(at);
                    let complete =
                        job.status.as_ref().is_some_and(|status| condition::is_true(&status.conditions, "Complete"));
                    let word = if complete { "Complete" } else { "Failed" };
                    let message = format!("Saw completed job: {}, condition: {word}", job.name());
                    self.env.recorder.normal(cron, "SawCompletedJob", message);
                }
                None if !ended => active.push(reference(job)),
                _ => {}
            }
            let completion = job.status.as_ref().and_then(|status| status.completion_time.clone());
            if completion.as_ref().map(|time| time.0) > status.last_successful_time.as_ref().map(|time| time.0) {
                status.last_successful_time = completion;
            }
        }
        let mut kept = Vec::new();
        for job in active {
            let (name, uid) = (job.name.as_deref().unwrap_or_default(), job.uid.as_deref());
            let there = jobs.iter().any(|known| Some(known.uid()) == uid)
                // The cache may have yet to show it.
                || self.env.api::<Job>(cron.namespace()).get_opt(name).await?.is_some_and(|job| Some(job.uid()) == uid);
            if there {
                kept.push(job);
            } else {
                self.env.recorder.normal(cron, "MissingJob", format!("Active job went missing: {name}"));
            }
        }
        status.active = (!kept.is_empty()).then_some(kept);
        cron.status = Some(status);
        Ok(())
    }

    /// Deletes finished Jobs beyond the histories' limits, the oldest first.
    async fn clean_up(&self, cron: &CronJob, jobs: &[Job]) -> Result<(), Error> {
        let spec = cron.spec.clone();
        for (kind, limit) in [
            ("Complete", spec.successful_jobs_history_limit.unwrap_or(3)),
            ("Failed", spec.failed_jobs_history_limit.unwrap_or(1)),
        ] {
            let ended =
                |job: &&Job| job.status.as_ref().is_some_and(|status| condition::is_true(&status.conditions, kind));
            let mut ended: Vec<&Job> = jobs.iter().filter(ended).filter(|job| !job.is_deleting()).collect();
            ended.sort_by_key(|job| {
                job.status.as_ref().and_then(|status| status.start_time.as_ref().map(|time| time.0))
            });
            let excess = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
            for job in &ended[..excess] {
                self.delete(cron, job.name(), job.uid()).await?;
            }
        }
        Ok(())
    }

    async fn delete(&self, cron: &CronJob, name: &str, uid: &str) -> Result<(), Error> {
        match self.env.delete::<Job>(cron.namespace(), name, uid, DeleteParams::background()).await {
            Ok(()) => self.env.recorder.normal(cron, "SuccessfulDelete", format!("Deleted job {name}")),
            Err(error) => {
                self.env.recorder.warning(cron, "FailedDelete", format!("Deleted job: {}", error.message()));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Starts the Job that is due, and says when the next one is.
    async fn start(&self, cron: &mut CronJob, jobs: &[Job]) -> Synced {
        let spec = cron.spec.clone();
        if spec.suspend == Some(true) {
            return Ok(None);
        }
        let schedule = match Schedule::new(&spec.schedule, spec.time_zone.as_deref()) {
            Ok(schedule) => schedule,
            Err(problem) => {
                self.env.recorder.warning(cron, problem.reason, problem.message);
                return Ok(None);
            }
        };
        let now = Timestamp::now();
        let created = cron.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
        let status = cron.status.get_or_insert_default();
        let since = status.last_schedule_time.as_ref().map_or(created, |time| time.0);
        let Due { latest, missed } = schedule.due(since, spec.starting_deadline_seconds, now);
        let again = schedule.next(now).map(|at| between(now, at) + Duration::from_millis(100));
        let Some(latest) = latest else { return Ok(again) };
        let active = status.active.clone().unwrap_or_default();
        if missed > 100 {
            let message =
                "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.env.recorder.warning(cron, "TooManyMissedTimes", message);
        }
        if spec.starting_deadline_seconds.is_some_and(|limit| now.as_second() - latest.as_second() > limit) {
            let message = format!("Missed scheduled time to start a job: {latest}");
            self.env.recorder.warning(cron, "MissSchedule", message);
            return Ok(again);
        }
        match spec.concurrency_policy.as_deref() {
            Some("Forbid") if !active.is_empty() => {
                let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
                self.env.recorder.normal(cron, "JobAlreadyActive", message);
                return Ok(again);
            }
            Some("Replace") => {
                for job in &active {
                    let (name, uid) = (job.name.as_deref().unwrap_or_default(), job.uid.as_deref().unwrap_or_default());
                    self.delete(cron, name, uid).await?;
                }
                cron.status.get_or_insert_default().active = None;
            }
            _ => {}
        }
        self.create(cron, jobs, latest).await?;
        Ok(again)
    }

    async fn create(&self, cron: &mut CronJob, jobs: &[Job], at: Timestamp) -> Result<(), Error> {
        let job = job_for(cron, at);
        let api = self.env.api::<Job>(cron.namespace());
        let made = match api.create(&Default::default(), &job).await.map_err(Error::from) {
            Ok(made) => {
                self.env.recorder.normal(cron, "SuccessfulCreate", format!("Created job {}", made.name()));
                made
            }
            Err(error) if error.is_namespace_terminating() => return Ok(()),
            // It was made before, and only its note in the status is missing.
            Err(error) if error.is_already_exists() => match jobs.iter().find(|known| known.name() == job.name()) {
                Some(known) => known.clone(),
                None => api.get(job.name()).await?,
            },
            Err(error) => {
                let message = format!("Error creating job: {}", error.message());
                self.env.recorder.warning(cron, "FailedCreate", message);
                return Err(error);
            }
        };
        let status = cron.status.get_or_insert_default();
        status.last_schedule_time = Some(Time(at));
        let active = status.active.get_or_insert_default();
        if !is_finished(&made) && !active.iter().any(|known| known.uid.as_deref() == Some(made.uid())) {
            active.push(reference(&made));
        }
        Ok(())
    }
}

fn reference(job: &Job) -> ObjectReference {
    events::reference(job)
}

/// The Job for a time of the schedule; its name is made of the time, so that it is made once.
fn job_for(cron: &CronJob, at: Timestamp) -> Job {
    let spec = cron.spec.clone();
    let template = spec.job_template;
    let meta = template.metadata.unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED_AT.to_owned(), schedule::local(at, spec.time_zone.as_deref()));
    Job {
        metadata: ObjectMeta {
            name: Some(format!("{}-{}", cron.name(), at.as_second() / 60)),
            namespace: Some(cron.namespace().to_owned()),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(cron)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}
