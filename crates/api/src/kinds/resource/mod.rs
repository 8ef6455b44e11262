//! The kinds of the resource group.

mod deviceclass;
mod requests;
mod resourceclaim;
mod resourceclaimtemplate;
mod resourceslice;

use crate::kind::Kind;

pub(super) fn all() -> Vec<Kind> {
    vec![deviceclass::kind(), resourceclaim::kind(), resourceclaimtemplate::kind(), resourceslice::kind()]
}
