//! `v1 Endpoints`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("", "v1", "Endpoints", "endpoints").namespaced().short(&["ep"]).prefix("services/endpoints").build()
}
