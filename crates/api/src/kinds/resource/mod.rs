//! The kinds of the resource group.

mod allocation;
mod deviceclass;
mod devices;
mod requests;
mod resourceclaim;
mod resourceclaimtemplate;
mod resourceslice;
mod syntax;

use crate::kind::Kind;

pub(super) fn all() -> Vec<Kind> {
    vec![deviceclass::kind(), resourceclaim::kind(), resourceclaimtemplate::kind(), resourceslice::kind()]
}
