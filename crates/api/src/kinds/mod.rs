//! Every built-in kind: one file each, one list of all.

pub mod access;
mod admissionregistration;
mod apiextensions;
mod apiregistration;
mod apps;
mod authentication;
mod authorization;
mod autoscaling;
mod batch;
mod builder;
mod certificates;
mod coordination;
mod core;
mod discovery;
mod events;
mod flowcontrol;
mod metrics;
mod networking;
mod node;
pub mod pods;
mod policy;
mod rbac;
mod resource;
mod scheduling;
mod storage;

use crate::kind::Kind;

/// All built-in kinds in every served version.
pub fn all() -> Vec<Kind> {
    [
        admissionregistration::all(),
        apiextensions::all(),
        apiregistration::all(),
        apps::all(),
        authentication::all(),
        authorization::all(),
        autoscaling::all(),
        batch::all(),
        certificates::all(),
        coordination::all(),
        core::all(),
        discovery::all(),
        events::all(),
        flowcontrol::all(),
        metrics::all(),
        networking::all(),
        node::all(),
        policy::all(),
        rbac::all(),
        resource::all(),
        scheduling::all(),
        storage::all(),
    ]
    .concat()
}

#[cfg(test)]
mod cases;
#[cfg(test)]
mod tests;
