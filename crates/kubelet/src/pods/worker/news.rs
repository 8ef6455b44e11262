//! What a worker makes of news: of its pod's object, of probes, and of what its own jobs brought.

use jiff::Timestamp;

use super::{Done, Input, RETRY, RETRY_VOLUMES, SHOW_PULL_ERROR, Worker, as_value};
use crate::pods::backoff::MAXIMUM;
use crate::pods::memory::{ImageStep, Present, Reason, Step};
use crate::pods::pod::Pod;
use crate::probes::{self, Finding};
use crate::volumes::Prepared;

impl Worker {
    /// Takes news in; true if the runtime is to be looked at.
    pub(super) fn take(&mut self, input: Input) -> bool {
        match input {
            Input::Runtime => return true,
            Input::Vanished => self.memory.vanished = true,
            Input::Objects => {
                self.refresh();
                self.retry_configs();
            }
            Input::Desired(pod) => {
                let shown = |p: &Pod| (p.object.metadata.labels.clone(), p.object.metadata.annotations.clone());
                let changed = shown(&self.pod) != shown(&pod);
                let version = pod.object.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0);
                if version >= self.told_at && !self.patching {
                    self.told = as_value(&pod.status().cloned().unwrap_or_default());
                }
                self.desire(pod);
                if changed {
                    self.refresh();
                    self.retry_configs();
                }
            }
            Input::Mirror(object) => self.mirrored(object),
            Input::Probe(finding) => self.probed(finding),
            Input::Evict(eviction) if self.memory.failure.is_none() => {
                self.memory.failure = Some(eviction.failure);
                self.memory.disruption = eviction.disruption;
                self.memory.grace_max = Some(eviction.grace);
            }
            Input::Evict(_) => {}
        }
        false
    }

    /// What a container's configuration lacked may be there now.
    fn retry_configs(&mut self) {
        for starts in self.memory.containers.values_mut() {
            if starts.waiting.as_ref().is_some_and(|w| w.reason == "CreateContainerConfigError") {
                starts.retry_at = None;
            }
        }
    }

    fn probed(&mut self, finding: Finding) {
        let found = &mut self.memory.starts(&finding.container).findings;
        if found.id != finding.id {
            return;
        }
        match (finding.kind, finding.success) {
            (probes::Kind::Startup, true) => found.started = true,
            (probes::Kind::Readiness, ready) => found.ready = ready,
            (_, true) => {}
            (kind, false) => found.failed = Some((format!("{} probe", kind.name().to_lowercase()), finding.grace)),
        }
    }

    /// Takes a job's outcome in; true if the runtime is to be looked at.
    pub(super) fn finish_job(&mut self, done: Result<Done, tokio::task::JoinError>) -> bool {
        let now = Timestamp::now();
        let done = match done {
            Ok(done) => done,
            Err(error) => {
                tracing::error!(pod = self.pod.display(), %error, "a job of the pod's worker failed");
                return true;
            }
        };
        match done {
            Done::Volumes(outcome) => self.volumes_done(outcome, now),
            Done::Sandbox(Ok(())) => {
                self.memory.sandbox = Step::Done;
                return true;
            }
            Done::Sandbox(Err(message)) => {
                self.memory.sandbox = Step::Failed { message, retry_at: now + RETRY };
                return true;
            }
            Done::Image { container, image, outcome } => {
                // The answer about an image that is not asked for any more says nothing.
                if image == self.pod.member(&container).and_then(|m| m.spec.image.clone()) {
                    self.image_done(&container, outcome, now);
                }
            }
            Done::Started { container, outcome } => {
                self.starting.remove(&container);
                let starts = self.memory.starts(&container);
                starts.starting = false;
                starts.image = ImageStep::Todo;
                match outcome {
                    Ok(()) => (starts.waiting, starts.retry_at) = (None, None),
                    Err(failed) => {
                        starts.waiting = Some(failed.why);
                        starts.retry_at = (!failed.ended).then(|| now + RETRY);
                    }
                }
                return true;
            }
            Done::Stopped(id) => {
                self.memory.stopping.remove(&id);
                self.deadlines.remove(&id);
                return true;
            }
            Done::Hooked(id) => {
                self.memory.hooking.remove(&id);
            }
            Done::Resized(outcome) => {
                self.resized(outcome);
                return true;
            }
            Done::Mirrored(done) => self.mirror.made(done),
            Done::SandboxStopped => {
                self.memory.sandbox_stopping = false;
                return true;
            }
            Done::Pruned => {
                self.pruning = false;
                return true;
            }
            Done::TornDown(done) => {
                self.memory.tearing_down = false;
                self.memory.torn_down = done;
            }
            Done::Finished(done) => {
                self.memory.removing = done;
                self.finished = done;
                self.context.release(&self.pod.uid);
            }
            Done::Patched { told, outcome } => {
                self.patching = false;
                match outcome {
                    Ok(version) => (self.told, self.told_at) = (told, version),
                    // The object is gone; its disappearance is on its way here.
                    Err(false) => self.told = told,
                    Err(true) => {}
                }
            }
        }
        false
    }

    fn volumes_done(&mut self, outcome: Result<Prepared, String>, now: Timestamp) {
        let refreshed = std::mem::take(&mut self.refreshing);
        match outcome {
            Ok(prepared) => {
                self.volumes = prepared;
                self.memory.volumes = Step::Done;
            }
            Err(_) if self.memory.stop_began.is_some() => self.memory.volumes = Step::Todo,
            Err(message) => {
                self.context.warn(&self.pod, None, "FailedMount", message.clone());
                if refreshed {
                    // The pod goes on with what it has.
                    self.volumes.refresh_at = Some(now + RETRY);
                } else {
                    self.memory.volumes = Step::Failed { message, retry_at: now + RETRY_VOLUMES };
                }
            }
        }
        if std::mem::take(&mut self.stale) {
            self.refresh();
        }
    }

    fn image_done(&mut self, container: &str, outcome: Option<Result<Present, Reason>>, now: Timestamp) {
        let starts = self.memory.starts(container);
        match outcome {
            None => starts.image = ImageStep::Todo,
            Some(Ok(present)) => {
                starts.image = ImageStep::Present(present);
                if starts.waiting.as_ref().is_some_and(|w| w.reason.contains("Image")) {
                    starts.waiting = None;
                }
            }
            Some(Err(why)) => {
                starts.image_backoff.next(now, MAXIMUM);
                let retry_at = now + starts.image_backoff.delay();
                starts.image = ImageStep::Failed { turn_at: now + SHOW_PULL_ERROR, retry_at };
                starts.waiting = Some(why);
            }
        }
    }
}
