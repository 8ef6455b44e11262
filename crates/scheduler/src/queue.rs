//! The pods that wait: *active* ones to be decided, by priority and age; *backing off* after an attempt; and *unschedulable*
//! ones, which stay until something happens that may help them, or five minutes have gone by.

use std::{
    borrow::Cow,
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    plugins::{self, Event, extension::Extension},
    pod::Pod,
};

/// After this time an unschedulable pod is tried again in any case.
const LEFT_OVER: Duration = Duration::from_secs(300);

/// How long a pod waits after its first attempt, and at most; in between it doubles.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Delays {
    pub first: Duration,
    pub longest: Duration,
}

impl Default for Delays {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), longest: Duration::from_secs(10) }
    }
}

const PLUGINS: usize = u32::BITS as usize;

/// Where pods are found that these plugins (bits) rejected; those that none did come last.
fn shelves(plugins: u32) -> impl Iterator<Item = usize> {
    let of_bits = (0..PLUGINS).filter(move |bit| plugins & (1 << bit) != 0);
    of_bits.chain((plugins == 0).then_some(PLUGINS))
}

/// All waiting pods, each in one place.
pub(crate) struct Queue {
    delays: Delays,
    extensions: Arc<[Arc<dyn Extension>]>,
    waiting: HashMap<Box<str>, Waiting>,
    /// By priority, then by age.
    active: BTreeSet<(Reverse<i32>, Ticket)>,
    /// Pods whose back-off may be cut short when nothing else is to do, by the end of it.
    eager: BTreeSet<(Instant, Ticket)>,
    /// The unschedulable ones, under each of the plugins (by the number of its bit) that rejected them.
    stuck: Vec<BTreeSet<Ticket>>,
    /// When to look at a pod again. Entries whose ticket is no longer the pod's are passed over.
    timers: BinaryHeap<Reverse<(Instant, Ticket)>>,
    tickets: HashMap<Ticket, Box<str>>,
    next_ticket: Ticket,
}

/// A number for each stay in one of the places; later ones are greater.
type Ticket = u64;

struct Waiting {
    pod: Arc<Pod>,
    place: Place,
    ticket: Ticket,
    /// The ticket that it got when it came: later ones are of younger pods.
    first: Ticket,
    /// Decisions that found no node, and failures to bind.
    attempts: u32,
    last_attempt: Option<Instant>,
    /// What was last said of it.
    message: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Active,
    Backoff {
        until: Instant,
        eager: bool,
    },
    /// With the plugins that rejected it.
    Unschedulable(u32),
    /// Taken by [`Queue::pop`].
    Taken,
}

impl Default for Queue {
    fn default() -> Self {
        Self::new(Arc::default(), Delays::default())
    }
}

impl Queue {
    pub fn new(extensions: Arc<[Arc<dyn Extension>]>, delays: Delays) -> Self {
        Self {
            delays,
            extensions,
            waiting: HashMap::new(),
            active: BTreeSet::new(),
            eager: BTreeSet::new(),
            stuck: vec![BTreeSet::new(); PLUGINS + 1],
            timers: BinaryHeap::new(),
            tickets: HashMap::new(),
            next_ticket: 0,
        }
    }

    pub fn knows(&self, uid: &str) -> bool {
        self.waiting.contains_key(uid)
    }

    /// A pod is to be placed, or has changed.
    pub fn set(&mut self, pod: Arc<Pod>) {
        match self.waiting.get_mut(pod.uid()) {
            None => {
                let waiting = Waiting {
                    pod: pod.clone(),
                    place: Place::Taken,
                    ticket: 0,
                    first: self.next_ticket + 1,
                    attempts: 0,
                    last_attempt: None,
                    message: None,
                };
                self.waiting.insert(pod.uid().into(), waiting);
                self.put(pod.uid(), Place::Active);
            }
            Some(waiting) => {
                // Its status changes when we write it; only what it needs or is can help.
                let same = waiting.pod.needs == pod.needs
                    && waiting.pod.labels() == pod.labels()
                    && waiting.pod.resource_claims == pod.resource_claims;
                let place = waiting.place;
                let uid = pod.uid().to_owned();
                waiting.pod = pod;
                if !same && matches!(place, Place::Unschedulable(_)) {
                    self.wake(&uid);
                }
            }
        }
    }

    /// A pod needs no node any more.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<Pod>> {
        self.leave(uid);
        self.waiting.remove(uid).map(|waiting| waiting.pod)
    }

    /// The next pod to decide on. It must come back by one of [`unschedulable`](Self::unschedulable),
    /// [`failed`](Self::failed) and [`remove`](Self::remove).
    pub fn pop(&mut self, now: Instant) -> Option<Arc<Pod>> {
        self.tick(now);
        let ticket = match self.active.first() {
            Some((_, ticket)) => *ticket,
            None => self.eager.first()?.1,
        };
        let uid = self.tickets.get(&ticket)?.clone();
        self.put(&uid, Place::Taken);
        self.waiting.get(&uid).map(|waiting| waiting.pod.clone())
    }

    /// Takes a pod out of its turn, wherever it waits, as [`pop`](Self::pop) does.
    pub fn take(&mut self, uid: &str) -> Option<Arc<Pod>> {
        let waiting = self.waiting.get(uid).filter(|waiting| waiting.place != Place::Taken)?;
        let pod = waiting.pod.clone();
        self.put(uid, Place::Taken);
        Some(pod)
    }

    /// A number that is the greater, the later the pod came.
    pub fn age(&self, uid: &str) -> u64 {
        self.waiting.get(uid).map_or(u64::MAX, |waiting| waiting.first)
    }

    /// No node would do; `plugins` are those that said so. Returns whether the message is news.
    pub fn unschedulable(&mut self, uid: &str, plugins: u32, message: &str, now: Instant) -> bool {
        self.attempted(uid, now);
        self.put(uid, Place::Unschedulable(plugins));
        if let Some(waiting) = self.waiting.get(uid) {
            self.timers.push(Reverse((now + LEFT_OVER, waiting.ticket)));
        }
        let Some(waiting) = self.waiting.get_mut(uid) else { return false };
        let news = waiting.message.as_deref() != Some(message);
        waiting.message = Some(message.into());
        news
    }

    /// It cannot be tried as things are, and waits for what helps this plugin.
    pub fn hold(&mut self, uid: &str, plugin: u32) {
        self.put(uid, Place::Unschedulable(plugin));
    }

    /// Something went wrong that has nothing to do with nodes: it is tried again after a while.
    pub fn failed(&mut self, uid: &str, now: Instant) {
        self.attempted(uid, now);
        self.back_off(uid, false);
    }

    /// Wakes the pods that the event may help.
    pub fn event(&mut self, event: Event<'_>) {
        let concerned = event.concerned();
        let all = shelves(concerned).chain((concerned == u32::MAX).then_some(PLUGINS));
        let shelves: Vec<&BTreeSet<Ticket>> = all.map(|at| &self.stuck[at]).filter(|shelf| !shelf.is_empty()).collect();
        let tickets: Cow<'_, BTreeSet<Ticket>> = match shelves[..] {
            [] => return,
            [one] => Cow::Borrowed(one),
            // Whoever is on several shelves is asked for once.
            _ => Cow::Owned(shelves.into_iter().flatten().copied().collect()),
        };
        let helped = |uid: &str| match self.waiting.get(uid) {
            Some(Waiting { pod, place: Place::Unschedulable(plugins), .. }) => {
                plugins::helps(*plugins, &self.extensions, pod, event)
            }
            _ => false,
        };
        let stuck = tickets.iter().filter_map(|ticket| self.tickets.get(ticket));
        let helped: Vec<Box<str>> = stuck.filter(|uid| helped(uid)).cloned().collect();
        helped.iter().for_each(|uid| self.wake(uid));
    }

    /// Tries an unschedulable pod again as soon as its back-off allows, or nothing else is to do.
    pub fn wake(&mut self, uid: &str) {
        self.back_off(uid, true);
    }

    /// The same for a pod that may not be unschedulable.
    pub fn nudge(&mut self, uid: &str) {
        if self.waiting.get(uid).is_some_and(|waiting| matches!(waiting.place, Place::Unschedulable(_))) {
            self.wake(uid);
        }
    }

    /// When a pod's time comes that is not there now.
    pub fn next_wake(&mut self) -> Option<Instant> {
        while let Some(Reverse((at, ticket))) = self.timers.peek().copied() {
            if self.tickets.contains_key(&ticket) {
                return Some(at);
            }
            self.timers.pop();
        }
        None
    }

    fn tick(&mut self, now: Instant) {
        while self.next_wake().is_some_and(|at| at <= now) {
            if let Some(Reverse((_, ticket))) = self.timers.pop()
                && let Some(uid) = self.tickets.get(&ticket).cloned()
            {
                self.put(&uid, Place::Active);
            }
        }
    }

    fn attempted(&mut self, uid: &str, now: Instant) {
        if let Some(waiting) = self.waiting.get_mut(uid) {
            waiting.attempts += 1;
            waiting.last_attempt = Some(now);
        }
    }

    fn back_off(&mut self, uid: &str, eager: bool) {
        let Some(waiting) = self.waiting.get(uid) else { return };
        let Delays { first, longest } = self.delays;
        let delay = first.saturating_mul(1 << waiting.attempts.saturating_sub(1).min(20)).min(longest);
        match waiting.last_attempt {
            Some(last) => {
                let until = last + delay;
                self.put(uid, Place::Backoff { until, eager });
            }
            None => self.put(uid, Place::Active),
        }
    }

    /// Moves a pod to another place.
    fn put(&mut self, uid: &str, place: Place) {
        self.leave(uid);
        let Some(waiting) = self.waiting.get_mut(uid) else { return };
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        (waiting.place, waiting.ticket) = (place, ticket);
        match place {
            Place::Taken => return,
            Place::Active => _ = self.active.insert((Reverse(waiting.pod.priority), ticket)),
            Place::Backoff { until, eager } => {
                self.timers.push(Reverse((until, ticket)));
                if eager {
                    self.eager.insert((until, ticket));
                }
            }
            Place::Unschedulable(plugins) => {
                for shelf in shelves(plugins) {
                    self.stuck[shelf].insert(ticket);
                }
            }
        }
        self.tickets.insert(ticket, uid.into());
    }

    fn leave(&mut self, uid: &str) {
        let Some(Waiting { pod, place, ticket, .. }) = self.waiting.get(uid) else { return };
        self.tickets.remove(ticket);
        match place {
            Place::Active => _ = self.active.remove(&(Reverse(pod.priority), *ticket)),
            Place::Backoff { until, .. } => _ = self.eager.remove(&(*until, *ticket)),
            Place::Unschedulable(plugins) => {
                for shelf in shelves(*plugins) {
                    self.stuck[shelf].remove(ticket);
                }
            }
            Place::Taken => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{plugins::Plugin, pod::Parser};

    fn pod(name: &str, priority: i32) -> Arc<Pod> {
        let json = format!(
            r#"{{"metadata":{{"name":"{name}","namespace":"n","uid":"{name}"}},"spec":{{"priority":{priority}}}}}"#
        );
        let item = client::Item::from_json(&json).unwrap();
        Arc::new(Parser::default().parse(Arc::new(item)).unwrap())
    }

    fn pop(queue: &mut Queue, now: Instant) -> Option<String> {
        queue.pop(now).map(|pod| pod.uid().to_owned())
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pods_come_by_priority_and_then_by_age() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for (name, priority) in [("a", 0), ("b", 5), ("c", 0), ("d", 5)] {
            queue.set(pod(name, priority));
        }
        queue.set(pod("a", 0));
        queue.remove("c");
        let order: Vec<String> = std::iter::from_fn(|| pop(&mut queue, now)).collect();
        assert_eq!(order, ["b", "d", "a"]);
    }

    #[test]
    fn an_unschedulable_pod_stays_until_something_helps_or_five_minutes_have_gone_by() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let other = pod("other", 0);
        queue.set(pod("a", 0));
        pop(&mut queue, now);
        assert!(queue.unschedulable("a", Plugin::NodeResourcesFit.bit(), "full", now));
        queue.set(pod("a", 0));
        queue.event(Event::Placed(&other));
        assert_eq!(pop(&mut queue, now), None, "neither its status nor a pod that came helps");
        queue.event(Event::Gone(&other));
        assert_eq!(pop(&mut queue, now).as_deref(), Some("a"), "its back-off is cut short when nothing else is to do");
        assert!(!queue.unschedulable("a", Plugin::NodeResourcesFit.bit(), "full", now), "the same is no news");
        assert_eq!(queue.next_wake(), Some(now + LEFT_OVER));
        assert_eq!(pop(&mut queue, now + LEFT_OVER - SECOND), None);
        assert_eq!(pop(&mut queue, now + LEFT_OVER).as_deref(), Some("a"));
    }

    #[test]
    fn others_come_before_one_that_backs_off() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.set(pod("a", 9));
        pop(&mut queue, now);
        queue.unschedulable("a", Plugin::NodeResourcesFit.bit(), "full", now);
        queue.event(Event::Gone(&pod("other", 0)));
        queue.set(pod("b", 0));
        assert_eq!(pop(&mut queue, now).as_deref(), Some("b"));
        assert_eq!(queue.next_wake(), Some(now + SECOND));
        queue.set(pod("c", 0));
        assert_eq!(pop(&mut queue, now + SECOND).as_deref(), Some("a"), "its time has come and it is more important");
    }

    #[test]
    fn only_an_unschedulable_pod_is_nudged() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.set(pod("a", 0));
        assert!(pop(&mut queue, now).is_some());
        queue.nudge("a");
        assert_eq!((pop(&mut queue, now), queue.next_wake()), (None, None), "it is being bound");
        queue.failed("a", now);
        queue.nudge("a");
        assert_eq!(pop(&mut queue, now), None, "its back-off is not cut short");
        assert!(pop(&mut queue, now + SECOND).is_some());
        queue.unschedulable("a", Plugin::NodeResourcesFit.bit(), "full", now);
        queue.nudge("a");
        assert!(pop(&mut queue, now).is_some());
    }

    #[test]
    fn a_failed_binding_is_tried_again_after_a_delay_that_doubles_up_to_ten_seconds() {
        let (mut queue, mut now) = (Queue::default(), Instant::now());
        queue.set(pod("a", 0));
        assert!(pop(&mut queue, now).is_some());
        for seconds in [1, 2, 4, 8, 10, 10] {
            queue.failed("a", now);
            assert_eq!(pop(&mut queue, now), None, "not at once, though nothing else is to do");
            assert_eq!(queue.next_wake(), Some(now + SECOND * seconds));
            now += SECOND * seconds;
            assert!(pop(&mut queue, now).is_some());
        }
        queue.remove("a");
        assert_eq!((pop(&mut queue, now + LEFT_OVER), queue.next_wake()), (None, None));
    }
}
