//! The kinds of the batch group.

mod cronjob;
mod job;
mod policies;
mod status;

use crate::kind::Kind;

pub(super) fn all() -> Vec<Kind> {
    vec![cronjob::kind(), job::kind()]
}
