//! The kinds of the discovery group.

mod endpointslice;

use crate::kind::Kind;

pub(super) fn all() -> Vec<Kind> {
    vec![endpointslice::kind()]
}
