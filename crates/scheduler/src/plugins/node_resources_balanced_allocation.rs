//! Of several nodes the one is best whose CPU and memory are used alike.

use super::MAX_SCORE;
use crate::{
    pod::Needs,
    snapshot::{CPU, MEMORY, Slot, Snapshot},
};

pub(crate) fn score(needs: &Needs, snapshot: &Snapshot, slot: Slot) -> i64 {
    let fraction = |resource: usize, request: i64| {
        let column = snapshot.column(resource);
        let all = column.allocatable[slot];
        (all > 0).then(|| ((column.requested[slot] + request) as f64 / all as f64).min(1.0))
    };
    let deviation = match (fraction(CPU, needs.request("cpu")), fraction(MEMORY, needs.request("memory"))) {
        (Some(cpu), Some(memory)) => ((cpu - memory) / 2.0).abs(),
        _ => 0.0,
    };
    ((1.0 - deviation) * MAX_SCORE as f64) as i64
}

/// A pod that requests neither is not scored: all would pile up where the balance is.
pub(crate) fn applies(needs: &Needs) -> bool {
    needs.request("cpu") > 0 || needs.request("memory") > 0
}
