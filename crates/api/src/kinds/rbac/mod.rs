//! The kinds of the rbac group.

mod clusterrole;
mod clusterrolebinding;
mod role;
mod rolebinding;

use crate::kind::Kind;

pub(super) fn all() -> Vec<Kind> {
    vec![clusterrole::kind(), clusterrolebinding::kind(), role::kind(), rolebinding::kind()]
}
