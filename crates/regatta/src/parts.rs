//! What becomes of a part that ends by a defect: it is started again, or, where that cannot be, the process ends and says so.

use std::future::Future;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a part that has failed waits for its next start, the first time and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The parts of the process. Clones share.
#[derive(Clone)]
pub struct Parts {
    tasks: TaskTracker,
    shutdown: CancellationToken,
    failed: mpsc::UnboundedSender<String>,
}

impl Parts {
    /// No part yet; the receiver is told why the process must end.
    pub fn new(shutdown: CancellationToken) -> (Parts, mpsc::UnboundedReceiver<String>) {
        let (failed, failures) = mpsc::unbounded_channel();
        (Parts { tasks: TaskTracker::new(), shutdown, failed }, failures)
    }

    /// Runs a part until the shutdown, also when it ends before: each start makes it anew.
    pub fn keep<F>(&self, name: &'static str, mut start: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            let mut pause = PAUSE.0;
            loop {
                // A task of its own, so that its panic ends nothing else.
                let ended = tokio::spawn(shutdown.clone().run_until_cancelled_owned(start())).await;
                if shutdown.is_cancelled() {
                    return;
                }
                tracing::error!(
                    part = name,
                    reason = reason(ended.map(drop)),
                    "a part has failed, it is started again"
                );
                if shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                    return;
                }
                pause = (pause * 2).min(PAUSE.1);
            }
        });
    }

    /// Runs a part until the shutdown; the process ends where it ends before.
    pub fn need(&self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        let (shutdown, failed) = (self.shutdown.clone(), self.failed.clone());
        self.tasks.spawn(async move {
            let ended = tokio::spawn(shutdown.clone().run_until_cancelled_owned(part)).await;
            if !shutdown.is_cancelled() {
                // Nobody listens any more where the process is ending.
                let _ = failed.send(format!("{name} has failed: {}", reason(ended.map(drop))));
            }
        });
    }

    /// Ends the process.
    pub fn fail(&self, why: String) {
        let _ = self.failed.send(why);
    }

    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// For what ends by itself.
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }
}

fn reason(ended: Result<(), JoinError>) -> String {
    match ended.map_err(JoinError::try_into_panic) {
        Ok(()) => "it ended by itself".to_owned(),
        Err(Ok(panic)) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            format!("panic: {}", text.unwrap_or("unknown"))
        }
        Err(Err(_)) => "it was cancelled".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn a_part_that_panics_is_started_again_until_the_shutdown() {
        let shutdown = CancellationToken::new();
        let (parts, _failures) = Parts::new(shutdown.clone());
        let starts = Arc::new(AtomicUsize::new(0));
        let (counted, (reached, mut third)) = (starts.clone(), mpsc::unbounded_channel());
        parts.keep("fragile", move || {
            let (start, reached) = (counted.fetch_add(1, Ordering::Relaxed), reached.clone());
            async move {
                match start {
                    0 => panic!("a defect"),
                    1 => {}
                    _ => {
                        reached.send(()).expect("heard");
                        std::future::pending().await
                    }
                }
            }
        });
        third.recv().await.expect("a third start");
        shutdown.cancel();
        parts.tasks.close();
        parts.tasks.wait().await;
        assert_eq!(starts.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn a_part_that_cannot_be_started_again_ends_the_process_with_its_name() {
        let (parts, mut failures) = Parts::new(CancellationToken::new());
        parts.need("the door", async { panic!("a defect") });
        assert_eq!(failures.recv().await.expect("told"), "the door has failed: panic: a defect");
        parts.shutdown.cancel();
        parts.need("another", async {});
        parts.tasks.close();
        parts.tasks.wait().await;
        assert!(failures.try_recv().is_err(), "an end at the shutdown is none");
    }
}
