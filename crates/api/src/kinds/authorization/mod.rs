//! The kinds of the authorization group.

mod localsubjectaccessreview;
mod selfsubjectaccessreview;
mod selfsubjectrulesreview;
mod subjectaccessreview;

use crate::kind::Kind;

pub(super) fn all() -> Vec<Kind> {
    vec![
        localsubjectaccessreview::kind(),
        selfsubjectaccessreview::kind(),
        selfsubjectrulesreview::kind(),
        subjectaccessreview::kind(),
    ]
}
