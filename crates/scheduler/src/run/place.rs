//! What is done about one pod: it is decided on, and bound, or told why not.

use std::{sync::Arc, time::Instant};

use tokio_util::sync::CancellationToken;

use super::{Outcomes, Scheduler, Unbound};
use crate::{
    decide::{Decision, Failure, Reservations, Unfit, World},
    plugins::{
        Event, Plugin,
        extension::{GONE, Reservation},
    },
    pod::Pod,
    preempt::{self, Budget, Lives, Outcome},
    snapshot::{Placed, Slot, Stage},
    writer::{Standing, Writer},
};

/// Makes ready what a pod needs before it is bound.
async fn prepare(writer: &Writer, reservations: &mut Reservations, stop: &CancellationToken) -> Result<(), String> {
    for reservation in reservations {
        if stop.is_cancelled() {
            return Err(GONE.to_owned());
        }
        reservation.pre_bind(&writer.client, stop).await?;
    }
    Ok(())
}

/// What was decided on a pod.
pub(super) enum Decided {
    Fits(Decision),
    /// It fits nowhere, and so much for taking the place of others.
    Unfit(Box<Unfit>, Outcome),
    /// An extender failed.
    Broken(String),
}

pub(super) struct Attempt {
    pub decided: Decided,
    /// The node on which room was kept for the pod.
    pub nominated: Option<Slot>,
}

impl Scheduler {
    /// Decides on the pod whose turn it is, with those that belong to it, and sets going what follows.
    pub(super) fn place(&mut self, pod: &Arc<Pod>) {
        if self.is_held(pod) {
            return;
        }
        if pod.group.is_some() {
            return self.place_group(pod);
        }
        let Some(attempt) = self.attempt(pod) else { return };
        self.conclude(pod, attempt);
    }

    /// Whether the pod cannot even be tried as things are. It waits for what may change that.
    pub(super) fn is_held(&mut self, pod: &Pod) -> bool {
        let by = if pod.group.is_some() && self.gangs.of(pod).is_none() {
            Some(Plugin::GangScheduling)
        } else {
            self.extensions.iter().find(|it| it.hold(pod).is_some()).map(|extension| extension.plugin())
        };
        if let Some(plugin) = by {
            self.queue.hold(pod.uid(), plugin.bit());
        }
        by.is_some()
    }

    /// Decides on one pod. The snapshot is as before, but for the room that was kept for the pod.
    pub(super) fn attempt(&mut self, pod: &Arc<Pod>) -> Option<Attempt> {
        // Pods of other schedulers are not in the queue.
        let decider = self.deciders.get_mut(&pod.scheduler)?;
        let extensions = self.extensions.clone();
        let siblings = if pod.needs.spread.is_empty() { self.owners.selector(pod) } else { None };
        let (extenders, nodes) = (self.extenders.clone(), self.nodes.clone());
        let world = World {
            extensions: &extensions,
            siblings: siblings.as_deref(),
            extenders: &extenders,
            nodes: &|name| nodes.get("", name),
        };
        let nominated = self.snapshot.remove_pod(pod.uid()).map(|placed| placed.slot);
        // Room that is kept for less important pods is this one's if it wants it.
        let below = self.snapshot.nominated_below(pod.priority);
        below.iter().for_each(|it| _ = self.snapshot.remove_pod(it.pod.uid()));
        let decided = match decider.decide(pod, &mut self.snapshot, nominated, world, &mut self.dice) {
            Ok(decision) => Decided::Fits(decision),
            Err(Failure::Broken(message)) => Decided::Broken(message),
            Err(Failure::Unfit(unfit)) => {
                let pods = self.pods.clone();
                let newest =
                    |pod: &Pod| pods.get(pod.item.namespace(), pod.item.name()).unwrap_or_else(|| pod.item.clone());
                let budgets: Vec<Arc<Budget>> = self.budgets.values().cloned().collect();
                let lives = Lives { budgets: &budgets, newest: &newest, starts: &self.starts };
                let (snapshot, dice) = (&mut self.snapshot, &mut self.dice);
                let outcome = preempt::find(decider, pod, snapshot, &unfit, nominated, (world, lives), dice);
                Decided::Unfit(Box::new(unfit), outcome)
            }
        };
        for Placed { pod, slot, stage } in below {
            let node = self.snapshot.node_name(slot).to_owned();
            self.snapshot.place(pod, &node, stage);
        }
        Some(Attempt { decided, nominated })
    }

    pub(super) fn conclude(&mut self, pod: &Arc<Pod>, Attempt { decided, nominated }: Attempt) {
        match decided {
            Decided::Fits(Decision { slot, reservations }) => {
                let node = self.snapshot.node_name(slot).to_owned();
                self.snapshot.place(pod.clone(), &node, Stage::Assumed);
                self.bind(pod, node, reservations);
            }
            Decided::Unfit(unfit, outcome) => {
                self.refuse(pod, &unfit, &outcome, nominated.is_some());
                self.nominate(pod, outcome, nominated);
            }
            Decided::Broken(message) => self.fail(pod, message),
        }
    }

    /// Something went wrong that has nothing to do with nodes.
    pub(super) fn fail(&mut self, pod: &Pod, message: String) {
        self.queue.failed(pod.uid(), Instant::now());
        self.tell(pod, Standing { reason: "SchedulerError", message, nominated: None }, true);
    }

    /// Keeps room for a pod that may have it once others have left, and makes them leave.
    pub(super) fn nominate(&mut self, pod: &Arc<Pod>, outcome: Outcome, nominated: Option<Slot>) {
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
                let uid = item.uid.clone();
                self.statuses.write(&uid, async move { writer.set_nominated(&item, None).await });
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

    pub(super) fn bind(&mut self, pod: &Pod, node: String, mut reservations: Reservations) {
        let Some(writer) = self.writers.get(&pod.scheduler).cloned() else { return };
        let (item, bindings, outcomes) = (pod.item.clone(), self.bindings.clone(), self.outcomes.clone());
        let binder = self.extenders.iter().find(|it| it.is_binder() && it.is_interested(pod)).cloned();
        let stop = CancellationToken::new();
        if !reservations.is_empty() {
            self.unfinished.insert(item.uid.clone(), stop.clone().drop_guard());
        }
        // What takes time says where it is going, so that the room is kept if somebody else has to go on.
        let is_told = pod.nominated.as_deref() == Some(&*node);
        let told = self.statuses.written(pod.uid());
        tokio::spawn(async move {
            told.await;
            if !reservations.is_empty() && !is_told {
                writer.set_nominated(&item, Some(&node)).await;
            }
            let outcome = match prepare(&writer, &mut reservations, &stop).await {
                Ok(()) => {
                    // It is never closed; without a permit nothing would be lost but the limit.
                    let _permit = bindings.acquire().await;
                    match binder {
                        Some(binder) => match binder.bind(&item, &node).await {
                            Err(error) if !writer.is_bound(&item).await => Err(Unbound::Failed(error)),
                            Ok(()) | Err(_) => Ok(()),
                        },
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

    pub(super) fn settle(&mut self, outcome: Outcomes) {
        let (item, error) = match outcome {
            // It may have been decided on again since then.
            Outcomes::Kept(uid) => return self.queue.nudge(&uid),
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
        self.fail(&pod, message);
    }

    pub(super) fn refuse(
        &mut self,
        pod: &Arc<Pod>,
        Unfit { diagnosis, freed, .. }: &Unfit,
        outcome: &Outcome,
        was_nominated: bool,
    ) {
        let message = diagnosis.message(&self.snapshot, outcome, freed.as_ref().map(|it| it.says()));
        if let (Some(freed), Some(writer)) = (freed.clone(), self.writers.get(&pod.scheduler).cloned()) {
            tokio::spawn(async move { freed.deallocate(&writer.client).await });
        }
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
    pub(super) fn tell(&mut self, pod: &Pod, standing: Standing, is_news: bool) {
        let Some(writer) = self.writers.get(&pod.scheduler) else { return };
        writer.failed(&pod.item, &standing.message);
        if is_news {
            let (writer, item, generation) = (writer.clone(), pod.item.clone(), pod.generation);
            let status = async move { writer.set_unscheduled(&item, generation, &standing).await };
            self.statuses.write(pod.uid(), status);
        }
    }
}
