//! What a CronJob does next. Functions of values.

use std::time::Duration;

use k8s_openapi::{
    api::{
        batch::v1::{CronJob, Job},
        core::v1::ObjectReference,
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};

use super::schedule::{Due, Schedule};
use crate::{condition, frame::between, job::is_finished, owner::Named};

/// More missed times than this are worth a warning.
const MANY: usize = 100;

/// How the list of active Jobs compares with the Jobs that there are.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Account {
    /// Those of the list that are still at work.
    pub active: Vec<ObjectReference>,
    /// Names of those of the list that ended, and how.
    pub ended: Vec<(String, &'static str)>,
    /// Those of the list that are not to be seen.
    pub missing: Vec<ObjectReference>,
    /// Names of those at work that the list does not have: somebody else made them, or we did and could not note it.
    pub unexpected: Vec<String>,
    pub last_successful: Option<Time>,
}

/// Compares the list of a CronJob's status with its Jobs. What is not in the list stays out of it: it has neither a part in
/// the concurrency policy nor is it replaced.
pub(super) fn account(cron: &CronJob, jobs: &[Job]) -> Account {
    let status = cron.status.clone().unwrap_or_default();
    let mut account = Account { last_successful: status.last_successful_time, ..Account::default() };
    let listed = status.active.unwrap_or_default();
    for known in &listed {
        match jobs.iter().find(|job| known.uid.as_deref() == Some(job.uid())) {
            None => account.missing.push(known.clone()),
            Some(job) if is_finished(job) => {
                let word = if is(job, "Complete") { "Complete" } else { "Failed" };
                account.ended.push((job.name().to_owned(), word));
            }
            Some(_) => account.active.push(known.clone()),
        }
    }
    for job in jobs {
        let is_listed = listed.iter().any(|known| known.uid.as_deref() == Some(job.uid()));
        if !is_listed && !is_finished(job) {
            account.unexpected.push(job.name().to_owned());
        }
        let completion = job.status.as_ref().filter(|_| is(job, "Complete"));
        let completion = completion.and_then(|status| status.completion_time.clone());
        let last = account.last_successful.as_ref();
        if completion.as_ref().is_some_and(|at| last.is_none_or(|last| at.0 > last.0)) {
            account.last_successful = completion;
        }
    }
    account
}

/// Whether a Job has a condition.
pub(super) fn is(job: &Job, kind: &str) -> bool {
    job.status.as_ref().is_some_and(|status| condition::is_true(&status.conditions, kind))
}

/// What there is to do for a time of the schedule.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    /// It is not yet time.
    Wait,
    /// It is long past, by the starting deadline.
    TooLate(Timestamp),
    /// Another Job is at work, and the policy allows no two.
    Occupied,
    /// A Job starts, after these are deleted.
    Start(Timestamp, Vec<ObjectReference>),
}

#[derive(Debug, PartialEq)]
pub(super) struct Decision {
    pub outcome: Outcome,
    /// Whether so many times were missed that the user should hear of it.
    pub many_missed: bool,
    /// When the next time is due.
    pub again: Option<Duration>,
}

pub(super) fn decide(cron: &CronJob, schedule: &Schedule, now: Timestamp) -> Decision {
    let status = cron.status.clone().unwrap_or_default();
    let created = cron.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    let since = status.last_schedule_time.as_ref().map_or(created, |time| time.0);
    let deadline = cron.spec.starting_deadline_seconds;
    let Due { latest, missed } = schedule.due(since, deadline, now);
    let again = schedule.next(now).map(|at| between(now, at) + Duration::from_millis(100));
    let active = status.active.unwrap_or_default();
    let is_listed = |at: Timestamp| active.iter().any(|job| job.name.as_deref() == Some(&*job_name(cron, at)));
    let policy = cron.spec.concurrency_policy.as_deref();
    let outcome = match latest {
        None => Outcome::Wait,
        Some(at) if deadline.is_some_and(|limit| now.as_second() - at.as_second() > limit) => Outcome::TooLate(at),
        Some(at) if is_listed(at) => Outcome::Wait,
        Some(_) if policy == Some("Forbid") && !active.is_empty() => Outcome::Occupied,
        Some(at) if policy == Some("Replace") => Outcome::Start(at, active),
        Some(at) => Outcome::Start(at, Vec::new()),
    };
    Decision { many_missed: missed > MANY, outcome, again }
}

/// The name of the Job for a time, by which it is made once.
pub(super) fn job_name(cron: &CronJob, at: Timestamp) -> String {
    format!("{}-{}", cron.name(), at.as_second() / 60)
}

/// Finished Jobs beyond the histories' limits, the oldest first.
pub(super) fn surplus<'a>(cron: &CronJob, jobs: &'a [Job]) -> Vec<&'a Job> {
    let limits = [
        ("Complete", cron.spec.successful_jobs_history_limit.unwrap_or(3)),
        ("Failed", cron.spec.failed_jobs_history_limit.unwrap_or(1)),
    ];
    let of = |(kind, limit): (&str, i32)| {
        let mut ended: Vec<&Job> = jobs.iter().filter(|job| is(job, kind) && !job.is_deleting()).collect();
        let start = |job: &Job| job.status.as_ref().and_then(|status| status.start_time.as_ref().map(|time| time.0));
        ended.sort_by(|a, b| (start(a), a.name()).cmp(&(start(b), b.name())));
        let excess = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        ended.truncate(excess);
        ended
    };
    limits.into_iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn cron(spec: Value, status: Value) -> CronJob {
        let mut cron = json!({"metadata": {"name": "c", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"schedule": "*/10 * * * *", "jobTemplate": {}}, "status": status});
        cron["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(cron).unwrap()
    }

    /// A Job from `name:Complete@00:05`, by its end and the minute of its start and end; without an end it is at work.
    fn job(text: &str) -> Job {
        let (name, end) = text.split_once(':').unwrap();
        let mut job = json!({"metadata": {"name": name, "uid": name}});
        if let Some((end, at)) = end.split_once('@') {
            let at = format!("2026-01-01T{at}:00Z");
            job["status"] = json!({"startTime": at, "conditions": [{"type": end, "status": "True"}]});
            if end == "Complete" {
                job["status"]["completionTime"] = at.into();
            }
        }
        serde_json::from_value(job).unwrap()
    }

    fn jobs(text: &str) -> Vec<Job> {
        text.split_whitespace().map(job).collect()
    }

    fn listed(names: &str) -> Value {
        names.split_whitespace().map(|name| json!({"name": name, "uid": name})).collect()
    }

    #[test]
    fn a_job_starts_when_its_time_has_come_and_the_policy_allows() {
        // The times' minutes since 1970: 29453760 is that of the beginning of 2026.
        let name = |minute: i64| format!("c-{}", 29_453_760 + minute);
        let cases = [
            // Specification, last time, active Jobs, now; what is done, and how many seconds until the next time.
            (json!({}), None, "", "00:05:00", "wait", 300),
            (json!({}), None, "", "00:10:00", "start 00:10:00", 600),
            (json!({}), Some("00:10:00"), "", "00:10:30", "wait", 570),
            (json!({}), Some("00:10:00"), "", "00:41:00", "start 00:40:00", 540),
            (json!({}), Some("00:10:00"), "a b", "00:20:00", "start 00:20:00", 600),
            (json!({"concurrencyPolicy": "Allow"}), Some("00:10:00"), "a", "00:20:00", "start 00:20:00", 600),
            (json!({"concurrencyPolicy": "Forbid"}), Some("00:10:00"), "", "00:20:00", "start 00:20:00", 600),
            (json!({"concurrencyPolicy": "Forbid"}), Some("00:10:00"), "a", "00:20:00", "occupied", 600),
            (json!({"concurrencyPolicy": "Replace"}), Some("00:10:00"), "a b", "00:20:00", "start 00:20:00 -a -b", 600),
            (json!({"startingDeadlineSeconds": 60}), Some("00:10:00"), "", "00:20:30", "start 00:20:00", 570),
            (json!({"startingDeadlineSeconds": 60}), Some("00:10:00"), "", "00:22:00", "wait", 480),
            (json!({}), Some("00:10:00"), &name(20), "00:20:00", "wait", 600),
        ];
        let at = |text: &str| format!("2026-01-01T{text}Z").parse::<Timestamp>().unwrap();
        for (spec, last, active, now, expected, again) in cases {
            let last = last.map(|last| format!("2026-01-01T{last}Z"));
            let cron = cron(spec.clone(), json!({"lastScheduleTime": last, "active": listed(active)}));
            let schedule = Schedule::new(&cron.spec.schedule, None).unwrap();
            let decision = decide(&cron, &schedule, at(now));
            let told = match decision.outcome {
                Outcome::Wait => "wait".to_owned(),
                Outcome::TooLate(at) => format!("too late {at}"),
                Outcome::Occupied => "occupied".to_owned(),
                Outcome::Start(at, replaced) => {
                    let replaced = replaced.iter().map(|job| format!(" -{}", job.name.as_deref().unwrap()));
                    format!("start {}{}", at.strftime("%H:%M:%S"), replaced.collect::<String>())
                }
            };
            assert_eq!(told, expected, "{spec} {last:?} {active} {now}");
            assert_eq!(decision.again.map(|wait| wait.as_secs()), Some(again), "{spec} {now}");
            assert!(!decision.many_missed);
        }
    }

    #[test]
    fn of_many_missed_times_the_last_is_made_up_for_and_the_user_hears_of_it() {
        let cron = cron(json!({}), json!({}));
        let schedule = Schedule::new(&cron.spec.schedule, None).unwrap();
        let decision = decide(&cron, &schedule, "2026-01-03T00:01:00Z".parse().unwrap());
        assert!(decision.many_missed);
        assert_eq!(decision.outcome, Outcome::Start("2026-01-03T00:00:00Z".parse().unwrap(), Vec::new()));
    }

    #[test]
    fn the_list_of_active_jobs_loses_what_ended_and_gains_nothing() {
        let cases = [
            // Listed, Jobs; still active, ended, missing, unexpected, the last success.
            ("a b", "a: b:", "a b", "", "", "", None),
            ("a b", "a:Complete@00:05 b:Failed@00:06", "", "a Complete b Failed", "", "", Some("00:05")),
            ("a", "", "", "", "a", "", None),
            ("", "manual:", "", "", "", "manual", None),
            ("", "manual:Complete@00:07 old:Complete@00:03", "", "", "", "", Some("00:07")),
            ("a", "a: old:Failed@00:09", "a", "", "", "", None),
        ];
        for (list, text, active, ended, missing, unexpected, last) in cases {
            let made = account(&cron(json!({}), json!({"active": listed(list)})), &jobs(text));
            let names =
                |all: &[ObjectReference]| all.iter().map(|job| job.name.clone().unwrap()).collect::<Vec<_>>().join(" ");
            let ends: Vec<String> = made.ended.iter().map(|(name, word)| format!("{name} {word}")).collect();
            assert_eq!(names(&made.active), active, "{list} {text}");
            assert_eq!(ends.join(" "), ended, "{list} {text}");
            assert_eq!(names(&made.missing), missing, "{list} {text}");
            assert_eq!(made.unexpected.join(" "), unexpected, "{list} {text}");
            let shown = made.last_successful.map(|time| time.0.strftime("%H:%M").to_string());
            assert_eq!(shown.as_deref(), last, "{list} {text}");
        }
    }

    #[test]
    fn histories_keep_the_youngest() {
        let all = "a:Complete@00:01 b:Complete@00:02 c:Complete@00:03 d:Failed@00:01 e:Failed@00:02 f:";
        let cases = [
            (json!({}), "d"),
            (json!({"successfulJobsHistoryLimit": 1}), "a b d"),
            (json!({"successfulJobsHistoryLimit": 0, "failedJobsHistoryLimit": 0}), "a b c d e"),
        ];
        for (spec, expected) in cases {
            let all = jobs(all);
            let gone: Vec<&str> = surplus(&cron(spec.clone(), json!({})), &all).iter().map(|job| job.name()).collect();
            assert_eq!(gone.join(" "), expected, "{spec}");
        }
    }
}
