//! Of several nodes the one is best whose resources, CPU and memory unless configured otherwise, are used alike.

use super::{MAX_SCORE, node_resources_fit::is_scalar};
use crate::{
    pod::Needs,
    snapshot::{Slot, Snapshot},
};

/// The pod's requests of the resources that are compared, by column; none for a pod that requests none of them, since all
/// such pods would pile up where the balance is.
pub(crate) fn compared(needs: &Needs, resources: &[Box<str>], snapshot: &mut Snapshot) -> Vec<(usize, i64)> {
    if resources.iter().all(|name| needs.request(name) == 0) {
        return Vec::new();
    }
    let concerned = resources.iter().filter(|name| needs.request(name) > 0 || !is_scalar(name));
    concerned.map(|name| (snapshot.resource(name), needs.request(name))).collect()
}

#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "fractions, and a score up to 100")]
pub(crate) fn score(compared: &[(usize, i64)], snapshot: &Snapshot, slot: Slot) -> i64 {
    let fraction = |&(resource, request): &(usize, i64)| {
        let column = snapshot.column(resource);
        let all = column.allocatable[slot];
        (all > 0).then(|| ((column.requested[slot] + request) as f64 / all as f64).min(1.0))
    };
    // The most common case by itself, exactly as upstream computes it, so that rounding does not differ.
    if let [first, second] = compared
        && let (Some(first), Some(second)) = (fraction(first), fraction(second))
    {
        return ((1.0 - ((first - second) / 2.0).abs()) * MAX_SCORE as f64) as i64;
    }
    let fractions = || compared.iter().filter_map(fraction);
    let count = fractions().count() as f64;
    let mean = fractions().sum::<f64>() / count.max(1.0);
    let deviation = if count == 2.0 {
        let (first, last) = (fractions().next().unwrap_or(0.0), fractions().next_back().unwrap_or(0.0));
        ((first - last) / 2.0).abs()
    } else {
        (fractions().map(|it| (it - mean) * (it - mean)).sum::<f64>() / count.max(1.0)).sqrt()
    };
    ((1.0 - deviation) * MAX_SCORE as f64) as i64
}
