//! The kinds of the scheduling group.

mod podgroup;
mod policy;
mod priorityclass;
mod workload;

use crate::kind::Kind;

pub(super) fn all() -> Vec<Kind> {
    vec![priorityclass::kind(), podgroup::kind(), workload::kind()]
}
