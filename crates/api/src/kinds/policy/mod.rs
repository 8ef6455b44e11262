//! The kinds of the policy group.

mod poddisruptionbudget;

use crate::kind::Kind;

pub(super) fn all() -> Vec<Kind> {
    vec![poddisruptionbudget::kind()]
}
