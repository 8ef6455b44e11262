//! The kinds of the apps group.

mod controllerrevision;
mod daemonset;
mod deployment;
pub(super) mod replicaset;
mod statefulset;

use crate::kind::Kind;

pub(super) fn all() -> Vec<Kind> {
    vec![controllerrevision::kind(), daemonset::kind(), deployment::kind(), replicaset::kind(), statefulset::kind()]
}
