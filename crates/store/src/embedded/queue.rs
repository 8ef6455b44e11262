//! The transactions that wait for the writer.

use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::{Committed, Error, Stats, Txn};

pub(super) type Reply = Result<Committed, Error>;

/// A transaction and whoever waits for its outcome.
pub(super) struct Request {
    pub(super) txn: Txn,
    pub(super) reply: oneshot::Sender<Reply>,
}

#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    pushed: Condvar,
    pub(super) stats: Mutex<Stats>,
}

#[derive(Default)]
struct Waiting {
    requests: Vec<Request>,
    closed: bool,
    /// Why there is no writer any more, where that was a defect.
    failed: Option<String>,
}

impl Queue {
    /// Adds a transaction. The receiver gets an error when the queue is or becomes closed before its turn.
    pub(super) fn push(&self, txn: Txn) -> oneshot::Receiver<Reply> {
        let (reply, receiver) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        if let Some(why) = &waiting.failed {
            // The receiver is at hand, so this arrives.
            _ = reply.send(Err(Error::Failed(why.clone())));
        } else if !waiting.closed {
            waiting.requests.push(Request { txn, reply });
            self.pushed.notify_one();
        }
        receiver
    }

    /// Ends the writer once it has done what is waiting.
    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.pushed.notify_one();
    }

    /// Refuses everything from now on, and what is waiting: the writer has ended by a defect.
    pub(super) fn fail(&self, why: &str) {
        let mut waiting = self.waiting.lock();
        waiting.failed = Some(why.to_owned());
        for request in std::mem::take(&mut waiting.requests) {
            _ = request.reply.send(Err(Error::Failed(why.to_owned())));
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.waiting.lock().closed
    }

    pub(super) fn has_failed(&self) -> bool {
        self.waiting.lock().failed.is_some()
    }

    /// Everything that is waiting, as soon as that is something or the time has come; `None` at the end.
    pub(super) fn take(&self, until: Option<Instant>) -> Option<Vec<Request>> {
        let mut waiting = self.waiting.lock();
        while waiting.requests.is_empty() {
            if waiting.closed {
                return None;
            }
            match until {
                None => self.pushed.wait(&mut waiting),
                Some(until) if self.pushed.wait_until(&mut waiting, until).timed_out() => break,
                Some(_) => {}
            }
        }
        Some(std::mem::take(&mut waiting.requests))
    }
}
