//! The kinds of the scheduling group.

mod priorityclass;

use crate::kind::Kind;

pub(super) fn all() -> Vec<Kind> {
    vec![priorityclass::kind()]
}
