//! A pod that needs a feature of nodes goes to those that declare it.

use super::{Event, Plugin};
use crate::{
    node::Node,
    pod::Needs,
    verdict::{Reason, Rejection},
};

pub(crate) fn filter(needs: &Needs, node: &Node) -> Option<Rejection> {
    let missing = needs.features.iter().any(|feature| !node.features.contains(*feature));
    missing.then(|| Rejection::hopeless(Plugin::NodeDeclaredFeatures, Reason::FEATURES))
}

pub(crate) fn helps(event: Event<'_>) -> bool {
    matches!(event, Event::Node { old, new } if old.is_none_or(|old| old.features != new.features))
}
