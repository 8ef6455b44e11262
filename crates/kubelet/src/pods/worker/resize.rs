//! A worker's part of in-place resize: what is asked for is brought before the node's ledger, what is allocated to the containers.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::json;

use super::{Done, RETRY, Worker};
use crate::containers::hash;
use crate::pods::memory::{Reason, Resize, Starts, Step};
use crate::pods::resize::{self, Allocation};
use crate::pods::{jobs, pod::Pod};
use crate::resources;

impl Worker {
    /// Takes an allocation over; from now on the pod is seen with it.
    pub(super) fn allocate(&mut self, allocation: Allocation) {
        let rules = &self.context.rules;
        let pod = match resize::same(&allocation, &resize::asked(&self.desired)) {
            true => self.desired.clone(),
            false => Arc::new(resize::granted(&self.desired, &allocation)),
        };
        let wanted = allocation.iter().filter_map(|(name, given)| {
            Some((name.clone(), resources::container(&pod, pod.member(name)?, Some(given), rules)))
        });
        self.memory.wanted = wanted.collect();
        self.memory.allocated = allocation;
        self.pod = pod;
    }

    /// Takes a new revision of the pod over: what it asks for is allocated if the node can give it.
    pub(super) fn desire(&mut self, pod: Arc<Pod>) {
        self.forget_replaced(&pod);
        self.desired = pod;
        let asked = resize::asked(&self.desired);
        // Containers are neither added nor removed, but a static pod's image may be another.
        self.memory.allocated.retain(|name, _| asked.contains_key(name));
        self.allocate(self.memory.allocated.clone());
        self.consider_resize();
        let made = |name: &&str| self.volumes.sources.contains_key(*name);
        if self.memory.volumes == Step::Done && !self.refreshing && !self.pod.used_volumes().iter().all(made) {
            // A container was added that uses more of them.
            self.memory.volumes = Step::Todo;
        }
    }

    /// What was tried with another image says nothing about this one.
    fn forget_replaced(&mut self, new: &Pod) {
        for member in &self.desired.members {
            let name = &member.spec.name;
            if new.member(name).is_some_and(|m| hash(&m.spec) != hash(&member.spec)) {
                let starts = self.memory.starts(name);
                let (starting, findings) = (starts.starting, std::mem::take(&mut starts.findings));
                *starts = Starts { starting, findings, ..Default::default() };
            }
        }
    }

    /// Asks whether the node can give what the pod asks for, and remembers why not.
    pub(super) fn consider_resize(&mut self) {
        let asked = resize::asked(&self.desired);
        if resize::same(&asked, &self.memory.allocated) || self.memory.stop_began.is_some() {
            self.memory.resize.pending = None;
            return;
        }
        let generation = self.desired.object.metadata.generation;
        let outcome = match self.context.placement.pins(&self.desired) {
            Some(why) => Err(Reason::infeasible(why.to_owned())),
            None => self.context.ledger.lock().resize(&self.desired),
        };
        match outcome {
            Ok(()) => {
                self.allocate(asked);
                self.memory.resize = Resize { generation, in_progress: true, ..Default::default() };
                let message = format!("Pod resize started: {}", self.shown());
                self.context.tell(&self.pod, None, "ResizeStarted", message);
            }
            Err(why) if self.memory.resize.pending.as_ref() == Some(&why) => {}
            Err(why) => {
                let message = format!("Pod resize {}: {}: {}", why.reason, why.message, self.shown());
                self.context.warn(&self.pod, None, &format!("Resize{}", why.reason), message);
                self.memory.resize.generation = generation;
                self.memory.resize.pending = Some(why);
            }
        }
    }

    /// Whether a resize waits for room on the node.
    pub(super) fn defers(&self) -> bool {
        self.memory.resize.pending.as_ref().is_some_and(|why| why.reason == "Deferred")
    }

    /// Sees how far a resize has come.
    pub(super) fn track_resize(&mut self) {
        let (pod, seen, memory) = (&self.pod, &self.seen, &self.memory);
        let restarting = || {
            pod.members.iter().any(|m| {
                memory.allocated.contains_key(&m.spec.name)
                    && seen.current(&m.spec.name).is_some_and(|c| !c.running() && pod.restarts(m, c.ended_with()))
            })
        };
        let before = memory.resize.in_progress;
        let now = memory.stop_began.is_none()
            && (memory.resize.busy || !resize::behind(pod, seen, memory).is_empty() || (before && restarting()));
        self.memory.resize.in_progress = now;
        if before && !now && self.memory.stop_began.is_none() {
            self.memory.resize.error = None;
            self.context.tell(&self.pod, None, "ResizeCompleted", format!("Pod resize completed: {}", self.shown()));
        }
    }

    /// Brings what is allocated to the containers that run, and to the pod's own cgroup.
    pub(super) fn bring_resources(&mut self) {
        let Some(sandbox) = self.seen.ready_sandbox().map(|s| s.id.clone()) else { return };
        let behind = resize::behind(&self.pod, &self.seen, &self.memory).into_iter();
        let changes: Vec<_> = behind
            .filter(|(member, container)| !resize::restarts(member, container, &self.memory))
            .filter_map(|(_, c)| Some((c.id.clone(), c.resources.clone()?, self.memory.wanted.get(&c.name)?.clone())))
            .collect();
        if changes.is_empty() {
            return;
        }
        self.memory.resize.busy = true;
        let (context, pod) = (self.context.clone(), self.pod.clone());
        self.jobs.spawn(async move { Done::Resized(jobs::resize(context, pod, sandbox, changes).await) });
    }

    pub(super) fn resized(&mut self, outcome: Result<(), String>) {
        let resize = &mut self.memory.resize;
        resize.busy = false;
        match outcome {
            Ok(()) => resize.error = None,
            Err(message) => {
                let again = Timestamp::now() + RETRY;
                if resize.error.as_ref().is_none_or(|(known, _)| *known != message) {
                    self.context.warn(&self.pod, None, "ResizeError", format!("Pod resize error: {message}"));
                }
                resize.error = Some((message, again));
            }
        }
    }

    /// What is asked for, as events show it.
    fn shown(&self) -> String {
        let containers: Vec<_> = resize::asked(&self.desired)
            .into_iter()
            .map(|(name, resources)| json!({"name": name, "resources": resources}))
            .collect();
        json!({"containers": containers, "generation": self.desired.object.metadata.generation}).to_string()
    }
}

impl Reason {
    /// A resize that waits until there is room.
    pub fn deferred(message: String) -> Reason {
        Reason::new("Deferred", message)
    }

    /// A resize that this node can never give.
    pub fn infeasible(message: String) -> Reason {
        Reason::new("Infeasible", message)
    }
}
