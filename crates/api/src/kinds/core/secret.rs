//! `v1 Secret`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("", "v1", "Secret", "secrets").namespaced().build()
}
