//! A node has room for what a pod requests; of several, the one with the most left is best (`LeastAllocated`).

use super::{Event, MAX_SCORE, Plugin};
use crate::{
    node::Node,
    pod::{Needs, Pod},
    snapshot::{CPU, MEMORY, Slot, Snapshot},
    verdict::{Reason, Rejection},
};

/// `requests` are the pod's by column.
pub(crate) fn filter(requests: &[(usize, i64)], snapshot: &Snapshot, slot: Slot) -> Option<Rejection> {
    let rejection = |reason, hopeless| match hopeless {
        true => Rejection::hopeless(Plugin::NodeResourcesFit, reason),
        false => Rejection::resolvable(Plugin::NodeResourcesFit, reason),
    };
    let pods = &snapshot.pods;
    let full = pods.requested[slot] >= pods.allocatable[slot];
    let too_many = full.then(|| rejection(Reason::TOO_MANY_PODS, pods.allocatable[slot] == 0));
    let insufficient = requests.iter().filter_map(|&(resource, request)| {
        let column = snapshot.column(resource);
        let (all, used) = (column.allocatable[slot], column.requested[slot]);
        (request > all - used).then(|| rejection(Reason::insufficient(resource), request > all))
    });
    too_many.into_iter().chain(insufficient).reduce(Rejection::and)
}

pub(crate) fn score(needs: &Needs, snapshot: &Snapshot, slot: Slot) -> i64 {
    let (mut score, mut weights) = (0, 0);
    for (index, resource) in [CPU, MEMORY].into_iter().enumerate() {
        let all = snapshot.column(resource).allocatable[slot];
        let used = snapshot.assumed[index][slot] + needs.assumed[index];
        if all > 0 {
            weights += 1;
            score += if used > all { 0 } else { (all - used) * MAX_SCORE / all };
        }
    }
    if weights == 0 { 0 } else { score / weights }
}

pub(crate) fn helps(pod: &Pod, event: Event<'_>) -> bool {
    let room = |node: &Node, name: &str| node.allocatable(name);
    match event {
        Event::Placed(_) | Event::Object { .. } => false,
        // Any pod that leaves makes room for one more; what it had requested may be what is short.
        Event::Gone(_) => true,
        Event::Node { old, new } => {
            let would_fit = pod.needs.requests.iter().all(|(name, request)| *request <= room(new, name));
            let mut watched = pod.needs.requests.keys().map(|name| &**name).chain(["pods"]);
            would_fit && old.is_none_or(|old| watched.any(|name| room(new, name) > room(old, name)))
        }
    }
}
