//! The transactions that wait for the writer.

use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::{Committed, Error, Txn};

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
}

#[derive(Default)]
struct Waiting {
    requests: Vec<Request>,
    closed: bool,
}

impl Queue {
    /// Adds a transaction. The receiver gets an error when the queue is or becomes closed before its turn.
    pub(super) fn push(&self, txn: Txn) -> oneshot::Receiver<Reply> {
        let (reply, receiver) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        if !waiting.closed {
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
