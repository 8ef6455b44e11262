//! Deciding what to do for a pod: a pure function of what is wanted, what the runtime has and what was tried.
//!
//! It is asked after every change and names all that can be done at once; what is under way it does not name again. The order of
//! containers is upstream's: init containers one by one, sidecars kept running from their turn on, then all main containers.

use jiff::{SignedDuration, Timestamp};

use super::backoff::go_seconds;
use super::memory::{ImageStep, Memory, Reason, Resize, Step};
use super::observed::{Container, Observed, State};
use super::pod::{After, Member, Pod, Role, bounded};
use super::resize;

/// Seconds that a container gets at least, whatever others took of the pod's period.
const GRACE_MIN: i64 = 2;

/// Something to do. All of one decision may run at the same time.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    PrepareVolumes,
    CreateSandbox {
        attempt: u32,
    },
    /// See that the image of the container is present.
    EnsureImage {
        container: String,
    },
    Start {
        container: String,
        /// Its restart count.
        attempt: u32,
        sandbox: String,
    },
    Stop {
        id: String,
        container: String,
        /// The event's words, after `Stopping container x` where there is no reason of its own.
        why: Option<String>,
        grace: i64,
    },
    /// A container that is not needed any more: made but never started, or an old dead one.
    RemoveContainer {
        id: String,
    },
    StopSandbox {
        id: String,
    },
    RemoveSandbox {
        id: String,
    },
    TearDown,
    /// The last step of a deleted pod: remove what is left and the API object.
    Finish,
    /// Run the preStop hook of a sidecar, which is stopped only when its turn comes.
    PreStop {
        id: String,
        container: String,
        grace: i64,
    },
    /// Bring what is allocated to the running containers.
    Resize,
    /// Fail the pod for this reason.
    Fail {
        reason: &'static str,
        message: &'static str,
    },
    /// Show why a container waits, and tell it once.
    Wait {
        container: String,
        why: Reason,
        /// The ended container that it is about.
        about: String,
    },
}

/// What to do now and when to look again if nothing happens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    pub actions: Vec<Action>,
    pub wake: Option<Timestamp>,
}

impl Decision {
    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |w| w.min(at)));
    }
}

/// Decides for one pod.
pub fn decide(pod: &Pod, seen: &Observed, memory: &Memory, now: Timestamp) -> Decision {
    let mut decision = Decision::default();
    if memory.removing {
        return decision;
    }
    if stops(pod, seen, memory) {
        stop(pod, seen, memory, now, &mut decision);
        return decision;
    }
    if deadline_passed(pod, memory, now, &mut decision) {
        return decision;
    }
    run(pod, seen, memory, now, &mut decision);
    prune(pod, seen, memory, &mut decision);
    decision
}

/// Whether the pod is to have no running container: deleted, failed, or all that it had to do is done.
pub fn stops(pod: &Pod, seen: &Observed, memory: &Memory) -> bool {
    memory.vanished || pod.deletion().is_some() || memory.failure.is_some() || pod.ended() || finished(pod, seen)
}

/// Whether every container has ended and none restarts, or an init container failed for good.
pub fn finished(pod: &Pod, seen: &Observed) -> bool {
    let ended_for_good = |m: &Member| {
        let code = seen.latest(&m.spec.name).and_then(Container::ended_with);
        code.is_some() && !pod.restarts(m, code)
    };
    let init_failed = pod.with_role(Role::Init).any(|m| {
        ended_for_good(m) && seen.latest(&m.spec.name).and_then(Container::ended_with).is_some_and(|code| code != 0)
    });
    let mut main = pod.with_role(Role::Main).peekable();
    (init_failed && !initialized_before(pod, seen)) || (main.peek().is_some() && main.all(ended_for_good))
}

/// Whether a main container was ever made: then the init containers had all done their work.
fn initialized_before(pod: &Pod, seen: &Observed) -> bool {
    pod.with_role(Role::Main).any(|m| seen.current(&m.spec.name).is_some())
}

fn deadline_passed(pod: &Pod, memory: &Memory, now: Timestamp, decision: &mut Decision) -> bool {
    let (Some(seconds), Some(start)) = (pod.spec().active_deadline_seconds, memory.start_time) else { return false };
    let end = start + SignedDuration::from_secs(bounded(seconds));
    if now < end {
        decision.wake_at(end);
        return false;
    }
    decision.actions.push(Action::Fail {
        reason: "DeadlineExceeded",
        message: "Pod was active on the node longer than the specified deadline",
    });
    true
}

fn stop(pod: &Pod, seen: &Observed, memory: &Memory, now: Timestamp, decision: &mut Decision) {
    let grace = remaining_grace(pod, memory, now);
    let live = |role: Role| {
        pod.with_role(role).filter_map(|m| seen.newest(&m.spec.name)).filter(|c| alive(c)).collect::<Vec<_>>()
    };
    let known: Vec<_> = pod.members.iter().map(|m| m.spec.name.as_str()).collect();
    let mut first = live(Role::Main);
    first.extend(live(Role::Init));
    first.extend(live(Role::Ephemeral));
    first.extend(seen.containers.iter().filter(|c| alive(c) && !known.contains(&c.name.as_str())));
    // Sidecars serve the others to the end, and stop in the reverse of the order in which they started.
    let sidecars = live(Role::Sidecar);
    if !first.is_empty() {
        pre_stop(pod, &sidecars, memory, grace, decision);
    }
    let batch = if first.is_empty() { sidecars.last().copied().into_iter().collect() } else { first };
    let quiet = batch.is_empty();
    for container in batch {
        if memory.hooking.contains(&container.id) && grace > GRACE_MIN {
            continue;
        }
        // One that is being stopped is hurried where less time is left than it was given.
        let end = now + SignedDuration::from_secs(grace + 2);
        if memory.stopping.get(&container.id).is_some_and(|given| *given <= end) {
            continue;
        }
        decision.actions.push(match container.state {
            // What is being started is stopped when it runs; half-way it would look like a container that cannot start.
            State::Created if memory.of(&container.name).starting => continue,
            State::Created => Action::RemoveContainer { id: container.id.clone() },
            _ => Action::Stop { id: container.id.clone(), container: container.name.clone(), why: None, grace },
        });
    }
    if !quiet || memory.starting() {
        return;
    }
    let ready: Vec<_> = seen.sandboxes.iter().filter(|s| s.ready).collect();
    if !ready.is_empty() {
        if !memory.sandbox_stopping {
            decision.actions.extend(ready.iter().map(|s| Action::StopSandbox { id: s.id.clone() }));
        }
        return;
    }
    if !memory.torn_down {
        if !memory.tearing_down {
            decision.actions.push(Action::TearDown);
        }
        return;
    }
    if memory.vanished || (pod.deletion().is_some() && memory.status_settled) {
        decision.actions.push(Action::Finish);
    }
}

/// The hooks of sidecars run when the pod begins to stop, beside all else; only their signals wait for their turn.
fn pre_stop(pod: &Pod, sidecars: &[&Container], memory: &Memory, grace: i64, decision: &mut Decision) {
    let hook = |c: &Container| pod.member(&c.name)?.spec.lifecycle.as_ref()?.pre_stop.clone();
    let due = |c: &&&Container| c.running() && grace > 0 && !memory.hooked.contains(&c.id) && hook(c).is_some();
    decision.actions.extend(sidecars.iter().filter(due).map(|c| Action::PreStop {
        id: c.id.clone(),
        container: c.name.clone(),
        grace,
    }));
}

fn alive(container: &Container) -> bool {
    container.state != State::Exited
}

/// What is left of the pod's grace period since it began to stop.
fn remaining_grace(pod: &Pod, memory: &Memory, now: Timestamp) -> i64 {
    let spent = memory.stop_began.map_or(0, |began| now.duration_since(began).as_secs());
    let whole = memory.grace_max.map_or(pod.grace(), |most| most.min(pod.grace()));
    if whole == 0 { 0 } else { (whole - spent).max(GRACE_MIN.min(whole)) }
}

fn run(pod: &Pod, seen: &Observed, memory: &Memory, now: Timestamp, decision: &mut Decision) {
    if let Some(sandbox) = seen.sandbox().filter(|s| !s.ready) {
        return replace_sandbox(sandbox.attempt + 1, pod, seen, memory, now, decision);
    }
    if end_stale(seen, memory, decision) {
        return;
    }
    replace_unfit(pod, seen, memory, decision);
    for member in next(pod, seen, memory) {
        advance(pod, member, seen, memory, now, decision);
    }
    match &memory.resize {
        resize if !resize.in_progress || resize.busy => {}
        Resize { error: Some((_, again)), .. } if *again > now => decision.wake_at(*again),
        _ => decision.actions.push(Action::Resize),
    }
    if seen.sandbox().is_none() {
        prepare(memory, 0, now, decision);
    } else {
        prepare_volumes(memory, now, decision);
    }
}

/// Where all containers begin again, ends what runs since before, at once and without hooks; true while anything does.
fn end_stale(seen: &Observed, memory: &Memory, decision: &mut Decision) -> bool {
    let mut stale = seen.containers.iter().filter(|c| alive(c) && seen.is_stale(c)).peekable();
    let any = stale.peek().is_some();
    for container in stale.filter(|c| !memory.stopping.contains_key(&c.id)) {
        let why = Some(format!("Container {} is restarted with all containers of its pod", container.name));
        let (id, container) = (container.id.clone(), container.name.clone());
        decision.actions.push(Action::Stop { id, container, why, grace: 0 });
    }
    any
}

/// The sandbox died (the node restarted, or somebody stopped it): its containers go, and it is made anew.
fn replace_sandbox(attempt: u32, pod: &Pod, seen: &Observed, memory: &Memory, now: Timestamp, decision: &mut Decision) {
    let mut quiet = true;
    for container in seen.containers.iter().filter(|c| c.running()) {
        quiet = false;
        if !memory.stopping.contains_key(&container.id) {
            let why = Some("Pod sandbox changed, it will be killed and re-created.".to_owned());
            let (id, container) = (container.id.clone(), container.name.clone());
            decision.actions.push(Action::Stop { id, container, why, grace: pod.grace() });
        }
    }
    if quiet {
        prepare(memory, attempt, now, decision);
    }
}

fn prepare(memory: &Memory, attempt: u32, now: Timestamp, decision: &mut Decision) {
    // One that was done is made again: it was lost since.
    if memory.sandbox.due(now) || memory.sandbox == Step::Done {
        decision.actions.push(Action::CreateSandbox { attempt });
    }
    if let Some(at) = memory.sandbox.retry_at().filter(|at| *at > now) {
        decision.wake_at(at);
    }
    prepare_volumes(memory, now, decision);
}

fn prepare_volumes(memory: &Memory, now: Timestamp, decision: &mut Decision) {
    if memory.volumes.due(now) {
        decision.actions.push(Action::PrepareVolumes);
    } else if let Some(at) = memory.volumes.retry_at() {
        decision.wake_at(at);
    }
}

/// Stops running containers whose probes failed or whose definition changed.
fn replace_unfit(pod: &Pod, seen: &Observed, memory: &Memory, decision: &mut Decision) {
    for member in pod.members.iter().filter(|m| m.role != Role::Ephemeral) {
        let name = &member.spec.name;
        let Some(container) = seen.current(name).filter(|c| c.running() && !memory.stopping.contains_key(&c.id)) else {
            continue;
        };
        let failed = memory.findings(name, &container.id).and_then(|f| f.failed.clone());
        let changed = container.hash != crate::containers::hash(&member.spec);
        // The new image is brought first, so that the container is away for a moment only; where there is none, it goes too.
        match &memory.of(name).image {
            _ if failed.is_some() || !changed => {}
            ImageStep::Todo => {
                decision.actions.push(Action::EnsureImage { container: name.clone() });
                continue;
            }
            ImageStep::Busy => continue,
            ImageStep::Present(_) | ImageStep::Failed { .. } => {}
        }
        let (why, grace) = match failed {
            Some((why, grace)) if pod.restarts_failed(member) => {
                (format!("Container {name} failed {why}, will be restarted"), grace)
            }
            Some((why, grace)) => (format!("Container {name} failed {why}"), grace),
            None if changed => (format!("Container {name} definition changed, will be restarted"), None),
            None if memory.resize.in_progress && resize::restarts(member, container, memory) => {
                (format!("Container {name} resize requires restart, will be restarted"), None)
            }
            None => continue,
        };
        let grace = grace.map_or(pod.grace(), bounded);
        decision.actions.push(Action::Stop {
            id: container.id.clone(),
            container: name.clone(),
            why: Some(why),
            grace,
        });
    }
}

/// The containers that are to be started next, those in back-off included.
fn next<'a>(pod: &'a Pod, seen: &Observed, memory: &Memory) -> Vec<&'a Member> {
    let past_init = initialized_before(pod, seen);
    // Ephemeral containers run once and wait for nothing.
    let debugs = |m: &&Member| m.role == Role::Ephemeral && seen.newest(&m.spec.name).is_none();
    let mut due: Vec<_> = pod.members.iter().filter(debugs).collect();
    for member in pod.members.iter().filter(|m| matches!(m.role, Role::Init | Role::Sidecar)) {
        let container = seen.current(&member.spec.name);
        match (member.role, container) {
            (Role::Init, _) if past_init => {}
            (Role::Init, Some(c)) if c.ended_with() == Some(0) => {}
            (Role::Sidecar, Some(c)) if c.running() => {
                if !past_init && !memory.findings(&c.name, &c.id).is_some_and(|f| f.started) {
                    return due;
                }
            }
            (_, Some(c)) if c.running() => return due,
            _ => {
                due.push(member);
                if !past_init {
                    return due;
                }
            }
        }
    }
    let wanted = |m: &&Member| match seen.current(&m.spec.name) {
        None => true,
        Some(c) if c.running() => false,
        Some(c) => pod.restarts(m, c.ended_with()),
    };
    due.extend(pod.with_role(Role::Main).filter(wanted));
    due
}

/// Brings one container a step nearer to running.
fn advance(pod: &Pod, member: &Member, seen: &Observed, memory: &Memory, now: Timestamp, decision: &mut Decision) {
    let name = &member.spec.name;
    let starts = memory.of(name);
    if starts.starting {
        return;
    }
    let last = seen.newest(name);
    match last {
        Some(c) if memory.stopping.contains_key(&c.id) => return,
        // Made before the kubelet ended, and never started.
        Some(c) if c.state == State::Created => {
            decision.actions.push(Action::RemoveContainer { id: c.id.clone() });
            return;
        }
        Some(c) if c.state == State::Unknown => {
            let why = Some(format!("Container {name} is in unknown state, try killing it before restart"));
            decision.actions.push(Action::Stop { id: c.id.clone(), container: name.clone(), why, grace: pod.grace() });
            return;
        }
        Some(c) if crashed(pod, member, seen) => {
            let ended = c.finished_at.unwrap_or(c.created_at);
            if let Some(until) = starts.crash.until(ended).filter(|until| *until > now) {
                let message = format!(
                    "back-off {} restarting failed container={name} pod={}",
                    go_seconds(starts.crash.delay()),
                    pod.display()
                );
                let why = Reason::new("CrashLoopBackOff", message);
                if starts.waiting.as_ref() != Some(&why) {
                    decision.actions.push(Action::Wait { container: name.clone(), why, about: c.id.clone() });
                }
                return decision.wake_at(until);
            }
        }
        _ => {}
    }
    if let Some(at) = starts.retry_at.filter(|at| *at > now) {
        return decision.wake_at(at);
    }
    match &starts.image {
        ImageStep::Busy => {}
        ImageStep::Todo => decision.actions.push(Action::EnsureImage { container: name.clone() }),
        ImageStep::Failed { retry_at, .. } if *retry_at <= now => {
            decision.actions.push(Action::EnsureImage { container: name.clone() });
        }
        ImageStep::Failed { turn_at, retry_at } => {
            let failing = starts.waiting.as_ref().filter(|w| w.reason == "ErrImagePull");
            match failing {
                Some(_) if *turn_at > now => decision.wake_at(*turn_at),
                Some(failing) => {
                    let image = member.spec.image.as_deref().unwrap_or_default();
                    let message = format!("Back-off pulling image \"{image}\": ErrImagePull: {}", failing.message);
                    let why = Reason::new("ImagePullBackOff", message);
                    decision.actions.push(Action::Wait { container: name.clone(), why, about: String::new() });
                    decision.wake_at(*retry_at);
                }
                None => decision.wake_at(*retry_at),
            }
        }
        ImageStep::Present(_) => {
            if let (Some(sandbox), Step::Done) = (seen.ready_sandbox(), &memory.volumes) {
                let attempt = last.map_or_else(|| told_restarts(pod, name), |c| c.attempt + 1);
                let sandbox = sandbox.id.clone();
                decision.actions.push(Action::Start { container: name.clone(), attempt, sandbox });
            }
        }
    }
}

/// Whether the container's next run follows an end of its own, so that the back-off holds: not one of all containers' new
/// beginning, unless it was the cause.
pub fn crashed(pod: &Pod, member: &Member, seen: &Observed) -> bool {
    let cause = |c: &Container| seen.is_stale(c) && pod.after(member, c.ended_with()) == After::RestartAll;
    match seen.current(&member.spec.name) {
        Some(c) => c.state == State::Exited,
        None => seen.newest(&member.spec.name).is_some_and(cause),
    }
}

/// The restart count to begin with when the runtime has forgotten the container: one more than the API last showed.
fn told_restarts(pod: &Pod, name: &str) -> u32 {
    let Some(status) = pod.status() else { return 0 };
    let lists = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    let told = lists.into_iter().flatten().flatten().find(|s| s.name == name && s.container_id.is_some());
    told.map_or(0, |s| s.restart_count.max(0) as u32 + 1)
}

/// Removes what is of no more use: dead containers but the last two of a name, and replaced sandboxes without containers.
fn prune(pod: &Pod, seen: &Observed, memory: &Memory, decision: &mut Decision) {
    for member in &pod.members {
        let dead = seen.containers.iter().filter(|c| c.name == member.spec.name && c.state == State::Exited);
        let keep = if seen.newest(&member.spec.name).is_some_and(|c| c.state == State::Exited) { 2 } else { 1 };
        let old = dead.skip(keep).filter(|c| !memory.stopping.contains_key(&c.id));
        decision.actions.extend(old.map(|c| Action::RemoveContainer { id: c.id.clone() }));
    }
    let spent = |id: &str| !seen.containers.iter().any(|c| c.sandbox_id == id);
    let old = seen.sandboxes.iter().skip(1).filter(|s| !s.ready && spent(&s.id));
    decision.actions.extend(old.map(|s| Action::RemoveSandbox { id: s.id.clone() }));
}
