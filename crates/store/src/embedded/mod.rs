//! The embedded backend: one writer thread that turns waiting transactions into one batch and one sync to disk.

mod batch;
mod directory;
mod disk;
mod journal;
mod queue;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
    thread::JoinHandle,
};

use futures::{FutureExt, future::BoxFuture};

pub use directory::OpenError;

use crate::{Backend, Committed, Error, Event, Feed, Stats, Txn};
use queue::Queue;

/// Makes batches durable. A batch that is refused has left no trace.
trait Durable: Send + 'static {
    /// Writes the changes, all or nothing, and returns when they would survive a power cut.
    fn write(&mut self, events: &[Event]) -> Result<(), String>;
}

/// Nothing is durable, for tests.
impl Durable for () {
    fn write(&mut self, _: &[Event]) -> Result<(), String> {
        Ok(())
    }
}

pub(crate) struct Embedded {
    feed: Feed,
    queue: Arc<Queue>,
    writer: Option<JoinHandle<()>>,
}

impl Embedded {
    pub(crate) fn memory(feed: Feed) -> Self {
        Self::start((), feed).expect("a thread can be started")
    }

    pub(crate) fn open(dir: &Path, feed: Feed) -> Result<Self, OpenError> {
        let disk = disk::Disk::open(dir, &feed)?;
        Self::start(disk, feed).map_err(|source| OpenError::Io { path: dir.into(), source })
    }

    fn start(durable: impl Durable, feed: Feed) -> std::io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let writer = std::thread::Builder::new().name("store".into()).spawn({
            let (queue, feed) = (queue.clone(), feed.clone());
            move || {
                let ended = catch_unwind(AssertUnwindSafe(|| batch::run(durable, &queue, &feed)));
                if let Err(panic) = ended {
                    let text = panic.downcast_ref::<String>().map(String::as_str);
                    let why = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("unknown");
                    tracing::error!(
                        panic = why,
                        "the store's writer has failed; nothing can be written until a restart"
                    );
                    queue.fail(why);
                }
            }
        })?;
        Ok(Self { feed, queue, writer: Some(writer) })
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has said so itself.
            _ = writer.join();
        }
    }
}

impl Backend for Embedded {
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Committed, Error>> {
        let reply = self.queue.push(txn);
        async move {
            // Nobody but a writer that fails drops a transaction of an open queue.
            let lost = || match self.queue.is_closed() {
                true => Error::Closed,
                false => Error::Failed("it took the transaction with it".into()),
            };
            reply.await.unwrap_or_else(|_| Err(lost()))
        }
        .boxed()
    }

    fn current(&self) -> BoxFuture<'_, Result<u64, Error>> {
        std::future::ready(Ok(self.feed.revision())).boxed()
    }

    fn stats(&self) -> Stats {
        *self.queue.stats.lock()
    }

    fn is_writable(&self) -> bool {
        !self.queue.has_failed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Op, Options, Store};

    struct Defective;

    impl Durable for Defective {
        fn write(&mut self, _: &[Event]) -> Result<(), String> {
            panic!("a defect")
        }
    }

    #[tokio::test]
    async fn a_writer_that_panics_is_named_and_reads_go_on() {
        let start = |feed| Embedded::start(Defective, feed).expect("a thread");
        let store = Store::with_backend(Options::default(), start);
        for _ in 0..2 {
            let txn = Txn { guards: Vec::new(), ops: vec![Op::put("/registry/pods/a", "x")] };
            let refused = store.commit(txn).await;
            assert!(matches!(refused, Err(Error::Failed(_))), "{refused:?}");
        }
        assert!(!store.is_writable() && store.get("/registry/pods/a").is_none());
    }
}
