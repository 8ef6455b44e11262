//! The kinds of the rbac group.

mod bindings;
mod clusterrole;
mod clusterrolebinding;
mod role;
mod rolebinding;
mod rules;

use crate::kind::Kind;

pub(super) fn all() -> Vec<Kind> {
    vec![clusterrole::kind(), clusterrolebinding::kind(), role::kind(), rolebinding::kind()]
}
