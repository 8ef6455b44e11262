//! Every built-in kind: one file each, one list of all.

use crate::kind::Kind;

/// All built-in kinds in every served version.
pub fn all() -> Vec<Kind> {
    Vec::new()
}
