//! The kinds of the apiregistration group.

mod apiservice;

use crate::kind::Kind;

pub(super) fn all() -> Vec<Kind> {
    vec![apiservice::kind()]
}
