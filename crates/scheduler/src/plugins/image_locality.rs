//! Nodes that have the pod's images already are better, the more bytes the better; images that few nodes have count less,
//! so that they do not draw all pods there.

use super::MAX_SCORE;
use crate::{
    pod::Needs,
    snapshot::{Slot, Snapshot},
};

/// The size of images, in bytes, that counts for nothing; and at which a container counts in full.
const LEAST: i64 = 23 << 20;
const MOST: i64 = 1000 << 20;

pub(crate) fn score(needs: &Needs, snapshot: &Snapshot, slot: Slot) -> i64 {
    let nodes = i64::try_from(snapshot.order().len().max(1)).unwrap_or(i64::MAX);
    let scaled = |image: &str| {
        let holders = snapshot.image(image)?;
        let spread = i64::try_from(holders.len()).unwrap_or(i64::MAX);
        Some(holders.get(&slot)?.saturating_mul(spread) / nodes)
    };
    let bytes: i64 = needs.images.iter().filter_map(|image| scaled(image)).sum();
    let most = MOST * i64::try_from(needs.images.len().max(1)).unwrap_or(1);
    MAX_SCORE * (bytes.clamp(LEAST, most) - LEAST) / (most - LEAST)
}

/// Whether any node has any of the images.
pub(crate) fn applies(needs: &Needs, snapshot: &Snapshot) -> bool {
    needs.images.iter().any(|image| snapshot.image(image).is_some())
}
