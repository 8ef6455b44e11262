//! `authentication.k8s.io/v1 SelfSubjectReview`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews").verbs(&["create"]).build()
}
