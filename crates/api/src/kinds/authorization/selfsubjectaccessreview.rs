//! `authorization.k8s.io/v1 SelfSubjectAccessReview`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews")
        .verbs(&["create"])
        .build()
}
