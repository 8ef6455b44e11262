//! What is done about the pods of a group: all are decided on one after another, as if those before were on their nodes
//! already; then as many are bound as the group needs or more, or none is.

use std::{cmp::Reverse, sync::Arc};

use super::{
    Scheduler,
    place::{Attempt, Decided},
};
use crate::{
    decide::{Decision, Reservations, Unfit},
    gangs::Group,
    plugins::{Plugin, extension::Reservation},
    pod::Pod,
    preempt::{Outcome, Preemption},
    snapshot::{Placed, Slot, Stage},
    writer::{GroupStanding, Standing},
};

const TOO_FEW: &str = "waiting for minCount pods from a gang to be scheduled";
const PREEMPTING: &str = "pod group is waiting for preemption to complete";

/// What was decided on a pod of the group, and is assumed for now.
enum Member {
    Fits {
        slot: Slot,
        reservations: Reservations,
    },
    /// It would fit without others, who are out of the snapshot.
    Clears {
        slot: Slot,
        unfit: Box<Unfit>,
        outcome: Outcome,
        out: Vec<Placed>,
    },
    Unfit(Box<Unfit>, Outcome),
}

impl Scheduler {
    /// Decides on a pod that was popped, with all pods of its group that wait.
    pub(super) fn place_group(&mut self, first: &Arc<Pod>) {
        let Some((group, uids)) = self.gangs.of(first) else { return };
        let others = uids.iter().filter(|uid| ***uid != *first.uid());
        let others: Vec<Arc<Pod>> = others.filter_map(|uid| self.queue.take(uid)).collect();
        let mut pods = vec![first.clone()];
        pods.extend(others.into_iter().filter(|pod| !self.is_held(pod)));
        pods.sort_by_key(|pod| (Reverse(pod.priority), self.queue.age(pod.uid())));
        if let Some(other) = pods.iter().find(|pod| pod.scheduler != pods[0].scheduler) {
            let message = format!(
                "all pods in a single pod group should have the same .spec.schedulerName set, got: {:?} and {:?}",
                pods[0].scheduler, other.scheduler
            );
            return self.break_off(&group, &pods, None, message);
        }
        let on_nodes = uids.iter().filter_map(|uid| self.snapshot.placed(uid));
        let placed = on_nodes.filter(|it| it.stage != Stage::Nominated).count();
        let mut members = Vec::new();
        for pod in &pods {
            let Some(Attempt { decided, nominated }) = self.attempt(pod) else { continue };
            match self.assume(pod, decided, nominated) {
                Ok(member) => members.push((pod.clone(), nominated, member)),
                Err(message) => {
                    self.revert(&mut members);
                    let others = format!("failed to schedule other pod from a pod group: {message}");
                    return self.break_off(&group, &pods, Some((pod, message)), others);
                }
            }
        }
        let count = |which: fn(&Member) -> bool| members.iter().filter(|(.., member)| which(member)).count();
        let fitting = count(|member| !matches!(member, Member::Unfit(..)));
        let is_enough = fitting > 0 && placed + fitting >= group.least;
        let clears = count(|member| matches!(member, Member::Clears { .. })) > 0;
        let standing = match (is_enough, clears) {
            (true, false) => GroupStanding { status: "True", reason: "Scheduled", message: String::new() },
            (true, true) => GroupStanding { status: "False", reason: "Unschedulable", message: PREEMPTING.into() },
            (false, _) => GroupStanding { status: "False", reason: "Unschedulable", message: String::new() },
        };
        if is_enough && !clears {
            self.bind_members(members);
        } else {
            self.revert(&mut members);
            for (pod, nominated, member) in members {
                self.refuse_member(&pod, nominated, member, is_enough);
            }
        }
        self.tell_group(&group, first, standing);
    }

    /// Has the next pods of the group see this one where it was decided that it goes. An error breaks the group off.
    fn assume(&mut self, pod: &Arc<Pod>, decided: Decided, nominated: Option<Slot>) -> Result<Member, String> {
        let member = match (decided, nominated) {
            (Decided::Broken(message), _) => return Err(message),
            (Decided::Fits(Decision { slot, reservations }), _) => Member::Fits { slot, reservations },
            (Decided::Unfit(unfit, Outcome::Nominated(Preemption { slot, victims, violations })), _) => {
                let out = victims.iter().filter_map(|victim| self.snapshot.remove_pod(victim.uid())).collect();
                let outcome = Outcome::Nominated(Preemption { slot, victims, violations });
                Member::Clears { slot, unfit, outcome, out }
            }
            // Those who make room for it have not left yet.
            (Decided::Unfit(unfit, Outcome::Terminating), Some(slot)) => {
                Member::Clears { slot, unfit, outcome: Outcome::Terminating, out: Vec::new() }
            }
            (Decided::Unfit(unfit, outcome), _) => return Ok(Member::Unfit(unfit, outcome)),
        };
        if let Member::Fits { slot, .. } | Member::Clears { slot, .. } = &member {
            let node = self.snapshot.node_name(*slot).to_owned();
            self.snapshot.place(pod.clone(), &node, Stage::Assumed);
        }
        Ok(member)
    }

    /// Takes everything back that was assumed.
    fn revert(&mut self, members: &mut [(Arc<Pod>, Option<Slot>, Member)]) {
        for (pod, _, member) in members.iter_mut().rev() {
            match member {
                Member::Fits { reservations, .. } => {
                    std::mem::take(reservations).into_iter().rev().for_each(Reservation::unreserve);
                }
                Member::Clears { out, .. } => {
                    for Placed { pod, slot, stage } in out.drain(..) {
                        let node = self.snapshot.node_name(slot).to_owned();
                        self.snapshot.place(pod, &node, stage);
                    }
                }
                Member::Unfit(..) => continue,
            }
            self.snapshot.remove_pod(pod.uid());
        }
    }

    fn bind_members(&mut self, members: Vec<(Arc<Pod>, Option<Slot>, Member)>) {
        for (pod, nominated, member) in members {
            match member {
                Member::Fits { slot, reservations } => {
                    let node = self.snapshot.node_name(slot).to_owned();
                    self.bind(&pod, node, reservations);
                }
                Member::Unfit(unfit, outcome) | Member::Clears { unfit, outcome, .. } => {
                    self.conclude(&pod, Attempt { decided: Decided::Unfit(unfit, outcome), nominated });
                }
            }
        }
    }

    /// Sends a pod back to the queue. If the group only waits until others have left, its room is kept.
    fn refuse_member(&mut self, pod: &Arc<Pod>, nominated: Option<Slot>, member: Member, is_enough: bool) {
        match member {
            Member::Clears { unfit, outcome, .. } if is_enough => {
                self.conclude(pod, Attempt { decided: Decided::Unfit(unfit, outcome), nominated });
            }
            Member::Unfit(unfit, outcome) => {
                self.conclude(pod, Attempt { decided: Decided::Unfit(unfit, outcome), nominated });
            }
            Member::Fits { slot, .. } if is_enough => {
                let node = self.snapshot.node_name(slot).to_owned();
                self.snapshot.place(pod.clone(), &node, Stage::Nominated);
                self.refuse_for_group(pod, 0, PREEMPTING, Some(node));
            }
            Member::Fits { .. } => self.refuse_for_group(pod, 0, TOO_FEW, None),
            Member::Clears { unfit, .. } => self.refuse_for_group(pod, unfit.diagnosis.plugins, TOO_FEW, None),
        }
    }

    fn refuse_for_group(&mut self, pod: &Pod, plugins: u32, message: &str, nominated: Option<String>) {
        let plugins = plugins | Plugin::GangScheduling.bit();
        let is_news = self.queue.unschedulable(pod.uid(), plugins, message, std::time::Instant::now());
        self.tell(pod, Standing { reason: "Unschedulable", message: message.to_owned(), nominated }, is_news);
    }

    /// No pod of the group can be decided on now: `cause` is the one at which that was seen, with a message of its own.
    fn break_off(&mut self, group: &Group, pods: &[Arc<Pod>], cause: Option<(&Arc<Pod>, String)>, message: String) {
        for pod in pods {
            let own = cause.as_ref().filter(|(it, _)| it.uid() == pod.uid()).map(|(_, message)| message.clone());
            self.fail(pod, own.unwrap_or_else(|| message.clone()));
        }
        if let Some(first) = pods.first() {
            let standing = GroupStanding { status: "False", reason: "SchedulerError", message };
            self.tell_group(group, first, standing);
        }
    }

    fn tell_group(&self, group: &Group, pod: &Pod, standing: GroupStanding) {
        let Some(writer) = self.writers.get(&pod.scheduler).cloned() else { return };
        let item = group.item.clone();
        tokio::spawn(async move { writer.set_group(&item, &standing).await });
    }
}
