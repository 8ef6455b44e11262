//! The kinds of the coordination group.

mod lease;

use crate::kind::Kind;

pub(super) fn all() -> Vec<Kind> {
    vec![lease::kind()]
}
