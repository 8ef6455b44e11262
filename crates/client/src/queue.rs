//! Work queues: keys waiting to be reconciled.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, VecDeque},
    future::Future,
    hash::Hash,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::exponential,
    metrics::{self, QueueCounts},
};

/// The delay after an item's first failure; it doubles with each.
const FIRST_DELAY: Duration = Duration::from_millis(5);
const LONGEST_DELAY: Duration = Duration::from_secs(1000);

/// A queue that holds each item at most once and gives it to one worker at a time, as client-go's.
///
/// An item added while it waits is merged; added while a worker has it, it waits again after [`done`](Self::done).
/// Clones share. There is no background task: waiting workers keep the time.
pub struct WorkQueue<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Clone for WorkQueue<T> {
    fn clone(&self) -> WorkQueue<T> {
        WorkQueue { shared: self.shared.clone() }
    }
}

struct Shared<T> {
    state: Mutex<State<T>>,
    /// Tells one worker that an item is ready or that the earliest due time changed.
    notify: Notify,
    /// None where nobody named the queue.
    counts: Option<Arc<QueueCounts>>,
}

struct State<T> {
    ready: VecDeque<T>,
    /// Waiting in `ready`, or to be put there when its worker is done.
    dirty: HashSet<T>,
    processing: HashSet<T>,
    /// When an item becomes ready; what `due` says otherwise is out of date.
    delayed: HashMap<T, Instant>,
    due: BinaryHeap<Reverse<(Instant, u64)>>,
    tickets: HashMap<u64, T>,
    next_ticket: u64,
    failures: HashMap<T, u32>,
    closed: bool,
}

impl<T: Clone + Eq + Hash> Default for WorkQueue<T> {
    fn default() -> WorkQueue<T> {
        WorkQueue::new()
    }
}

tokio::task_local! {
    static NAME: String;
}

/// Runs a component; the queues that it makes count under its name.
pub async fn named<F: Future>(name: &str, component: F) -> F::Output {
    NAME.scope(name.to_owned(), component).await
}

impl<T: Clone + Eq + Hash> WorkQueue<T> {
    /// An empty queue, which counts under the name of the component that makes it, see [`named`].
    pub fn new() -> WorkQueue<T> {
        let counts = NAME.try_with(|name| metrics::queue(name)).ok();
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            processing: HashSet::new(),
            delayed: HashMap::new(),
            due: BinaryHeap::new(),
            tickets: HashMap::new(),
            next_ticket: 0,
            failures: HashMap::new(),
            closed: false,
        };
        WorkQueue { shared: Arc::new(Shared { state: Mutex::new(state), notify: Notify::new(), counts }) }
    }

    /// Makes an item ready now.
    pub fn add(&self, item: T) {
        self.count(|counts| counts.adds.fetch_add(1, Ordering::Relaxed));
        let mut state = self.shared.state.lock();
        if state.add(item) {
            self.count(|counts| counts.depth.store(state.ready.len() as i64, Ordering::Relaxed));
            drop(state);
            self.shared.notify.notify_one();
        }
    }

    fn count<R>(&self, count: impl FnOnce(&QueueCounts) -> R) {
        self.shared.counts.as_deref().map(count);
    }

    /// Makes an item ready after a delay. Of several delays the earliest counts; an earlier [`add`](Self::add) does not
    /// take it back.
    pub fn add_after(&self, item: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(item);
        }
        let at = Instant::now() + delay;
        let mut state = self.shared.state.lock();
        if state.closed || state.delayed.get(&item).is_some_and(|known| *known <= at) {
            return;
        }
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.delayed.insert(item.clone(), at);
        state.tickets.insert(ticket, item);
        let earliest = state.due.peek().is_none_or(|Reverse((first, _))| at < *first);
        state.due.push(Reverse((at, ticket)));
        drop(state);
        if earliest {
            self.shared.notify.notify_one();
        }
    }

    /// Makes an item ready after its own delay, which doubles with each call from 5 ms to 1000 s until
    /// [`forget`](Self::forget).
    pub fn add_rate_limited(&self, item: T) {
        self.count(|counts| counts.retries.fetch_add(1, Ordering::Relaxed));
        let mut state = self.shared.state.lock();
        let failures = state.failures.entry(item.clone()).or_insert(0);
        let delay = exponential(FIRST_DELAY, LONGEST_DELAY, *failures);
        *failures += 1;
        drop(state);
        self.add_after(item, delay);
    }

    /// How often the item was added with a rate limit since it was last forgotten.
    pub fn failures(&self, item: &T) -> u32 {
        self.shared.state.lock().failures.get(item).copied().unwrap_or(0)
    }

    /// Starts the item's delays over, after a success.
    pub fn forget(&self, item: &T) {
        self.shared.state.lock().failures.remove(item);
    }

    /// Items that are ready and that nobody has taken.
    pub fn len(&self) -> usize {
        self.shared.state.lock().ready.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next item, which is the caller's alone until [`done`](Self::done); none once the queue is closed.
    pub async fn get(&self) -> Option<T> {
        loop {
            let notified = self.shared.notify.notified();
            let due = {
                let mut state = self.shared.state.lock();
                if state.closed {
                    return None;
                }
                state.promote(Instant::now());
                if let Some(item) = state.ready.pop_front() {
                    state.dirty.remove(&item);
                    state.processing.insert(item.clone());
                    self.count(|counts| {
                        counts.depth.store(state.ready.len() as i64, Ordering::Relaxed);
                        counts.working.store(state.processing.len() as i64, Ordering::Relaxed);
                    });
                    if !state.ready.is_empty() || !state.due.is_empty() {
                        // Passed on: this worker no longer waits for the next one.
                        self.shared.notify.notify_one();
                    }
                    return Some(item);
                }
                state.due.peek().map(|Reverse((at, _))| *at)
            };
            match due {
                None => notified.await,
                Some(at) => {
                    let _ = tokio::time::timeout_at(at, notified).await;
                }
            }
        }
    }

    /// Gives an item back. If it was added meanwhile it is ready again.
    pub fn done(&self, item: &T) {
        let mut state = self.shared.state.lock();
        state.processing.remove(item);
        self.count(|counts| counts.working.store(state.processing.len() as i64, Ordering::Relaxed));
        if state.dirty.contains(item) {
            state.ready.push_back(item.clone());
            drop(state);
            self.shared.notify.notify_one();
        }
    }

    /// Ends all waiting; what is queued is dropped.
    pub fn close(&self) {
        self.shared.state.lock().closed = true;
        self.shared.notify.notify_waiters();
    }

    /// Works the queue off with so many items at once until `shutdown`, which also cancels the work at hand.
    ///
    /// `work` says when it wants to see the item again, if it does; after an error the item comes back with a growing delay.
    pub async fn drive<E, F>(&self, workers: usize, shutdown: &CancellationToken, work: impl Fn(T) -> F)
    where
        E: std::fmt::Display,
        F: Future<Output = Result<Option<Duration>, E>>,
        T: std::fmt::Debug,
    {
        let worker = async || {
            while let Some(item) = self.get().await {
                match work(item.clone()).await {
                    Ok(again) => {
                        self.forget(&item);
                        if let Some(delay) = again {
                            self.add_after(item.clone(), delay);
                        }
                    }
                    Err(error) => {
                        if self.failures(&item) >= 10 {
                            tracing::warn!(?item, %error, "reconciling keeps failing");
                        } else {
                            tracing::debug!(?item, %error, "reconciling failed, to be tried again");
                        }
                        self.add_rate_limited(item.clone());
                    }
                }
                self.done(&item);
            }
        };
        let all = futures::future::join_all((0..workers).map(|_| worker()));
        shutdown.run_until_cancelled(all).await;
        self.close();
    }
}

impl<T: Clone + Eq + Hash> State<T> {
    /// True if the item became ready by this call.
    fn add(&mut self, item: T) -> bool {
        if self.closed || !self.dirty.insert(item.clone()) || self.processing.contains(&item) {
            return false;
        }
        self.ready.push_back(item);
        true
    }

    /// Makes ready what is due.
    fn promote(&mut self, now: Instant) {
        while let Some(Reverse((at, ticket))) = self.due.peek().copied()
            && at <= now
        {
            self.due.pop();
            let Some(item) = self.tickets.remove(&ticket) else { continue };
            if self.delayed.get(&item) == Some(&at) {
                self.delayed.remove(&item);
                self.add(item);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_item_waits_once_and_is_worked_by_one_at_a_time() {
        let queue = WorkQueue::new();
        queue.add("a");
        queue.add("a");
        assert_eq!((queue.len(), queue.get().await), (1, Some("a")));
        queue.add("a");
        assert_eq!(queue.len(), 0, "not while a worker has it");
        queue.done(&"a");
        assert_eq!(queue.get().await, Some("a"));
        queue.done(&"a");
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn delays_are_kept_and_the_earliest_counts() {
        let queue = WorkQueue::new();
        let start = Instant::now();
        queue.add_after("late", Duration::from_secs(60));
        queue.add_after("a", Duration::from_secs(9));
        queue.add_after("a", Duration::from_secs(5));
        assert_eq!((queue.get().await, start.elapsed().as_secs()), (Some("a"), 5));
        queue.done(&"a");
        assert_eq!((queue.get().await, start.elapsed().as_secs()), (Some("late"), 60), "the later delay of a is void");
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_item_wakes_a_worker_that_waits_for_a_later_one() {
        let queue = WorkQueue::new();
        queue.add_after(1, Duration::from_secs(100));
        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move { (queue.get().await, queue.get().await) }
        });
        tokio::task::yield_now().await;
        let start = Instant::now();
        queue.add_after(2, Duration::from_secs(1));
        assert_eq!(waiting.await.unwrap(), (Some(2), Some(1)));
        assert!(start.elapsed() <= Duration::from_secs(101));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_double_the_delay_until_forgotten() {
        let queue = WorkQueue::new();
        for expected in [5, 10, 20, 40] {
            let start = Instant::now();
            queue.add_rate_limited(());
            queue.get().await;
            queue.done(&());
            assert!(start.elapsed().as_millis().abs_diff(expected) <= 1, "{:?}", start.elapsed());
        }
        assert_eq!(queue.failures(&()), 4);
        queue.forget(&());
        assert_eq!(queue.failures(&()), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn driving_tries_again_after_errors_and_stops_at_shutdown() {
        let queue = WorkQueue::new();
        let shutdown = CancellationToken::new();
        let tries = std::cell::Cell::new(0);
        queue.add("a");
        queue
            .drive(3, &shutdown, |_| {
                tries.set(tries.get() + 1);
                let answer = match tries.get() {
                    1 | 2 => Err("not yet"),
                    3 => Ok(Some(Duration::from_secs(3600))),
                    _ => {
                        shutdown.cancel();
                        Ok(None)
                    }
                };
                async move { answer }
            })
            .await;
        assert_eq!(tries.get(), 4);
        assert_eq!(queue.get().await, None, "closed");
    }
}
