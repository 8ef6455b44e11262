//! The kinds of the admissionregistration group.

mod mutatingadmissionpolicy;
mod mutatingadmissionpolicybinding;
mod mutatingwebhookconfiguration;
mod policies;
mod validatingadmissionpolicy;
mod validatingadmissionpolicybinding;
mod validatingwebhookconfiguration;
pub(super) mod webhooks;

use crate::kind::Kind;

pub(super) fn all() -> Vec<Kind> {
    vec![
        mutatingadmissionpolicy::kind(),
        mutatingadmissionpolicybinding::kind(),
        mutatingwebhookconfiguration::kind(),
        validatingadmissionpolicy::kind(),
        validatingadmissionpolicybinding::kind(),
        validatingwebhookconfiguration::kind(),
    ]
}
