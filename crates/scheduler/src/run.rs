//! The loop around the decisions: it takes the caches' changes into snapshot and queue, decides one pod after another, and
//! has bindings written meanwhile.

use std::{collections::HashMap, sync::Arc, time::Instant};

use client::{Caches, Change, Item, Recorder};
use k8s_openapi::api::core::v1::{Node as ApiNode, Pod as ApiPod};
use rand::{SeedableRng, rngs::StdRng};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    Options,
    decide::{Decider, Decision, Reservations, Unfit, World},
    expression::Selector,
    node::Node,
    objects::{Kind, Objects},
    plugins::{
        Event,
        extension::{self, Extension, Reservation},
    },
    pod::{self, Parser, Pod},
    preempt::{self, Outcome},
    queue::Queue,
    snapshot::{Placed, Slot, Snapshot, Stage},
    writer::Writer,
};

/// Bindings that are written at once.
const BINDINGS: usize = 64;
/// Decisions after which others of the same thread get their turn.
const TURN: usize = 16;

/// What became of a binding.
struct Bound {
    item: Arc<Item>,
    outcome: Result<(), Unbound>,
}

/// Why a pod that had a node is not bound.
enum Unbound {
    /// The API would not have it.
    Refused(kube::Error),
    /// Something that it needs before could not be had.
    Unprepared(String),
}

struct Scheduler {
    options: Options,
    writer: Writer,
    snapshot: Snapshot,
    queue: Queue,
    decider: Decider,
    parser: Parser,
    dice: StdRng,
    objects: Objects,
    extensions: Arc<[Arc<dyn Extension>]>,
    bindings: Arc<Semaphore>,
    /// Stops the binding of a pod that is gone, for those whose binding takes time.
    unfinished: HashMap<Box<str>, DropGuard>,
    bound: mpsc::UnboundedSender<Bound>,
}

/// Gives nodes to pods until it is told to stop. Nothing is written by an instance that is not the only one: whoever calls
/// this holds the scheduler's lease.
pub async fn run(client: kube::Client, caches: Caches, options: Options, shutdown: CancellationToken) {
    _ = shutdown.run_until_cancelled(schedule(client, caches, options)).await;
}

async fn schedule(client: kube::Client, caches: Caches, options: Options) {
    let (pods, nodes, objects) = (caches.get::<ApiPod>(), caches.get::<ApiNode>(), Objects::new(&caches));
    tokio::join!(pods.synced(), nodes.synced(), objects.synced());
    let (mut pods, mut nodes, mut others) = (pods.subscribe(), nodes.subscribe(), objects.changes());
    let (bound, mut outcomes) = mpsc::unbounded_channel();
    let recorder = Recorder::new(client.clone(), &options.scheduler_name, "");
    let extensions = extension::all(&objects);
    let mut scheduler = Scheduler {
        writer: Writer { client, recorder },
        snapshot: Snapshot::new(),
        queue: Queue::new(extensions.clone()),
        decider: Decider::new(options.percentage_of_nodes_to_score),
        parser: Parser::default(),
        dice: StdRng::from_os_rng(),
        objects,
        extensions,
        unfinished: HashMap::new(),
        bindings: Arc::new(Semaphore::new(BINDINGS)),
        bound,
        options,
    };
    let mut decided = 0;
    loop {
        while let Some(change) = nodes.try_next() {
            scheduler.node(&change);
        }
        while let Some((resource, change)) = others.try_next() {
            scheduler.other(resource, &change);
        }
        while let Some(change) = pods.try_next() {
            scheduler.pod(&change);
        }
        while let Ok(outcome) = outcomes.try_recv() {
            scheduler.settle(outcome);
        }
        if let Some(pod) = scheduler.queue.pop(Instant::now()) {
            scheduler.place(&pod);
            decided += 1;
            if decided % TURN == 0 {
                tokio::task::yield_now().await;
            }
            continue;
        }
        let wake = scheduler.queue.next_wake();
        let timer = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            change = nodes.next() => scheduler.node(&change),
            change = pods.next() => scheduler.pod(&change),
            (resource, change) = others.next() => scheduler.other(resource, &change),
            Some(outcome) = outcomes.recv() => scheduler.settle(outcome),
            () = timer => {}
        }
    }
}

/// Makes ready what a pod needs before it is bound.
async fn prepare(writer: &Writer, reservations: &mut Reservations) -> Result<(), String> {
    for reservation in reservations {
        reservation.pre_bind(&writer.client).await?;
    }
    Ok(())
}

impl Scheduler {
    fn node(&mut self, change: &Change) {
        let Some(item) = &change.new else { return self.snapshot.remove_node(&change.key.name) };
        match Node::parse(item) {
            Err(error) => tracing::error!(node = %item.key, %error, "unreadable node"),
            Ok(node) => {
                let name = node.name.clone();
                if let Some(old) = self.snapshot.set_node(node)
                    && let Some(new) = self.snapshot.node_by_name(&name)
                {
                    self.queue.event(Event::Node { old: old.as_deref(), new });
                }
            }
        }
    }

    fn other(&mut self, kind: Kind, change: &Change) {
        self.queue.event(Event::Object { kind, old: change.old.as_deref(), new: change.new.as_deref() });
    }

    fn pod(&mut self, change: &Change) {
        let Some(item) = change.item() else { return };
        let ended = matches!(&*item.phase, "Succeeded" | "Failed");
        if change.new.is_none() || ended {
            self.queue.remove(&item.uid);
            self.gone(&item.uid);
        } else if item.node_name.is_empty() {
            self.unbound(item);
        } else {
            self.queue.remove(&item.uid);
            self.bound(item);
        }
    }

    /// A pod has left its node, if it was on one.
    fn gone(&mut self, uid: &str) {
        self.unfinished.remove(uid);
        if let Some(placed) = self.snapshot.remove_pod(uid) {
            self.queue.event(Event::Gone(&placed.pod));
        }
    }

    /// A pod that has no node yet, as far as the API knows.
    fn unbound(&mut self, item: &Arc<Item>) {
        if self.snapshot.placed(&item.uid).is_some_and(|placed| placed.stage != Stage::Nominated) {
            // Its binding is under way.
            return;
        }
        let Some(pod) = self.parse(item) else { return };
        if item.deleting || pod.gated || *pod.scheduler != *self.options.scheduler_name {
            self.queue.remove(&item.uid);
            self.gone(&item.uid);
        } else {
            self.queue.set(Arc::new(pod));
        }
    }

    /// A pod that the API says is on a node.
    fn bound(&mut self, item: &Arc<Item>) {
        let known = self.snapshot.placed(&item.uid);
        if let Some(Placed { pod, slot, stage }) = known
            && self.snapshot.node_name(*slot) == &*item.node_name
            && pod.item.labels == item.labels
            && pod.item.deleting == item.deleting
            && (*stage != Stage::Bound || pod::generation(item) <= pod.generation)
        {
            if *stage != Stage::Bound {
                let pod = pod.clone();
                self.snapshot.confirm(&item.uid);
                self.queue.event(Event::Placed(&pod));
            }
            return;
        }
        let old = known.map(|placed| placed.pod.clone());
        let Some(pod) = self.parse(item) else { return };
        let pod = Arc::new(pod);
        self.snapshot.place(pod.clone(), &item.node_name, Stage::Bound);
        if let Some(old) = old.filter(|old| old.needs != pod.needs) {
            self.queue.event(Event::Gone(&old));
        }
        self.queue.event(Event::Placed(&pod));
    }

    fn parse(&mut self, item: &Arc<Item>) -> Option<Pod> {
        let parsed = self.parser.parse(item.clone());
        parsed.inspect_err(|error| tracing::error!(pod = %item.key, %error, "unreadable pod")).ok()
    }

    /// Decides on one pod and sets going what follows.
    fn place(&mut self, pod: &Arc<Pod>) {
        if let Some(extension) = self.extensions.iter().find(|it| it.hold(pod).is_some()) {
            return self.queue.hold(pod.uid(), extension.plugin().bit());
        }
        let (namespaces, extensions) = (self.objects.namespaces.clone(), self.extensions.clone());
        let in_namespace = |name: &str, selector: &Selector| {
            namespaces.get("", name).is_some_and(|namespace| selector.matches(|key| namespace.labels.get(key)))
        };
        let world = World { namespaces: &in_namespace, extensions: &extensions };
        let nominated = self.snapshot.remove_pod(pod.uid()).map(|placed| placed.slot);
        match self.decider.decide(pod, &mut self.snapshot, nominated, world, &mut self.dice) {
            Ok(Decision { slot, reservations }) => {
                let node = self.snapshot.node_name(slot).to_owned();
                self.snapshot.place(pod.clone(), &node, Stage::Assumed);
                self.bind(pod.item.clone(), node, reservations);
            }
            Err(unfit) => {
                let outcome = preempt::find(&mut self.decider, pod, &mut self.snapshot, &unfit, nominated, world);
                self.refuse(pod, &unfit, &outcome);
                self.nominate(pod, outcome, nominated);
            }
        }
    }

    /// Keeps room for a pod that may have it once others have left, and makes them leave.
    fn nominate(&mut self, pod: &Arc<Pod>, outcome: Outcome, nominated: Option<Slot>) {
        let (slot, victims) = match (outcome, nominated) {
            (Outcome::Nominated(preemption), _) => (preemption.slot, preemption.victims),
            (Outcome::Terminating, Some(slot)) => (slot, Vec::new()),
            (_, None) => return,
            // The room that was kept for it is anybody's.
            (_, Some(_)) => return self.queue.event(Event::Gone(pod)),
        };
        let node = self.snapshot.node_name(slot).to_owned();
        let mut is_free = !victims.is_empty();
        for victim in victims {
            if self.snapshot.placed(victim.uid()).is_some_and(|placed| placed.stage == Stage::Nominated) {
                // Nothing is there yet but the intention.
                self.snapshot.remove_pod(victim.uid());
                continue;
            }
            is_free = false;
            let (writer, by, node) = (self.writer.clone(), pod.item.clone(), node.clone());
            tokio::spawn(async move { writer.evict(&victim.item, &by, &node).await });
        }
        self.snapshot.place(pod.clone(), &node, Stage::Nominated);
        if is_free {
            self.queue.wake(pod.uid());
        }
    }

    fn bind(&mut self, item: Arc<Item>, node: String, mut reservations: Reservations) {
        let (writer, bindings, bound) = (self.writer.clone(), self.bindings.clone(), self.bound.clone());
        let stop = CancellationToken::new();
        if !reservations.is_empty() {
            self.unfinished.insert(item.uid.clone(), stop.clone().drop_guard());
        }
        tokio::spawn(async move {
            let prepared = stop.run_until_cancelled(prepare(&writer, &mut reservations)).await;
            let outcome = match prepared.unwrap_or_else(|| Err("the pod is gone".into())) {
                Ok(()) => {
                    // It is never closed; without a permit nothing would be lost but the limit.
                    let _permit = bindings.acquire().await;
                    writer.bind(&item, &node).await.map_err(Unbound::Refused)
                }
                Err(message) => Err(Unbound::Unprepared(message)),
            };
            if outcome.is_err() {
                reservations.into_iter().rev().for_each(Reservation::unreserve);
            }
            // When the scheduler has stopped, nobody asks any more.
            _ = bound.send(Bound { item, outcome });
        });
    }

    fn settle(&mut self, Bound { item, outcome }: Bound) {
        let Err(error) = outcome else {
            self.unfinished.remove(&item.uid);
            return;
        };
        if !self.snapshot.placed(&item.uid).is_some_and(|placed| placed.stage == Stage::Assumed) {
            // The pod is gone, or was bound after all.
            return;
        }
        self.gone(&item.uid);
        let message = match error {
            Unbound::Refused(kube::Error::Api(status)) if status.code == 404 => {
                self.queue.remove(&item.uid);
                return;
            }
            Unbound::Refused(error) => format!("binding rejected: {error}"),
            Unbound::Unprepared(message) => message,
        };
        tracing::warn!(pod = %item.key, message, "a binding failed");
        self.queue.failed(&item.uid, Instant::now());
        self.tell(&item, "SchedulerError", message, true, None);
    }

    fn refuse(&mut self, pod: &Arc<Pod>, Unfit { diagnosis, .. }: &Unfit, outcome: &Outcome) {
        let message = diagnosis.message(&self.snapshot, outcome);
        let is_news = self.queue.unschedulable(pod.uid(), diagnosis.plugins, &message, Instant::now());
        let nominated = match outcome {
            Outcome::Nominated(preemption) => Some(self.snapshot.node_name(preemption.slot).to_owned()),
            _ => None,
        };
        self.tell(&pod.item, "Unschedulable", message, is_news && *outcome != Outcome::Terminating, nominated);
    }

    /// Says why a pod has no node: by an event, and by its condition when that changes.
    fn tell(&self, item: &Arc<Item>, reason: &'static str, message: String, is_news: bool, nominated: Option<String>) {
        self.writer.failed(item, &message);
        if is_news {
            let (writer, item) = (self.writer.clone(), item.clone());
            tokio::spawn(async move { writer.set_unscheduled(&item, reason, &message, nominated.as_deref()).await });
        }
    }
}
