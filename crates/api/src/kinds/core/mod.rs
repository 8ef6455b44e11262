//! The kinds of the core group.

mod binding;
mod componentstatus;
mod configmap;
mod endpoints;
pub(super) mod event;
mod limitrange;
mod namespace;
mod node;
pub(super) mod persistentvolume;
pub(super) mod persistentvolumeclaim;
mod pod;
mod podtemplate;
mod replicationcontroller;
mod resourcequota;
mod secret;
pub(super) mod service;
mod serviceaccount;
mod volume_warnings;

use crate::kind::Kind;

pub(super) fn all() -> Vec<Kind> {
    vec![
        binding::kind(),
        componentstatus::kind(),
        configmap::kind(),
        endpoints::kind(),
        event::kind(),
        limitrange::kind(),
        namespace::kind(),
        node::kind(),
        persistentvolume::kind(),
        persistentvolumeclaim::kind(),
        pod::kind(),
        podtemplate::kind(),
        replicationcontroller::kind(),
        resourcequota::kind(),
        secret::kind(),
        service::kind(),
        serviceaccount::kind(),
    ]
}
