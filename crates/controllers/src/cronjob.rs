//! CronJobs: Jobs at the times of a schedule.

mod cron;
mod decide;
mod schedule;

use std::sync::Arc;

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
    frame::{Env, Error, Loop, Synced},
    job::is_finished,
    owner::{Named, controller_reference},
};
use decide::{Decision, Outcome};
use schedule::Schedule;

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
        let before = cron.status.clone();
        self.account(&mut cron, &jobs).await?;
        let started = if cron.is_deleting() { Ok(None) } else { self.start(&mut cron).await };
        let cleaned = self.clean_up(&cron, &jobs).await;
        if cron.status != before {
            self.env.replace_status(&cron).await?;
        }
        cleaned?;
        started
    }

    /// Brings the list of active Jobs up to date.
    async fn account(&self, cron: &mut CronJob, jobs: &[Job]) -> Result<(), Error> {
        let mut account = decide::account(cron, jobs);
        if !account.unexpected.is_empty() {
            // The cache of CronJobs may be behind that of Jobs: only the server knows what was noted.
            if let Some(fresh) = self.env.api::<CronJob>(cron.namespace()).get_opt(cron.name()).await?
                && fresh.uid() == cron.uid()
            {
                *cron = fresh;
                account = decide::account(cron, jobs);
            }
        }
        for name in &account.unexpected {
            let message = format!("Saw a job that the controller did not create or forgot: {name}");
            self.env.recorder.warning(cron, "UnexpectedJob", message);
        }
        for (name, word) in &account.ended {
            let message = format!("Saw completed job: {name}, condition: {word}");
            self.env.recorder.normal(cron, "SawCompletedJob", message);
        }
        for job in account.missing {
            let (name, uid) = (job.name.as_deref().unwrap_or_default(), job.uid.as_deref());
            // The cache may have yet to show it.
            let live = self.env.api::<Job>(cron.namespace()).get_opt(name).await?;
            if live.is_some_and(|live| Some(live.uid()) == uid) {
                account.active.push(job);
            } else {
                self.env.recorder.normal(cron, "MissingJob", format!("Active job went missing: {name}"));
            }
        }
        let status = cron.status.get_or_insert_default();
        status.active = (!account.active.is_empty()).then_some(account.active);
        status.last_successful_time = account.last_successful;
        Ok(())
    }

    async fn clean_up(&self, cron: &CronJob, jobs: &[Job]) -> Result<(), Error> {
        for job in decide::surplus(cron, jobs) {
            self.delete(cron, job.name(), job.uid()).await?;
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
    async fn start(&self, cron: &mut CronJob) -> Synced {
        let zone = cron.spec.time_zone.clone();
        let schedule = match Schedule::new(&cron.spec.schedule, zone.as_deref()) {
            Ok(_) if cron.spec.suspend == Some(true) => return Ok(None),
            Ok(schedule) => schedule,
            Err(problem) => {
                self.env.recorder.warning(cron, problem.reason, problem.message);
                return Ok(None);
            }
        };
        let Decision { outcome, many_missed, again } = decide::decide(cron, &schedule, Timestamp::now());
        if many_missed {
            let message =
                "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.env.recorder.warning(cron, "TooManyMissedTimes", message);
        }
        match outcome {
            Outcome::Wait => {}
            Outcome::TooLate(at) => {
                let at = at.strftime("%a, %d %b %Y %H:%M:%S +0000");
                let message = format!("Missed scheduled time to start a job: {at}");
                self.env.recorder.warning(cron, "MissSchedule", message);
            }
            Outcome::Occupied => {
                let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
                self.env.recorder.normal(cron, "JobAlreadyActive", message);
            }
            Outcome::Start(at, replaced) => {
                for job in &replaced {
                    let (name, uid) = (job.name.as_deref().unwrap_or_default(), job.uid.as_deref().unwrap_or_default());
                    self.delete(cron, name, uid).await?;
                    let active = &mut cron.status.get_or_insert_default().active;
                    active.iter_mut().for_each(|all| all.retain(|known| known.uid != job.uid));
                }
                self.create(cron, at).await?;
            }
        }
        Ok(again)
    }

    async fn create(&self, cron: &mut CronJob, at: Timestamp) -> Result<(), Error> {
        let job = job_for(cron, at);
        let api = self.env.api::<Job>(cron.namespace());
        let made = match api.create(&Default::default(), &job).await.map_err(Error::from) {
            Ok(made) => {
                self.env.recorder.normal(cron, "SuccessfulCreate", format!("Created job {}", made.name()));
                made
            }
            Err(error) if error.is_namespace_terminating() => return Ok(()),
            // It was made before, and only its note in the status is missing; or it is somebody else's.
            Err(error) if error.is_already_exists() => {
                let known = api.get(job.name()).await?;
                let ours = crate::owner::controller_of(&known.metadata).is_some_and(|owner| owner.uid == cron.uid());
                if !ours {
                    return Ok(());
                }
                known
            }
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
            name: Some(decide::job_name(cron, at)),
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
