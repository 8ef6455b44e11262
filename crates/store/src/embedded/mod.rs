//! The embedded backend: one writer thread that turns waiting transactions into one batch and one sync to disk.

mod batch;
mod directory;
mod disk;
mod journal;
mod queue;

use std::{path::Path, sync::Arc, thread::JoinHandle};

use futures::{FutureExt, future::BoxFuture};

pub use directory::OpenError;

use crate::{Backend, Committed, Error, Event, Feed, Txn};
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
            move || batch::run(durable, &queue, &feed)
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
        async move { reply.await.unwrap_or(Err(Error::Closed)) }.boxed()
    }

    fn current(&self) -> BoxFuture<'_, Result<u64, Error>> {
        std::future::ready(Ok(self.feed.revision())).boxed()
    }
}
