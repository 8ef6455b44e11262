//! The kinds of the events group.

mod event;

use crate::kind::Kind;

pub(super) fn all() -> Vec<Kind> {
    vec![event::kind()]
}
