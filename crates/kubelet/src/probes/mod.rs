//! Probes: what they ask, and how their answers add up to a finding.
//!
//! A running container has one task a probe. The startup probe goes first; the others begin when it has passed. A task speaks
//! to the pod's worker only when its finding changes.

pub mod check;
mod http;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::pods::pod::Pod;
pub use check::{Answer, Target};
pub use http::{Call, PLAIN_ANSWER, get};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        }
    }
}

/// A finding that changed.
#[derive(Clone, Debug)]
pub struct Finding {
    pub container: String,
    pub id: String,
    pub kind: Kind,
    pub success: bool,
    /// The probe's own grace period for a container that it condemns.
    pub grace: Option<i64>,
}

/// A probe's numbers, with upstream's defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub delay: Duration,
    pub period: Duration,
    pub timeout: Duration,
    pub successes: i32,
    pub failures: i32,
}

impl Settings {
    pub fn of(probe: &v1::Probe) -> Settings {
        let seconds = |s: Option<i32>, default: u64| {
            Duration::from_secs(s.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0).unwrap_or(default))
        };
        Settings {
            delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10),
            timeout: seconds(probe.timeout_seconds, 1),
            successes: probe.success_threshold.unwrap_or(1).max(1),
            failures: probe.failure_threshold.unwrap_or(3).max(1),
        }
    }
}

/// Counts answers in a row; a finding changes when its threshold is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    last: Option<bool>,
    run: i32,
    pub finding: Option<bool>,
}

impl Tally {
    /// The new finding, if this answer changes it.
    pub fn count(&mut self, success: bool, settings: &Settings) -> Option<bool> {
        self.run = if self.last == Some(success) { self.run + 1 } else { 1 };
        self.last = Some(success);
        let threshold = if success { settings.successes } else { settings.failures };
        if self.run < threshold || self.finding == Some(success) {
            return None;
        }
        self.finding = Some(success);
        self.finding
    }
}

/// The probes of one running container; dropping it ends them.
pub struct Probing {
    tasks: JoinSet<()>,
    pub id: String,
    calm: CancellationToken,
}

/// What a container's probes work on.
pub struct Subject {
    pub context: Arc<Context>,
    pub pod: Arc<Pod>,
    pub container: v1::Container,
    pub id: String,
    pub pod_ip: String,
    /// It has passed its startup probe already, before this kubelet began.
    pub started: bool,
    /// When the container started, from which delays count.
    pub since: Timestamp,
}

impl Probing {
    /// Starts the probes that the container has.
    pub fn start(subject: Subject, report: impl Fn(Finding) + Clone + Send + Sync + 'static) -> Probing {
        let mut tasks = JoinSet::new();
        let calm = CancellationToken::new();
        let id = subject.id.clone();
        let subject = Arc::new(subject);
        let container = &subject.container;
        let startup = container.startup_probe.clone().filter(|_| !subject.started);
        let after = [(Kind::Liveness, &container.liveness_probe), (Kind::Readiness, &container.readiness_probe)];
        let after: Vec<_> = after.into_iter().filter_map(|(kind, probe)| Some((kind, probe.clone()?))).collect();
        if startup.is_some() || !after.is_empty() {
            let (subject, stopping) = (subject.clone(), calm.clone());
            tasks.spawn(async move {
                let probe = async |kind: Kind, probe: &v1::Probe| {
                    let probing = probe_until(&subject, kind, probe, &report);
                    match kind {
                        Kind::Readiness => {
                            probing.await;
                            Some(())
                        }
                        Kind::Startup | Kind::Liveness => stopping.run_until_cancelled(probing).await,
                    }
                };
                if let Some(startup) = startup
                    && probe(Kind::Startup, &startup).await.is_none()
                {
                    return;
                }
                futures::future::join_all(after.iter().map(|(kind, settings)| probe(*kind, settings))).await;
            });
        }
        Probing { tasks, id, calm }
    }

    /// The container is being stopped: from now on only its readiness matters.
    pub fn calm(&self) {
        self.calm.cancel();
    }

    /// Whether there is anything to probe.
    pub fn is_idle(&self) -> bool {
        self.tasks.is_empty()
    }
}

/// Asks for as long as answers matter: a startup probe until it has passed, one that condemns the container until it has.
async fn probe_until(subject: &Subject, kind: Kind, probe: &v1::Probe, report: &impl Fn(Finding)) {
    let settings = Settings::of(probe);
    let mut tally = Tally::default();
    let passed = Timestamp::now().duration_since(subject.since).unsigned_abs();
    tokio::time::sleep(settings.delay.saturating_sub(passed)).await;
    let mut ticks = tokio::time::interval(settings.period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let target = Target {
            context: &subject.context,
            container: &subject.container,
            id: &subject.id,
            pod_ip: &subject.pod_ip,
        };
        let answer = check::run(&target, probe, settings.timeout).await;
        let told = match &answer {
            Answer::Success => None,
            Answer::Warning(message) => Some(("ProbeWarning", format!("{} probe warning: {message}", kind.name()))),
            Answer::Failure(message) => Some(("Unhealthy", format!("{} probe failed: {message}", kind.name()))),
        };
        if let Some((reason, message)) = told {
            subject.context.warn(&subject.pod, Some(&subject.container.name), reason, message);
        }
        let success = !matches!(answer, Answer::Failure(_));
        let result = if success { "successful" } else { "failed" };
        subject.context.count_probe(&subject.pod, &subject.container.name, kind.name(), result);
        let Some(success) = tally.count(success, &settings) else { continue };
        report(Finding {
            container: subject.container.name.clone(),
            id: subject.id.clone(),
            kind,
            success,
            grace: probe.termination_grace_period_seconds,
        });
        match (kind, success) {
            (Kind::Startup, true) => return,
            // The container is condemned.
            (Kind::Startup | Kind::Liveness, false) => std::future::pending::<()>().await,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_needs_its_threshold_of_answers_in_a_row() {
        let probe = v1::Probe { failure_threshold: Some(3), success_threshold: Some(2), ..Default::default() };
        let settings = Settings::of(&probe);
        let mut tally = Tally::default();
        let answers = [true, true, true, false, false, true, false, false, false, false, true, true];
        let findings: Vec<_> = answers.iter().map(|a| tally.count(*a, &settings)).collect();
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(findings, [None, yes, None, None, None, None, None, None, no, None, None, yes]);
    }
}
