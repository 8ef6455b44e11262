//! `v1 Binding`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("", "v1", "Binding", "bindings").namespaced().verbs(&["create"]).build()
}
