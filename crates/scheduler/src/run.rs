//! The loop around the decisions: it takes the caches' changes into snapshot and queue, decides one pod after another, and
//! has bindings written meanwhile.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Instant,
};

use client::{Cache, Caches, Change, Item, Key, Recorder};
use k8s_openapi::api::core::v1::{Node as ApiNode, Pod as ApiPod};
use rand::{SeedableRng, rngs::StdRng};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    Options,
    decide::{Decider, Decision, Failure, Reservations, Unfit, World},
    expression::Selector,
    extender::Extender,
    node::Node,
    objects::{Kind, Objects},
    owners::Owners,
    plugins::{
        Event,
        extension::{self, Extension, Reservation},
    },
    pod::{self, Parser, Pod},
    preempt::{self, Budget, Lives, Outcome},
    profile::Profile,
    queue::Queue,
    snapshot::{Placed, Slot, Snapshot, Stage},
    writer::{Standing, Writer},
};

/// Bindings that are written at once.
const BINDINGS: usize = 64;
/// Decisions after which others of the same thread get their turn.
const TURN: usize = 16;

/// What became of something that was set going.
enum Outcomes {
    Binding(Arc<Item>, Result<(), Unbound>),
    /// A pod that was to make room for this one could not be deleted.
    Kept(Box<str>),
}

/// Why a pod that had a node is not bound.
enum Unbound {
    /// The API would not have it.
    Refused(kube::Error),
    /// The extender that binds could not.
    Failed(String),
    /// Something that it needs before could not be had.
    Unprepared(String),
}

struct Scheduler {
    writers: HashMap<Box<str>, Writer>,
    snapshot: Snapshot,
    queue: Queue,
    /// By scheduler name.
    deciders: HashMap<Box<str>, Decider>,
    parser: Parser,
    dice: StdRng,
    pods: Cache<ApiPod>,
    nodes: Cache<ApiNode>,
    extenders: Arc<[Arc<Extender>]>,
    objects: Objects,
    owners: Owners,
    budgets: BTreeMap<Key, Arc<Budget>>,
    extensions: Arc<[Arc<dyn Extension>]>,
    bindings: Arc<Semaphore>,
    /// Stops the binding of a pod that is gone, for those whose binding takes time.
    unfinished: HashMap<Box<str>, DropGuard>,
    outcomes: mpsc::UnboundedSender<Outcomes>,
}

/// Gives nodes to pods until it is told to stop. Nothing is written by an instance that is not the only one: whoever calls
/// this holds the scheduler's lease.
pub async fn run(client: kube::Client, caches: Caches, options: Options, shutdown: CancellationToken) {
    _ = shutdown.run_until_cancelled(schedule(client, caches, options)).await;
}

async fn schedule(client: kube::Client, caches: Caches, options: Options) {
    let (pods, nodes, objects) = (caches.get::<ApiPod>(), caches.get::<ApiNode>(), Objects::new(&caches));
    tokio::join!(pods.synced(), nodes.synced(), objects.synced());
    let (pods_cache, nodes_cache) = (pods.clone(), nodes.clone());
    let (mut pods, mut nodes, mut others) = (pods.subscribe(), nodes.subscribe(), objects.changes());
    let (sender, mut outcomes) = mpsc::unbounded_channel();
    let profiles = options.profiles();
    let volumes = profiles.iter().map(|it| it.volume_binding_timeout).max().unwrap_or_default();
    let extensions = extension::all(&objects, volumes);
    let writer = |profile: &Arc<Profile>| {
        let recorder = Recorder::new(client.clone(), &profile.name, "");
        (profile.name.clone(), Writer { client: client.clone(), recorder, scheduler: profile.name.clone() })
    };
    let mut scheduler = Scheduler {
        writers: profiles.iter().map(writer).collect(),
        snapshot: Snapshot::new(),
        queue: Queue::new(extensions.clone(), options.backoff()),
        deciders: profiles.iter().map(|it| (it.name.clone(), Decider::new(it.clone()))).collect(),
        parser: Parser::default(),
        dice: StdRng::from_os_rng(),
        pods: pods_cache,
        nodes: nodes_cache,
        extenders: options.extenders().map(|it| Arc::new(Extender::new(it))).collect(),
        owners: Owners::new(objects.clone()),
        objects,
        budgets: BTreeMap::new(),
        extensions,
        unfinished: HashMap::new(),
        bindings: Arc::new(Semaphore::new(BINDINGS)),
        outcomes: sender,
    };
    let mut decided = 0;
    loop {
        while let Some(change) = nodes.try_next() {
            scheduler.node(&change);
        }
        while let Some((kind, change)) = others.try_next() {
            scheduler.other(kind, &change);
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
            (kind, change) = others.next() => scheduler.other(kind, &change),
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
        match kind {
            Kind::Service => self.owners.service(change),
            Kind::PodDisruptionBudget => {
                match change.new.as_deref().and_then(Budget::parse) {
                    Some(budget) => _ = self.budgets.insert(change.key.clone(), Arc::new(budget)),
                    None => _ = self.budgets.remove(&change.key),
                };
            }
            _ => self.queue.event(Event::Object { kind, old: change.old.as_deref(), new: change.new.as_deref() }),
        }
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
        let Some(decider) = self.deciders.get(&pod.scheduler) else { return self.leave_alone(item) };
        if item.deleting || pod.gated && decider.profile.gates {
            return self.leave_alone(item);
        }
        let pod = Arc::new(pod);
        // After a restart the room is kept that was kept before.
        if let Some(node) = &pod.nominated
            && !self.queue.knows(pod.uid())
            && self.snapshot.node_by_name(node).is_some()
        {
            self.snapshot.place(pod.clone(), node, Stage::Nominated);
        }
        self.queue.set(pod);
    }

    fn leave_alone(&mut self, item: &Item) {
        self.queue.remove(&item.uid);
        self.gone(&item.uid);
    }

    /// A pod that the API says is on a node.
    fn bound(&mut self, item: &Arc<Item>) {
        let known = self.snapshot.placed(&item.uid);
        if let Some(Placed { pod, slot, stage }) = known
            && self.snapshot.node_name(*slot) == &*item.node_name
            && pod.item.labels == item.labels
            && pod.item.deleting == item.deleting
            && (*stage != Stage::Bound || !pod::is_resized(&pod.item, item))
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
        // Pods of other schedulers are not in the queue.
        let Some(decider) = self.deciders.get_mut(&pod.scheduler) else { return };
        let (namespaces, extensions) = (self.objects.namespaces.clone(), self.extensions.clone());
        let in_namespace = |name: &str, selector: &Selector| {
            namespaces.get("", name).is_some_and(|namespace| selector.matches(|key| namespace.labels.get(key)))
        };
        let siblings = if pod.needs.spread.is_empty() { self.owners.selector(pod) } else { None };
        let (extenders, nodes) = (self.extenders.clone(), self.nodes.clone());
        let world = World {
            namespaces: &in_namespace,
            extensions: &extensions,
            siblings: siblings.as_deref(),
            extenders: &extenders,
            nodes: &|name| nodes.get("", name),
        };
        let nominated = self.snapshot.remove_pod(pod.uid()).map(|placed| placed.slot);
        // Room that is kept for less important pods is this one's if it wants it.
        let below = self.snapshot.nominated_below(pod.priority);
        below.iter().for_each(|it| _ = self.snapshot.remove_pod(it.pod.uid()));
        let decided = decider.decide(pod, &mut self.snapshot, nominated, world, &mut self.dice);
        let unfit = match &decided {
            Err(Failure::Unfit(unfit)) => Some(unfit),
            _ => None,
        };
        let outcome = unfit.map(|unfit| {
            let pods = self.pods.clone();
            let newest =
                |pod: &Pod| pods.get(pod.item.namespace(), pod.item.name()).unwrap_or_else(|| pod.item.clone());
            let budgets: Vec<Arc<Budget>> = self.budgets.values().cloned().collect();
            let lives = Lives { budgets: &budgets, newest: &newest };
            preempt::find(decider, pod, &mut self.snapshot, unfit, nominated, (world, lives), &mut self.dice)
        });
        for Placed { pod, slot, stage } in below {
            let node = self.snapshot.node_name(slot).to_owned();
            self.snapshot.place(pod, &node, stage);
        }
        match (decided, outcome) {
            (Ok(Decision { slot, reservations }), _) => {
                let node = self.snapshot.node_name(slot).to_owned();
                self.snapshot.place(pod.clone(), &node, Stage::Assumed);
                self.bind(pod, node, reservations);
            }
            (Err(Failure::Unfit(unfit)), Some(outcome)) => {
                self.refuse(pod, &unfit, &outcome, nominated.is_some());
                self.nominate(pod, outcome, nominated);
            }
            (Err(Failure::Broken(message)), _) => {
                self.queue.failed(pod.uid(), Instant::now());
                self.tell(pod, Standing { reason: "SchedulerError", message, nominated: None }, true);
            }
            // Whenever a pod is unfit, preemption has something to say.
            (Err(Failure::Unfit(_)), None) => {}
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
        let Some(writer) = self.writers.get(&pod.scheduler) else { return };
        // Less important pods that were to have this room look for another.
        for placed in self.snapshot.nominated_below(pod.priority) {
            if placed.slot == slot {
                self.snapshot.remove_pod(placed.pod.uid());
                let (writer, item) = (writer.clone(), placed.pod.item.clone());
                tokio::spawn(async move { writer.set_nominated(&item, None).await });
                self.queue.wake(placed.pod.uid());
            }
        }
        let is_free = victims.is_empty();
        for victim in victims.into_iter().filter(|victim| !victim.item.deleting) {
            let (writer, by, node, outcomes) = (writer.clone(), pod.item.clone(), node.clone(), self.outcomes.clone());
            tokio::spawn(async move {
                if !writer.evict(&victim.item, &by, &node).await {
                    // When the scheduler has stopped, nobody asks any more.
                    _ = outcomes.send(Outcomes::Kept(by.uid.clone()));
                }
            });
        }
        self.snapshot.place(pod.clone(), &node, Stage::Nominated);
        if is_free && nominated != Some(slot) {
            self.queue.wake(pod.uid());
        }
    }

    fn bind(&mut self, pod: &Pod, node: String, mut reservations: Reservations) {
        let Some(writer) = self.writers.get(&pod.scheduler).cloned() else { return };
        let (item, bindings, outcomes) = (pod.item.clone(), self.bindings.clone(), self.outcomes.clone());
        let binder = self.extenders.iter().find(|it| it.is_binder() && it.is_interested(pod)).cloned();
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
                    match binder {
                        Some(binder) => binder.bind(&item, &node).await.map_err(Unbound::Failed),
                        None => writer.bind(&item, &node).await.map_err(Unbound::Refused),
                    }
                }
                Err(message) => Err(Unbound::Unprepared(message)),
            };
            if outcome.is_err() {
                reservations.into_iter().rev().for_each(Reservation::unreserve);
            }
            // When the scheduler has stopped, nobody asks any more.
            _ = outcomes.send(Outcomes::Binding(item, outcome));
        });
    }

    fn settle(&mut self, outcome: Outcomes) {
        let (item, error) = match outcome {
            Outcomes::Kept(uid) => return self.queue.wake(&uid),
            Outcomes::Binding(item, Ok(())) => {
                self.unfinished.remove(&item.uid);
                return;
            }
            Outcomes::Binding(item, Err(error)) => (item, error),
        };
        let Some(placed) = self.snapshot.placed(&item.uid).filter(|placed| placed.stage == Stage::Assumed) else {
            // The pod is gone, or was bound after all.
            return;
        };
        let pod = placed.pod.clone();
        self.gone(&item.uid);
        let message = match error {
            Unbound::Refused(kube::Error::Api(status)) if status.code == 404 => {
                self.queue.remove(&item.uid);
                return;
            }
            Unbound::Refused(error) => format!("binding rejected: {error}"),
            Unbound::Failed(error) => format!("binding rejected: {error}"),
            Unbound::Unprepared(message) => message,
        };
        tracing::warn!(pod = %item.key, message, "a binding failed");
        self.queue.failed(&item.uid, Instant::now());
        self.tell(&pod, Standing { reason: "SchedulerError", message, nominated: None }, true);
    }

    fn refuse(&mut self, pod: &Arc<Pod>, Unfit { diagnosis, .. }: &Unfit, outcome: &Outcome, was_nominated: bool) {
        let message = diagnosis.message(&self.snapshot, outcome);
        let is_news = self.queue.unschedulable(pod.uid(), diagnosis.plugins, &message, Instant::now());
        let nominated = match outcome {
            Outcome::Nominated(preemption) => Some(self.snapshot.node_name(preemption.slot).to_owned()),
            _ => None,
        };
        let is_news = match outcome {
            Outcome::Terminating => false,
            // Its status still names a node.
            Outcome::Nowhere(_) => is_news || was_nominated,
            _ => is_news,
        };
        self.tell(pod, Standing { reason: "Unschedulable", message, nominated }, is_news);
    }

    /// Says why a pod has no node: by an event, and by its condition when that changes.
    fn tell(&self, pod: &Pod, standing: Standing, is_news: bool) {
        let Some(writer) = self.writers.get(&pod.scheduler) else { return };
        writer.failed(&pod.item, &standing.message);
        if is_news {
            let (writer, item, generation) = (writer.clone(), pod.item.clone(), pod.generation);
            tokio::spawn(async move { writer.set_unscheduled(&item, generation, &standing).await });
        }
    }
}
