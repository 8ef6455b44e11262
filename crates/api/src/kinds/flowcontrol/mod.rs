//! The kinds of the flowcontrol group.

mod flowschema;
mod mandatory;
mod prioritylevelconfiguration;

use crate::kind::Kind;

pub(super) fn all() -> Vec<Kind> {
    vec![flowschema::kind(), prioritylevelconfiguration::kind()]
}
