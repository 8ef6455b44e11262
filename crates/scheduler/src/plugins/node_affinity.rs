//! Pods choose nodes by their labels: `nodeSelector` and node affinity, and what the profile adds to it.

use super::{Event, Plugin};
use crate::{
    node::Node,
    pod::{Needs, NodeAffinity, NodeTerm, Pod},
    verdict::{Reason, Rejection},
};

impl NodeTerm {
    /// A term that asks for nothing selects nothing.
    fn matches(&self, node: &Node) -> bool {
        let field = |name: &str| (name == "metadata.name").then_some(&*node.name);
        !(self.match_expressions.is_empty() && self.match_fields.is_empty())
            && self.match_expressions.iter().all(|it| it.matches(node.labels.get(&it.key)))
            && self.match_fields.iter().all(|it| it.matches(field(&it.key)))
    }
}

/// Whether a pod with this affinity may be on the node.
pub(crate) fn fits(affinity: &NodeAffinity, node: &Node) -> bool {
    affinity.selector.iter().all(|it| it.matches(node.labels.get(&it.key)))
        && affinity.required.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(node)))
}

pub(crate) fn filter(needs: &Needs, added: &NodeAffinity, node: &Node) -> Option<Rejection> {
    let reason = if !fits(added, node) {
        Reason::ADDED_AFFINITY
    } else if !fits(&needs.node_affinity, node) {
        Reason::NODE_AFFINITY
    } else {
        return None;
    };
    Some(Rejection::hopeless(Plugin::NodeAffinity, reason))
}

/// The weights of the preferences that the node meets.
pub(crate) fn score(needs: &Needs, added: &NodeAffinity, node: &Node) -> i64 {
    let preferred = needs.node_affinity.preferred.iter().chain(&added.preferred);
    preferred.filter(|(_, term)| term.matches(node)).map(|(weight, _)| i64::from(*weight)).sum()
}

pub(crate) fn helps(pod: &Pod, event: Event<'_>) -> bool {
    let fits = |node: &Node| fits(&pod.needs.node_affinity, node);
    match event {
        // What the profile adds is not at hand: any other labels may help where the pod's own choice was not the reason.
        Event::Node { old: Some(old), new } if fits(old) => old.labels != new.labels && fits(new),
        Event::Node { new, .. } => fits(new),
        _ => false,
    }
}
