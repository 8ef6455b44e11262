//! The kinds of the apiextensions group.

mod customresourcedefinition;

use crate::kind::Kind;

pub(super) fn all() -> Vec<Kind> {
    vec![customresourcedefinition::kind()]
}
