//! Nodes that are cordoned take no pods, except those that tolerate it.

use super::{Event, Plugin, taint_toleration::tolerates};
use crate::{
    node::{Node, Taint},
    pod::{Needs, Pod},
    verdict::{Reason, Rejection},
};

pub(crate) fn filter(needs: &Needs, node: &Node) -> Option<Rejection> {
    let taint =
        || Taint { key: "node.kubernetes.io/unschedulable".into(), value: "".into(), effect: "NoSchedule".into() };
    let rejected = node.unschedulable && !tolerates(&needs.tolerations, &taint());
    rejected.then(|| Rejection::hopeless(Plugin::NodeUnschedulable, Reason::UNSCHEDULABLE))
}

pub(crate) fn helps(pod: &Pod, event: Event<'_>) -> bool {
    matches!(event, Event::Node { new, .. } if filter(&pod.needs, new).is_none())
}
