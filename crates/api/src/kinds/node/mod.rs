//! The kinds of the node group.

mod runtimeclass;

use crate::kind::Kind;

pub(super) fn all() -> Vec<Kind> {
    vec![runtimeclass::kind()]
}
