//! A node has room for what a pod requests; of several, the one with the most left is best, or with the least, or by a
//! function of how much is requested of what it has.

use super::{Event, MAX_SCORE, Plugin};
use crate::{
    device_classes,
    node::Node,
    objects::Kind,
    pod::{Needs, Pod},
    profile::{Fit, Strategy},
    snapshot::{CPU, Column, MEMORY, Slot, Snapshot},
    verdict::{Reason, Rejection},
};

/// Which of the nodes from a slot on, up to 64 of them, have room for what is requested: the same as [`filter`], for many.
pub(crate) fn room(requests: &[(usize, i64)], snapshot: &Snapshot, from: Slot) -> u64 {
    let to = (from + u64::BITS as usize).min(snapshot.slots());
    let bits = |column: &Column, request: i64| {
        let nodes = column.allocatable[from..to].iter().zip(&column.requested[from..to]);
        let has_room = |all: i64, used: i64| request <= all - used || column.is_of_devices && all == 0;
        nodes.enumerate().fold(0, |bits, (at, (all, used))| bits | u64::from(has_room(*all, *used)) << at)
    };
    // A pod needs a place of its own.
    requests.iter().fold(bits(&snapshot.pods, 1), |bits_so_far, &(resource, request)| match bits_so_far {
        0 => 0,
        some => some & bits(snapshot.column(resource), request),
    })
}

/// `requests` are the pod's by column.
pub(crate) fn filter(requests: &[(usize, i64)], snapshot: &Snapshot, slot: Slot) -> Option<Rejection> {
    let rejection = |reason, hopeless| match hopeless {
        true => Rejection::hopeless(Plugin::NodeResourcesFit, reason),
        false => Rejection::resolvable(Plugin::NodeResourcesFit, reason),
    };
    let pods = &snapshot.pods;
    let has_room = |&(resource, request): &(usize, i64)| snapshot.column(resource).has_room(slot, request);
    if pods.requested[slot] < pods.allocatable[slot] && requests.iter().all(has_room) {
        return None;
    }
    let full = pods.requested[slot] >= pods.allocatable[slot];
    let too_many = full.then(|| rejection(Reason::TOO_MANY_PODS, pods.allocatable[slot] == 0));
    let insufficient = requests.iter().filter_map(|&(resource, request)| {
        let column = snapshot.column(resource);
        let is_short = !column.has_room(slot, request);
        is_short.then(|| rejection(Reason::insufficient(resource), request > column.allocatable[slot]))
    });
    too_many.into_iter().chain(insufficient).reduce(Rejection::and)
}

/// What is scored of one resource.
#[derive(Debug)]
pub(crate) struct Scored {
    column: usize,
    /// For CPU and memory: what containers without requests are taken to use counts too.
    assumed: Option<usize>,
    pub request: i64,
    weight: i64,
}

/// The resources that are scored for a pod. One that few nodes have is left out for pods that do not request it.
pub(crate) fn scored(needs: &Needs, fit: &Fit, snapshot: &mut Snapshot) -> Vec<Scored> {
    let mut scored = Vec::with_capacity(fit.resources.len());
    for (name, weight) in &fit.resources {
        let column = snapshot.resource(name);
        let assumed = [CPU, MEMORY].iter().position(|it| *it == column);
        let request = assumed.map_or_else(|| needs.request(name), |index| needs.assumed[index]);
        if request > 0 || !is_scalar(name) {
            scored.push(Scored { column, assumed, request, weight: *weight });
        }
    }
    scored
}

/// Whether a resource is none of those that every node has.
pub(crate) fn is_scalar(name: &str) -> bool {
    !matches!(name, "cpu" | "memory" | "ephemeral-storage" | "pods")
}

pub(crate) fn score(scored: &[Scored], strategy: &Strategy, snapshot: &Snapshot, slot: Slot) -> i64 {
    let (mut score, mut weights) = (0, 0);
    for it in scored {
        let column = snapshot.column(it.column);
        let all = column.allocatable[slot];
        if all == 0 {
            continue;
        }
        let used = it.assumed.map_or(column.requested[slot], |index| snapshot.assumed[index][slot]) + it.request;
        let own = match strategy {
            Strategy::Least => (all - used).max(0) * MAX_SCORE / all,
            Strategy::Most => used.min(all) * MAX_SCORE / all,
            Strategy::Ratio(shape) => match along(shape, if used > all { 100 } else { used * 100 / all }) {
                // Upstream leaves out what scores nothing.
                0 => continue,
                score => score,
            },
        };
        score += own * it.weight;
        weights += it.weight;
    }
    match (weights, strategy) {
        (0, _) => 0,
        (_, Strategy::Ratio(_)) => (2 * score + weights) / (2 * weights),
        _ => score / weights,
    }
}

/// The value of a broken line at a point.
fn along(shape: &[(i64, i64)], at: i64) -> i64 {
    let Some(next) = shape.iter().position(|(x, _)| at <= *x) else { return shape.last().map_or(0, |(_, y)| *y) };
    let (x1, y1) = shape[next];
    match next.checked_sub(1).map(|before| shape[before]) {
        None => y1,
        Some((x0, y0)) => y0 + (y1 - y0) * (at - x0) / (x1 - x0),
    }
}

pub(crate) fn helps(pod: &Pod, event: Event<'_>) -> bool {
    let room = |node: &Node, name: &str| node.allocatable(name);
    match event {
        Event::Object { kind: Kind::DeviceClass, new: Some(class), .. } => {
            let mut scalars = pod.needs.requests.keys().filter(|name| is_scalar(name));
            scalars.any(|name| device_classes::is_behind(class, name))
        }
        Event::Placed(_) | Event::NodeGone(_) | Event::Object { .. } => false,
        // Any pod that leaves makes room for one more; what it had requested may be what is short.
        Event::Gone(_) => true,
        Event::Changed { old, new } => {
            pod.needs.requests.keys().any(|name| new.needs.request(name) < old.needs.request(name))
        }
        Event::Node { old, new } => {
            let would_fit = pod.needs.requests.iter().all(|(name, request)| *request <= room(new, name));
            let mut watched = pod.needs.requests.keys().map(|name| &**name).chain(["pods"]);
            would_fit && old.is_none_or(|old| watched.any(|name| room(new, name) > room(old, name)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::along;

    #[test]
    fn a_shape_is_followed_from_point_to_point() {
        let shape = [(0, 0), (50, 100), (100, 20)];
        for (at, expected) in [(0, 0), (25, 50), (50, 100), (75, 60), (100, 20)] {
            assert_eq!(along(&shape, at), expected, "{at}");
        }
        assert_eq!((along(&[(40, 70)], 10), along(&[(40, 70)], 90)), (70, 70));
    }
}
