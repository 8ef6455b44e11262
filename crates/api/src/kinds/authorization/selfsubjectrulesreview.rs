//! `authorization.k8s.io/v1 SelfSubjectRulesReview`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("authorization.k8s.io", "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews")
        .verbs(&["create"])
        .build()
}
