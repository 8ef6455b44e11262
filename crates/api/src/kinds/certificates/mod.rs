//! The kinds of the certificates group.

mod certificatesigningrequest;

use crate::kind::Kind;

pub(super) fn all() -> Vec<Kind> {
    vec![certificatesigningrequest::kind()]
}
