//! A CSI driver says how many of its volumes a node can have.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use api::volume::Claim;

use super::{
    Event, Plugin,
    extension::{Extension, Judge},
    volumes::{Views, claim_names, concerns},
};
use crate::{
    node::Node,
    objects::Kind,
    pod::Pod,
    snapshot::{Slot, Snapshot},
    verdict::Rejection,
};

const FULL: &str = "node(s) exceed max volume count";

pub(crate) struct NodeVolumeLimits {
    pub views: Arc<Views>,
}

/// A volume by its driver and what tells it from others.
type Used = (String, String);

struct Limited<'a> {
    views: &'a Views,
    wanted: HashSet<Used>,
}

/// The volume of a claim; of one that has none yet, the one that its class will have made.
fn used(views: &Views, claim: &Claim) -> Option<Used> {
    match views.volume_of(claim) {
        Some(volume) => {
            let csi = volume.spec.source.get("csi")?;
            Some((csi["driver"].as_str()?.to_owned(), csi["volumeHandle"].as_str()?.to_owned()))
        }
        None => {
            let class = views.class_of(claim)?;
            Some((class.provisioner.clone(), format!("{}/{}", claim.metadata.namespace, claim.metadata.name)))
        }
    }
}

fn all_used(views: &Views, pod: &Pod) -> Vec<Used> {
    if pod.volumes.is_empty() {
        return Vec::new();
    }
    views.claims(pod).iter().filter_map(|claim| used(views, claim)).collect()
}

/// Whether so many more volumes go over a limit, by driver. What is there already costs nothing.
fn exceeds(limits: &HashMap<String, usize>, there: &HashSet<Used>, wanted: &HashSet<Used>) -> bool {
    limits.iter().any(|(driver, limit)| {
        let of = |set: &HashSet<Used>| set.iter().filter(|(name, _)| name == driver).count();
        let more = wanted.iter().filter(|used| used.0 == *driver && !there.contains(*used)).count();
        more > 0 && of(there) + more > *limit
    })
}

impl Extension for NodeVolumeLimits {
    fn plugin(&self) -> Plugin {
        Plugin::NodeVolumeLimits
    }

    fn prepare<'a>(&'a self, pod: &'a Pod, _: &Snapshot) -> Result<Option<Box<dyn Judge + 'a>>, Rejection> {
        let wanted: HashSet<Used> = all_used(&self.views, pod).into_iter().collect();
        let limited = Limited { views: &self.views, wanted };
        Ok((!limited.wanted.is_empty()).then(|| Box::new(limited) as Box<dyn Judge>))
    }

    fn helps(&self, pod: &Pod, event: Event<'_>) -> bool {
        match event {
            Event::Gone(other) => !other.volumes.is_empty(),
            Event::Node { old, .. } => old.is_none(),
            Event::Object { kind: Kind::CsiNode | Kind::VolumeAttachment, .. } => true,
            _ => concerns(pod, event),
        }
    }
}

impl Judge for Limited<'_> {
    fn filter(&mut self, slot: Slot, node: &Node, snapshot: &Snapshot) -> Option<Rejection> {
        let known = self.views.csi_node(&node.name)?;
        let limits = known.spec.drivers.iter().filter_map(|it| Some((it.name.clone(), it.allocatable.count?)));
        let limits: HashMap<String, usize> =
            limits.filter(|(name, _)| self.wanted.iter().any(|it| it.0 == *name)).collect();
        if limits.is_empty() {
            return None;
        }
        // Mostly there are so few that it does not matter which are whose.
        let most = snapshot.pods_on(slot).iter().map(|pod| claim_names(pod).count()).sum::<usize>() + self.wanted.len();
        if limits.values().all(|limit| most <= *limit) {
            return None;
        }
        let pods = snapshot.pods_on(slot).iter();
        let there: HashSet<Used> = pods.flat_map(|pod| all_used(self.views, pod)).collect();
        exceeds(&limits, &there, &self.wanted)
            .then(|| Rejection::because(Plugin::NodeVolumeLimits, false, [Cow::Borrowed(FULL)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_that_is_there_costs_nothing_more() {
        let set = |all: &[&str]| -> HashSet<Used> {
            all.iter().filter_map(|it| it.split_once(':')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
        };
        let limits = HashMap::from([("d".to_owned(), 2)]);
        let table: [(&[&str], &[&str], bool); 6] = [
            (&[], &["d:1", "d:2"], false),
            (&[], &["d:1", "d:2", "d:3"], true),
            (&["d:1", "d:2"], &["d:2"], false),
            (&["d:1", "d:2"], &["d:3"], true),
            (&["e:1", "e:2"], &["d:3"], false),
            (&["d:1", "d:2", "d:3"], &["e:1"], false),
        ];
        for (there, wanted, expected) in table {
            assert_eq!(exceeds(&limits, &set(there), &set(wanted)), expected, "{there:?} {wanted:?}");
        }
    }
}
