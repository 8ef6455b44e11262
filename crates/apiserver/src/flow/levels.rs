//! Seats and queues of the priority levels.
//!
//! A level may use its nominal seats, and what others lend and do not use. What finds no seat waits in the shortest of the few
//! queues that its flow is dealt (shuffle sharding: two flows rarely share all of theirs). Queues take turns by what they
//! have used so far: start-time fair queuing, in seat-seconds.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::Value;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// As upstream's `--max-requests-inflight` and `--max-mutating-requests-inflight` together.
pub const SEATS: usize = 600;
/// What a request is taken to need until it is known.
const GUESS: f64 = 0.003;
/// How many queues without requests are remembered, for what they have used.
const MOST_IDLE: usize = 1024;
/// No hand that a flow's hash can deal is larger.
const MOST_HAND: usize = 64;

/// Why a request got no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its queue is full.
    Full,
    /// Its level has no queues.
    NoSeat,
    TimedOut,
}

/// All levels but the exempt one.
#[derive(Clone, Default)]
pub struct Levels(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    levels: HashMap<Arc<str>, Level>,
}

/// What a level is configured to be.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    pub nominal: usize,
    /// How many of them others may use.
    pub lendable: usize,
    /// How many seats of others it may use.
    pub borrowing: usize,
    /// None where requests without a seat are refused.
    pub queues: usize,
    pub hand: usize,
    pub length: usize,
}

#[derive(Default)]
struct Level {
    limits: Limits,
    used: usize,
    /// Those that somebody waits in, is served from or was lately, of however many the level has.
    queues: BTreeMap<usize, Queue>,
    waiting: usize,
    /// The virtual time: what the queue that was served last had used then.
    time: f64,
}

#[derive(Default)]
struct Queue {
    requests: VecDeque<Waiting>,
    executing: usize,
    used: f64,
}

struct Waiting {
    seats: usize,
    grant: oneshot::Sender<Seat>,
}

/// Seats that are held until this is dropped.
pub struct Seat {
    levels: Levels,
    level: Arc<str>,
    queue: Option<usize>,
    seats: usize,
    since: Instant,
}

/// What the levels look like now, for metrics.
pub struct Usage {
    pub level: Arc<str>,
    pub nominal: usize,
    #[cfg(test)]
    pub used: usize,
    pub waiting: usize,
}

impl Limits {
    /// The limits of every limited level, by their shares of all seats.
    pub fn of<'l>(levels: impl Iterator<Item = (&'l String, &'l Value)> + Clone) -> HashMap<Arc<str>, Limits> {
        let section = |level: &'l Value| match level["spec"]["type"] == "Exempt" {
            true => &level["spec"]["exempt"],
            false => &level["spec"]["limited"],
        };
        let shares = |level: &'l Value| {
            let default = if level["spec"]["type"] == "Exempt" { 0 } else { 30 };
            section(level)["nominalConcurrencyShares"].as_u64().unwrap_or(default)
        };
        let total: u64 = levels.clone().map(|(_, level)| shares(level)).sum::<u64>().max(1);
        let limited = levels.filter(|(_, level)| level["spec"]["type"] != "Exempt");
        limited
            .map(|(name, level)| {
                let limited = section(level);
                let number =
                    |value: &Value, default: u64| usize::try_from(value.as_u64().unwrap_or(default)).unwrap_or(0);
                let nominal = (SEATS as u64 * shares(level)).div_ceil(total) as usize;
                let queuing = &limited["limitResponse"]["queuing"];
                let queues = limited["limitResponse"]["type"] == "Queue";
                let percent = |of: usize, percent: usize| (of * percent).div_ceil(100);
                let borrowing = limited["borrowingLimitPercent"].as_u64();
                let limits = Limits {
                    nominal,
                    lendable: percent(nominal, number(&limited["lendablePercent"], 0)),
                    borrowing: borrowing.map_or(SEATS, |most| percent(nominal, most as usize)),
                    queues: if queues { number(&queuing["queues"], 64).max(1) } else { 0 },
                    hand: number(&queuing["handSize"], 8).max(1),
                    length: number(&queuing["queueLengthLimit"], 50),
                };
                (Arc::from(name.as_str()), limits)
            })
            .collect()
    }
}

impl Levels {
    /// Changes the levels to these. What waits goes on waiting; a level that is gone is left when it is empty.
    pub fn configure(&self, limits: HashMap<Arc<str>, Limits>) {
        let mut state = self.0.lock();
        state.levels.retain(|name, level| limits.contains_key(name) || level.used > 0 || level.waiting > 0);
        for (name, level) in &mut state.levels {
            if !limits.contains_key(name) {
                level.limits.nominal = 1;
            }
        }
        for (name, limits) in limits {
            state.levels.entry(name).or_default().configure(limits);
        }
        let grants = state.dispatch(self);
        drop(state);
        send(grants);
    }

    /// Takes seats of a level for a flow, waiting for them if need be. A level that is not there refuses nobody.
    pub async fn take(
        &self,
        level: &Arc<str>,
        flow: u64,
        seats: usize,
        wait: Duration,
    ) -> Result<Option<Seat>, Refusal> {
        let granted = {
            let mut state = self.0.lock();
            let Some(found) = state.levels.get(level) else { return Ok(None) };
            // Nobody passes those who wait already.
            let at_once = found.waiting == 0 && state.fits(level, seats);
            let found = state.levels.get_mut(level).expect("it was there just now");
            if at_once {
                found.used += seats;
                return Ok(Some(self.seat(level, None, seats)));
            }
            if found.limits.queues == 0 {
                return Err(Refusal::NoSeat);
            }
            let queue = found.queue_of(flow);
            found.enqueue(queue, seats)?
        };
        match tokio::time::timeout(wait, granted).await {
            Ok(Ok(seat)) => Ok(Some(seat)),
            _ => Err(Refusal::TimedOut),
        }
    }

    fn seat(&self, level: &Arc<str>, queue: Option<usize>, seats: usize) -> Seat {
        Seat { levels: self.clone(), level: level.clone(), queue, seats, since: Instant::now() }
    }

    /// What all levels are doing.
    pub fn usage(&self) -> Vec<Usage> {
        let state = self.0.lock();
        let mut usage: Vec<Usage> = state
            .levels
            .iter()
            .map(|(name, level)| Usage {
                level: name.clone(),
                nominal: level.limits.nominal,
                #[cfg(test)]
                used: level.used,
                waiting: level.waiting,
            })
            .collect();
        usage.sort_by(|a, b| a.level.cmp(&b.level));
        usage
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.levels.0.lock();
        if let Some(level) = state.levels.get_mut(&self.level) {
            level.used -= self.seats;
            if let Some(queue) = self.queue.and_then(|index| level.queues.get_mut(&index)) {
                queue.executing = queue.executing.saturating_sub(self.seats);
                queue.used += (self.since.elapsed().as_secs_f64() - GUESS) * self.seats as f64;
            }
        }
        let grants = state.dispatch(&self.levels);
        drop(state);
        send(grants);
    }
}

/// Outside of the lock: a seat whose taker has gone is given back at once, which takes the lock again.
fn send(grants: Vec<(oneshot::Sender<Seat>, Seat)>) {
    for (to, seat) in grants {
        let _ = to.send(seat);
    }
}

impl State {
    /// Whether a level may use so many seats more.
    fn fits(&self, name: &Arc<str>, seats: usize) -> bool {
        let Some(level) = self.levels.get(name) else { return false };
        // What is wider than the level may run alone.
        let wanted = level.used + seats;
        if wanted <= level.limits.nominal || level.used == 0 {
            return true;
        }
        let borrowed = wanted - level.limits.nominal;
        borrowed <= level.limits.borrowing && borrowed <= self.idle(name)
    }

    /// The seats that other levels lend and that neither they nor other borrowers use.
    fn idle(&self, borrower: &Arc<str>) -> usize {
        let (mut idle, mut borrowed) = (0, 0);
        for (name, level) in &self.levels {
            if name != borrower {
                let unused = level.limits.nominal.saturating_sub(level.used);
                idle += unused.min(level.limits.lendable);
                borrowed += level.used.saturating_sub(level.limits.nominal);
            }
        }
        idle.saturating_sub(borrowed)
    }

    /// Gives free seats to those who wait.
    fn dispatch(&mut self, levels: &Levels) -> Vec<(oneshot::Sender<Seat>, Seat)> {
        let mut grants = Vec::new();
        let waiting: Vec<Arc<str>> =
            self.levels.iter().filter(|(_, level)| level.waiting > 0).map(|(name, _)| name.clone()).collect();
        for name in waiting {
            while let Some((queue, seats)) = self.levels.get_mut(&name).and_then(Level::next)
                && self.fits(&name, seats)
            {
                let Some(grant) = self.levels.get_mut(&name).and_then(|level| level.serve(queue)) else { break };
                grants.push((grant, levels.seat(&name, Some(queue), seats)));
            }
        }
        grants
    }
}

impl Level {
    fn configure(&mut self, limits: Limits) {
        if limits.queues != self.limits.queues {
            let requests = std::mem::take(&mut self.queues).into_values().flat_map(|queue| queue.requests);
            let mut queues: BTreeMap<usize, Queue> = BTreeMap::new();
            for (index, request) in requests.enumerate() {
                queues.entry(index % limits.queues.max(1)).or_default().requests.push_back(request);
            }
            (self.queues, self.time) = (queues, 0.0);
        }
        self.limits = limits;
    }

    /// The shortest of the queues that the flow is dealt.
    fn queue_of(&self, flow: u64) -> usize {
        let deck = self.limits.queues.max(1);
        let mut rest = flow;
        // In order, so that each card that is gone moves the next by one.
        let mut gone: Vec<usize> = Vec::new();
        let mut hand: Vec<usize> = Vec::new();
        for dealt in 0..self.limits.hand.min(deck).min(MOST_HAND) {
            let left = (deck - dealt) as u64;
            let mut card = (rest % left) as usize;
            rest /= left;
            gone.iter().for_each(|gone| card += usize::from(*gone <= card));
            gone.insert(gone.partition_point(|other| *other < card), card);
            hand.push(card);
        }
        let load = |index: &usize| self.queues.get(index).map_or((0, 0), |q| (q.requests.len(), q.executing));
        hand.into_iter().min_by_key(load).unwrap_or(0)
    }

    fn enqueue(&mut self, index: usize, seats: usize) -> Result<oneshot::Receiver<Seat>, Refusal> {
        if self.queues.len() > MOST_IDLE {
            self.queues.retain(|_, queue| !queue.requests.is_empty() || queue.executing > 0);
        }
        let queue = self.queues.entry(index).or_default();
        if queue.requests.len() >= self.limits.length {
            // Those who have gone need no place.
            let before = queue.requests.len();
            queue.requests.retain(|request| !request.grant.is_closed());
            self.waiting -= before - queue.requests.len();
            if queue.requests.len() >= self.limits.length {
                return Err(Refusal::Full);
            }
        }
        if queue.requests.is_empty() && queue.executing == 0 {
            // Whoever did not ask has saved nothing.
            queue.used = queue.used.max(self.time);
        }
        let (grant, granted) = oneshot::channel();
        queue.requests.push_back(Waiting { seats, grant });
        self.waiting += 1;
        Ok(granted)
    }

    /// The queue whose turn it is, and the seats that its first request wants.
    fn next(&mut self) -> Option<(usize, usize)> {
        // Who has gone is passed over here: a seat that is sent to nobody comes back by way of its drop, which dispatches
        // again, a call deeper each time.
        for queue in self.queues.values_mut() {
            while queue.requests.front().is_some_and(|request| request.grant.is_closed()) {
                queue.requests.pop_front();
                self.waiting -= 1;
            }
        }
        let waiting = self.queues.iter().filter_map(|(i, q)| Some((*i, q.used, q.requests.front()?.seats)));
        waiting.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(index, _, seats)| (index, seats))
    }

    fn serve(&mut self, index: usize) -> Option<oneshot::Sender<Seat>> {
        let queue = self.queues.get_mut(&index)?;
        let request = queue.requests.pop_front()?;
        self.time = self.time.max(queue.used);
        queue.used += GUESS * request.seats as f64;
        queue.executing += request.seats;
        self.used += request.seats;
        self.waiting -= 1;
        Some(request.grant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(5);

    fn levels(list: &[(&str, Limits)]) -> Levels {
        let levels = Levels::default();
        levels.configure(list.iter().map(|(name, limits)| (Arc::from(*name), *limits)).collect());
        levels
    }

    fn limits(nominal: usize, queues: usize) -> Limits {
        Limits { nominal, lendable: 0, borrowing: 0, queues, hand: 2, length: 10 }
    }

    #[tokio::test]
    async fn a_level_without_queues_refuses_what_finds_no_seat() {
        let levels = levels(&[("a", limits(1, 0))]);
        let a: Arc<str> = "a".into();
        let held = levels.take(&a, 1, 1, WAIT).await.expect("a seat");
        assert_eq!(levels.take(&a, 2, 1, WAIT).await.err(), Some(Refusal::NoSeat));
        drop(held);
        assert!(levels.take(&a, 2, 1, WAIT).await.is_ok());
    }

    #[tokio::test]
    async fn idle_seats_are_lent_and_come_back() {
        let lender = Limits { lendable: 2, ..limits(3, 4) };
        let borrower = Limits { borrowing: 1, ..limits(1, 0) };
        let levels = levels(&[("lender", lender), ("borrower", borrower)]);
        let (lender, borrower): (Arc<str>, Arc<str>) = ("lender".into(), "borrower".into());
        let mut held = Vec::new();
        held.push(levels.take(&borrower, 1, 1, WAIT).await.expect("its own"));
        held.push(levels.take(&borrower, 1, 1, WAIT).await.expect("a lent one"));
        assert!(levels.take(&borrower, 1, 1, WAIT).await.is_err(), "its own limit");
        held.clear();
        for _ in 0..2 {
            held.push(levels.take(&lender, 1, 1, WAIT).await.expect("its own"));
        }
        held.push(levels.take(&borrower, 1, 1, WAIT).await.expect("its own"));
        held.push(levels.take(&borrower, 1, 1, WAIT).await.expect("the one that is idle"));
    }

    #[tokio::test]
    async fn a_flow_with_little_to_do_is_served_before_the_rest_of_a_noisy_one() {
        let levels = levels(&[("a", Limits { length: 1000, hand: 1, ..limits(1, 64) })]);
        let a: Arc<str> = "a".into();
        let held = levels.take(&a, 0, 1, WAIT).await.expect("a seat");
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for (flow, count) in [(1u64, 50), (2, 1)] {
            for _ in 0..count {
                let (own, a, order) = (levels.clone(), a.clone(), order.clone());
                tasks.push(tokio::spawn(async move {
                    let seat = own.take(&a, flow, 1, WAIT).await.expect("a seat");
                    order.lock().push(flow);
                    drop(seat);
                }));
                // Each is in its queue before the next comes.
                while levels.usage()[0].waiting < tasks.len() {
                    tokio::task::yield_now().await;
                }
            }
        }
        drop(held);
        for task in tasks {
            task.await.expect("served");
        }
        let place = order.lock().iter().position(|flow| *flow == 2).expect("served");
        assert!(place <= 2, "the quiet flow was number {place}");
        assert_eq!((levels.usage()[0].used, levels.usage()[0].waiting), (0, 0));
    }

    #[tokio::test]
    async fn who_waits_too_long_or_too_crowded_is_refused_and_leaves_nothing_behind() {
        let levels = levels(&[("a", Limits { length: 1, hand: 1, ..limits(1, 1) })]);
        let a: Arc<str> = "a".into();
        let held = levels.take(&a, 0, 1, WAIT).await.expect("a seat");
        let waits = levels.take(&a, 0, 1, Duration::from_millis(20));
        tokio::pin!(waits);
        assert!(futures::poll!(waits.as_mut()).is_pending());
        assert_eq!(levels.take(&a, 0, 1, WAIT).await.err(), Some(Refusal::Full));
        assert_eq!(waits.await.err(), Some(Refusal::TimedOut));
        drop(held);
        assert!(levels.take(&a, 0, 1, WAIT).await.is_ok());
        assert_eq!((levels.usage()[0].used, levels.usage()[0].waiting), (0, 0));
    }

    #[tokio::test]
    async fn a_queue_that_everybody_has_left_costs_no_stack() {
        let levels = levels(&[("a", Limits { length: 100_000, hand: 1, ..limits(1, 1) })]);
        let a: Arc<str> = "a".into();
        let held = levels.take(&a, 0, 1, WAIT).await.expect("a seat");
        for _ in 0..100_000 {
            let waits = levels.take(&a, 0, 1, WAIT);
            tokio::pin!(waits);
            assert!(futures::poll!(waits.as_mut()).is_pending());
        }
        drop(held);
        assert_eq!((levels.usage()[0].used, levels.usage()[0].waiting), (0, 0));
    }

    #[test]
    fn flows_are_dealt_different_queues_of_the_deck() {
        let level = Level { limits: limits(1, 8), ..Level::default() };
        for flow in 0..1000u64 {
            assert!(level.queue_of(flow.wrapping_mul(0x9e37_79b9_7f4a_7c15)) < 8);
        }
    }

    #[tokio::test]
    async fn a_level_of_very_many_queues_costs_what_is_waited_in() {
        let levels = levels(&[("a", Limits { hand: usize::MAX, ..limits(1, 10_000_000) })]);
        let a: Arc<str> = "a".into();
        let held = levels.take(&a, 0, 1, WAIT).await.expect("a seat");
        for flow in 0..3 * MOST_IDLE as u64 {
            let waits = levels.take(&a, flow.wrapping_mul(0x9e37_79b9_7f4a_7c15), 1, WAIT);
            tokio::pin!(waits);
            assert!(futures::poll!(waits.as_mut()).is_pending());
        }
        let remembered = |levels: &Levels| levels.0.lock().levels["a"].queues.len();
        assert!(remembered(&levels) <= 3 * MOST_IDLE);
        drop(held);
        assert!(levels.take(&a, 0, 1, WAIT).await.is_ok());
        assert_eq!(levels.usage()[0].waiting, 0);
    }

    #[test]
    fn seats_are_shared_out_by_shares() {
        let level = |shares: u64| {
            serde_json::json!({"spec": {"type": "Limited", "limited": {
            "nominalConcurrencyShares": shares, "lendablePercent": 50, "limitResponse": {"type": "Reject"}}}})
        };
        let all = [("a".to_owned(), level(10)), ("b".to_owned(), level(30))];
        let limits = Limits::of(all.iter().map(|(name, level)| (name, level)));
        assert_eq!((limits["a"].nominal, limits["a"].lendable, limits["b"].nominal), (150, 75, 450));
    }
}
