//! Which pods are deleted first when there are too many.

use std::cmp::Ordering;

use k8s_openapi::jiff::Timestamp;

use crate::pods::PodView;

/// Less: `a` goes before `b`. `crowd` is the number of related pods on the pod's node.
///
/// In this order: unassigned before assigned; pending before unknown before running; not ready before ready; lower
/// deletion cost; on the more crowded node; ready for a shorter time; more restarts; younger. Times are compared by their
/// order of magnitude, and within one the uid decides, so that the choice is spread.
pub(crate) fn deletion_order(a: &PodView, a_crowd: usize, b: &PodView, b_crowd: usize, now: Timestamp) -> Ordering {
    let assigned = |pod: &PodView| !pod.item.node_name.is_empty();
    let by_uid = || a.item.uid.cmp(&b.item.uid);
    let by_age = |a: Timestamp, b: Timestamp| magnitude(a, now).cmp(&magnitude(b, now)).then_with(by_uid);
    let by_ready_time = || match (a.ready_since, b.ready_since) {
        (Some(a), Some(b)) if a != b => by_age(a, b),
        _ => Ordering::Equal,
    };
    assigned(a)
        .cmp(&assigned(b))
        .then_with(|| phase(a).cmp(&phase(b)))
        .then_with(|| a.is_ready().cmp(&b.is_ready()))
        .then_with(|| a.deletion_cost.cmp(&b.deletion_cost))
        .then_with(|| b_crowd.cmp(&a_crowd))
        .then_with(by_ready_time)
        .then_with(|| b.restarts.cmp(&a.restarts))
        .then_with(|| if a.created == b.created { by_uid() } else { by_age(a.created, b.created) })
}

fn phase(pod: &PodView) -> u8 {
    match &*pod.item.phase {
        "" | "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    }
}

/// The binary logarithm of an age; younger is less.
fn magnitude(since: Timestamp, now: Timestamp) -> i32 {
    let age = now.duration_since(since).as_nanos();
    if age <= 0 { -1 } else { age.ilog2().cast_signed() }
}
