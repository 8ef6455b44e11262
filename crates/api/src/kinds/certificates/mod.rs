//! The kinds of the certificates group.

mod certificatesigningrequest;
mod pem;

use crate::kind::Kind;

pub(super) fn all() -> Vec<Kind> {
    vec![certificatesigningrequest::kind()]
}
