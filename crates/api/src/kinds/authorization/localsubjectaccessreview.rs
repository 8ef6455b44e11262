//! `authorization.k8s.io/v1 LocalSubjectAccessReview`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("authorization.k8s.io", "v1", "LocalSubjectAccessReview", "localsubjectaccessreviews")
        .namespaced()
        .verbs(&["create"])
        .build()
}
