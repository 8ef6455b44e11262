//! Nodes repel pods by taints, which pods may tolerate.

use super::{Event, Plugin};
use crate::{
    node::{Node, Taint},
    pod::{Needs, Pod, Toleration},
    verdict::{Reason, Rejection},
};

/// Whether one of the tolerations is for this taint.
pub(crate) fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    let number = |text: &str| text.parse::<i64>().ok();
    tolerations.iter().any(|it| {
        (it.effect.is_empty() || it.effect == taint.effect)
            && (it.key.is_empty() || it.key == taint.key)
            && match &*it.operator {
                "" | "Equal" => it.value == taint.value,
                "Exists" => true,
                "Lt" => number(&taint.value).zip(number(&it.value)).is_some_and(|(taint, than)| taint < than),
                "Gt" => number(&taint.value).zip(number(&it.value)).is_some_and(|(taint, than)| taint > than),
                _ => false,
            }
    })
}

/// Whether the node has no taint that keeps the pod away.
pub(crate) fn fits(needs: &Needs, node: &Node) -> bool {
    node.taints.iter().all(|taint| &*taint.effect == "PreferNoSchedule" || tolerates(&needs.tolerations, taint))
}

pub(crate) fn filter(needs: &Needs, node: &Node) -> Option<Rejection> {
    (!fits(needs, node)).then(|| Rejection::hopeless(Plugin::TaintToleration, Reason::TAINT))
}

/// The number of taints that would rather not have the pod.
pub(crate) fn score(needs: &Needs, node: &Node) -> i64 {
    let against = |taint: &&Taint| &*taint.effect == "PreferNoSchedule" && !tolerates(&needs.tolerations, taint);
    i64::try_from(node.taints.iter().filter(against).count()).unwrap_or(i64::MAX)
}

pub(crate) fn helps(pod: &Pod, event: Event<'_>) -> bool {
    matches!(event, Event::Node { old, new } if fits(&pod.needs, new) && old.is_none_or(|old| old.taints != new.taints))
}
