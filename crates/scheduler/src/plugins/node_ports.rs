//! A port of a node's address belongs to one pod at a time.

use super::{Event, Plugin};
use crate::{
    pod::{HostPort, Needs, Pod},
    snapshot::{Slot, Snapshot},
    verdict::{Reason, Rejection},
};

const ANY: &str = "0.0.0.0";

fn conflict(a: &HostPort, b: &HostPort) -> bool {
    let same_address = a.address == b.address || &*a.address == ANY || &*b.address == ANY;
    a.port == b.port && a.protocol == b.protocol && same_address
}

pub(crate) fn filter(needs: &Needs, snapshot: &Snapshot, slot: Slot) -> Option<Rejection> {
    let taken = needs.ports.iter().any(|port| snapshot.ports(slot).iter().any(|used| conflict(port, used)));
    taken.then(|| Rejection::resolvable(Plugin::NodePorts, Reason::PORTS))
}

pub(crate) fn helps(pod: &Pod, event: Event<'_>) -> bool {
    match event {
        Event::Node { old, .. } => old.is_none(),
        Event::Placed(_) | Event::Changed { .. } | Event::NodeGone(_) | Event::Object { .. } => false,
        Event::Gone(gone) => {
            pod.needs.ports.iter().any(|port| gone.needs.ports.iter().any(|freed| conflict(port, freed)))
        }
    }
}
