//! `v1 LimitRange`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("", "v1", "LimitRange", "limitranges").namespaced().short(&["limits"]).build()
}
