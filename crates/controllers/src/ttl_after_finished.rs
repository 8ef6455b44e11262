//! Jobs that ended some time ago and may go.

use client::{Cache, Key};
use k8s_openapi::{
    api::batch::v1::Job,
    jiff::{SignedDuration, Timestamp},
};
use kube::api::DeleteParams;

use crate::{
    frame::{Env, Loop, Synced, between},
    job,
    owner::Named,
};

/// Runs the controller of finished Jobs.
pub(crate) async fn run(env: Env) {
    let jobs: Cache<Job> = env.caches.get();
    let sync = async |key: Key| -> Synced {
        let Some(job) = jobs.read(&key.namespace, &key.name) else { return Ok(None) };
        let Some(until) = expiry(&job).filter(|_| !job.is_deleting()) else { return Ok(None) };
        let wait = between(Timestamp::now(), until);
        if !wait.is_zero() {
            return Ok(Some(wait));
        }
        // The TTL may have been changed meanwhile.
        let fresh = env.api::<Job>(&key.namespace).get_opt(&key.name).await?;
        if fresh.as_ref().and_then(expiry).is_some_and(|until| until <= Timestamp::now()) {
            env.delete::<Job>(&key.namespace, &key.name, job.uid(), DeleteParams::foreground()).await?;
        }
        Ok(None)
    };
    Loop::new().on_self(&jobs).run(&env, 2, sync).await;
}

/// When a finished Job may go, if it is to go by itself.
fn expiry(job: &Job) -> Option<Timestamp> {
    let seconds = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let conditions = job.status.as_ref()?.conditions.iter().flatten();
    let mut ends =
        conditions.filter(|end| ["Complete", "Failed"].contains(&end.type_.as_str()) && end.status == "True");
    let ended = ends.next()?.last_transition_time.as_ref()?.0;
    debug_assert!(job::is_finished(job));
    ended.checked_add(SignedDuration::from_secs(seconds.into())).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_job_goes_so_long_after_its_end() {
        let cases = [
            (json!(60), "Complete", "True", Some("2026-01-01T00:01:00Z")),
            (json!(0), "Failed", "True", Some("2026-01-01T00:00:00Z")),
            (json!(60), "Complete", "False", None),
            (json!(60), "Suspended", "True", None),
            (json!(null), "Complete", "True", None),
        ];
        for (ttl, kind, status, expected) in cases {
            let end = json!({"type": kind, "status": status, "lastTransitionTime": "2026-01-01T00:00:00Z"});
            let job =
                json!({"spec": {"ttlSecondsAfterFinished": ttl, "template": {}}, "status": {"conditions": [end]}});
            let at = expiry(&serde_json::from_value(job).unwrap());
            assert_eq!(at.map(|at| at.to_string()).as_deref(), expected, "{ttl} {kind} {status}");
        }
    }
}
