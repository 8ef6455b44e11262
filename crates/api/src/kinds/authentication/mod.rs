//! The kinds of the authentication group.

mod selfsubjectreview;
mod tokenreview;

use crate::kind::Kind;

pub(super) fn all() -> Vec<Kind> {
    vec![selfsubjectreview::kind(), tokenreview::kind()]
}
