//! `authentication.k8s.io/v1 TokenReview`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("authentication.k8s.io", "v1", "TokenReview", "tokenreviews").verbs(&["create"]).build()
}
