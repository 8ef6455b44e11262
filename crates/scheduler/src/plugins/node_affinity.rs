//! Pods choose nodes by their labels: `nodeSelector` and node affinity.

use super::{Event, Plugin};
use crate::{
    node::Node,
    pod::{Needs, NodeTerm, Pod},
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

/// Whether the pod may be on the node.
pub(crate) fn fits(needs: &Needs, node: &Node) -> bool {
    let affinity = &needs.node_affinity;
    affinity.selector.iter().all(|it| it.matches(node.labels.get(&it.key)))
        && affinity.required.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(node)))
}

pub(crate) fn filter(needs: &Needs, node: &Node) -> Option<Rejection> {
    (!fits(needs, node)).then(|| Rejection::hopeless(Plugin::NodeAffinity, Reason::NODE_AFFINITY))
}

/// The weights of the preferences that the node meets.
pub(crate) fn score(needs: &Needs, node: &Node) -> i64 {
    let met = needs.node_affinity.preferred.iter().filter(|(_, term)| term.matches(node));
    met.map(|(weight, _)| i64::from(*weight)).sum()
}

pub(crate) fn helps(pod: &Pod, event: Event<'_>) -> bool {
    let fits = |node: &Node| fits(&pod.needs, node);
    matches!(event, Event::Node { old, new } if fits(new) && !old.is_some_and(fits))
}
