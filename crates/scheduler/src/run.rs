//! The loop around the decisions: it takes the caches' changes into snapshot and queue, decides one pod after another, and
//! has bindings written meanwhile.

mod gang;
mod place;
mod statuses;

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
    decide::Decider,
    extender::Extender,
    gangs::Gangs,
    node::Node,
    objects::{Kind, Objects},
    owners::Owners,
    plugins::{
        Event,
        extension::{self, Extension},
    },
    pod::{self, Parser, Pod},
    preempt::{Budget, Starts},
    profile::Profile,
    queue::Queue,
    snapshot::{Placed, Snapshot, Stage},
    writer::Writer,
};
use statuses::Statuses;

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
    owners: Owners,
    gangs: Gangs,
    budgets: BTreeMap<Key, Arc<Budget>>,
    starts: Starts,
    extensions: Arc<[Arc<dyn Extension>]>,
    /// What is being written of the pods' statuses.
    statuses: Statuses,
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
        owners: Owners::new(objects),
        gangs: Gangs::default(),
        budgets: BTreeMap::new(),
        starts: Starts::default(),
        extensions,
        unfinished: HashMap::new(),
        statuses: Statuses::default(),
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

impl Scheduler {
    fn node(&mut self, change: &Change) {
        let Some(item) = &change.new else {
            if let Some(old) = self.snapshot.remove_node(&change.key.name) {
                self.queue.event(Event::NodeGone(&old));
            }
            return;
        };
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
        self.extensions.iter().for_each(|extension| extension.observe(kind, change));
        if kind == Kind::Namespace {
            self.snapshot.set_namespace(&change.key.name, change.new.as_ref().map(|item| item.labels.clone()));
        }
        if kind == Kind::DeviceClass {
            self.snapshot.set_device_class(change);
        }
        if kind == Kind::PodGroup {
            let ready = self.gangs.observe(change);
            ready.iter().for_each(|uid| self.queue.nudge(uid));
        }
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
            self.gangs.leave(&item.uid);
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
        self.starts.forget(uid);
        self.statuses.forget(uid);
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
        let known = self.snapshot.placed(&item.uid).cloned();
        let here = known.as_ref().filter(|it| self.snapshot.node_name(it.slot) == &*item.node_name);
        let is_same = |pod: &Pod| pod.item.labels == item.labels && pod.item.deleting == item.deleting;
        match here {
            Some(Placed { pod, stage: Stage::Bound, .. }) if is_same(pod) && !pod::is_resized(&pod.item, item) => {
                return;
            }
            Some(Placed { pod, stage: Stage::Assumed | Stage::Nominated, .. }) if is_same(pod) => {
                self.snapshot.confirm(&item.uid);
                return self.queue.event(Event::Placed(pod));
            }
            _ => {}
        }
        // Binding changes labels, and mostly nothing else that matters.
        let is_assumed = here.is_some_and(|it| it.stage == Stage::Assumed);
        let (is_here, renewed) =
            (here.is_some(), here.filter(|_| is_assumed).and_then(|it| it.pod.renewed(item.clone())));
        let Some(pod) = renewed.or_else(|| self.parse(item)) else { return };
        let pod = Arc::new(pod);
        self.snapshot.place(pod.clone(), &item.node_name, Stage::Bound);
        if let Some(Placed { pod: old, stage, .. }) = known {
            match is_here && stage != Stage::Nominated {
                true => self.queue.event(Event::Changed { old: &old, new: &pod }),
                false => self.queue.event(Event::Gone(&old)),
            }
            if is_here && stage == Stage::Bound {
                return;
            }
        }
        self.queue.event(Event::Placed(&pod));
    }

    /// Reads a pod that is there.
    fn parse(&mut self, item: &Arc<Item>) -> Option<Pod> {
        let parsed = self.parser.parse(item.clone());
        let pod = parsed.inspect_err(|error| tracing::error!(pod = %item.key, %error, "unreadable pod")).ok()?;
        let ready = self.gangs.join(&pod);
        ready.iter().for_each(|uid| self.queue.nudge(uid));
        Some(pod)
    }
}
