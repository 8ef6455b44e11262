//! The kinds of the apiextensions group.

mod customresourcedefinition;
mod paths;
mod schema;
mod structural;

use crate::kind::Kind;

pub(super) fn all() -> Vec<Kind> {
    vec![customresourcedefinition::kind()]
}
